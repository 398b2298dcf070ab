//! All resources: the map from their names to their slots, and what can be done with them.
//!
//! # The way of a request
//!
//! [`LockTable::acquire`] takes a request through five stages. Other changes go the same way.
//!
//! 1. **Find.** The request becomes an [`Input`] for its resource, whose slot is looked up in the
//!    map, or added (`lookup.rs`).
//! 2. **Begin** (`change.rs`). Under the mutex of the resource, `resource/decide.rs` works out the
//!    facts, the plan and the answer. The facts are applied. So is the plan, without a store or if
//!    it changes no lock, as when the request joins the line: then stage 5 is next.
//! 3. **Write.** The plan closes the gate of the resource (`gate.rs`), the mutex is unlocked, and
//!    the change goes to the journal. Inputs that arrive meanwhile queue up at the gate.
//! 4. **Finish.** The thread that has written, which is the journal's or the request's own, locks
//!    the mutex again, applies the plan, or drops it if it could not be written, and sets the
//!    results of those whom it concerns. Then it decides the queued inputs, up to the next that has
//!    to be written, and unlocks the mutex. Once the whole batch is finished, it wakes the waiters.
//! 5. **Reply** (`waiting.rs`). For a result that comes with a write, the request's thread does not
//!    wait: it returns [`Pending::Later`]. In line, it sleeps until its result is there
//!    (`waiter.rs`). When its time is over or its client has gone, it ends its wait, which is an
//!    input like any other. A result that comes at the same time wins.
//!
//! # Order of the mutexes
//!
//! A shard of the map, then one resource, then one of: a shard of the deadlines, their alarm, the
//! queue of the journal, the callback of a waiter, a slot in the ring of events. No thread locks an
//! earlier one while it holds a later one, and none is held across I/O.

mod change;
mod counts;
mod deadlines;
mod gate;
mod lookup;
mod reaper;
mod report;
mod restoring;
mod slot;
mod threads;
mod waiter;
mod waiting;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::warn;

use super::journal::Journal;
use super::journal::store::{OpenError, PlaceStore, Store};
use super::numbers::Numbers;
use super::resource::{Arrival, ConvertRequest, Plan, Reply};
use super::sharded::Sharded;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::thread::{self, JoinHandle};
use super::sync::{locked, now};
use super::{
    Actor, Ages, Conversion, Cursor, Departure, Events, Grant, IdempotencyKey, Lock, LockId,
    LockManager, NotWritten, Observer, Page, Pending, Refusal, ResourceName, Terms, Totals,
};
use change::{Progress, Ticket};
use counts::Counts;
use deadlines::Deadlines;
use restoring::Restoring;
use slot::Slot;
use waiter::{Input, OnTimeout, Resource, Waiter};
use waiting::Caller;

/// How much there may be at a time. Checked as requests arrive: those that arrive at the same
/// moment may exceed a limit by one each, and a request that waits is granted its lock in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Locks that are held, and places that are kept for departed clients.
    pub locks: usize,
    /// Requests that wait, for all resources together.
    pub waiting: usize,
    /// Requests that wait for one resource.
    pub waiting_per_resource: usize,
}

/// The locks of one server: in memory, and with a [`Store`] also where they survive a crash.
pub struct LockTable {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
    journal: Option<JoinHandle<()>>,
}

