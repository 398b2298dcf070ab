//! The election: the loop of one thread through standby, loading, active, and standby again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, after, bounded, select};
use log::{debug, error, info, warn};

use super::chain::{Backend, Chain, Leaving, Predecessor};
use super::etcd::{Etcd, Failure};
use super::failover::Silence;
use super::history::History;
use super::loading::Loading;
use super::look::{NoLook, Seen};
use super::own_url::OwnUrl;
use super::records::{Keys, TermRecord};
use super::store::EtcdStore;
use crate::cluster::options::{Options, Tables};
use crate::cluster::role::{HaltReason, Peer, Role, View};
use crate::cluster::term::{ActiveTerm, Pace, Term};
use crate::lock::{Events, LockManager, LockTable, OpenError, clock};

/// How long the requests in flight may take to end when this server leaves.
const STEP_DOWN: Duration = Duration::from_millis(700);

/// How often the active server asks for etcd's status, and how long a member may take to answer:
/// the server cannot leave meanwhile.
const STATUS_INTERVAL: Duration = Duration::from_secs(60);
const STATUS_TIMEOUT: Duration = Duration::from_millis(200);

/// Four fifths of etcd's default quota, in bytes.
const LARGE: u64 = (2 << 30) / 5 * 4;

/// This server's part in the election.
pub(crate) struct Election {
    role: Arc<Role>,
    pace: Pace,
    backend: Backend,
    tables: Tables,
    /// Of all terms.
    events: Arc<Events>,
    /// Something of this service, or an empty prefix, was seen in etcd. From then on, a foreign
    /// value does not end the process.
    begun: bool,
    /// Why what is in etcd cannot be used; this has been logged.
    halted: Option<Arc<HaltReason>>,
    /// Dropped when this server has left.
    leaves: Option<Sender<Infallible>>,
    /// etcd is unreachable, and this has been logged.
    unreachable: bool,
    /// etcd will soon be full, and this has been logged.
    warned: bool,
}

/// Why and from what a standby takes over.
struct Chance {
    predecessor: Predecessor,
    why: String,
    /// The rows read so far.
    ahead: Option<Loading>,
}

/// A term that has begun.
struct Begun {
    active: Arc<ActiveTerm>,
    /// Gets a message when the store is fenced.
    fenced: Receiver<()>,
    /// Ends when nobody uses the locks any more, and etcd knows.
    over: Receiver<Infallible>,
}

impl Election {
    /// `leaving` ends when this server is to leave; `leaves` is dropped when it has left.
    pub(crate) fn new(
        options: &Options,
        role: Arc<Role>,
        etcd: Arc<Etcd>,
        (tables, events): (Tables, Arc<Events>),
        (leaving, leaves): (Leaving, Sender<Infallible>),
    ) -> Self {
        let keys = Keys::new(&options.prefix);
        let history = Arc::new(History::new(options.accept_restored));
        Self {
            role,
            pace: options.pace(),
            backend: Backend { etcd, keys, history, leaving },
            tables,
            events,
            begun: false,
            halted: None,
            leaves: Some(leaves),
            unreachable: false,
            warned: false,
        }
    }

    /// The body of the thread.
    ///
    /// # Errors
    /// Why the process has to end.
    pub(crate) fn run(&mut self) -> Result<Infallible, String> {
        loop {
            let chance = self.stand_by()?;
            info!("taking over: {}", chance.why);
            let began = clock::now();
            match self.take_over(chance) {
                Ok(Some(begun)) => {
                    self.halted = None;
                    let locks = begun.active.table.totals().active;
                    let took = clock::now().saturating_sub(began).as_millis();
                    info!(
                        "this server is the active one; locks held from before: {locks}, loaded in {took} ms"
                    );
                    self.be_active(begun);
                }
                Ok(None) if self.backend.history.lost().is_none() => {
                    info!("another server was faster");
                }
                // The next look at etcd says why.
                Ok(None) => {}
                Err(why) => self.halt(why),
            }
        }
    }

