//! The command line. Parses and validates, opens nothing.

mod commands;
mod serve;

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use pico_args::Arguments;

use crate::client::Target;
use crate::commands::{Become, Command as ClientCommand, Secret};
use crate::logging;
use crate::server;
use crate::url;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run the server.
    Serve {
        /// How.
        options: server::Options,
        /// What to log.
        log: logging::Options,
    },
    /// Talk to a server.
    Client {
        /// About what.
        command: ClientCommand,
        /// To which one.
        target: Target,
    },
    /// Print the hash of a secret, for the file of users.
    Hash(Secret),
    /// Become the command of a `run`, which started this process for that.
    Become(Become),
    /// Lead the process group of that command.
    LeadGroup,
    /// Print this help text.
    Help(&'static str),
    /// Print the version.
    Version,
}

/// The command line is wrong; says how, in one line.
#[derive(Debug, PartialEq)]
pub struct UsageError {
    text: String,
    /// It is the command line of a client command, not that of the server.
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

/// The longest `wait` and `lifetime` in seconds.
const MAX_SECONDS: f64 = 1e9;

const HELP: &str = "\
rdlm, a lock manager over HTTP

Usage: rdlm COMMAND [OPTIONS]

The server:
  serve               run the lock server; also as rdlm-daemon [OPTIONS]

Under a lock:
  run RESOURCE -- CMD ARG...
                      take the lock, run CMD, keep the lock alive, release it
  acquire RESOURCE    take a lock and print its URL
  renew URL           let a lock live for another lifetime
  release URL         release a lock
  get URL             show a lock

Anywhere:
  health              ask whether the server is well

For administrators:
  resources           show who holds what
  locks RESOURCE      show who holds a resource and who waits for it
  delete RESOURCE     delete its locks; delete --all: all locks
  watch [RESOURCE]    the same as a live table, until Ctrl-C
  events [RESOURCE]   print what happens to locks, until Ctrl-C

For the file of users:
  hash-password       print the bcrypt hash of a password
  hash-token          print the hash of a token

  COMMAND --help      print the options of a command
  --help              print this and exit
  --version           print the version and exit

The server that commands talk to is that of --url or RDLM_URL
[http://localhost:8888], or several of them, separated by commas. Where it asks
who you are: RDLM_USER and RDLM_PASSWORD, or RDLM_TOKEN, or a certificate.

Try it:
  rdlm serve &
  rdlm run demo -- sleep 5
";

const HASH_HELP: &str = "\
Reads a password or a token, without showing it on a terminal, or a line from a
pipe, and prints what --users FILE has in its place: a password is hashed by
bcrypt, a token, which has to be long and random, by SHA-256.

Usage: rdlm hash-password
       rdlm hash-token

Options:
  --help              print this and exit

Try it:
  head -c 24 /dev/urandom | base64 | tee token | rdlm hash-token
";

/// Understands a command line, the name of the program first.
///
/// # Errors
/// An unknown command or option, or a value that is not accepted.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    let is_daemon = Path::new(&program).file_name() == Some(OsStr::new("rdlm-daemon"));
    let mut words: Vec<OsString> = args.collect();
    // What is behind `--` belongs to the command that is to be run.
    let behind = words.iter().position(|word| word == "--").map(|at| {
        let behind = words.split_off(at);
        behind.into_iter().skip(1).collect::<Vec<_>>()
    });
    let first = words.first().and_then(|word| word.to_str()).filter(|word| !word.starts_with('-'));
    let name = if is_daemon { Some("serve".into()) } else { first.map(String::from) };
    let help = name.as_deref().and_then(help_of);
    for word in words_for_rdlm(&words, help) {
        match word {
            "-h" | "--help" => return Ok(Command::Help(help.unwrap_or(HELP))),
            "-V" | "--version" => return Ok(Command::Version),
            _ => {}
        }
    }
    let mut args = Arguments::from_vec(words);
    if !is_daemon && name.is_some() {
        args.subcommand().map_err(|error| UsageError::new(error.to_string()))?;
    }
    match name.as_deref() {
        Some("serve") => match behind {
            None => serve::parse(args),
            Some(_) => Err(UsageError::new("unexpected argument \"--\"")),
        },
        Some(name @ ("hash-password" | "hash-token")) => {
            nothing_left(args, name)?;
            let is_token = name == "hash-token";
            Ok(Command::Hash(if is_token { Secret::Token } else { Secret::Password }))
        }
        Some("help") => help_about(args),
        Some(name) => commands::parse(name, args, behind),
        None => Err(UsageError::new("a command is missing; rdlm --help lists them")),
    }
}

/// `rdlm help [COMMAND]`
fn help_about(args: Arguments) -> Result<Command, UsageError> {
    let words = args.finish();
    let Some(word) = words.first() else { return Ok(Command::Help(HELP)) };
    let unknown = || {
        let command = word.to_string_lossy();
        UsageError::new(format!("unknown command {command:?}; rdlm --help lists the commands"))
    };
    word.to_str().and_then(help_of).map(Command::Help).ok_or_else(unknown)
}

/// The help text of a command.
fn help_of(command: &str) -> Option<&'static str> {
    match command {
        "serve" => Some(serve::HELP),
        "hash-password" | "hash-token" => Some(HASH_HELP),
        _ => commands::help(command),
    }
}

