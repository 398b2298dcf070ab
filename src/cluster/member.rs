//! A server as one of several: who is active, and its locks if that is this one.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{info, warn};

use super::chain::Tenure;
use super::etcd::{Etcd, Failure};
use super::role::Loop;
use super::tenure::Pace;
use super::trust::{Trust, TrustFiles};
use super::upstream::Handle;
use super::{Options, Standby};
use crate::current_locks::CurrentLocks;
use crate::client::raw::net::Names;
use crate::http::certificates::CertificateFiles;
use crate::lock::{Events, Limits, LockManager, LockTable, NotWritten, Observer, Refusal};
use crate::metrics::{ClusterMetrics, ClusterState};

/// One of several servers.
pub struct Member {
    pub(super) pace: Pace,
    pub(super) standby: Standby,
    /// Where the others reach this one.
    pub(super) url: String,
    /// By what the others are known where they speak TLS.
    pub(super) trust: Option<Trust>,
    etcd: Arc<Etcd>,
    /// Where they are.
    pub(super) names: Names,
    pub(super) metrics: Arc<ClusterMetrics>,
    /// Those of each tenure of this server.
    pub(super) events: Arc<Events>,
    state: Mutex<State>,
    /// Dropped to leave.
    leave: Mutex<Option<Sender<Infallible>>>,
    /// Ends when it has left.
    left: Receiver<Infallible>,
}

struct State {
    view: View,
    /// Those who wait for another view, by number.
    watching: HashMap<u64, Sender<()>>,
    /// The connections to the active server that wait for an answer, by number.
    asking: HashMap<u64, Handle>,
    last: u64,
    /// Why the active server cannot be reached, if the log says so.
    unreachable: Option<String>,
    leaving_since: Option<Instant>,
}

/// Who is active, as far as this server knows.
#[derive(Clone)]
pub(super) enum View {
    /// This one.
    Active(Arc<Tenancy>),
    /// Another one, or nobody.
    Standby(Option<Arc<Peer>>),
    /// Another one that is said to be reached at the URL of this one, and so cannot be.
    Namesake,
    /// Nobody, and this server does not become active either.
    Refusing(Arc<Unusable>),
}

/// Another server, which is active.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) by: String,
    pub(super) url: String,
    pub(super) secret: String,
}

/// Why what is in etcd cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable {
    /// For the label of a metric.
    pub(super) kind: &'static str,
    /// For the operator.
    pub(super) why: String,
    /// For everybody: without the names of resources.
    pub(super) detail: String,
}

impl Unusable {
    pub(super) const KINDS: [&'static str; 3] = ["restored", "unreadable", "thread"];
}

/// The locks, and the time for which this server has them.
pub(super) struct Tenancy {
    pub(super) table: Arc<LockTable>,
    pub(super) tenure: Arc<Tenure>,
}

impl Tenancy {
    /// By which this server knows the others.
    pub(super) fn secret(&self) -> &str {
        &self.tenure.record.secret
    }

    pub(super) fn may_answer(&self) -> bool {
        self.tenure.may_answer()
    }
}

/// What the tables of this server are made with.
pub struct Tables {
    /// How many locks there may be.
    pub limits: Limits,
    /// How long the place of a client is kept that has sent a key and is gone.
    pub reconnect_grace: Duration,
    /// Is told of locks that end.
    pub observer: Arc<dyn Observer>,
}

impl Member {
    /// Joins the others. `url` is where they reach this server, with the certificate that it has
    /// there; `failed` hears why it cannot go on, if it cannot.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn start(
        options: &Options,
        url: String,
        own: Option<CertificateFiles>,
        tables: Tables,
        metrics: Arc<ClusterMetrics>,
        failed: Sender<String>,
    ) -> Result<Arc<Self>, String> {
        let speaks_tls = url.starts_with("https://") || options.advertise_ca.is_some();
        let trust = match options.standby {
            Standby::Forward if speaks_tls => {
                Some(TrustFiles { authority: options.advertise_ca.clone(), own }.load(&url)?)
            }
            Standby::Forward | Standby::Redirect => None,
        };
        let etcd = Arc::new(Etcd::new(options)?);
        let (leave, leaving) = bounded(0);
        let (leaves, left) = bounded(0);
        let member = Arc::new(Self {
            pace: Pace { failover_after: options.failover_after },
            standby: options.standby,
            url,
            trust,
            etcd: Arc::clone(&etcd),
            names: Names::default(),
            metrics,
            events: Arc::default(),
            state: Mutex::new(State {
                view: View::Standby(None),
                watching: HashMap::new(),
                asking: HashMap::new(),
                last: 0,
                unreachable: None,
                leaving_since: None,
            }),
            leave: Mutex::new(Some(leave)),
            left,
        });
        member.show_in_metrics(&etcd);
        let role = Loop::new(Arc::clone(&member), etcd, options, tables, leaving, leaves);
        let run = move || {
            let Err(why) = role.run();
            // Fails only when the process is about to end anyway.
            let _ = failed.send(why);
        };
        let thread = std::thread::Builder::new().name("role".into());
        thread.spawn(run).map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(member)
    }

    /// A channel that ends when this server has told the others that it leaves.
    pub fn left(&self) -> &Receiver<Infallible> {
        &self.left
    }

