//! A server from start to end: opened, run until a signal, drained.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, at, never, select, unbounded};
use log::{info, warn};
use rustix::system::uname;
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::connections::Connections;
use super::files::Files;
use super::limits::Capacity;
use super::parked::Parked;
use super::serving::Server;
use super::{Error, Options};
use crate::cluster::{Node, Tables};
use crate::current_locks::CurrentLocks;
use crate::doors::event_log::{self, EventLog};
use crate::doors::history::History;
use crate::doors::users::{UserFile, Users};
use crate::doors::{Environment, Past, Service, Settings};
use crate::http::certificates::{CertificateFiles, Certificates};
use crate::http::listener::Listener;
use crate::lock::{End, FileStore, Limits, LockManager, LockTable, Observer, OpenError, Store};
use crate::metrics::{ClusterMetrics, Metrics};
use crate::signals::Foreground;
use crate::wall_clock;

/// How long requests in flight may take to end when the server shuts down.
const DRAIN: Duration = Duration::from_millis(900);

/// A server that listens.
pub(super) struct Running {
    server: Arc<Server>,
    listener: Arc<Listener>,
    node: Option<Arc<Node>>,
    event_log: Option<Arc<EventLog>>,
    history: Option<History>,
    /// Each message reloads the files; `None`: there are none.
    reload: Option<Sender<()>>,
    /// Ends the waits for locks. On its own thread, because it needs mutexes that may be contended.
    end_waits: Parked,
    /// Waits until all changes are written.
    settle: Parked,
    /// Gets a message when the lock core cannot go on.
    failure: Receiver<String>,
    /// Sends that; it is kept, so that the end of a table is not taken for a failure.
    _observer: Arc<CoreObserver>,
    /// Gets a message when what is shared with other servers cannot be used any more.
    loss: Receiver<String>,
}

impl Running {
    /// Reads the files, opens the port and begins to accept connections.
    pub(super) fn open(options: Options) -> Result<Self, Error> {
        let (users, certificates) = settings_of_files(&options)?;
        let descriptors_each =
            options.cluster.as_ref().map_or(1, |cluster| cluster.descriptors_per_connection());
        let capacity = Capacity::of_system(&options, descriptors_each);
        let listener = Arc::new(bind(&options)?);
        let (metrics, cluster_metrics) = Metrics::with_cluster_if(options.cluster.is_some());
        let metrics = Arc::new(metrics);
        let limits = Limits { waiting: capacity.waiters, ..options.lock_limits };
        let (failed, failure) = unbounded();
        let observer = Arc::new(CoreObserver { metrics: Arc::clone(&metrics), failed });
        let own_address = listener.local_addr();
        let OpenLocks { locks, node, loss } =
            open_locks(&options, limits, observer.clone(), own_address, cluster_metrics)?;
        metrics.set_max_connections(capacity.connections);
        let event_log = start_event_log(options.event_log.as_ref(), &*locks, &metrics)?;
        let history = start_history(&options, &locks, &metrics)?;
        let past = past(&options, history.is_some());
        warn_of_forgotten_reboots(&options);
        wall_clock::warn_if_behind();
        let files = Files {
            users: users.clone(),
            certificates: certificates.clone(),
            event_log: event_log.clone(),
            node: node.clone(),
        };
        let reload = files.reload_on_demand()?;
        let settings = Settings { max_subscribers: capacity.subscribers, ..options.doors };
        let own_host = uname().nodename().to_string_lossy().into();
        let environment = Environment { users, own_host, past };
        let service = Service::new(Arc::clone(&locks), settings, environment, Arc::clone(&metrics));
        let connections = Connections::new(capacity.connections);
        let server = Server::new(service, metrics, node.clone(), certificates, connections);
        let server = Arc::new(server);
        let (end_waits, settle) = parked_ends(locks)?;
        start_accepting(&server, &listener)?;
        info!(
            "listening on {own_address}, rdlm {}, at most {} connections and {} waiting",
            env!("CARGO_PKG_VERSION"),
            capacity.connections,
            capacity.waiters,
        );
        Ok(Self {
            server,
            listener,
            node,
            event_log,
            history,
            reload,
            end_waits,
            settle,
            failure,
            _observer: observer,
            loss,
        })
    }

