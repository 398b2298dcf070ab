//! The server process: opens everything, serves until a signal, drains.

mod connections;
mod files;
mod in_flight;
pub mod limits;
mod parked;
mod pids;
mod running;
mod serving;
mod workers;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use log::info;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::cluster;
use crate::doors::Settings;
use crate::doors::access::UserFileError;
use crate::doors::event_log;
use crate::doors::users::UsersError;
use crate::history;
use crate::http::certificates::{CertificateError, CertificateFiles};
use crate::lock::{Limits, OpenError};
use crate::signals::{Foreground, Ignored};
use running::Running;

/// How the server is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The address to listen on; `None`: all addresses, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// The port; 0: any free one.
    pub port: u16,
    /// The certificate of the port; `None`: plain HTTP.
    pub certificates: Option<CertificateFiles>,
    /// How requests are answered.
    pub doors: Settings,
    /// How many locks and waiting requests there may be at a time.
    pub lock_limits: Limits,
    /// How many connections may be open at a time; fewer if the limit of open files is low.
    pub max_connections: usize,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
    /// Where locks are stored; `None`: in memory only.
    pub data_dir: Option<PathBuf>,
    /// Several servers share the locks; `None`: this one is alone.
    pub cluster: Option<Box<cluster::Options>>,
    /// The least remaining lifetime of a lock after a restart of the server.
    pub restart_grace: Duration,
    /// The file that events are appended to.
    pub event_log: Option<event_log::Options>,
    /// What is kept of what has happened; `None`: what is in memory.
    pub history: Option<history::Settings>,
    /// How long the place in line of a client with a key is kept after it has left.
    pub reconnect_grace: Duration,
}

/// Why the server did not start, or stopped.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The file of administrators cannot be used.
    UserFile(UserFileError),
    /// The file of users cannot be used.
    Users(UsersError),
    /// The certificate of the port cannot be used.
    Certificate(CertificateError),
    /// The data directory cannot be used.
    Journal(OpenError),
    /// The file of events cannot be opened.
    EventLog(PathBuf, io::Error),
    /// The directory of the history cannot be used.
    History(PathBuf, io::Error),
    /// The operating system refused a thread or a signal handler.
    System(io::Error),
    /// A second signal came while the server was shutting down.
    Interrupted(i32),
    /// The lock core cannot go on.
    Core(String),
    /// What this server shares with others cannot be used.
    Cluster(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::UserFile(error) => write!(f, "--admin-userpass-file: {error}"),
            Self::Users(error) => write!(f, "--users: {error}"),
            Self::Certificate(error) => write!(f, "TLS: {error}"),
            Self::Journal(error) => write!(f, "--data-dir: {error}"),
            Self::EventLog(path, error) => {
                write!(f, "--event-log: cannot open {}: {error}", path.display())
            }
            Self::History(dir, error) => write!(f, "--history-dir: {}: {error}", dir.display()),
            Self::System(error) => write!(f, "cannot start: {error}"),
            Self::Cluster(why) => f.write_str(why),
            Self::Core(why) => write!(f, "stopping rather than answer wrongly: {why}"),
            Self::Interrupted(signal) => write!(f, "stopped at once by a second signal ({signal})"),
        }
    }
}

impl std::error::Error for Error {}

impl From<UserFileError> for Error {
    fn from(error: UserFileError) -> Self {
        Self::UserFile(error)
    }
}

impl From<CertificateError> for Error {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(error)
    }
}

impl From<UsersError> for Error {
    fn from(error: UsersError) -> Self {
        Self::Users(error)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        Self::Journal(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// As much stack as the main thread has: locks of an earlier run are read on this thread.
const OPENING_STACK: usize = 8 * 1024 * 1024;

/// Serves until SIGTERM or SIGINT. SIGHUP reloads files, if there are any; it ends the server only if
/// the terminal has hung up in whose foreground it was started.
///
/// # Errors
/// See [`Error`].
pub fn serve(options: Options) -> Result<(), Error> {
    let terminal = Foreground::at_start();
    let (signal_again, signals) = signals()?;
    let Some(running) = open(options, &signals, &signal_again)? else { return Ok(()) };
    let signal = running.run(&signals, terminal)?;
    running.drain(signal, &signals)
}

/// Reads all files with settings, as a start does. Opens no port and creates nothing.
///
/// # Errors
/// The first mistake.
pub fn check(options: &Options) -> Result<(), Error> {
    running::check(options)
}

/// Opens the server on another thread, because reading a file may block: it may be a pipe, or on a
/// disk that does not answer. `None`: a signal came first. A SIGHUP, which may mean that a file has
/// changed, is handled once the server is open.
fn open(
    options: Options,
    signals: &Receiver<i32>,
    signal_again: &Sender<i32>,
) -> Result<Option<Running>, Error> {
    let (sender, opened) = bounded(1);
    // Nobody receives it if the process is ending.
    let open = move || drop(sender.send(Running::open(options)));
    thread::Builder::new().name("open".into()).stack_size(OPENING_STACK).spawn(open)?;
    let mut hung_up = false;
    loop {
        select! {
            recv(opened) -> running => {
                let panicked = || Error::Core("the start has panicked".into());
                let running = running.map_err(|_| panicked())??;
                if hung_up {
                    // Cannot fail: the receiver is here.
                    let _ = signal_again.send(SIGHUP);
                }
                return Ok(Some(running));
            }
            recv(signals) -> signal => match signal.unwrap_or(SIGTERM) {
                SIGHUP => hung_up = true,
                signal => {
                    info!("stopping on signal {signal}, before the start was done");
                    return Ok(None);
                }
            }
        }
    }
}

/// Both ends of a channel of the signals that the server handles. Under `nohup`, SIGHUP is not among them.
fn signals() -> io::Result<(Sender<i32>, Receiver<i32>)> {
    // So that a write beyond the limit of file sizes fails instead of ending the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let ignored = Ignored::from_start();
    let wanted = [SIGTERM, SIGINT, SIGHUP];
    let mut signals = Signals::new(wanted.iter().filter(|signal| !ignored.contains(**signal)))?;
    let (sender, receiver) = unbounded();
    let from_thread = sender.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // Fails only when main has returned, and the process with it.
            let _ = from_thread.send(signal);
        }
    })?;
    Ok((sender, receiver))
}
