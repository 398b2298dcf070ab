//! The daemon: binds, accepts, serves each connection on a thread, drains on a signal.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use log::{error, info, warn};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::http::access::{Access, UserFileError};
use crate::http::listener::{Connection, Listener, Next, Requests};
use crate::http::{RequestLimits, Service};
use crate::lock::{LockManager, LockTable};
use crate::workers::Workers;

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
    /// How many connections may be open at a time; `None`: what the limit of open files
    /// allows.
    pub max_connections: Option<usize>,
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
    listener.close()?;
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

/// Raises the limit of open files as far as it goes and derives what connections fit in.
fn max_connections(wanted: Option<usize>) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let fit = files.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CONNECTION;
    let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
    match wanted {
        Some(wanted) if wanted > fit => {
            warn!(
                "--max-connections {wanted} is lowered to {fit}: the limit of open files is {files}"
            );
            fit
        }
        Some(wanted) => wanted,
        None => fit,
    }
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
            let accepted = listener.accept();
            match accepted.and_then(|connection| workers.start((connection, permit))) {
                Ok(()) if failing => {
                    failing = false;
                    info!("accepting connections again");
                }
                Ok(()) => {}
                Err(error) if is_of_one_connection(&error) => {}
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
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

/// The open connections, at most `max` of them. Those beyond wait in the kernel's queue.
struct Connections(Arc<ConnectionsState>);

struct ConnectionsState {
    max: usize,
    count: Mutex<Count>,
    /// Signalled when there is room again, or to close.
    room: Condvar,
}

struct Count {
    open: usize,
    closed: bool,
}

/// The right to have one connection open.
struct Permit(Arc<ConnectionsState>);

impl Connections {
    fn new(max: usize) -> Self {
        let count = Mutex::new(Count { open: 0, closed: false });
        Self(Arc::new(ConnectionsState { max, count, room: Condvar::new() }))
    }

    /// Returns when another connection may be open; `None` when closed.
    fn wait_for_room(&self) -> Option<Permit> {
        let full = |count: &mut Count| count.open >= self.0.max && !count.closed;
        let waited = self.0.room.wait_while(self.0.lock(), full);
        let mut count = waited.unwrap_or_else(PoisonError::into_inner);
        if count.closed {
            return None;
        }
        count.open += 1;
        Some(Permit(Arc::clone(&self.0)))
    }

    /// Returns when `timeout` is over; at once when closed.
    fn pause(&self, timeout: Duration) {
        let open = |count: &mut Count| !count.closed;
        let _ = self.0.room.wait_timeout_while(self.0.lock(), timeout, open);
    }

    fn close(&self) {
        self.0.lock().closed = true;
        self.0.room.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl ConnectionsState {
    fn lock(&self) -> MutexGuard<'_, Count> {
        // A count is whole at any moment.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut count = self.0.lock();
        let was_full = count.open == self.0.max;
        count.open -= 1;
        drop(count);
        if was_full {
            self.0.room.notify_one();
        }
    }
}

/// Counts the requests that are being answered.
struct InFlight {
    count: AtomicUsize,
    draining: AtomicBool,
    drained: (Sender<()>, Receiver<()>),
}

/// One request that is being answered.
struct InFlightGuard<'a>(&'a InFlight);

impl InFlight {
    fn new() -> Self {
        Self { count: AtomicUsize::new(0), draining: AtomicBool::new(false), drained: bounded(1) }
    }

    fn begin(&self) -> InFlightGuard<'_> {
        self.count.fetch_add(1, Ordering::SeqCst);
        InFlightGuard(self)
    }

    /// A channel that gets a message when no request is in flight.
    fn drain(&self) -> Receiver<()> {
        self.draining.store(true, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            self.tell_drained();
        }
        self.drained.1.clone()
    }

    fn tell_drained(&self) {
        // A message that is there already says the same.
        let _ = self.drained.0.try_send(());
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        let last = self.0.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.draining.load(Ordering::SeqCst) {
            self.0.tell_drained();
        }
    }
}
