//! The arguments of a command, which are looked up by the table of its options.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;
use std::time::Duration;
use std::{convert, env};

use pico_args::Arguments;

use super::syntax::{Group, Opt, Subcommand, Unset, Value};
use super::{UsageError, nearest};
use crate::client::raw::url;

/// The longest `wait` and `lifetime` in seconds.
pub(super) const MAX_SECONDS: f64 = 1e9;

/// The arguments of a command that have not been looked up yet.
pub(super) struct Given {
    command: &'static Subcommand,
    args: Arguments,
    settings: Vec<Setting>,
}

/// What an option is set to, and by what.
struct Setting {
    option: &'static str,
    value: String,
    named_by: String,
}

/// The value of an option.
pub(super) struct OptionValue {
    /// The option or the environment variable that has it, for messages.
    pub(super) named_by: String,
    pub(super) text: String,
}

impl Given {
    pub(super) fn new(command: &'static Subcommand, args: Arguments) -> Self {
        Self { command, args, settings: Vec::new() }
    }

    /// The value of an option, or else of its environment variable. An error of `parse` says what
    /// was expected instead.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, UsageError> {
        self.text(name)?.map(|value| value.parse(&parse)).transpose()
    }

    /// The same, or else the default in the table.
    pub(super) fn value<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, UsageError> {
        let value = match (self.text(name)?, self.option(name)?.unset) {
            (Some(value), _) => value,
            (None, Unset::Value(text)) => OptionValue { named_by: name.into(), text: text.into() },
            (None, _) => return Err(UsageError::new(format!("{name} is missing"))),
        };
        value.parse(&parse)
    }

    /// The values of an option that may be repeated, or else those of its variable, separated by
    /// commas.
    pub(super) fn repeated<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, UsageError> {
        let option = self.option(name)?;
        let mut values = Vec::new();
        while let Some(value) = self.argument(option)? {
            self.note(option, &value);
            values.push(value.parse(&parse)?);
        }
        let Some(all) = self.variable(name)?.filter(|_| values.is_empty()) else {
            return Ok(values);
        };
        self.note(option, &all);
        let part =
            |text: &str| OptionValue { named_by: all.named_by.clone(), text: text.trim().into() };
        all.text.split(',').map(|text| part(text).parse(&parse)).collect()
    }

    /// Whether an option without a value is given, or its variable is `yes`.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, UsageError> {
        let option = self.option(name)?;
        if self.args.contains(option.name) {
            self.note(option, &OptionValue { named_by: option.name.into(), text: "yes".into() });
            return Ok(true);
        }
        let yes_or_no = |text: &str| match text {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err("yes or no".into()),
        };
        let Some(value) = self.variable(name)? else { return Ok(false) };
        self.note(option, &value);
        value.parse(&yes_or_no)
    }

    /// The value of an option, or else of its variable, unparsed.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<OptionValue>, UsageError> {
        let option = self.option(name)?;
        let value = match self.argument(option)? {
            None => self.variable(name)?,
            value => value,
        };
        if let Some(value) = &value {
            self.note(option, value);
        }
        Ok(value)
    }

    /// The text of an option, which is left to be looked up.
    pub(super) fn typed(&self, name: &'static str) -> Option<String> {
        self.args.clone().opt_value_from_str(name).ok().flatten()
    }

    fn note(&mut self, option: &'static Opt, value: &OptionValue) {
        self.settings.push(Setting {
            option: option.name,
            value: url::without_password(&value.text),
            named_by: value.named_by.clone(),
        });
    }

    /// What each option of the server is set to, and by what, a line each.
    pub(super) fn settings(&self) -> String {
        let with_variable = self.command.groups.iter().filter(|group| group.variables.is_some());
        let of_option = |option: &Opt| {
            let set: Vec<_> =
                self.settings.iter().filter(|setting| setting.option == option.name).collect();
            if set.is_empty() {
                let default = option.unset.shown().unwrap_or("none");
                return format!("{:27} {default} (default)\n", option.name);
            }
            let line = |it: &&Setting| format!("{:27} {} ({})\n", it.option, it.value, it.named_by);
            set.iter().map(line).collect()
        };
        with_variable.flat_map(|group| group.options).map(of_option).collect()
    }

    /// Refuses a variable that has the prefix but belongs to no option, unless Kubernetes has set it
    /// for a Service.
    pub(super) fn no_unknown_variables(&self) -> Result<(), UsageError> {
        let in_group = |group: &&'static Group| {
            group.options.iter().filter_map(|option| group.variable(option))
        };
        let known: Vec<String> = self.command.groups.iter().flat_map(in_group).collect();
        let prefixes = self.command.groups.iter().filter_map(|group| group.variables);
        let prefixes: Vec<_> = prefixes.map(|prefix| format!("{prefix}_")).collect();
        for (name, value) in env::vars_os() {
            let name = name.to_string_lossy();
            let is_ours = prefixes.iter().any(|prefix| name.starts_with(prefix));
            let is_known = known.iter().any(|known| *known == name);
            if !is_ours || is_known || value.is_empty() || nearest::is_service_link(&name, &value) {
                continue;
            }
            let hint = nearest::hint(&name, known.iter().map(String::as_str));
            let command = self.command.name;
            return Err(UsageError::new(format!("{name} sets no option of {command}{hint}")));
        }
        Ok(())
    }

    /// Whether an option that was looked up before, or its variable, has a value.
    pub(super) fn was_given(&self, name: &str) -> bool {
        self.settings.iter().any(|setting| setting.option == name)
    }

    /// Checks that there are no operands.
    pub(super) fn nothing_left(self) -> Result<(), UsageError> {
        match self.args.finish().first() {
            None => Ok(()),
            Some(word) => Err(unexpected(word, self.command)),
        }
    }

    /// The operand, of which there has to be one.
    pub(super) fn one(self, what: &str) -> Result<String, UsageError> {
        let command = self.command.name;
        let missing = || UsageError::new(format!("{what} is missing; see rdlm {command} --help"));
        self.at_most_one()?.ok_or_else(missing)
    }

    pub(super) fn at_most_one(self) -> Result<Option<String>, UsageError> {
        let command = self.command;
        let mut words = self.operands()?.into_iter();
        let first = words.next();
        match words.next() {
            Some(second) => Err(unexpected(second.as_ref(), command)),
            None => Ok(first),
        }
    }

    /// The operands.
    pub(super) fn operands(self) -> Result<Vec<String>, UsageError> {
        let operand = |word: OsString| {
            if word.as_encoded_bytes().starts_with(b"-") || word.is_empty() {
                return Err(unexpected(&word, self.command));
            }
            let not_utf8 = |word: OsString| {
                UsageError::new(format!("{:?} is not valid UTF-8", word.to_string_lossy()))
            };
            word.into_string().map_err(not_utf8)
        };
        self.args.finish().into_iter().map(operand).collect()
    }

    /// An option in the table. Parsing one that is missing there fails for any arguments, so a test
    /// finds it.
    fn option(&self, name: &str) -> Result<&'static Opt, UsageError> {
        let command = self.command.name;
        let missing = || UsageError::new(format!("{command} has no option {name}"));
        self.command.find(name).map(|(_, option)| option).ok_or_else(missing)
    }

    fn argument(&mut self, option: &'static Opt) -> Result<Option<OptionValue>, UsageError> {
        for name in [Some(option.name), option.also].into_iter().flatten() {
            let text =
                self.args.opt_value_from_fn(name, |text| Ok::<_, convert::Infallible>(text.into()));
            let wrong = match text {
                Ok(Some(text)) => return Ok(Some(OptionValue { named_by: name.into(), text })),
                Ok(None) => continue,
                Err(pico_args::Error::NonUtf8Argument) => {
                    format!("the value of {name} is not valid UTF-8")
                }
                Err(_) => format!("{name} needs a value"),
            };
            return Err(UsageError::new(wrong));
        }
        Ok(None)
    }

    fn variable(&self, name: &str) -> Result<Option<OptionValue>, UsageError> {
        let found = self.command.find(name);
        let Some(named_by) = found.and_then(|(group, option)| group.variable(option)) else {
            return Ok(None);
        };
        let value = environment(&named_by)?.map(|text| OptionValue { named_by, text });
        match value {
            Some(value) if nearest::is_link(&value.text) => Err(UsageError::new(format!(
                "{} {:?} is set by Kubernetes for a Service of that name, not for rdlm: give the \
                 pod enableServiceLinks: false",
                value.named_by, value.text
            ))),
            value => Ok(value),
        }
    }
}