/// The words that are not the value of the option before them.
fn words_for_rdlm<'w>(words: &'w [OsString], help: Option<&str>) -> impl Iterator<Item = &'w str> {
    let mut words = words.iter();
    std::iter::from_fn(move || {
        let word = words.next()?.to_str().unwrap_or_default();
        if help.is_some_and(|help| takes_value(word, help)) {
            words.next();
        }
        Some(word)
    })
}

/// Whether an option is followed by its value, as the help text of its command says.
fn takes_value(option: &str, help: &str) -> bool {
    let of_option = |line: &str| {
        let rest = line.trim_start().strip_prefix(option)?;
        rest.starts_with(' ').then(|| rest.trim_start().starts_with(char::is_uppercase))
    };
    // RDLM's spelling is not in it.
    option == "--admin_userpass_file"
        || (option.starts_with("--") && help.lines().find_map(of_option) == Some(true))
}

/// Checks that every argument was understood.
fn nothing_left(args: Arguments, command: &str) -> Result<(), UsageError> {
    match args.finish().first() {
        None => Ok(()),
        Some(arg) => Err(unexpected(arg, command)),
    }
}

fn unexpected(arg: &OsStr, command: &str) -> UsageError {
    UsageError::new(format!(
        "unexpected argument {:?}: not an option of {command}, or given twice; see rdlm \
         {command} --help",
        arg.to_string_lossy()
    ))
}

/// The value of an option, if it is given; `parse` says what it expected instead.
fn option<T>(
    args: &mut Arguments,
    name: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, UsageError> {
    let value = args.opt_value_from_fn(name, |value| Ok::<_, Infallible>(value.to_string()));
    let text = match value {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(pico_args::Error::NonUtf8Argument) => {
            return Err(UsageError::new(format!("the value of {name} is not valid UTF-8")));
        }
        Err(_) => return Err(UsageError::new(format!("{name} needs a value"))),
    };
    match parse(&text) {
        Ok(value) => Ok(Some(value)),
        Err(expected) => {
            let text = url::without_password(&text);
            Err(UsageError::new(format!("{name} {text:?}: expected {expected}")))
        }
    }
}

fn number<T: FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| expected.into())
}

fn seconds(text: &str, zero_allowed: bool) -> Result<Duration, String> {
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

/// A variable of the environment; an empty one is none.
fn environment(name: &str) -> Result<Option<String>, UsageError> {
    match env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => {
            Err(UsageError::new(format!("the value of {name} is not valid UTF-8")))
        }
    }
}
