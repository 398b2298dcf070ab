//! The daemon: binds, accepts, serves each connection on a thread, drains on a signal.

mod connections;
mod in_flight;
pub mod limits;
mod workers;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select, unbounded};
use ipnet::IpNet;
use log::{debug, error, info, warn};
use rustix::system::uname;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::cluster::{self, Answered, Forwarding, Member, Tables};
use crate::doors::access::{Access, UserFileError};
use crate::doors::event_log::EventLog;
use crate::doors::users::{UserFile, UsersError};
use crate::doors::{RequestLimits, Service, Settings, Slots};
use crate::http::Status;
use crate::http::certificates::{CertificateError, CertificateFiles, Certificates};
use crate::http::connection::{Connection, Exchange, Next, NotEncrypted};
use crate::http::listener::Listener;
use crate::lock::clock;
use crate::lock::{
    End, FileStore, Limits, LockManager, LockTable, Observer, OpenError, Pending, Store,
};
use crate::metrics::Metrics;
use crate::signals::Ignored;
use connections::{Connections, Permit};
use in_flight::{InFlight, InFlightGuard};
use workers::Workers;

/// How the server is to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The address to listen on; `None`: all addresses, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// The port; 0: any free one.
    pub port: u16,
    /// The certificate of the port; `None`: it speaks HTTP as it is.
    pub certificates: Option<CertificateFiles>,
    /// Who may send administrative requests.
    pub access: Access,
    /// Who there is and may do what; in place of that.
    pub users: Option<UserFile>,
    /// Whether everybody may read metrics, also where there are users.
    pub open_metrics: bool,
    /// Limits of what clients ask for.
    pub limits: RequestLimits,
    /// What precedes `/locks/…` in a Location.
    pub base_url: Option<String>,
    /// Names of this server for browsers, beside those that it has anyway.
    pub hosts: Vec<String>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How many locks there may be, and requests that wait for them, at a time.
    pub lock_limits: Limits,
    /// How many connections may be open at a time; fewer if the limit of open files is low.
    pub max_connections: usize,
    /// How long a connection may be open without a request.
    pub idle_timeout: Duration,
    /// Where locks survive a crash; `None`: in memory only.
    pub data_dir: Option<PathBuf>,
    /// The other servers, which share the locks; `None`: there are none.
    pub cluster: Option<Box<cluster::Options>>,
    /// How long a lock lives at least after a restart of the server.
    pub restart_grace: Duration,
    /// How many may follow events at a time.
    pub max_subscribers: usize,
    /// How many nodes may reboot at a time; `None`: FleetLock is not served.
    pub fleetlock: Option<Slots>,
    /// Where what happens to locks is written to.
    pub event_log: Option<PathBuf>,
    /// How long the place of a client is kept that has sent a key and is gone.
    pub reconnect_grace: Duration,
}