    /// Returns the signal that asks for the end.
    pub(super) fn run(&self, signals: &Receiver<i32>, terminal: Foreground) -> Result<i32, Error> {
        loop {
            let signal = select! {
                // The sender lives in the thread that waits for signals, which never ends.
                recv(signals) -> signal => signal.unwrap_or(SIGTERM),
                recv(self.failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
                recv(self.loss) -> why => return Err(Error::Cluster(why.unwrap_or_default())),
            };
            if signal != SIGHUP || terminal.has_hung_up() {
                return Ok(signal);
            }
            // If the channel is full, a reload is due already.
            let _ = self.reload.as_ref().map(|reload| reload.try_send(()));
        }
    }

    /// Refuses new requests, and returns when all requests are answered and all changes written, or
    /// after [`DRAIN`].
    pub(super) fn drain(self, signal: i32, signals: &Receiver<i32>) -> Result<(), Error> {
        let Self { server, listener, node, event_log, history, end_waits, settle, failure, .. } =
            self;
        info!("stopping on signal {signal}");
        server.shut_down();
        if let Err(error) = listener.close() {
            warn!("new connections are not refused: {error}");
        }
        end_waits.start();
        let drained = server.drained();
        let too_late = Instant::now() + DRAIN;
        loop {
            select! {
                recv(drained) -> _ => break,
                recv(failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
                recv(signals) -> second => match second.unwrap_or(SIGTERM) {
                    // A terminal that hangs up sends one, and its shell another.
                    SIGHUP => {}
                    second => return Err(Error::Interrupted(second)),
                },
                recv(at(too_late)) -> _ => {
                    warn!("requests were in flight that took too long");
                    break;
                }
            }
        }
        if let Some(node) = node {
            // So that a standby takes over without waiting for a time-out.
            select! {
                recv(node.left()) -> _ => {}
                recv(at(too_late)) -> _ => {}
            }
        }
        // Otherwise a lock whose client has left could be held after a restart.
        select! {
            recv(settle.start()) -> _ => {}
            recv(failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
            recv(at(too_late)) -> _ => {}
        }
        event_log.iter().for_each(|event_log| event_log.finish());
        history.iter().for_each(|history| history.finish());
        info!("stopped");
        Ok(())
    }
}

/// What ends the waits for locks, and what waits until all changes are written.
fn parked_ends(locks: Arc<dyn CurrentLocks>) -> io::Result<(Parked, Parked)> {
    let to_end = Arc::clone(&locks);
    let end_waits = Parked::new("shut down", move || to_end.shut_down())?;
    let settle = move || locks.current().iter().for_each(|table| table.settle());
    Ok((end_waits, Parked::new("settle", settle)?))
}

/// The users and the certificates, read from their files.
type SettingsOfFiles = (Option<Arc<Users>>, Option<Arc<Certificates>>);

fn settings_of_files(options: &Options) -> Result<SettingsOfFiles, Error> {
    options.doors.access.validate()?;
    let users = options.doors.users.clone().map(UserFile::load).transpose()?;
    let certificates = options.certificates.clone().map(CertificateFiles::load).transpose()?;
    Ok((users.map(Arc::new), certificates.map(Arc::new)))
}

/// Reads all files with settings, as a start does. Opens no port and creates nothing.
pub(super) fn check(options: &Options) -> Result<(), Error> {
    settings_of_files(options)?;
    if let Some(cluster) = &options.cluster {
        Node::check(cluster, options.certificates.clone()).map_err(Error::Cluster)?;
    }
    if let Some(dir) = options.data_dir.as_ref().filter(|dir| dir.exists() && !dir.is_dir()) {
        let why = io::ErrorKind::NotADirectory.into();
        return Err(OpenError::Unusable(dir.clone(), why).into());
    }
    if let Some(it) = options.history.as_ref().filter(|it| it.dir.exists() && !it.dir.is_dir()) {
        return Err(Error::History(it.dir.clone(), io::ErrorKind::NotADirectory.into()));
    }
    let Some(event_log::Options { file, .. }) = &options.event_log else { return Ok(()) };
    let unusable = |why| Error::EventLog(file.clone(), why);
    if file.is_dir() {
        return Err(unusable(io::ErrorKind::IsADirectory.into()));
    }
    let above = file.parent().filter(|above| !above.as_os_str().is_empty());
    above.map(fs::read_dir).transpose().map_err(unusable)?;
    Ok(())
}

/// The locks, alone or shared with other servers.
struct OpenLocks {
    locks: Arc<dyn CurrentLocks>,
    node: Option<Arc<Node>>,
    /// Gets a message when what is shared cannot be used any more.
    loss: Receiver<String>,
}

fn open_locks(
    options: &Options,
    limits: Limits,
    observer: Arc<CoreObserver>,
    own_address: SocketAddr,
    metrics: Option<Arc<ClusterMetrics>>,
) -> Result<OpenLocks, Error> {
    let Some((cluster, metrics)) = options.cluster.as_ref().zip(metrics) else {
        let locks = Arc::new(open_table(options, limits, observer)?);
        return Ok(OpenLocks { locks: Arc::new(locks), node: None, loss: never() });
    };
    let reconnect_grace = options.reconnect_grace;
    let tables = Tables { limits, reconnect_grace, observer, metrics };
    let own = options.certificates.clone();
    let url = cluster.url(own_address, own.is_some());
    let (lost, loss) = unbounded();
    let node = Node::start(cluster, url, own, tables, lost).map_err(Error::Cluster)?;
    Ok(OpenLocks { locks: Arc::clone(&node) as Arc<_>, node: Some(node), loss })
}

fn start_accepting(server: &Arc<Server>, listener: &Arc<Listener>) -> Result<(), Error> {
    let workers = server.workers()?;
    let (server, listener) = (Arc::clone(server), Arc::clone(listener));
    let accept = move || server.accept(&listener, &workers);
    thread::Builder::new().name("accept".into()).spawn(accept)?;
    Ok(())
}

/// The locks of a single server.
fn open_table(
    options: &Options,
    limits: Limits,
    observer: Arc<dyn Observer>,
) -> Result<LockTable, Error> {
    let Options { data_dir, restart_grace, reconnect_grace, .. } = options;
    let store = match data_dir {
        Some(dir) => Some(Box::new(FileStore::open(dir, *restart_grace)?) as Box<dyn Store>),
        None => None,
    };
    let locks = LockTable::new(limits, *reconnect_grace, store, observer)?;
    let held = locks.totals().active;
    match data_dir {
        Some(dir) => info!("locks are kept in {}; held from before: {held}", dir.display()),
        None => info!("locks are in memory: a restart forgets them; --data-dir DIR keeps them"),
    }
    Ok(locks)
}

fn start_event_log(
    options: Option<&event_log::Options>,
    locks: &dyn CurrentLocks,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<EventLog>>, Error> {
    let Some(options) = options else { return Ok(None) };
    let started = EventLog::start(options.clone(), locks.events(), Arc::clone(metrics));
    let failed = |error| Error::EventLog(options.file.clone(), error);
    started.map(|log| Some(Arc::new(log))).map_err(failed)
}

/// A directory that was not asked for does not keep the server from starting.
fn start_history(
    options: &Options,
    locks: &Arc<dyn CurrentLocks>,
    metrics: &Metrics,
) -> Result<Option<History>, Error> {
    let Some(settings) = &options.history else { return Ok(None) };
    let is_shared = options.cluster.is_some();
    match History::start(settings.clone(), Arc::clone(locks), is_shared, metrics.history()) {
        Ok(history) => Ok(Some(history)),
        Err(error) if settings.required => Err(Error::History(settings.dir.clone(), error)),
        Err(error) => {
            warn!("there is no history: {}: {error}", settings.dir.display());
            Ok(None)
        }
    }
}

fn past(options: &Options, is_written: bool) -> Past {
    let history = options.history.as_ref().filter(|_| is_written);
    #[expect(clippy::disallowed_methods, reason = "it is shown")]
    let started = SystemTime::now();
    Past {
        history: history.map(|it| it.dir.clone()),
        started,
        is_shared: options.cluster.is_some(),
    }
}

fn warn_of_forgotten_reboots(options: &Options) {
    if options.doors.fleetlock.is_some() && options.data_dir.is_none() && options.cluster.is_none()
    {
        warn!(
            "FleetLock without --data-dir: if this server is restarted while a node reboots, \
             another one may reboot, too"
        );
    }
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

/// Receives notifications of the lock core.
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
