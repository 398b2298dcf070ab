//! The commands that talk to a server: run a command under a lock, take and release locks in
//! scripts, look and delete. They know the API alone, nothing of the server behind it.

mod acquire;
mod api;
mod child;
mod leases;
mod renewal;
mod retry;
mod run;
mod show;
mod signals;
mod socket;
mod table;
mod terminal;
mod transport;
mod waiting;
mod watch;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use api::{LockPath, Server};
pub use child::{BECOME, Become, LEAD, become_command, lead_group};
use leases::Leases;
pub use run::Run;
use transport::Failure;
use waiting::Waiting;

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run a command under a lock.
    Run(Run),
    /// Take a lock and print its URL.
    Acquire(Ask),
    /// Let a lock live for another lifetime.
    Renew {
        /// The URL of the lock, or its path.
        lock: String,
        /// From now.
        lifetime: Duration,
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
        /// As the server sends it, for programs.
        json: bool,
    },
    /// Show the resources that have locks.
    Resources {
        /// As the server sends it, for programs.
        json: bool,
    },
    /// Show the locks of a resource.
    Locks {
        /// Its name.
        resource: String,
        /// As the server sends it, for programs.
        json: bool,
    },
    /// Delete the locks of a resource; `None`: all locks.
    Delete {
        /// Its name.
        resource: Option<String>,
    },
    /// Ask whether the server is well.
    Health,
    /// Show locks until Ctrl-C.
    Watch {
        /// The name of one resource; `None`: all.
        resource: Option<String>,
    },
}

/// A lock that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The name of the resource.
    pub resource: String,
    /// Who asks and what for; `None`: the user, the host and the command.
    pub title: Option<String>,
    /// How long to wait for it.
    pub wait: Duration,
    /// How long it lives without a renewal.
    pub lifetime: Duration,
    /// One of the six modes; `None`: exclusive.
    pub mode: Option<String>,
    /// How many may hold the resource at a time; `None`: one.
    pub limit: Option<u32>,
}

impl Ask {
    /// A wait that has no end: the longest that a server accepts.
    pub const FOR_EVER: Duration = Duration::from_secs(1_000_000_000);
}

/// The servers, and who talks to them.
#[derive(Debug, PartialEq)]
pub struct Target {
    /// Where it is; several, if any of them will do. There is at least one.
    pub servers: Vec<ServerUrl>,
    /// For requests of administrators.
    pub credentials: Option<Credentials>,
    /// A file of certificates (PEM) to trust in place of those that are built in.
    pub root_certificates: Option<PathBuf>,
}

/// Where a server is.
#[derive(Debug, PartialEq)]
pub struct ServerUrl {
    /// Without a name and a password, and without a slash at the end.
    pub url: String,
    /// Those that the URL had, for every request. They are in no message.
    pub credentials: Option<Credentials>,
}

/// A user of HTTP Basic.
#[derive(Debug, PartialEq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// Why a command did not do what it should; says so in one line.
#[derive(Debug)]
pub enum Error {
    /// The server cannot be reached, does not answer, or has a fault.
    NoServer(String),
    /// What answers there is no rdlm server.
    NotRdlm(String),
    /// The request is not one that the server accepts.
    Usage(String),
    /// The server wants another user, or nobody.
    NotPermitted(String),
    /// The lock was not granted; it may be later.
    NotGranted(String),
    /// The lock, or what else was named, is not there any more.
    Gone(String),
    /// The operating system refused something.
    System(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::NoServer(text)
            | Self::NotRdlm(text)
            | Self::Usage(text)
            | Self::NotPermitted(text)
            | Self::NotGranted(text)
            | Self::Gone(text)
            | Self::System(text) => text,
            Self::Output(error) => return write!(f, "cannot write the output: {error}"),
        };
        // What a server sent is in here.
        f.write_str(&table::printable(text))
    }
}

impl std::error::Error for Error {}

/// How a command ended that did what it should.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Ending {
    /// By itself.
    Done,
    /// The command of a `run` exited with this code.
    Exited(u8),
    /// A signal ended the command of a `run`, or the wait for a lock.
    Signalled(i32),
    /// The command of a `run` was ended, because it had run for as long as it may.
    TimedOut,
    /// The lock was not granted, which is not to be talked about.
    NotGranted,
}

