//! All resources: the map from their names to their slots, and what can be done with them.
//!
//! Order of the mutexes: a shard of the map, then one resource, then a shard of the deadlines,
//! its alarm, the queue of the journal, what is to be done with an answer, or a place in the ring
//! of events. No thread takes an earlier one while it holds a later one, and none is held across
//! I/O.

mod change;
mod restoring;
mod slot;
mod waiting;

use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::warn;

use super::deadlines::{Deadlines, Due};
use super::journal::store::{KeptPlace, OpenError, PlaceNote, PlaceStore, Store};
use super::journal::{self, Journal};
use super::nanos::Instant;
use super::numbers::Numbers;
use super::reaper;
use super::resource::{Asked, Claim, PIECE, Place, Plan, Reply, Wish};
use super::sharded::Sharded;
use super::sync::atomic::{AtomicBool, Ordering};
use super::sync::thread::{self, JoinHandle};
use super::sync::{locked, now, poisoned};
use super::{
    Ages, Conversion, Cursor, Departure, Events, Grant, IdempotencyKey, Lock, LockId, LockManager,
    NotWritten, Observer, Page, Pending, Refusal, ResourceName, Terms, Totals,
};
use change::{Begun, CORE_PANICKED, Counts, FailsIfItPanics, Ticket};
use restoring::Restoring;
pub(super) use slot::Slot;
use slot::{Event, Gate, Sleeper, State, Woken};
use waiting::Unheard;

/// How much there may be at a time, as requests come: those that come at the same moment may
/// exceed a limit together, by one each, and whoever waits is granted its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Locks that are held, and places that are kept for clients that have gone.
    pub locks: usize,
    /// Requests that wait, for all resources together.
    pub waiting: usize,
    /// Requests that wait for one resource.
    pub waiting_per_resource: usize,
}

/// The locks of one server, in memory; with a [`Store`] also where they survive a crash.
pub struct LockTable {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
    journal: Option<JoinHandle<()>>,
}

impl LockTable {
    /// A table with the locks that the store has kept; without a store an empty one that keeps
    /// its locks in memory alone. A client that has sent a key and is gone keeps its place for
    /// `reconnect_grace`. `observer` is told of the locks that end. Starts the reaper thread, and
    /// the one that writes.
    ///
    /// # Errors
    /// See [`OpenError`]; what is in the store is left as it is.
    pub fn new(
        limits: Limits,
        reconnect_grace: Duration,
        store: Option<Box<dyn Store>>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, OpenError> {
        Self::with_events(limits, reconnect_grace, store, observer, Arc::default())
    }

    /// The same; what happens is told to those who follow these events.
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
        let store = match store {
            Some(mut store) => {
                let last_token = store.load(&Restoring::new(&shared))?;
                let places = store.places().map(PlaceStore::load).unwrap_or_default();
                let arrivals = places.iter().map(|place| place.arrival);
                let last_token = arrivals.max().unwrap_or(0).max(last_token);
                shared.numbers = first_numbers(last_token);
                places.into_iter().for_each(|place| shared.restore_place(place));
                Some(store)
            }
            None => None,
        };
        let shared = Arc::new(shared);
        let start = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new().name(name.into());
            thread.spawn(move || run(&shared)).map_err(OpenError::Thread)
        };
        let journal = match store {
            Some(store) => Some(start("journal", Box::new(|shared| shared.write(store)))?),
            None => None,
        };
        let reaper = Some(start("reaper", Box::new(Shared::reap))?);
        Ok(Self { shared, reaper, journal })
    }
}