    /// Polls etcd until there is a reason to take over.
    fn stand_by(&mut self) -> Result<Chance, String> {
        let mut silence = Silence::new(self.pace);
        let mut ahead = None;
        let mut own_url = OwnUrl::default();
        loop {
            self.backend.etcd.look_now_and_then();
            let began = clock::now();
            match self.backend.look(self.pace, !self.begun) {
                Ok(seen) => {
                    self.role.looked(began);
                    self.note_answer();
                    self.begun = true;
                    let theirs = seen.term.as_ref().and_then(|term| term.failover_after);
                    let sighting = silence.saw(seen.head_revision(), theirs, clock::now());
                    self.read_ahead(&mut ahead, &seen, &silence);
                    self.follow(&seen, &mut own_url);
                    let why = reason(&seen, &silence).filter(|_| self.leaves.is_some());
                    if let Some(why) = why {
                        let (head, first_seen) = (seen.head, sighting.first_seen);
                        let predecessor = Predecessor { head, first_seen };
                        return Ok(Chance { predecessor, why, ahead });
                    }
                }
                Err(NoLook::Foreign(why)) if !self.begun => return Err(why),
                Err(no_look) => {
                    silence.missed();
                    self.note(no_look);
                }
            }
            self.pause(self.pace.poll());
        }
    }

    /// Logs why a look has shown nothing.
    fn note(&mut self, no_look: NoLook) {
        match no_look {
            NoLook::Failed(failure) => self.note_failure(&failure),
            NoLook::Foreign(why) => self.halt(unreadable(why)),
            NoLook::Lost(loss) => {
                let why = loss.to_string();
                self.halt(HaltReason { kind: "restored", detail: why.clone(), why });
            }
            NoLook::TooEarly => {}
        }
    }

    /// Refuses all requests until there is an active server again.
    fn halt(&mut self, why: HaltReason) {
        let reason = match self.halted.take().filter(|known| **known == why) {
            Some(known) => known,
            None => {
                error!("{}", why.why);
                Arc::new(why)
            }
        };
        if !matches!(self.role.view(), View::Halted(known) if known == reason) {
            self.role.show(View::Halted(Arc::clone(&reason)));
        }
        self.halted = Some(reason);
    }

    /// Reads the rows as long as this `head` may be the last one of its term.
    fn read_ahead(&self, ahead: &mut Option<Loading>, seen: &Seen, silence: &Silence) {
        let (head, revision) = (seen.head_revision(), seen.revision);
        if !silence.may_read_ahead() {
            *ahead = None;
        } else if ahead.as_ref().is_none_or(|ahead| !ahead.is_of(head)) {
            debug!("reading the locks ahead, at revision {revision}");
            let Backend { etcd, keys, .. } = &self.backend;
            // Without a thread it is done later, or not at all.
            *ahead = Loading::start(Arc::clone(etcd), keys, head, revision).ok();
        }
    }

    /// Shows who is active, if that is another server.
    fn follow(&self, seen: &Seen, own_url: &mut OwnUrl) {
        let term = seen.term.as_ref().filter(|term| !term.vacant);
        let own = term.filter(|term| term.url == self.role.url);
        if own_url.is_in_use(own.map(|term| (&*term.by, seen.head_revision()))) {
            return self.show_duplicate_url();
        }
        // An earlier process with this server's URL is gone.
        let other = term.filter(|_| own.is_none()).cloned();
        let peer = other.map(|TermRecord { by, url, secret, .. }| Peer { term: by, url, secret });
        let is_news = match self.role.view() {
            View::Active(_) => false,
            View::Standby(known) => known.as_deref() != peer.as_ref(),
            View::DuplicateUrl => true,
            // The reason stands while nobody is active.
            View::Halted(_) => peer.is_some(),
        };
        if is_news {
            match &peer {
                Some(peer) => info!("standby: {} is active", peer.url),
                None => info!("standby: nobody is active"),
            }
            self.role.show(View::Standby(peer.map(Arc::new)));
        }
    }

    fn show_duplicate_url(&self) {
        if !matches!(self.role.view(), View::DuplicateUrl) {
            error!(
                "another server is active that has the URL of this one, {}: each needs an \
                 --advertise-url of its own, or requests to this one cannot be passed on",
                self.role.url
            );
            self.role.show(View::DuplicateUrl);
        }
    }