impl OptionValue {
    fn parse<T>(self, parse: &impl Fn(&str) -> Result<T, String>) -> Result<T, UsageError> {
        parse(&self.text).map_err(|expected| {
            let text = url::without_password(&self.text);
            UsageError::new(format!("{} {text:?}: expected {expected}", self.named_by))
        })
    }
}

/// Whether a word is an option that is followed by a value.
pub(super) fn takes_value(command: &'static Subcommand, word: &str) -> bool {
    command.find(word).is_some_and(|(_, option)| option.value != Value::Nothing)
}

/// An environment variable; an empty one counts as unset.
pub(super) fn environment(name: &str) -> Result<Option<String>, UsageError> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(UsageError::new(format!("the value of {name} is not valid UTF-8")))
        }
    }
}

pub(super) fn number<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| expected.into())
}

pub(super) fn seconds(text: &str, zero_allowed: bool) -> Result<Duration, String> {
    let expected = if zero_allowed { "from 0 to 1e9" } else { "over 0 to 1e9" };
    let seconds: Option<f64> = text.parse().ok().filter(|s| (0.0..=MAX_SECONDS).contains(s));
    let with_units = || humantime::parse_duration(text).ok().filter(|_| !text.contains(' '));
    let duration = seconds.map(Duration::from_secs_f64).or_else(with_units);
    let in_range = |duration: &Duration| {
        // A few picoseconds round to zero.
        duration.as_secs_f64() <= MAX_SECONDS && (zero_allowed || !duration.is_zero())
    };
    let expected = || format!("a number of seconds {expected}, or such as 5m, 1h30m or 250ms");
    duration.filter(in_range).ok_or_else(expected)
}

fn unexpected(word: &OsStr, command: &Subcommand) -> UsageError {
    let name = command.name;
    let shown = word.to_string_lossy();
    let option = shown.split('=').next().unwrap_or_default();
    let what = match command.find(option) {
        Some(_) => ": it is given twice, or without its value".into(),
        None if option.starts_with('-') => {
            let known = command.options().map(|option| option.name);
            format!(": not an option of {name}{}", nearest::hint(option, known))
        }
        None => String::new(),
    };
    UsageError::new(format!("unexpected argument {shown:?}{what}; see rdlm {name} --help"))
}