impl Drop for LockTable {
    fn drop(&mut self) {
        self.shared.deadlines.close();
        let journal = self.journal.take();
        let is_own = |journal: &JoinHandle<()>| journal.thread().id() == thread::current().id();
        if journal.as_ref().is_some_and(is_own) {
            // The last who had the table were those whom its journal has just answered.
            return self.shared.journal.iter().for_each(Journal::close);
        }
        // A thread that panicked has said so.
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
        let came = now();
        let at_the_gate = came + terms.wait.max(GATE_PATIENCE);
        let sleeper = Arc::<Sleeper>::default();
        let id = LockId::random();
        let asked = Box::new(Asked { id, terms, key, came });
        let mut event = Event::Acquire(asked, Arc::clone(&sleeper));
        let (slot, begun) = loop {
            let slot = self.shared.slot_or_new(resource);
            match self.shared.begin(&slot, event) {
                Ok(begun) => break (slot, begun),
                Err(again) => event = again,
            }
        };
        let asks = (at_the_gate, Unheard::GivesUp(id), sleeper);
        self.shared.await_grant(slot, begun, asks, on_wait)
    }

    fn abandon(&self, resource: &ResourceName, id: LockId) {
        let event = Event::Abandon(id, self.shared.reconnect_grace);
        let lock = format!("{resource}/{id}");
        self.shared.answer(resource, event).then(move |reply| {
            if let Reply::Refused(error @ Refusal::NotWritten(_)) = reply {
                warn!(
                    "the client has left; its lock is released when that can be written: {lock}: {error}"
                );
            }
        });
    }

    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock> {
        self.shared.look(resource, |state, plan| state.find(id, plan, now()))?
    }

    fn release(&self, resource: &ResourceName, id: LockId) -> Pending<Result<(), Refusal>> {
        self.shared.answer(resource, Event::Release(id)).map(done)
    }

    fn release_by_key(
        &self,
        resource: &ResourceName,
        key: &IdempotencyKey,
    ) -> Pending<Result<(), Refusal>> {
        self.shared.answer(resource, Event::ReleaseByKey(key.clone())).map(done)
    }

    fn holders(
        &self,
        resource: &ResourceName,
        limit: usize,
    ) -> Vec<(Grant, Option<IdempotencyKey>)> {
        let held =
            self.shared.look(resource, |state, plan| state.first_holders(plan, now(), limit));
        held.unwrap_or_default()
    }

    fn renew(
        &self,
        resource: &ResourceName,
        id: LockId,
        lifetime: Duration,
    ) -> Pending<Result<Grant, Refusal>> {
        self.shared.answer(resource, Event::Renew(id, lifetime)).map(granted)
    }

