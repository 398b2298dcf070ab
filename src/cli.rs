//! The command line: parsing and validation. Opens no files and no connections.

mod commands;
mod completions;
mod given;
mod help;
mod man;
mod nearest;
mod serve;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod times;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

use pico_args::Arguments;

use crate::RELEASED;
use crate::client::Target;
use crate::commands::{BECOME, Become, Command as ClientCommand, LEAD, NAMES, Secret, Typed};
use crate::logging;
use crate::server;
use given::{Given, takes_value};
use syntax::Subcommand;

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run the server.
    Serve {
        /// How to run it.
        options: server::Options,
        /// What to log.
        log: logging::Options,
    },
    /// Read the settings and files of a server, and print them.
    Check {
        /// How the server would run.
        options: server::Options,
        /// The settings, a line each.
        settings: String,
    },
    /// Talk to a server.
    Client {
        /// What to ask.
        command: ClientCommand,
        /// The servers to ask.
        target: Target,
        /// For messages about what the servers refuse.
        typed: Typed,
    },
    /// Print the hash of a secret, for the file of users.
    Hash(Secret),
    /// Become the command of a `run`, which started this process for that.
    Become(Become),
    /// Lead the process group of that command.
    LeadGroup,
    /// Print a text: help, the version, the manual page or completions.
    Print(String),
}

/// What is wrong with the command line, in one line.
#[derive(Debug, PartialEq)]
pub struct UsageError {
    text: String,
    /// Whether the command is another one than `serve`.
    pub of_client: bool,
}

impl UsageError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), of_client: false }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for UsageError {}

/// Parses a command line, whose first word is the name of the program.
///
/// # Errors
/// An unknown command or option, or a value that is not accepted.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let is_daemon = Path::new(&program).file_name() == Some(OsStr::new("rdlm-daemon"));
    let mut words: Vec<OsString> = args.collect();
    // What follows `--` is the command to run.
    let behind = words.iter().position(|word| word == "--").map(|at| {
        let behind = words.split_off(at);
        behind.into_iter().skip(1).collect::<Vec<_>>()
    });
    let first = words.first().and_then(|word| word.to_str()).filter(|word| !word.starts_with('-'));
    let name = if is_daemon { Some("serve".into()) } else { first.map(String::from) };
    let command = name.as_deref().and_then(table::find);
    for word in words_for_rdlm(&words, command) {
        match word {
            "-h" | "--help" => {
                return Ok(Command::Print(command.map_or_else(help::all, help::of)));
            }
            "-V" | "--version" => return Ok(Command::Print(version())),
            _ => {}
        }
    }
    let mut args = Arguments::from_vec(words);
    if !is_daemon && name.is_some() {
        args.subcommand().map_err(|error| UsageError::new(error.to_string()))?;
    }
    match (name.as_deref(), command) {
        (_, Some(command)) => known(command, Given::new(command, args), behind),
        (Some(LEAD), None) => Ok(Command::LeadGroup),
        (Some(NAMES), None) => commands::names(args),
        (Some(BECOME), None) => commands::become_command(args, behind),
        (Some(name), None) => Err(unknown(name)),
        (None, None) => Err(UsageError::new("a command is missing; rdlm --help lists them")),
    }
}

fn known(
    command: &'static Subcommand,
    given: Given,
    behind: Option<Vec<OsString>>,
) -> Result<Command, UsageError> {
    let name = command.name;
    let parsed = match name {
        _ if name != "run" && behind.is_some() => {
            Err(UsageError::new(format!("{name} takes no command behind --")))
        }
        "serve" => serve::parse(given),
        "hash-password" => given.nothing_left().map(|()| Command::Hash(Secret::Password)),
        "hash-token" => given.nothing_left().map(|()| Command::Hash(Secret::Token)),
        "help" => help_about(given),
        "man" => given.nothing_left().map(|()| Command::Print(man::page())),
        "completions" => completions_of(given),
        _ => commands::parse(name, given, behind),
    };
    parsed.map_err(|error| UsageError { of_client: name != "serve", ..error })
}

fn help_about(given: Given) -> Result<Command, UsageError> {
    let text = match given.at_most_one()? {
        None => help::all(),
        Some(name) => table::find(&name).map(help::of).ok_or_else(|| unknown(&name))?,
    };
    Ok(Command::Print(text))
}

fn completions_of(given: Given) -> Result<Command, UsageError> {
    let shell = given.one("SHELL")?;
    let expected =
        || UsageError::new(format!("{shell:?}: expected {}", help::any_of(&table::SHELLS)));
    completions::of(&shell).map(Command::Print).ok_or_else(expected)
}

fn unknown(name: &str) -> UsageError {
    let hint = nearest::hint(name, table::COMMANDS.iter().map(|command| command.name));
    UsageError::new(format!("unknown command {name:?}{hint}; rdlm --help lists the commands"))
}

fn version() -> String {
    format!("rdlm {} ({})\n", env!("CARGO_PKG_VERSION"), RELEASED)
}

/// The words without the values of options.
fn words_for_rdlm<'w>(
    words: &'w [OsString],
    command: Option<&'static Subcommand>,
) -> impl Iterator<Item = &'w str> {
    let mut words = words.iter();
    std::iter::from_fn(move || {
        let word = words.next()?.to_str().unwrap_or_default();
        if command.is_some_and(|command| takes_value(command, word)) {
            words.next();
        }
        Some(word)
    })
}
