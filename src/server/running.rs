//! A server from its start to its end: opened, run until a signal, drained.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select, unbounded};
use log::{info, warn};
use rustix::system::uname;
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::connections::Connections;
use super::serving::Server;
use super::{Error, Options, limits};
use crate::cluster::{Member, Tables};
use crate::doors::event_log::EventLog;
use crate::doors::users::{UserFile, Users};
use crate::doors::{Service, Settings};
use crate::http::certificates::{CertificateFiles, Certificates};
use crate::http::listener::Listener;
use crate::lock::{End, FileStore, Limits, LockManager, LockTable, Observer, Store};
use crate::metrics::Metrics;

/// How long requests in flight may take to end when the server shuts down.
const DRAIN: Duration = Duration::from_millis(900);

/// A server that listens.
pub(super) struct Running {
    server: Arc<Server>,
    listener: Arc<Listener>,
    locks: Arc<dyn LockManager>,
    member: Option<Arc<Member>>,
    files: Files,
    /// The lock core cannot go on.
    failure: Receiver<String>,
    /// What is shared with other servers is not as it should be.
    loss: Receiver<String>,
}

/// What is read again, or opened again, on SIGHUP.
struct Files {
    users: Option<Arc<Users>>,
    certificates: Option<Arc<Certificates>>,
    event_log: Option<EventLog>,
}

impl Running {
    /// Reads the files, opens the port and begins to accept connections.
    pub(super) fn open(options: Options) -> Result<Self, Error> {
        options.access.validate()?;
        let users = options.users.clone().map(UserFile::load).transpose()?.map(Arc::new);
        let certificates = options.certificates.clone().map(CertificateFiles::load).transpose()?;
        let certificates = certificates.map(Arc::new);
        let max_connections = limits::max_connections(options.max_connections);
        let lock_limits = Limits {
            waiting: limits::max_waiters(options.lock_limits.waiting, max_connections),
            ..options.lock_limits
        };
        let listener = Arc::new(bind(&options)?);
        let (metrics, cluster_metrics) = Metrics::with_cluster_if(options.cluster.is_some());
        let metrics = Arc::new(metrics);
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
        let loss = if member.is_some() { loss } else { never() };
        let locks: Arc<dyn LockManager> = match &member {
            Some(member) => Arc::clone(member) as Arc<dyn LockManager>,
            None => Arc::new(open_table(&options, lock_limits, observer)?),
        };
        metrics.set_max_connections(max_connections);
        let event_log = start_event_log(&options, &*locks)?;
        warn_of_forgotten_reboots(&options);
        let files = Files { users: users.clone(), certificates: certificates.clone(), event_log };
        let settings = settings(options, users);
        let service = Service::new(Arc::clone(&locks), settings, Arc::clone(&metrics));
        let connections = Connections::new(max_connections);
        let server = Server::new(service, metrics, member.clone(), certificates, connections);
        let server = Arc::new(server);
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
        Ok(Self { server, listener, locks, member, files, failure, loss })
    }

    /// Returns the signal that asks for the end.
    pub(super) fn run(&self, signals: &Receiver<i32>) -> Result<i32, Error> {
        loop {
            let signal = select! {
                // The sender lives in the thread that waits for signals, which never ends.
                recv(signals) -> signal => signal.unwrap_or(SIGTERM),
                recv(self.failure) -> why => return Err(Error::Core(why.unwrap_or_default())),
                recv(self.loss) -> why => return Err(Error::Cluster(why.unwrap_or_default())),
            };
            if signal != SIGHUP || !self.reloads() {
                return Ok(signal);
            }
            self.files.look();
            self.member.iter().for_each(|member| member.look());
        }
    }

    /// Whether there is a file that is read again on SIGHUP.
    fn reloads(&self) -> bool {
        let Files { users, certificates, event_log } = &self.files;
        users.is_some()
            || certificates.is_some()
            || event_log.is_some()
            || self.member.as_ref().is_some_and(|member| member.reloads())
    }

    /// Refuses what comes, and returns when all requests are answered and all changes written, or
    /// when that takes too long.
    pub(super) fn drain(self, signal: i32, signals: &Receiver<i32>) -> Result<(), Error> {
        let Self { server, listener, locks, member, files, failure, .. } = self;
        info!("stopping on signal {signal}");
        server.shut_down();
        if let Err(error) = listener.close() {
            warn!("new connections are not refused: {error}");
        }
        // On a thread of its own, so that a crowd before the locks does not hold up the end.
        let shut_down = {
            let locks = Arc::clone(&locks);
            move || locks.shut_down()
        };
        thread::Builder::new().name("shut down".into()).spawn(shut_down)?;
        let drained = server.drained();
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
        files.event_log.into_iter().for_each(EventLog::finish);
        info!("stopped");
        Ok(())
    }
}

impl Files {
    fn look(&self) {
        self.event_log.iter().for_each(EventLog::reopen);
        self.certificates.iter().for_each(|certificates| certificates.look());
        self.users.iter().for_each(|users| users.look());
    }
}

/// The locks of a server that shares them with no other.
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

fn start_event_log(options: &Options, locks: &dyn LockManager) -> Result<Option<EventLog>, Error> {
    let Some(path) = &options.event_log else { return Ok(None) };
    let started = EventLog::start(path.clone(), locks.events());
    started.map(Some).map_err(|error| Error::EventLog(path.clone(), error))
}

fn warn_of_forgotten_reboots(options: &Options) {
    if options.fleetlock.is_some() && options.data_dir.is_none() && options.cluster.is_none() {
        warn!(
            "FleetLock without --data-dir: if this server is restarted while a node reboots, \
             another one may reboot, too"
        );
    }
}

fn settings(options: Options, users: Option<Arc<Users>>) -> Settings {
    let mut hosts = options.hosts;
    hosts.push(uname().nodename().to_string_lossy().into());
    Settings {
        access: options.access,
        users,
        open_metrics: options.open_metrics,
        limits: options.limits,
        base_url: options.base_url,
        hosts,
        trusted_proxies: options.trusted_proxies,
        max_subscribers: options.max_subscribers,
        fleetlock: options.fleetlock,
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
