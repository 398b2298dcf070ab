//! The types of the table of commands: commands, groups of options, options.

/// A command of rdlm.
#[derive(Debug, PartialEq)]
pub(super) struct Subcommand {
    pub(super) name: &'static str,
    /// What follows the options, such as `RESOURCE`.
    pub(super) operands: &'static str,
    /// The heading in `rdlm --help`.
    pub(super) section: &'static str,
    /// What it does, in half a line.
    pub(super) brief: &'static str,
    /// The same in paragraphs, separated by empty lines.
    pub(super) about: &'static str,
    pub(super) groups: &'static [&'static Group],
    /// Further paragraphs, after the options.
    pub(super) notes: &'static str,
    /// Command lines to try.
    pub(super) examples: &'static [&'static str],
}

/// Options that belong together.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub(super) title: &'static str,
    /// The prefix of the environment variables for these options.
    pub(super) variables: Option<&'static str>,
    pub(super) options: &'static [Opt],
}

/// One option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Opt {
    pub(super) name: &'static str,
    /// Another spelling, accepted but not shown.
    pub(super) also: Option<&'static str>,
    pub(super) value: Value,
    /// What it is for. Completions show the part before the first comma, colon or semicolon.
    pub(super) text: &'static str,
    pub(super) unset: Unset,
    pub(super) may_be_repeated: bool,
}

/// The value of an option: its name, and how a shell completes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Nothing,
    Text(&'static str),
    Seconds,
    File,
    Directory,
    /// One of these words.
    OneOf(&'static str, &'static [&'static str]),
    /// One of these words, or a file.
    WordOrFile(&'static [&'static str]),
}

/// The default of an option.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unset {
    Nothing,
    /// This value.
    Value(&'static str),
    /// A default that these words describe.
    Described(&'static str),
}

impl Subcommand {
    /// An option and its group.
    pub(super) fn find(&self, option: &str) -> Option<(&'static Group, &'static Opt)> {
        let in_group = |group: &&'static Group| {
            let found = group.options.iter().find(|it| it.is_spelled(option))?;
            Some((*group, found))
        };
        self.groups.iter().find_map(in_group)
    }

    pub(super) fn has(&self, group: &Group) -> bool {
        self.groups.contains(&group)
    }

    pub(super) fn options(&self) -> impl Iterator<Item = &'static Opt> {
        self.groups.iter().flat_map(|group| group.options)
    }
}

impl Group {
    /// The environment variable for an option of the group.
    pub(super) fn variable(&self, option: &Opt) -> Option<String> {
        let name = option.name.trim_start_matches('-').replace('-', "_").to_uppercase();
        self.variables.map(|prefix| format!("{prefix}_{name}"))
    }
}

impl Opt {
    pub(super) const fn flag(name: &'static str, text: &'static str) -> Self {
        Self::new(name, Value::Nothing, text)
    }

    pub(super) const fn new(name: &'static str, value: Value, text: &'static str) -> Self {
        Self { name, also: None, value, text, unset: Unset::Nothing, may_be_repeated: false }
    }

    /// With a default.
    pub(super) const fn or(self, value: &'static str) -> Self {
        Self { unset: Unset::Value(value), ..self }
    }

    /// With a description of what happens if it is not given.
    pub(super) const fn otherwise(self, described: &'static str) -> Self {
        Self { unset: Unset::Described(described), ..self }
    }

    pub(super) const fn repeated(self) -> Self {
        Self { may_be_repeated: true, ..self }
    }

    pub(super) const fn also(self, name: &'static str) -> Self {
        Self { also: Some(name), ..self }
    }

    pub(super) fn is_spelled(&self, word: &str) -> bool {
        self.name == word || self.also == Some(word)
    }

    /// Such as `--port PORT`.
    pub(super) fn usage(&self) -> String {
        match self.value.name() {
            Some(value) => format!("{} {value}", self.name),
            None => self.name.into(),
        }
    }

    /// The text without details.
    pub(super) fn brief(&self) -> &'static str {
        let ends = [", ", ": ", "; "].iter().filter_map(|end| self.text.find(end));
        &self.text[..ends.min().unwrap_or(self.text.len())]
    }
}

impl Value {
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Text(name) | Self::OneOf(name, _) => Some(name),
            Self::Seconds => Some("SECONDS"),
            Self::File | Self::WordOrFile(_) => Some("FILE"),
            Self::Directory => Some("DIR"),
        }
    }
}

impl Unset {
    /// As shown to people.
    pub(super) fn shown(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Value(text) | Self::Described(text) => Some(text),
        }
    }
}