impl LockTable {
    /// A table with the locks of the store; without a store, an empty one in memory alone. If the
    /// client of a waiting request departs and had sent a key, its place is kept for
    /// `reconnect_grace`. `observer` is told of the locks that end. Starts the reaper's thread, and
    /// with a store the journal's.
    ///
    /// # Errors
    /// See [`OpenError`]; the store is unchanged.
    pub fn new(
        limits: Limits,
        reconnect_grace: Duration,
        store: Option<Box<dyn Store>>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, OpenError> {
        Self::with_events(limits, reconnect_grace, store, observer, Arc::default())
    }

    /// The same, with events that others may have subscribed to already.
    ///
    /// # Errors
    /// See [`LockTable::new`].
    pub fn with_events(
        limits: Limits,
        reconnect_grace: Duration,
        mut store: Option<Box<dyn Store>>,
        observer: Arc<dyn Observer>,
        events: Arc<Events>,
    ) -> Result<Self, OpenError> {
        let resources = Sharded::default();
        let remote = store.as_ref().and_then(|store| store.properties().latency.remote().cloned());
        let mut shared = Shared {
            deadlines: Deadlines::like(&resources),
            resources,
            journal: store.as_ref().map(|_| Journal::new(remote.clone())),
            numbers: first_numbers(0),
            counts: Counts::default(),
            events,
            limits,
            reconnect_grace,
            patience: remote.map(|remote| remote.patience),
            keeps_places: store.as_mut().is_some_and(|store| store.places().is_some()),
            observer,
            shutting_down: AtomicBool::new(false),
        };
        if let Some(store) = &mut store {
            shared.load(store.as_mut())?;
        }
        let shared = Arc::new(shared);
        let start = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(name.into());
            thread.spawn(move || run(&shared)).map_err(OpenError::Thread)
        };
        // If a thread cannot be started, dropping the table ends the others.
        let mut table = Self { shared: Arc::clone(&shared), reaper: None, journal: None };
        if let Some(store) = store {
            table.journal = Some(start("journal", Box::new(|shared| shared.write(store)))?);
        }
        table.reaper = Some(start("reaper", Box::new(Shared::reap))?);
        Ok(table)
    }
}

impl Drop for LockTable {
    fn drop(&mut self) {
        self.shared.deadlines.close();
        let journal = self.journal.take();
        let is_own = |journal: &JoinHandle<()>| journal.thread().id() == thread::current().id();
        if journal.as_ref().is_some_and(is_own) {
            // The journal's own callbacks held the last references to the table.
            return self.shared.journal.iter().for_each(Journal::close);
        }
        // A thread that panicked has reported it.
        let _ = self.reaper.take().map(JoinHandle::join);
        self.shared.journal.iter().for_each(Journal::close);
        let _ = journal.map(JoinHandle::join);
    }
}