    fn convert(
        &self,
        resource: &ResourceName,
        id: LockId,
        wanted: Conversion,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Result<Grant, Refusal> {
        let came = now();
        let at_the_gate = came + wanted.wait.max(GATE_PATIENCE);
        let sleeper = Arc::<Sleeper>::default();
        let event = Event::Convert(Box::new(Wish { id, wanted, came }), Arc::clone(&sleeper));
        let slot = self.shared.slot(resource).ok_or(Refusal::NoSuchLock)?;
        let begun = self.shared.begin(&slot, event).map_err(|_| Refusal::NoSuchLock)?;
        let asks = (at_the_gate, Unheard::NeverWas, sleeper);
        self.shared.await_grant(slot, begun, asks, on_wait).wait()
    }

    fn resources(&self, after: Option<&ResourceName>, limit: usize) -> Vec<ResourceName> {
        let mut found = Vec::new();
        let mut after = after.cloned();
        while found.len() < limit {
            let names = self.shared.names(after.as_ref(), limit - found.len());
            let Some(last) = names.last() else { break };
            after = Some(last.clone());
            let has_locks = |state: &State, plan: Option<&Plan>| state.has_locks(plan, now());
            let held = |name: &ResourceName| self.shared.look(name, has_locks).unwrap_or(false);
            let room = limit - found.len();
            found.extend(names.into_iter().filter(held).take(room));
        }
        found
    }

    fn locks(&self, resource: &ResourceName, after: Option<Cursor>, limit: usize) -> Page {
        let page = |state: &State, plan: Option<&Plan>| state.page(plan, now(), after, limit);
        self.shared.look(resource, page).unwrap_or_default()
    }

    fn delete_resource(&self, resource: &ResourceName) -> Result<(), Refusal> {
        let before = self.shared.numbers.next();
        let delete = || self.shared.answer(resource, Event::Delete(before)).map(done).wait();
        delete()?;
        while self.shared.has_locks_before(resource, before) {
            match delete() {
                // What was left has ended by itself.
                Ok(()) | Err(Refusal::NoSuchLock) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    fn delete_all(&self) -> Result<(), Refusal> {
        let before = self.shared.numbers.next();
        let mut after = None;
        loop {
            let mut names = self.shared.names(after.as_ref(), MAX_AT_A_TIME);
            let Some(last) = names.last() else { return Ok(()) };
            after = Some(last.clone());
            while !names.is_empty() {
                let refused = self.shared.run_each(&names, |name| name, || Event::Delete(before));
                if let Some((_, refusal)) = refused.into_iter().next() {
                    return Err(refusal);
                }
                names.retain(|name| self.shared.has_locks_before(name, before));
            }
        }
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
        self.shared.each_slot(|state| {
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
        // A request that joins a line reads this under its resource's mutex: either it sees
        // the flag, or the loop below sees the request.
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        let mut after = None;
        loop {
            let names = self.shared.names(after.as_ref(), MAX_AT_A_TIME);
            let Some(last) = names.last() else { return };
            after = Some(last.clone());
            for resource in names {
                if let Some(slot) = self.shared.slot(&resource) {
                    // A retired slot has nobody in line.
                    let _ = self.shared.begin(&slot, Event::Dismiss);
                }
            }
        }
    }
}

/// How long a request waits for its turn at a closed gate, even if it is not to wait for the
/// lock: whether that is free is not known before.
const GATE_PATIENCE: Duration = Duration::from_secs(1);

/// How many changes one thread begins before it waits for the first.
const MAX_AT_A_TIME: usize = 4096;

/// How many resources of a shard are looked up while its mutex is held.
const SLOTS_AT_A_TIME: usize = 256;

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

/// A request that waits, and its thread.
struct InLine<'a> {
    shared: &'a Shared,
    slot: Arc<Slot>,
    claim: Claim,
    sleeper: Arc<Sleeper>,
}

impl InLine<'_> {
    fn departure(&self) -> Departure {
        let (slot, sleeper) = (Arc::clone(&self.slot), Arc::clone(&self.sleeper));
        Departure::new(move || slot.leave(&sleeper))
    }

    /// What becomes of the end of the wait if nobody hears of it. A lock whose conversion ends is
    /// held all the same.
    fn unheard(&self) -> Unheard {
        match self.claim {
            Claim::Place { id, .. } => Unheard::GivesUp(id),
            Claim::Conversion { .. } => Unheard::Stays,
        }
    }

    /// Sleeps until the wait is over.
    fn wait(&self, deadline: Instant) -> Reply {
        let event = match self.slot.sleep(&self.sleeper, Some(deadline)) {
            Woken::Told(word) => return word,
            Woken::ClientLeft => Event::Withdraw(self.claim, self.shared.reconnect_grace),
            Woken::TimedOut => Event::TimeOut(self.claim),
        };
        let begun = self.shared.begin(&self.slot, event);
        if let Ok(Begun::Writing(asker) | Begun::Queued(asker)) = begun
            && let unknown @ Reply::Refused(_) =
                self.shared.hear(&self.slot, &asker, self.unheard())
        {
            return unknown;
        }
        // A word that races the end of the wait wins.
        self.sleeper.word().unwrap_or_else(|| poisoned())
    }
}

impl Drop for InLine<'_> {
    /// Nobody stays in line without a thread.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let leave = || self.shared.run(&self.slot, Event::TimeOut(self.claim));
            // Panics, too, if the core has: a second panic that got out of here would abort the
            // process, which is about to end by itself.
            if panic::catch_unwind(AssertUnwindSafe(leave)).is_err() {
                self.shared.observer.failed(CORE_PANICKED);
            }
        }
    }
}

impl Shared {
    /// Waits for what was begun: at a closed gate until then, and as long as the request may.
    /// `sleeper` is by whom it waits.
    fn await_grant(
        &self,
        slot: Arc<Slot>,
        begun: Begun,
        (at_the_gate, unheard, sleeper): (Instant, Unheard, Arc<Sleeper>),
        on_wait: &mut dyn FnMut(Departure),
    ) -> Pending<Result<Grant, Refusal>> {
        let reply = match begun {
            Begun::Done(reply) => reply,
            Begun::Writing(asker) => match self.later(asker) {
                Ok(pending) => return pending.map(granted),
                Err(asker) => self.hear(&slot, &asker, unheard),
            },
            Begun::Queued(asker) => self.hear_until(&slot, &asker, at_the_gate, unheard),
        };
        let Reply::InLine(claim, deadline) = reply else { return granted(reply).into() };
        let place = InLine { shared: self, slot, claim, sleeper };
        on_wait(place.departure());
        granted(place.wait(deadline)).into()
    }