    /// Whether there are files that [`Member::look`] reads again.
    pub fn reloads(&self) -> bool {
        self.trust.is_some() || self.etcd.reloads()
    }

    /// Looks whether files have changed by which this server, the others and etcd know each other.
    pub fn look(&self) {
        self.etcd.look();
        self.trust.iter().for_each(|trust| trust.reload());
    }

    /// Who is active.
    pub(super) fn view(&self) -> View {
        self.state().view.clone()
    }

    /// Since when it has been about to end.
    pub(super) fn leaving_since(&self) -> Option<Instant> {
        self.state().leaving_since
    }

    /// Tells everybody who is active from now on.
    pub(super) fn show(&self, view: View) {
        let mut state = self.state();
        let asking: Vec<_> = state.asking.drain().collect();
        let watching: Vec<_> = state.watching.drain().collect();
        let before = std::mem::replace(&mut state.view, view);
        drop(state);
        // Its locks may go with it, which takes a moment.
        drop(before);
        asking.iter().for_each(|(_, connection)| connection.end());
        for (_, watching) in watching {
            // One who has a message knows.
            let _ = watching.try_send(());
        }
    }

    /// The view, and a channel that hears when there is another one.
    pub(super) fn watch(&self) -> (View, Watch<'_>) {
        let (sender, changed) = bounded(1);
        let mut state = self.state();
        let number = state.number();
        state.watching.insert(number, sender);
        (state.view.clone(), Watch { member: self, number, changed })
    }

    /// Ends a connection when another server than `peer` is active; `None`: it is already.
    pub(super) fn ask(&self, peer: &Arc<Peer>, connection: Handle) -> Option<Asking<'_>> {
        let mut state = self.state();
        if !matches!(&state.view, View::Standby(Some(active)) if active == peer) {
            return None;
        }
        let number = state.number();
        state.asking.insert(number, connection);
        Some(Asking { member: self, number })
    }

    /// One line in the log when the active server cannot be reached, and for each other reason.
    pub(super) fn note_unreachable(&self, url: &str, error: &dyn Display) {
        let why = format!("cannot pass requests on to {url}: {error}");
        let mut state = self.state();
        if state.unreachable.as_ref() != Some(&why) {
            state.unreachable = Some(why.clone());
            drop(state);
            warn!("{why}");
        }
    }

    /// It can be reached, perhaps again.
    pub(super) fn note_reached(&self, url: &str) {
        let before = self.state().unreachable.take();
        if before.is_some() {
            info!("requests are passed on to {url}");
        }
    }

    fn show_in_metrics(self: &Arc<Self>, etcd: &Arc<Etcd>) {
        let (member, etcd) = (Arc::downgrade(self), Arc::clone(etcd));
        self.metrics.read_from(move || {
            let (mut unconfirmed, mut refused) = (None, None);
            match member.upgrade().map(|member| member.view()) {
                Some(View::Active(active)) => {
                    unconfirmed = Some(active.tenure.unconfirmed_for());
                }
                Some(View::Refusing(why)) => refused = Some(why.kind),
                Some(View::Standby(_) | View::Namesake) | None => {}
            }
            let refused = Unusable::KINDS.map(|kind| (kind, refused == Some(kind))).into();
            let etcd_errors = Failure::NAMES.into_iter().zip(etcd.errors()).collect();
            ClusterState { unconfirmed, refused, etcd_errors }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NOT_ACTIVE: Refusal = Refusal::NotWritten(NotWritten::Fenced);

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// As long as this lives, a change of the view is heard of.
pub(super) struct Watch<'a> {
    member: &'a Member,
    number: u64,
    pub(super) changed: Receiver<()>,
}

impl Watch<'_> {
    /// By which somebody else can end the wait.
    pub(super) fn waker(&self) -> Option<Sender<()>> {
        self.member.state().watching.get(&self.number).cloned()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.member.state().watching.remove(&self.number);
    }
}

/// As long as this lives, a connection ends with the tenure of the server at its other end.
pub(super) struct Asking<'a> {
    member: &'a Member,
    number: u64,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.member.state().asking.remove(&self.number);
    }
}

/// A standby answers no request by itself: `front.rs` decides first, and once more at the end.
impl CurrentLocks for Member {
    fn current(&self) -> Result<Arc<dyn LockManager>, Refusal> {
        match self.view() {
            View::Active(tenancy) => Ok(Arc::clone(&tenancy.table) as Arc<dyn LockManager>),
            View::Standby(_) | View::Namesake | View::Refusing(_) => Err(NOT_ACTIVE),
        }
    }

    fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Whether the active server can write is that server's business.
    fn writable(&self) -> Result<(), NotWritten> {
        match self.view() {
            View::Active(active) => active.table.writable(),
            View::Refusing(refused) => Err(NotWritten::Refused(refused.detail.as_str().into())),
            View::Standby(_) | View::Namesake => Ok(()),
        }
    }

    /// Another server goes on.
    fn on_shutdown(&self) -> Refusal {
        NOT_ACTIVE
    }

    /// Wakes the requests that wait here for an active server, and steps down.
    fn shut_down(&self) {
        let mut state = self.state();
        state.leaving_since.get_or_insert_with(Instant::now);
        let held: Vec<_> = state.watching.drain().collect();
        drop(state);
        for (_, held) in held {
            let _ = held.try_send(());
        }
        let leave = self.leave.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(leave);
        self.events.close();
    }
}