impl LockManager for LockTable {
    fn acquire(
        &self,
        resource: &ResourceName,
        terms: Terms,
        key: Option<IdempotencyKey>,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Pending<Result<Grant, Refusal>> {
        let (id, arrived_at) = (LockId::random(), now());
        let gate_deadline = arrived_at + terms.wait.max(GATE_PATIENCE);
        let waiter = Arc::<Waiter>::default();
        let arrival = Box::new(Arrival { id, terms, key, arrived_at });
        let mut input = Input::Acquire(arrival, Arc::clone(&waiter));
        let (slot, progress) = loop {
            let slot = self.shared.slot_or_new(resource);
            match self.shared.begin(&slot, input) {
                Ok(progress) => break (slot, progress),
                // The slot was retired in between.
                Err(rejected) => input = rejected,
            }
        };
        let on_timeout = OnTimeout::Abandon(id);
        let caller = Caller { waiter, gate_deadline, on_timeout, on_wait };
        self.shared.wait_for_grant(slot, progress, caller)
    }

    fn abandon(&self, resource: &ResourceName, id: LockId) {
        let input = Input::Abandon(id, self.shared.reconnect_grace);
        let lock = format!("{resource}/{id}");
        self.shared.run_on(resource, input).then(move |reply| {
            if let Reply::Refused(error @ Refusal::NotWritten(_)) = reply {
                warn!(
                    "the client has left; its lock is released when that can be written: {lock}: {error}"
                );
            }
        });
    }

    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock> {
        self.shared.read(resource, |state, plan| state.find(id, plan, now()))?
    }

    fn release(
        &self,
        resource: &ResourceName,
        id: LockId,
        by: Actor,
    ) -> Pending<Result<(), Refusal>> {
        self.shared.run_on(resource, Input::Release(id, Arc::new(by))).map(done)
    }

    fn release_by_key(
        &self,
        resource: &ResourceName,
        key: &IdempotencyKey,
        by: Actor,
    ) -> Pending<Result<(), Refusal>> {
        let input = Input::ReleaseByKey(key.clone(), Arc::new(by));
        self.shared.run_on(resource, input).map(done)
    }

    fn holders(
        &self,
        resource: &ResourceName,
        limit: usize,
    ) -> Vec<(Grant, Option<IdempotencyKey>)> {
        let held =
            self.shared.read(resource, |state, plan| state.first_holders(plan, now(), limit));
        held.unwrap_or_default()
    }

    fn renew(
        &self,
        resource: &ResourceName,
        id: LockId,
        lifetime: Duration,
    ) -> Pending<Result<Grant, Refusal>> {
        self.shared.run_on(resource, Input::Renew(id, lifetime)).map(granted)
    }

    fn convert(
        &self,
        resource: &ResourceName,
        id: LockId,
        wanted: Conversion,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Result<Grant, Refusal> {
        let arrived_at = now();
        let gate_deadline = arrived_at + wanted.wait.max(GATE_PATIENCE);
        let waiter = Arc::<Waiter>::default();
        let request = Box::new(ConvertRequest { id, wanted, arrived_at });
        let input = Input::Convert(request, Arc::clone(&waiter));
        let slot = self.shared.slot(resource).ok_or(Refusal::NoSuchLock)?;
        let progress = self.shared.begin(&slot, input).map_err(|_| Refusal::NoSuchLock)?;
        let caller = Caller { waiter, gate_deadline, on_timeout: OnTimeout::Cancel, on_wait };
        self.shared.wait_for_grant(slot, progress, caller).wait()
    }

    fn resources(&self, after: Option<&ResourceName>, limit: usize) -> Vec<ResourceName> {
        let has_locks = |state: &Resource, plan: Option<&Plan>| state.has_locks(plan, now());
        let is_in_use = |name: &ResourceName| self.shared.read(name, has_locks).unwrap_or(false);
        let names = self.shared.all_names(after.cloned(), limit).flatten();
        names.filter(is_in_use).take(limit).collect()
    }

    fn locks(&self, resource: &ResourceName, after: Option<Cursor>, limit: usize) -> Page {
        let page = |state: &Resource, plan: Option<&Plan>| state.page(plan, now(), after, limit);
        self.shared.read(resource, page).unwrap_or_default()
    }

    fn delete_resource(&self, resource: &ResourceName, by: Actor) -> Result<(), Refusal> {
        let (before, by) = (self.shared.numbers.next(), Arc::new(by));
        let input = || Input::Delete(before, Arc::clone(&by));
        let delete = || self.shared.run_on(resource, input()).map(done).wait();
        delete()?;
        while self.shared.has_locks_before(resource, before) {
            match delete() {
                // The rest has ended by itself.
                Ok(()) | Err(Refusal::NoSuchLock) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    fn delete_all(&self, by: Actor) -> Result<(), Refusal> {
        let (before, by) = (self.shared.numbers.next(), Arc::new(by));
        let input = || Input::Delete(before, Arc::clone(&by));
        for mut names in self.shared.all_names(None, MAX_AT_A_TIME) {
            while !names.is_empty() {
                let refused = self.shared.run_each(&names, |name| name, input);
                if let Some((_, refusal)) = refused.into_iter().next() {
                    return Err(refusal);
                }
                names.retain(|name| self.shared.has_locks_before(name, before));
            }
        }
        Ok(())
    }

    fn events(&self) -> &Arc<Events> {
        &self.shared.events
    }

    fn totals(&self) -> Totals {
        let Shared { resources, counts, .. } = &*self.shared;
        Totals {
            resources: resources.iter().map(|shard| locked(shard).len()).sum(),
            active: counts.held(),
            waiting: counts.waiting(),
            kept: counts.kept(),
        }
    }

    fn ages(&self) -> Ages {
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let now = SystemTime::now();
        let (mut held, mut waited_for) = (now, now);
        self.shared.read_each(|state| {
            held = held.min(state.held_since().unwrap_or(now));
            waited_for = waited_for.min(state.waited_for_since().unwrap_or(now));
        });
        let since = |time| now.duration_since(time).unwrap_or_default();
        Ages { longest_wait: since(waited_for), longest_hold: since(held) }
    }

    fn writable(&self) -> Result<(), NotWritten> {
        self.shared.journal.as_ref().map_or(Ok(()), Journal::writable)
    }

    fn shut_down(&self) {
        self.dismiss();
        self.shared.events.close();
    }

    fn settle(&self) {
        self.shared.journal.iter().for_each(Journal::settle);
    }
}

impl LockTable {
    /// Refuses all requests from now on, including those that wait.
    pub fn dismiss(&self) {
        // A request reads this under the mutex of its resource before it joins the line: either it
        // sees the flag, or the loop below sees the request.
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        for resource in self.shared.all_names(None, MAX_AT_A_TIME).flatten() {
            if let Some(slot) = self.shared.slot(&resource) {
                // A retired slot has no requests in line.
                let _ = self.shared.begin(&slot, Input::Dismiss);
            }
        }
    }
}

/// How long a request waits for its turn at a closed gate, even if it does not want to wait for the
/// lock: whether that is free is not known until then.
const GATE_PATIENCE: Duration = Duration::from_secs(1);

/// How many changes one thread begins before it waits for the first.
const MAX_AT_A_TIME: usize = 4096;

struct Shared {
    resources: Sharded<BTreeSet<Arc<Slot>>>,
    deadlines: Deadlines,
    journal: Option<Journal<Ticket>>,
    numbers: Numbers,
    counts: Counts,
    events: Arc<Events>,
    limits: Limits,
    reconnect_grace: Duration,
    patience: Option<Duration>,
    keeps_places: bool,
    observer: Arc<dyn Observer>,
    shutting_down: AtomicBool,
}

impl Shared {
    /// Loads the locks and places of an earlier run, and continues with larger numbers.
    fn load(&mut self, store: &mut dyn Store) -> Result<(), OpenError> {
        let last_token = store.load(&Restoring::new(self))?;
        let places = store.places().map(PlaceStore::load).unwrap_or_default();
        let arrivals = places.iter().map(|place| place.arrival);
        let last_token = arrivals.max().unwrap_or(0).max(last_token);
        self.numbers = first_numbers(last_token);
        places.into_iter().for_each(|place| self.restore_place(place));
        Ok(())
    }

    /// Runs an input on a resource.
    fn run_on(&self, resource: &ResourceName, input: Input) -> Pending<Reply> {
        let nothing = Pending::Ready(Reply::Refused(Refusal::NoSuchLock));
        let Some(slot) = self.slot(resource) else { return nothing };
        match self.begin(&slot, input) {
            Err(_) => nothing,
            Ok(Progress::Done(reply)) => reply.into(),
            Ok(Progress::Writing(waiter) | Progress::Queued(waiter)) => match self.detach(waiter) {
                Ok(pending) => pending,
                Err(waiter) => self.wait(&slot, &waiter, OnTimeout::Cancel).into(),
            },
        }
    }
}

/// Larger than this token, and than all of earlier runs.
#[expect(clippy::disallowed_methods, reason = "numbers have to be larger than before a restart")]
fn first_numbers(last_token: u64) -> Numbers {
    Numbers::after(last_token, SystemTime::now())
}

fn done(reply: Reply) -> Result<(), Refusal> {
    match reply {
        Reply::Refused(refusal) => Err(refusal),
        Reply::Done | Reply::Granted(_) | Reply::InLine(..) => Ok(()),
    }
}

fn granted(reply: Reply) -> Result<Grant, Refusal> {
    match reply {
        Reply::Granted(grant) => Ok(grant),
        Reply::Refused(refusal) => Err(refusal),
        // Not the results of a request for a lock or for a renewal.
        Reply::Done | Reply::InLine(..) => Err(Refusal::NoSuchLock),
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod schedules;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