    /// Runs an event on a resource.
    fn answer(&self, resource: &ResourceName, event: Event) -> Pending<Reply> {
        let nothing = Pending::Ready(Reply::Refused(Refusal::NoSuchLock));
        let Some(slot) = self.slot(resource) else { return nothing };
        match self.begin(&slot, event) {
            Err(_) => nothing,
            Ok(Begun::Done(reply)) => reply.into(),
            Ok(Begun::Writing(asker) | Begun::Queued(asker)) => match self.later(asker) {
                Ok(pending) => pending,
                Err(asker) => self.hear(&slot, &asker, Unheard::NeverWas).into(),
            },
        }
    }

    /// Runs an event on each of these resources, and returns where it could not be written. A piece
    /// of what it brings about is written together.
    fn run_each<'a, T>(
        &self,
        resources: &'a [T],
        name: impl Fn(&T) -> &ResourceName,
        event: impl Fn() -> Event,
    ) -> Vec<(&'a T, Refusal)> {
        let mut refused = Vec::new();
        let mut resources = resources.iter();
        loop {
            let mut asked = Vec::new();
            let mut room = PIECE;
            while room > 0 {
                let Some(resource) = resources.next() else { break };
                let Some(slot) = self.slot(name(resource)) else { continue };
                let Ok(begun) = self.begin(&slot, event()) else { continue };
                let size = slot.enter().plan().map_or(1, Plan::len);
                room = room.saturating_sub(size);
                asked.push((resource, slot, begun));
            }
            if asked.is_empty() {
                return refused;
            }
            let deadline = self.patience_ends();
            for (resource, slot, begun) in asked {
                let reply = match begun {
                    Begun::Done(reply) => reply,
                    Begun::Writing(asker) | Begun::Queued(asker) => {
                        self.hear_by(&slot, &asker, deadline, Unheard::NeverWas)
                    }
                };
                if let Reply::Refused(refusal @ Refusal::NotWritten(_)) = reply {
                    refused.push((resource, refusal));
                }
            }
        }
    }

    /// Whether there are locks on a resource that came before this number.
    fn has_locks_before(&self, resource: &ResourceName, number: u64) -> bool {
        let has = |state: &State, _: Option<&Plan>| state.has_locks_before(number, now());
        self.look(resource, has).unwrap_or(false)
    }

    /// Looks at a resource as it stands, without waiting for anything.
    fn look<T>(
        &self,
        resource: &ResourceName,
        look: impl FnOnce(&State, Option<&Plan>) -> T,
    ) -> Option<T> {
        let slot = self.slot(resource)?;
        let entry = slot.enter();
        Some(look(&entry.state, entry.plan()))
    }

    /// Looks at every resource, at none for longer than a look takes.
    fn each_slot(&self, mut look: impl FnMut(&State)) {
        for shard in self.resources.iter() {
            let mut after = None;
            loop {
                let from = after.as_deref().map(Slot::name);
                let from = from.map_or(Bound::Unbounded, Bound::Excluded);
                let shard = locked(shard);
                let behind = shard.range::<ResourceName, _>((from, Bound::Unbounded));
                let some = behind.take(SLOTS_AT_A_TIME);
                let some: Vec<_> = some.cloned().collect();
                drop(shard);
                some.iter().for_each(|slot| look(&slot.enter().state));
                let Some(last) = some.into_iter().next_back() else { break };
                after = Some(last);
            }
        }
    }

