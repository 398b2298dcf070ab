//! The arguments of a command, looked up by what the table says of its options.

use std::ffi::{OsStr, OsString};
use std::str::FromStr;
use std::time::Duration;
use std::{convert, env};

use pico_args::Arguments;

use super::UsageError;
use super::syntax::{Opt, Subcommand, Unset, Value};
use crate::client::raw::url;

/// The longest `wait` and `lifetime` in seconds.
pub(super) const MAX_SECONDS: f64 = 1e9;

/// What was given to a command.
pub(super) struct Given {
    command: &'static Subcommand,
    args: Arguments,
    seen: Vec<&'static str>,
}

/// The value of an option, and where it stands: the option itself, or its variable.
pub(super) struct Said {
    pub(super) by: String,
    pub(super) text: String,
}

impl Given {
    pub(super) fn new(command: &'static Subcommand, args: Arguments) -> Self {
        Self { command, args, seen: Vec::new() }
    }

    /// The value of an option, or else that of its variable in the environment; `parse` says what
    /// it expected instead.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, UsageError> {
        self.said(name)?.map(|said| said.parse(&parse)).transpose()
    }

    /// The same, or else what the table has in its place.
    pub(super) fn value<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, UsageError> {
        let said = match (self.said(name)?, self.option(name)?.unset) {
            (Some(said), _) => said,
            (None, Unset::Value(text)) => Said { by: name.into(), text: text.into() },
            (None, _) => return Err(UsageError::new(format!("{name} is missing"))),
        };
        said.parse(&parse)
    }

    /// The values of an option that may be repeated, or else those of its variable, between which
    /// are commas.
    pub(super) fn repeated<T>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, UsageError> {
        let option = self.option(name)?;
        let mut values = Vec::new();
        while let Some(said) = self.word(option)? {
            values.push(said.parse(&parse)?);
        }
        let Some(all) = self.variable(name)?.filter(|_| values.is_empty()) else {
            return Ok(values);
        };
        let part = |text: &str| Said { by: all.by.clone(), text: text.trim().into() };
        all.text.split(',').map(|text| part(text).parse(&parse)).collect()
    }

    /// Whether an option without a value is given, or its variable says yes.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, UsageError> {
        if self.args.contains(self.option(name)?.name) {
            return Ok(true);
        }
        let yes_or_no = |text: &str| match text {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err("yes or no".into()),
        };
        Ok(self.variable(name)?.map(|said| said.parse(&yes_or_no)).transpose()?.unwrap_or(false))
    }

    /// The text of an option, or else that of its variable.
    pub(super) fn said(&mut self, name: &str) -> Result<Option<Said>, UsageError> {
        let option = self.option(name)?;
        let said = match self.word(option)? {
            None => self.variable(name)?,
            said => said,
        };
        if said.is_some() {
            self.seen.push(option.name);
        }
        Ok(said)
    }

    /// Whether an option that was looked up above, or its variable, is there.
    pub(super) fn was_given(&self, name: &str) -> bool {
        self.seen.contains(&name)
    }

    /// Checks that nothing but options was given.
    pub(super) fn nothing_left(self) -> Result<(), UsageError> {
        match self.args.finish().first() {
            None => Ok(()),
            Some(word) => Err(unexpected(word, self.command)),
        }
    }

    /// The one operand.
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

    /// What is left when the options are taken out.
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

    /// What is not in the table cannot be asked for: whoever tries gets this for any arguments.
    fn option(&self, name: &str) -> Result<&'static Opt, UsageError> {
        let command = self.command.name;
        let missing = || UsageError::new(format!("{command} has no option {name}"));
        self.command.find(name).map(|(_, option)| option).ok_or_else(missing)
    }

    fn word(&mut self, option: &'static Opt) -> Result<Option<Said>, UsageError> {
        for name in [Some(option.name), option.also].into_iter().flatten() {
            let text =
                self.args.opt_value_from_fn(name, |text| Ok::<_, convert::Infallible>(text.into()));
            let wrong = match text {
                Ok(Some(text)) => return Ok(Some(Said { by: name.into(), text })),
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

    fn variable(&self, name: &str) -> Result<Option<Said>, UsageError> {
        let found = self.command.find(name);
        let Some(by) = found.and_then(|(group, option)| group.variable(option)) else {
            return Ok(None);
        };
        Ok(environment(&by)?.map(|text| Said { by, text }))
    }
}

impl Said {
    fn parse<T>(self, parse: &impl Fn(&str) -> Result<T, String>) -> Result<T, UsageError> {
        parse(&self.text).map_err(|expected| {
            let text = url::without_password(&self.text);
            UsageError::new(format!("{} {text:?}: expected {expected}", self.by))
        })
    }
}

/// Whether an option is followed by its value.
pub(super) fn takes_value(command: &'static Subcommand, word: &str) -> bool {
    command.find(word).is_some_and(|(_, option)| option.value != Value::Nothing)
}

/// A variable of the environment; an empty one is none.
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
    let command = command.name;
    UsageError::new(format!(
        "unexpected argument {:?}: not an option of {command}, or given twice; see rdlm \
         {command} --help",
        word.to_string_lossy()
    ))
}