/// Does what a command says.
///
/// # Errors
/// See [`Error`].
pub fn execute(command: Command, target: &Target) -> Result<Ending, Error> {
    let only_looks = matches!(
        command,
        Command::Get { .. }
            | Command::Resources { .. }
            | Command::Locks { .. }
            | Command::Watch { .. }
    );
    let lock = match &command {
        Command::Renew { lock, .. } | Command::Release { lock } | Command::Get { lock, .. } => lock,
        _ => "",
    };
    let urls = target.servers.iter().map(|server| &*server.url).chain([lock]);
    let tls = urls.into_iter().any(|url| url.starts_with("https://"));
    match dispatch(command, &Server::new(target, tls)?) {
        // A reader that has gone (`rdlm resources | head -1`) is no failure.
        Err(Error::Output(error)) if only_looks && error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Ending::Done)
        }
        result => result,
    }
}

fn dispatch(command: Command, server: &Server) -> Result<Ending, Error> {
    match command {
        Command::Run(run) => {
            let title = run.ask.title.or_else(|| Some(default_title(run.command.first())));
            run::run(server, &Run { ask: Ask { title, ..run.ask }, ..run })
        }
        Command::Acquire(ask) => print_acquired(server, &ask),
        Command::Renew { lock, lifetime } => {
            let path = LockPath::parse(&lock)?;
            server.renew(&path, lifetime).map_err(|error| error.about_lock(&path)).map(done)
        }
        Command::Release { lock } => {
            let path = LockPath::parse(&lock)?;
            server.release(&path).map_err(|error| error.about_lock(&path)).map(done)
        }
        Command::Get { lock, json } => show::lock(server, &LockPath::parse(&lock)?, json),
        Command::Resources { json } => show::resources(server, json),
        Command::Locks { resource, json } => show::locks(server, &resource, json),
        Command::Delete { resource } => {
            let deleted = server.delete(resource.as_deref());
            deleted.map_err(|failure| match (failure, resource) {
                (Failure::NotThere, Some(name)) => Error::Gone(format!("{name} has no locks")),
                (failure, _) => failure.into(),
            })?;
            Ok(Ending::Done)
        }
        Command::Health => {
            let not_well = |failure| Error::NoServer(Error::from(failure).to_string());
            server.health().map(done).map_err(not_well)
        }
        Command::Watch { resource } => watch::watch(server, resource.as_deref()),
    }
}

fn done((): ()) -> Ending {
    Ending::Done
}

/// The URL alone, for scripts. Whoever cannot be told of the lock does not get it.
fn print_acquired(server: &Server, ask: &Ask) -> Result<Ending, Error> {
    let signals = signals::start()?;
    let title = ask.title.clone().or_else(|| Some(default_title(None)));
    let ask = Ask { title, ..ask.clone() };
    let waiting = Waiting::show(server, &ask.resource, ask.title.as_deref());
    let acquired = acquire::acquire(server, &ask, &signals, &mut Leases::new(server, ask.lifetime));
    drop(waiting);
    let lock = match acquired {
        Ok(acquire::Acquired::Granted(lock, _)) => lock,
        Ok(acquire::Acquired::Signalled(signal)) => return Ok(Ending::Signalled(signal)),
        Ok(acquire::Acquired::Lost(lost)) => return Err(lost.into()),
        Err(Error::NotGranted(why)) => {
            return Err(Error::NotGranted(show::refusal(server, &ask.resource, &why)));
        }
        Err(error) => return Err(error),
    };
    print(&format!("{}\n", server.url_of(&lock.path))).inspect_err(|_| {
        // It expires by itself if this fails.
        let _ = server.release(&lock.path);
    })?;
    Ok(Ending::Done)
}

/// Who asks, where, what for, and the number of the process that does.
fn default_title(program: Option<&OsString>) -> String {
    let user = user();
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let pid = std::process::id();
    match program {
        Some(program) => format!("{user}@{host}: {} [{pid}]", program.to_string_lossy()),
        None => format!("{user}@{host} [{pid}]"),
    }
}

/// The name of the user: as the environment has it, which cron and systemd leave empty, or the
/// file of users, or else its number.
fn user() -> String {
    let from_environment = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let uid = rustix::process::getuid().as_raw();
    let from_file = || {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.get(2).is_some_and(|id| id.parse() == Ok(uid)))?;
        line.first().map(ToString::to_string)
    };
    let named = from_environment.filter(|name| !name.is_empty()).or_else(from_file);
    named.unwrap_or_else(|| format!("uid {uid}"))
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Error::Output)
}

/// A line for people, on standard error, where it must not stop anything.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "rdlm: {}", table::printable(text));
}