    /// Takes an empty slot out of the map, unless somebody has entered it again.
    fn retire(&self, slot: &Slot) {
        let mut resources = locked(self.resources.of(slot.name()));
        let mut entry = slot.enter();
        if entry.is_over() {
            entry.gate = Gate::Retired;
            resources.remove(slot.name());
        }
    }

    /// Enters a place in line that was there before the server started.
    fn restore_place(&self, kept: KeptPlace) {
        let KeptPlace { id, resource, terms, key, arrival, since } = kept;
        let place = Place { id, terms, key: Some(key), attempt: 0, arrival, since };
        let slot = self.slot_or_new(&resource);
        let mut entry = slot.enter();
        let (before, due) = (entry.state.tally(), entry.state.next_due());
        let added = entry.state.restore_place(place, self.reconnect_grace, self.now());
        self.counts.change(before, entry.state.tally());
        self.deadlines.change(&slot, due, entry.state.next_due());
        drop(entry);
        if let Some(journal) = self.journal.as_ref().filter(|_| !added) {
            // Its request was granted, which was written before this could be.
            journal.note(std::iter::once(PlaceNote::Left(resource, arrival)));
        }
    }

    fn slot(&self, resource: &ResourceName) -> Option<Arc<Slot>> {
        locked(self.resources.of(resource)).get(resource).cloned()
    }

    fn slot_or_new(&self, resource: &ResourceName) -> Arc<Slot> {
        let mut resources = locked(self.resources.of(resource));
        if let Some(slot) = resources.get(resource) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot::new(resource.clone(), State::new()));
        resources.insert(Arc::clone(&slot));
        slot
    }

    /// About so many names in order, from behind `after`; none only if there are no more.
    ///
    /// Takes some of each shard. What is known for certain goes up to where the first shard
    /// that has more was left.
    fn names(&self, after: Option<&ResourceName>, about: usize) -> Vec<ResourceName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let of_each = about / self.resources.iter().count() + 4;
        let (mut names, mut up_to) = (Vec::new(), None::<ResourceName>);
        for shard in self.resources.iter() {
            let shard = locked(shard);
            let behind = shard.range::<ResourceName, _>((from, Bound::Unbounded));
            let some: Vec<_> = behind.take(of_each).map(|slot| slot.name().clone()).collect();
            drop(shard);
            if some.len() == of_each
                && let Some(last) = some.last()
            {
                let first = up_to.take().filter(|up_to| up_to < last);
                up_to = first.or_else(|| Some(last.clone()));
            }
            names.extend(some);
        }
        // They come in runs that are in order.
        names.sort();
        let certain = |name: &ResourceName| up_to.as_ref().is_none_or(|end| name <= end);
        names.truncate(names.partition_point(certain));
        names
    }

    /// The body of the journal's thread.
    fn write(&self, store: Box<dyn Store>) {
        let Some(journal) = &self.journal else { return };
        self.or_fail(|| journal::run(journal, store, self));
    }

    /// Says that the core cannot go on if a write fails or panics: what that leaves in the store
    /// is not known.
    fn or_fail(&self, write: impl FnOnce() -> Result<(), Arc<str>>) {
        let why = match panic::catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "a thread panicked while it wrote the locks".into(),
        };
        self.observer.failed(&why);
        self.journal.iter().for_each(Journal::break_off);
    }

    /// The body of the reaper thread. Without it no lock would expire.
    fn reap(&self) {
        let _panics = FailsIfItPanics::new(self);
        let expire = |due: &[Due]| {
            let refused = self.run_each(due, |(_, slot)| slot.name(), || Event::Expire);
            refused.into_iter().map(|(due, _)| due.clone()).collect()
        };
        let is_writable = || self.journal.as_ref().is_none_or(|journal| journal.writable().is_ok());
        reaper::run(&self.deadlines, expire, is_writable);
    }
}

/// Those behind this one, and behind the clock.
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
        // Not the answers to a request for a lock or for a renewal.
        Reply::Done | Reply::InLine(..) => Err(Refusal::NoSuchLock),
    }
}

#[cfg(test)]
#[cfg(shuttle)]
mod schedules;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