    /// Becomes the active server; `None`: another one did.
    fn take_over(&self, chance: Chance) -> Result<Option<Begun>, HaltReason> {
        let Chance { predecessor, ahead, .. } = chance;
        let revision = predecessor.head.as_ref().map_or(0, |stored| stored.revision);
        let ahead = ahead.filter(|ahead| ahead.is_of(revision));
        let term = Term::new(self.pace)
            .map_err(|error| unreadable(format!("cannot take over: {error}")))?;
        let backend = self.backend.clone();
        let (over_sender, over) = bounded(0);
        let chain = Chain::take_over(backend, term, &self.role.url, predecessor, over_sender);
        let Ok(chain) = chain else { return Ok(None) };
        let Tables { limits, reconnect_grace, observer, metrics } = &self.tables;
        metrics.tenure();
        let term = Arc::clone(&chain.term);
        let (sender, fenced) = bounded(1);
        let store = EtcdStore::new(chain, ahead, Arc::clone(metrics), sender);
        self.events.restart_numbering();
        let (store, events) = (Some(Box::new(store) as Box<_>), Arc::clone(&self.events));
        let observer = Arc::clone(observer);
        match LockTable::with_events(*limits, *reconnect_grace, store, observer, events) {
            Ok(table) => {
                let active = Arc::new(ActiveTerm { table: Arc::new(table), term });
                Ok(Some(Begun { active, fenced, over }))
            }
            Err(_) if term.is_over() || self.role.leaving_since().is_some() => Ok(None),
            Err(error) => {
                // It writes no more, so that another server may try.
                term.end();
                Err(cannot_take_over(&error))
            }
        }
    }

    /// Returns when another server has taken over, or this one has stepped down.
    fn be_active(&mut self, begun: Begun) {
        let Begun { active, fenced, over } = begun;
        self.role.show(View::Active(Arc::clone(&active)));
        let leaves = loop {
            self.backend.etcd.look_now_and_then();
            self.look_at_status();
            select! {
                recv(fenced) -> _ => break false,
                recv(self.backend.leaving) -> _ => break true,
                recv(after(STATUS_INTERVAL)) -> _ => {}
            }
        };
        if leaves {
            info!("stepping down");
        } else if self.backend.history.lost().is_none() {
            warn!("another server has taken over: this one is a standby from now on");
        }
        // New requests are not served here, and lists are incomplete from now on.
        active.term.close();
        self.role.show(View::Standby(None));
        active.table.dismiss();
        self.events.end_subscriptions();
        drop(active);
        if leaves {
            let _ = over.recv_timeout(STEP_DOWN);
            self.leaves = None;
        }
    }

    /// Prefers the member that leads, and warns, once, of what will prevent changes.
    fn look_at_status(&mut self) {
        let Ok(status) = self.backend.etcd.prefer_leader(STATUS_TIMEOUT) else { return };
        let (size, alarms) = (status.db_size >> 20, status.errors.join(", "));
        let troubled = !alarms.is_empty() || status.db_size > LARGE;
        if troubled && !self.warned {
            warn!(
                "etcd's file has {size} MiB, {}: docs/high-availability.md says how to make room",
                if alarms.is_empty() { "near its default quota of 2048" } else { &alarms }
            );
        }
        self.warned = troubled;
    }

    fn pause(&mut self, pause: Duration) {
        let over = after(pause);
        if self.leaves.is_none() {
            // Cannot fail: it is a clock.
            let _ = over.recv();
            return;
        }
        select! {
            recv(over) -> _ => {}
            // There is nothing to step down from.
            recv(self.backend.leaving) -> _ => self.leaves = None,
        }
    }

    fn note_failure(&mut self, failure: &Failure) {
        if !self.unreachable {
            warn!("waiting for etcd: {failure}");
            self.unreachable = true;
        }
    }

    fn note_answer(&mut self) {
        if self.unreachable {
            info!("etcd answers again");
            self.unreachable = false;
        }
    }
}

/// Why a standby takes over after this look.
fn reason(seen: &Seen, silence: &Silence) -> Option<String> {
    match &seen.term {
        _ if seen.head.is_none() => Some("there was no active server yet".into()),
        None => Some("nobody is active".into()),
        Some(term) if term.vacant => Some(format!("{} has stepped down", term.url)),
        Some(term) if silence.is_over() => {
            let seconds = silence.patience().as_secs_f64();
            Some(format!("{} has been silent for {seconds} s", term.url))
        }
        Some(_) => None,
    }
}

/// A value is not one that this version reads.
fn unreadable(why: String) -> HaltReason {
    let detail = "a value in etcd is not one of this version of rdlm: the log names its key";
    HaltReason { kind: "unreadable", why, detail: detail.into() }
}

fn cannot_take_over(error: &OpenError) -> HaltReason {
    let why = format!("cannot take over: {error}");
    match error {
        OpenError::Thread(_) => HaltReason { kind: "thread", detail: why.clone(), why },
        _ => unreadable(why),
    }
}
