//! The commands that talk to a server: they run a command under a lock, take and release locks for
//! scripts, show and delete locks.

mod acquire;
mod child;
mod delete;
mod events;
mod hash;
mod run;
mod show;
mod signals;
mod table;
mod terminal;
mod waiting;
mod watch;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use crate::client::raw::{Failure, LockPath};
use crate::client::{self, Client, LockOptions, Target, Time};
pub use child::{BECOME, Become, LEAD, become_command, lead_group};
pub use delete::Delete;
pub use events::Which;
pub use hash::{Secret, hash};
pub use run::Run;
pub use show::NAMES;

/// A command and its arguments.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run a command under a lock.
    Run(Run),
    /// Take a lock and print its URL.
    Acquire {
        /// The name of the resource.
        resource: String,
        /// What to ask for.
        options: LockOptions,
    },
    /// Renew a lock.
    Renew {
        /// The URL of the lock, or its path.
        lock: String,
        /// From now; `None`: a minute, or as long as the server allows.
        lifetime: Option<Duration>,
    },
    /// Convert a lock to another mode.
    Convert {
        /// The URL of the lock, or its path.
        lock: String,
        /// The new mode.
        mode: String,
        /// How long to wait for it.
        wait: Duration,
        /// From when the lock has the mode; `None`: it expires when it would have.
        lifetime: Option<Duration>,
    },
    /// Release a lock.
    Release {
        /// The URL of the lock, or its path.
        lock: String,
    },
    /// Show a lock.
    Get {
        /// The URL of the lock, or its path.
        lock: String,
        /// Whether to print what the server sends, for programs.
        json: bool,
    },
    /// Show the resources that have locks.
    Resources {
        /// Whether to print what the server sends, for programs.
        json: bool,
    },
    /// Show the locks of a resource.
    Locks {
        /// Its name.
        resource: String,
        /// Whether to print what the server sends, for programs.
        json: bool,
    },
    /// Delete locks.
    Delete(Delete),
    /// Print the names of resources that have locks, for completions.
    Names {
        /// How they begin.
        prefix: String,
    },
    /// Ask whether the server is healthy.
    Health,
    /// Print events.
    Events {
        /// The name of one resource; `None`: all.
        resource: Option<String>,
        /// Whether to print JSON, an object on each line.
        json: bool,
        /// Which ones.
        which: Which,
    },
    /// Show locks until Ctrl-C.
    Watch {
        /// The name of one resource; `None`: all.
        resource: Option<String>,
    },
}

/// The texts of options whose values a server may refuse, as they were typed.
#[derive(Debug, Default, PartialEq)]
pub struct Typed {
    /// That of `--wait`.
    pub wait: Option<String>,
    /// That of `--lifetime`.
    pub lifetime: Option<String>,
}

impl Typed {
    /// The same error, but naming the option that it is about.
    fn name_option_in(&self, error: Error) -> Error {
        let Error::Client(client::Error::TooLong(time, why)) = &error else { return error };
        let (option, text) = match time {
            Time::Wait => ("--wait", &self.wait),
            Time::Lifetime => ("--lifetime", &self.lifetime),
        };
        match text {
            Some(text) => client::Error::Usage(format!("{option} {text:?}: {why}")).into(),
            None => error,
        }
    }
}

/// Why a command failed, as one line.
#[derive(Debug)]
pub enum Error {
    /// An error of the client.
    Client(client::Error),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It may contain text from a server.
            Self::Client(error) => f.write_str(&table::printable(&error.to_string())),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<client::Error> for Error {
    fn from(error: client::Error) -> Self {
        Self::Client(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Client(failure.into())
    }
}

/// How a command ended, unless with an error.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Ending {
    /// It is done.
    Done,
    /// The command of a `run` exited with this code.
    Exited(u8),
    /// A signal ended the command of a `run`, or the wait for a lock.
    Signalled(i32),
    /// The command of a `run` was ended at its `--timeout`.
    TimedOut,
    /// The lock was not granted, and no message is wanted.
    NotGranted,
}

/// Executes a command.
///
/// # Errors
/// See [`Error`].
pub fn execute(command: Command, target: &Target, typed: &Typed) -> Result<Ending, Error> {
    let only_looks = matches!(
        command,
        Command::Get { .. }
            | Command::Resources { .. }
            | Command::Locks { .. }
            | Command::Names { .. }
            | Command::Events { .. }
            | Command::Watch { .. }
    );
    match dispatch(command, target) {
        // A reader that has enough (`rdlm resources | head -1`) is no failure.
        Err(Error::Output(error)) if only_looks && error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Ending::Done)
        }
        result => result.map_err(|error| typed.name_option_in(error)),
    }
}

fn dispatch(command: Command, target: &Target) -> Result<Ending, Error> {
    let client = || Client::of(target);
    match command {
        Command::Run(run) => run::run(client()?, run),
        Command::Acquire { resource, options } => acquire::print(client()?, &resource, options),
        Command::Renew { lock, lifetime } => {
            on_lock(&lock, target, |client, path| client.renew(path, lifetime))
        }
        Command::Convert { lock, mode, wait, lifetime } => {
            on_lock(&lock, target, |client, path| client.convert(path, &mode, wait, lifetime))
        }
        Command::Release { lock } => on_lock(&lock, target, Client::release),
        Command::Get { lock, json } => {
            let path = LockPath::parse(&lock)?;
            show::lock(&Client::about(target, &path)?, &path, json)
        }
        Command::Resources { json } => show::resources(&client()?, json),
        Command::Locks { resource, json } => show::locks(&client()?, &resource, json),
        Command::Delete(delete) => delete::delete(&client()?, &delete),
        Command::Names { prefix } => show::names(&client()?, &prefix),
        Command::Health => {
            let not_well =
                |failure| client::Error::NoServer(client::Error::from(failure).to_string());
            client()?.health().map_err(not_well)?;
            Ok(Ending::Done)
        }
        Command::Events { resource, json, which } => {
            events::events(&client()?, resource.as_deref(), json, which)
        }
        Command::Watch { resource } => watch::watch(&client()?, resource.as_deref()),
    }
}

fn on_lock(
    lock: &str,
    target: &Target,
    request: impl FnOnce(&Client, &LockPath) -> Result<(), Failure>,
) -> Result<Ending, Error> {
    let path = LockPath::parse(lock)?;
    let client = Client::about(target, &path)?;
    request(&client, &path).map_err(|failure| failure.about_lock(&path))?;
    Ok(Ending::Done)
}

/// Writes to standard output.
///
/// # Errors
/// [`Error::Output`]
pub fn print(text: &str) -> Result<(), Error> {
    let mut stdout = stdout().map_err(Error::Output)?;
    stdout.write_all(text.as_bytes()).map_err(Error::Output)
}

/// Standard output as a file: std's reports success even if it is not open for writing.
fn stdout() -> io::Result<File> {
    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

/// Prints a line for people on standard error. Failures are ignored.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "rdlm: {}", table::printable(text));
}