/// Why the server did not start, or stopped.
#[derive(Debug)]
pub enum Error {
    /// The address cannot be listened on.
    Bind(SocketAddr, io::Error),
    /// The file of administrators is not as it should be.
    UserFile(UserFileError),
    /// The file of users is not as it should be.
    Users(UsersError),
    /// The certificate of the port is not as it should be.
    Certificate(CertificateError),
    /// The data directory is not as it should be.
    Journal(OpenError),
    /// The file of events cannot be opened.
    EventLog(PathBuf, io::Error),
    /// The operating system refused a thread or a signal handler.
    System(io::Error),
    /// A second signal came while the server was shutting down.
    Interrupted(i32),
    /// The lock core cannot go on.
    Core(String),
    /// What this server shares with others is not as it should be.
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

/// How long requests in flight may take to end when the server shuts down.
const DRAIN: Duration = Duration::from_millis(900);

/// How long to wait before accepting again when the system has run out of something.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until SIGTERM, SIGINT or SIGHUP. If there are files that it can take anew, SIGHUP does
/// that instead.
///
/// # Errors
/// See [`Error`].
pub fn serve(options: Options) -> Result<(), Error> {
    options.access.validate()?;
    let users = options.users.clone().map(UserFile::load).transpose()?.map(Arc::new);
    let certificates = options.certificates.clone().map(CertificateFiles::load).transpose()?;
    let certificates = certificates.map(Arc::new);
    let signals = signals()?;
    let max_connections = limits::max_connections(options.max_connections);
    let lock_limits = Limits {
        waiting: limits::max_waiters(options.lock_limits.waiting, max_connections),
        ..options.lock_limits
    };
    let listener = Arc::new(bind(&options)?);
    let store = match &options.data_dir {
        Some(dir) => Some(FileStore::open(dir, options.restart_grace)?),
        None => None,
    };
    let store = store.map(|store| Box::new(store) as Box<dyn Store>);
    let (metrics, cluster_metrics) = Metrics::with_cluster_if(options.cluster.is_some());
    let metrics = Arc::new(metrics);
    metrics.set_max_connections(max_connections);
    let (failed, failure) = unbounded();
    let observer = Arc::new(CoreObserver { metrics: Arc::clone(&metrics), failed });
    let (lost, loss) = unbounded();
    let member = match (&options.cluster, cluster_metrics) {
        (Some(cluster), Some(metrics)) => {
            let own = options.certificates.clone();
            let url = cluster.url(listener.local_addr(), own.is_some());
            let reconnect_grace = options.reconnect_grace;
            let tables =
                Tables { limits: lock_limits, reconnect_grace, observer: observer.clone() };
            let member = Member::start(cluster, url, own, tables, metrics, lost);
            Some(member.map_err(Error::Cluster)?)
        }
        _ => None,
    };
    clock::warn_if_behind();
    let locks: Arc<dyn LockManager> = match &member {
        Some(member) => Arc::clone(member) as Arc<dyn LockManager>,
        None => {
            let locks = LockTable::new(lock_limits, options.reconnect_grace, store, observer)?;
            let held = locks.totals().active;
            match &options.data_dir {
                Some(dir) => {
                    info!("locks are kept in {}; held from before: {held}", dir.display());
                }
                None => {
                    info!("locks are in memory: a restart forgets them; --data-dir DIR keeps them");
                }
            }
            Arc::new(locks)
        }
    };
    let event_log = match &options.event_log {
        Some(path) => Some(
            EventLog::start(path.clone(), locks.events())
                .map_err(|error| Error::EventLog(path.clone(), error))?,
        ),
        None => None,
    };
    if options.fleetlock.is_some() && options.data_dir.is_none() && member.is_none() {
        warn!(
            "FleetLock without --data-dir: if this server is restarted while a node reboots, \
             another one may reboot, too"
        );
    }
    let mut hosts = options.hosts;
    hosts.push(uname().nodename().to_string_lossy().into());
    let settings = Settings {
        access: options.access,
        users: users.clone(),
        open_metrics: options.open_metrics,
        limits: options.limits,
        base_url: options.base_url,
        hosts,
        trusted_proxies: options.trusted_proxies,
        max_subscribers: options.max_subscribers,
        fleetlock: options.fleetlock,
    };
    let connections = Connections::new(max_connections);
    metrics.look_for_idle_connections({
        let connections = connections.clone();
        move || connections.idle()
    });
    let server = Arc::new(Server {
        service: Service::new(Arc::clone(&locks), settings, Arc::clone(&metrics)),
        metrics,
        member: member.clone(),
        certificates: certificates.clone(),
        connections,
        in_flight: Arc::new(InFlight::new()),
    });
    thread::Builder::new().name("accept".into()).spawn({
        let (server, listener) = (Arc::clone(&server), Arc::clone(&listener));
        move || server.accept(&listener)
    })?;
    info!(
        "listening on {}, rdlm {}, at most {max_connections} connections and {} waiting",
        listener.local_addr(),
        env!("CARGO_PKG_VERSION"),
        lock_limits.waiting,
    );

    let loss = if member.is_some() { loss } else { never() };
    let signal = loop {
        let signal = select! {
            // The sender lives in the thread that waits for signals, which never ends.
            recv(signals) -> signal => signal.unwrap_or(SIGTERM),
            recv(failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
            recv(loss) -> why => return Err(Error::Cluster(why.unwrap_or_default())),
        };
        let reloads = event_log.is_some()
            || certificates.is_some()
            || users.is_some()
            || member.as_ref().is_some_and(|member| member.reloads());
        if signal != SIGHUP || !reloads {
            break signal;
        }
        event_log.iter().for_each(EventLog::reopen);
        certificates.iter().for_each(|certificates| certificates.look());
        users.iter().for_each(|users| users.look());
        member.iter().for_each(|member| member.look());
    };
    info!("stopping on signal {signal}");
    server.service.shut_down();
    server.connections.close();
    if let Err(error) = listener.close() {
        warn!("new connections are not refused: {error}");
    }
    // On a thread of its own, so that a crowd before the locks does not hold up the end.
    let shut_down = {
        let locks = Arc::clone(&locks);
        move || locks.shut_down()
    };
    thread::Builder::new().name("shut down".into()).spawn(shut_down)?;
    let drained = server.in_flight.drain();
    let too_late = Instant::now() + DRAIN;
    select! {
        recv(drained) -> _ => {}
        recv(failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
        recv(signals) -> second => return Err(Error::Interrupted(second.unwrap_or(SIGTERM))),
        recv(at(too_late)) -> _ => warn!("requests were in flight that took too long"),
    }
    if let Some(member) = member {
        // The others are told before this server is gone.
        select! {
            recv(member.left()) -> _ => {}
            recv(at(too_late)) -> _ => {}
        }
    }
    // A lock whose client was gone is not to be held after a restart.
    let (settles, settled) = bounded::<Infallible>(0);
    thread::Builder::new().name("settle".into()).spawn(move || {
        locks.settle();
        drop(settles);
    })?;
    select! {
        recv(settled) -> _ => {}
        recv(failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
        recv(at(too_late)) -> _ => {}
    }
    event_log.into_iter().for_each(EventLog::finish);
    info!("stopped");
    Ok(())
}

/// A channel of the signals that ask for an end. Under `nohup`, SIGHUP is none of them.
fn signals() -> io::Result<Receiver<i32>> {
    // A write beyond the limit of a file's size is to fail rather than end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let ignored = Ignored::from_start();
    let wanted = [SIGTERM, SIGINT, SIGHUP];
    let mut signals = Signals::new(wanted.iter().filter(|signal| !ignored.contains(**signal)))?;
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
        Listener::bind(address, options.idle_timeout).map_err(|error| Error::Bind(address, error))
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

/// Passes on what the lock core tells.
struct CoreObserver {
    metrics: Arc<Metrics>,
    failed: Sender<String>,
}

impl Observer for CoreObserver {
    fn ended(&self, end: End, held: Duration) {
        self.metrics.lock_ended(end, held);
    }

    fn failed(&self, why: &str) {
        // Fails only when the process is about to end anyway.
        let _ = self.failed.send(why.into());
    }
}

struct Server {
    service: Service,
    metrics: Arc<Metrics>,
    member: Option<Arc<Member>>,
    certificates: Option<Arc<Certificates>>,
    connections: Connections,
    in_flight: Arc<InFlight>,
}

impl Server {
    /// The loop of the accepting thread.
    fn accept(self: Arc<Self>, listener: &Listener) {
        let server = Arc::clone(&self);
        let workers = Workers::new(move |(connection, permit): (Connection, Permit)| {
            let _open = server.metrics.connection_opened();
            server.serve(connection, &Arc::new(permit));
        });
        let mut failing = false;
        while !self.connections.is_closed() {
            let served = match listener.accept() {
                Ok(connection) => match self.connections.admit(connection.hang_up()) {
                    Some(permit) => workers.start((connection, permit)),
                    None => return,
                },
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

    fn serve(&self, mut connection: Connection, permit: &Arc<Permit>) {
        match self.certificates.as_ref().map(|certificates| connection.encrypt(certificates)) {
            None | Some(Ok(())) => {}
            Some(Err(NotEncrypted::NotTls)) => {
                return connection.refuse(&self.service.refuse_unencrypted());
            }
            Some(Err(NotEncrypted::Failed(error))) => {
                debug!("a TLS handshake failed: {error}");
                return connection.linger();
            }
        }
        let mut forwarding = Forwarding::default();
        permit.idle();
        loop {
            let incoming = match connection.next_request() {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return,
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            permit.busy();
            if incoming.lacks_body()
                && let Some(refusal) =
                    self.service.answer_to_head(&incoming.request, incoming.client())
            {
                if incoming.refuse(&refusal).is_ok() {
                    connection.linger();
                }
                return;
            }
            let exchange = match incoming.receive() {
                Ok(exchange) => exchange,
                Err(error) => return connection.refuse(&self.service.refuse(error)),
            };
            let client_goes_on = exchange.request.keep_alive;
            match self.answer(exchange, &mut forwarding, permit) {
                Ok(Next::Request) => {}
                Ok(Next::Close) if client_goes_on => return connection.linger(),
                Ok(Next::Close) | Err(_) => return,
            }
        }
    }

    /// Answers one request, or leaves that to the thread that writes, if nothing else is waited
    /// for.
    fn answer(
        &self,
        exchange: Exchange<'_>,
        forwarding: &mut Forwarding,
        permit: &Arc<Permit>,
    ) -> io::Result<Next> {
        let mut busy = Busy { permit: Arc::clone(permit), _in_flight: self.in_flight.begin() };
        let answered = match &self.member {
            Some(member) => member.answer(&exchange, forwarding, &self.service),
            None => {
                let response = self.service.answer(&exchange.request, exchange.client);
                if matches!(response, Pending::Later(_)) && !permit.is_wanted() {
                    match exchange.detach(busy) {
                        Ok(detached) => {
                            response.then(|response| detached.respond(response));
                            return Ok(Next::Request);
                        }
                        Err(back) => busy = back,
                    }
                }
                Answered::Response(response.wait())
            }
        };
        let _busy = busy;
        match answered {
            Answered::Response(mut response) => {
                // Some clients send a request again by themselves when a 408 ends its connection.
                response.close |= permit.is_wanted() && response.status != Status::RequestTimeout;
                exchange.respond(response)
            }
            Answered::Instead(response, withheld) => {
                let sent = exchange.respond(response);
                drop(withheld);
                sent
            }
            Answered::Passed(next) => Ok(next),
            Answered::Gone => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// As long as this lives, a request has not got its response.
struct Busy {
    permit: Arc<Permit>,
    _in_flight: InFlightGuard,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.permit.idle();
    }
}

/// The client was gone before its connection was accepted; other clients are not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}
