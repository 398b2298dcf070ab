//! A server that is one of several: its role, its part in the election, and its proxy.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::options::{Options, Tables};
use super::role::{HaltReason, Role, View};
use crate::current_locks::CurrentLocks;
use crate::doors::Service;
use crate::etcd_store::{Election, Etcd, Failure};
use crate::http::certificates::CertificateFiles;
use crate::http::connection::Exchange;
use crate::lock::{Events, LockManager, NotWritten, Observer, Refusal};
use crate::metrics::{ClusterMetrics, ClusterState};
use crate::proxy::{Answered, Forwarding, Proxy, Unreachable};

/// One of several servers.
pub struct Node {
    role: Arc<Role>,
    proxy: Proxy,
    etcd: Arc<Etcd>,
    /// Of all its terms.
    events: Arc<Events>,
    /// Dropped to leave the others.
    leave: Mutex<Option<Sender<Infallible>>>,
    /// Ends when it has left.
    left: Receiver<Infallible>,
    /// Kept because its channel is to end with the process alone.
    _observer: Arc<dyn Observer>,
}

impl Node {
    /// Joins the others, who reach this server at `url`, with the certificate `own`. `failed` gets
    /// the reason if it cannot go on.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn start(
        options: &Options,
        url: String,
        own: Option<CertificateFiles>,
        tables: Tables,
        failed: Sender<String>,
    ) -> Result<Arc<Self>, String> {
        let pace = options.pace();
        let role = Arc::new(Role::new(url, pace));
        let proxy = Proxy::new(options, own, Arc::clone(&role), tables.limits.waiting)?;
        let etcd = Arc::new(Etcd::new(options)?);
        show_in_metrics(&tables.metrics, &role, &etcd, proxy.unreachable.clone());
        let (leave, leaving) = bounded(0);
        let (leaves, left) = bounded(0);
        let (events, observer) = (Arc::default(), Arc::clone(&tables.observer));
        let node = Self {
            role: Arc::clone(&role),
            proxy,
            etcd: Arc::clone(&etcd),
            events: Arc::clone(&events),
            leave: Mutex::new(Some(leave)),
            left,
            _observer: observer,
        };
        let mut election = Election::new(options, role, etcd, (tables, events), (leaving, leaves));
        let run = move || {
            let Err(why) = election.run();
            // Fails only when the process is about to end anyway.
            let _ = failed.send(why);
        };
        let thread = std::thread::Builder::new().name("role".into());
        thread.spawn(run).map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Arc::new(node))
    }

    /// Reads certificates and passwords as a start does, without asking etcd or a server.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn check(options: &Options, own: Option<CertificateFiles>) -> Result<(), String> {
        let pace = options.pace();
        Proxy::new(options, own, Arc::new(Role::new(String::new(), pace)), 0)?;
        Etcd::new(options).map(drop)
    }

    /// Answers a request, or forwards it to the active server. `forwarding` belongs to the client's
    /// connection.
    pub fn answer(
        &self,
        exchange: &Exchange<'_>,
        forwarding: &mut Forwarding,
        service: &Service,
    ) -> Answered {
        self.proxy.answer(exchange, forwarding, service)
    }

    /// A channel that ends when this server has told the others that it leaves.
    pub fn left(&self) -> &Receiver<Infallible> {
        &self.left
    }

    /// Whether there are files that [`Node::look`] reads again.
    pub fn reloads(&self) -> bool {
        self.proxy.trust.is_some() || self.etcd.reloads()
    }

    /// Reads certificates and passwords again if they have changed.
    pub fn look(&self) {
        self.etcd.look();
        self.proxy.trust.iter().for_each(|trust| trust.reload());
    }
}

fn show_in_metrics(
    metrics: &ClusterMetrics,
    role: &Arc<Role>,
    etcd: &Arc<Etcd>,
    unreachable: Unreachable,
) {
    let (role, etcd) = (Arc::downgrade(role), Arc::clone(etcd));
    metrics.read_from(move || {
        let (mut unconfirmed, mut halted, mut is_cut_off) = (None, None, false);
        match role.upgrade().map(|role| role.view()) {
            Some(View::Active(active)) => unconfirmed = Some(active.term.unconfirmed_for()),
            Some(View::Halted(why)) => halted = Some(why.kind),
            Some(View::Standby(Some(peer))) => is_cut_off = unreachable.is(&peer.url),
            Some(View::Standby(None) | View::DuplicateUrl) | None => {}
        }
        let refused = HaltReason::KINDS.map(|kind| (kind, halted == Some(kind))).into();
        let etcd_errors = Failure::NAMES.into_iter().zip(etcd.errors()).collect();
        ClusterState { unconfirmed, is_cut_off, refused, etcd_errors }
    });
}

const NOT_ACTIVE: Refusal = Refusal::NotWritten(NotWritten::Fenced);

/// A standby answers no request by itself: the proxy decides before, and again before the answer
/// is given.
impl CurrentLocks for Node {
    fn current(&self) -> Result<Arc<dyn LockManager>, Refusal> {
        match self.role.view() {
            View::Active(active) => Ok(Arc::clone(&active.table) as Arc<dyn LockManager>),
            View::Standby(_) | View::DuplicateUrl | View::Halted(_) => Err(NOT_ACTIVE),
        }
    }

    fn events(&self) -> &Arc<Events> {
        &self.events
    }

    fn writable(&self) -> Result<(), NotWritten> {
        self.role.serves().map_err(|why| NotWritten::Refused(why.as_ref().into()))?;
        self.role.writable()
    }

    /// Another server goes on.
    fn on_shutdown(&self) -> Refusal {
        NOT_ACTIVE
    }

    /// Wakes the requests that wait for an active server, and steps down.
    fn shut_down(&self) {
        self.role.leave();
        drop(self.leave.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.events.close();
    }
}
