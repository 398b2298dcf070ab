//! The daemon: binds, accepts, serves each connection on a thread, drains on a signal.

mod connections;
mod in_flight;
mod workers;

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, select, unbounded};
use log::{error, info, warn};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::http::access::{Access, UserFileError};
use crate::http::listener::{Connection, Listener, Next, Requests};
use crate::http::{RequestLimits, Service};
use crate::lock::{LockManager, LockTable};
use connections::Connections;
use in_flight::InFlight;
use workers::Workers;

/// How the server is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The address to listen on; `None`: all addresses, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// The port; 0: any free one.
    pub port: u16,
    /// Who may send administrative requests.
    pub access: Access,
    /// Limits of what clients ask for.
    pub limits: RequestLimits,
    /// What precedes `/locks/…` in a Location.
    pub base_url: Option<String>,
    /// How many requests may wait for locks at a time.
    pub max_waiters: usize,
    /// How many connections may be open at a time; fewer if the limit of open files is low.
    pub max_connections: usize,
}

/// Why the server did not start, or stopped.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The file of administrators is not as it should be.
    UserFile(UserFileError),
    /// The operating system refused a thread or a signal handler.
    System(io::Error),
    /// A second signal came while the server was shutting down.
    Interrupted(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::UserFile(error) => write!(f, "--admin-userpass-file: {error}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
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

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// How long requests in flight may take to end when the server shuts down.
const DRAIN: Duration = Duration::from_millis(900);

/// Descriptors that are not for connections: standard streams, the listener, the signal
/// pipe, the file of administrators.
const OTHER_DESCRIPTORS: u64 = 32;

/// A connection is two descriptors, because tiny_http reads and writes by way of two.
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

/// Memory mappings of a thread: its stack, the stack for signals, a guard for each, and one to
/// spare. A thread that starts without a mapping left ends the whole process.
const MAPPINGS_PER_THREAD: u64 = 5;

/// Linux's default of vm.max_map_count, for where it cannot be read.
const DEFAULT_MAX_MAPPINGS: u64 = 65_530;

/// How long to wait before accepting again when the system has run out of something.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// See [`Error`].
pub fn serve(options: Options) -> Result<(), Error> {
    options.access.validate()?;
    let signals = signals()?;
    let max_connections = max_connections(options.max_connections);
    let max_waiters = max_waiters(options.max_waiters, max_connections);
    let listener = Arc::new(bind(&options)?);
    let locks: Arc<dyn LockManager> = Arc::new(LockTable::new(max_waiters)?);
    let server = Arc::new(Server {
        service: Service {
            locks: Arc::clone(&locks),
            access: options.access,
            limits: options.limits,
            base_url: options.base_url,
        },
        connections: Connections::new(max_connections),
        in_flight: InFlight::new(),
    });
    thread::Builder::new().name("accept".into()).spawn({
        let (server, listener) = (Arc::clone(&server), Arc::clone(&listener));
        move || server.accept(&listener)
    })?;
    info!(
        "listening on {}, rdlm {}, at most {max_connections} connections and {max_waiters} waiting",
        listener.local_addr(),
        env!("CARGO_PKG_VERSION"),
    );

    // The sender lives in the thread that waits for signals, which never ends.
    let signal = signals.recv().unwrap_or(SIGTERM);
    info!("stopping on signal {signal}");
    server.connections.close();
    if let Err(error) = listener.close() {
        warn!("new connections are not refused: {error}");
    }
    locks.shut_down();
    let drained = server.in_flight.drain();
    select! {
        recv(drained) -> _ => info!("stopped"),
        recv(signals) -> second => return Err(Error::Interrupted(second.unwrap_or(SIGTERM))),
        default(DRAIN) => warn!("stopped with requests in flight"),
    }
    Ok(())
}

/// A channel of the signals that ask for an end.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver) = unbounded();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            // Fails only when main has returned, and the process with it.
            let _ = sender.send(signal);
        }
    })?;
    Ok(receiver)
}

fn bind(options: &Options) -> Result<Listener, Error> {
    let listen = |ip| {
        let address = SocketAddr::new(ip, options.port);
        Listener::bind(address).map_err(|error| Error::Bind(address, error))
    };
    match options.bind {
        Some(ip) => listen(ip),
        None => match listen(Ipv6Addr::UNSPECIFIED.into()) {
            // A host without IPv6.
            Err(Error::Bind(_, error)) if error.kind() != io::ErrorKind::AddrInUse => {
                listen(Ipv4Addr::UNSPECIFIED.into())
            }
            result => result,
        },
    }
}

/// Raises the limit of open files as far as it goes and keeps to what the system carries. The
/// line in the log that says where the server listens says how many that are.
fn max_connections(wanted: usize) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let by_files = files.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CONNECTION;
    let max_mappings = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let max_mappings = max_mappings.and_then(|text| text.trim().parse().ok());
    let by_mappings = max_mappings.unwrap_or(DEFAULT_MAX_MAPPINGS) / MAPPINGS_PER_THREAD;
    let fit = usize::try_from(by_files.min(by_mappings)).unwrap_or(usize::MAX);
    wanted.min(fit.max(1))
}

/// Leaves connections for releases: if all of them waited for locks, nobody could release one.
fn max_waiters(wanted: usize, max_connections: usize) -> usize {
    let reserved = (max_connections / 8).clamp(1, 64);
    wanted.min(max_connections - reserved)
}

struct Server {
    service: Service,
    connections: Connections,
    in_flight: InFlight,
}

impl Server {
    /// The loop of the accepting thread.
    fn accept(self: Arc<Self>, listener: &Listener) {
        let server = Arc::clone(&self);
        let workers = Workers::new(move |(connection, _permit)| server.serve(connection));
        let mut failing = false;
        while let Some(permit) = self.connections.wait_for_room() {
            let served = match listener.accept() {
                Ok(connection) => workers.start((connection, permit)),
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => Err(error),
            };
            match served {
                Ok(()) if failing => {
                    failing = false;
                    info!("accepting connections again");
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing && !self.connections.is_closed() {
                        failing = true;
                        error!("cannot accept connections for now: {error}");
                    }
                    self.connections.pause(ACCEPT_RETRY);
                }
            }
        }
    }

    fn serve(&self, mut connection: Connection<impl Requests>) {
        while let Some(exchange) = connection.next_exchange() {
            let _in_flight = self.in_flight.begin();
            let response = self.service.answer(&exchange.request());
            match exchange.respond(&response) {
                Ok(Next::Request) => {}
                Ok(Next::Close) => return,
                Err(_) => return self.service.take_back(&response),
            }
        }
    }
}

/// The client was gone before its connection was accepted; other clients are not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
