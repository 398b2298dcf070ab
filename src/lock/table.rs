//! All resources: the map from names to slots, and the way of every change.
//!
//! Order of the mutexes: a shard of the map, then one resource, then a shard of the deadlines
//! or the alarm. No thread takes an earlier one while it holds a later one, and none is held
//! across I/O: a change that has to be written first closes the gate of its resource instead.
//! Who holds several gates has closed them in order of the names.

mod slot;

use std::collections::HashMap;
use std::io;
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::{error, info, warn};

use super::journal::{Change, Journal, Receipt, Restored};
use super::reaper::{self, Deadlines};
use super::resource::{Admission, Asked, Effects, Now, Resource, Room, Verdict};
use super::sharded::Sharded;
use super::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use super::sync::thread::{self, JoinHandle};
use super::sync::{Mutex, MutexGuard, now};
use super::{
    Acquired, Claim, End, IdempotencyKey, Lock, LockId, LockManager, LockRequest, NotWritten,
    Observer, Phase, Renewal, ResourceName, Totals,
};
use slot::{Entry, Slot, State, Wait, wait_until};

/// How many requests may wait at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxWaiters {
    /// For all resources together.
    pub in_all: usize,
    /// For one resource.
    pub per_resource: usize,
}

/// The locks of one server, in memory; with a [`Journal`] also on disk.
pub struct LockTable {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
}

impl LockTable {
    /// A table with the locks that the journal has kept; without a journal an empty one that
    /// keeps its locks in memory alone. A client that has sent a key and is gone keeps its place
    /// for `reconnect_grace`. `observer` is told of the locks that end. Starts the reaper thread.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn new(
        max_waiters: MaxWaiters,
        reconnect_grace: Duration,
        mut journal: Option<Journal>,
        observer: Arc<dyn Observer>,
    ) -> io::Result<Self> {
        let restored = journal.as_mut().map(Journal::take_restored).unwrap_or_default();
        let last_token = journal.as_ref().map_or(0, Journal::last_token);
        let next_number = first_token(SystemTime::now()).max(last_token + 1);
        let shared = Arc::new(Shared {
            resources: Sharded::default(),
            deadlines: Deadlines::default(),
            journal,
            next_number: AtomicU64::new(next_number),
            active: AtomicUsize::new(0),
            waiters: AtomicUsize::new(0),
            max_waiters,
            reconnect_grace,
            observer,
            shutting_down: AtomicBool::new(false),
        });
        restored.into_iter().for_each(|lock| shared.restore(lock));
        let reaper = thread::Builder::new().name("reaper".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.reap()
        })?;
        Ok(Self { shared, reaper: Some(reaper) })
    }
}

impl Drop for LockTable {
    fn drop(&mut self) {
        self.shared.deadlines.close();
        if let Some(reaper) = self.reaper.take() {
            // A reaper that panicked has ended the process already.
            let _ = reaper.join();
        }
    }
}

impl LockManager for LockTable {
    fn acquire(
        &self,
        resource: &ResourceName,
        request: LockRequest,
        key: Option<IdempotencyKey>,
        on_wait: &mut dyn FnMut(Claim),
    ) -> Acquired {
        let asked = Asked { id: LockId::random(), request, key };
        let (slot, entered) = loop {
            let slot = self.shared.slot_or_new(resource);
            if let Some(entered) = self.shared.enter(&slot, resource, &asked) {
                break (slot, entered);
            }
        };
        match entered {
            Entered::Done(outcome) => outcome,
            Entered::Waiting(waiting) => {
                on_wait(waiting.claim);
                self.shared.wait(&slot, resource, &waiting)
            }
        }
    }

    fn withdraw(&self, resource: &ResourceName, claim: Claim) {
        let grace = self.shared.reconnect_grace;
        let withdraw = |state: &mut State, now: Now<'_>, effects: &mut _| {
            state.withdraw(claim, grace, now, effects);
        };
        // It is out of the line also if a grant that follows could not be written.
        let _ = self.shared.change(resource, withdraw);
    }

    fn abandon(&self, resource: &ResourceName, id: LockId) {
        let grace = self.shared.reconnect_grace;
        let abandon = |state: &mut State, now: Now<'_>, effects: &mut _| {
            state.abandon(id, grace, now, effects);
        };
        if let Err(error) = self.shared.change(resource, abandon) {
            warn!("held until it expires, though its client has gone: {resource}/{id}: {error}");
        }
    }

    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock> {
        self.shared.look(resource, |state, now| state.find(id, now.instant).cloned())?
    }

    fn release(&self, resource: &ResourceName, id: LockId) -> Result<bool, NotWritten> {
        let release =
            |state: &mut State, now: Now<'_>, effects: &mut _| state.release(id, now, effects);
        Ok(self.shared.change(resource, release)?.unwrap_or(false))
    }

    fn renew(
        &self,
        resource: &ResourceName,
        id: LockId,
        lifetime: Duration,
    ) -> Result<Renewal, NotWritten> {
        let renew = |state: &mut State, now: Now<'_>, effects: &mut _| {
            state.renew(id, lifetime, now, effects)
        };
        Ok(self.shared.change(resource, renew)?.unwrap_or(Renewal::Gone))
    }

    fn resources(&self) -> Vec<ResourceName> {
        let mut names = self.shared.names();
        let has_locks = |state: &State, now: Now<'_>| state.has_locks(now.instant);
        names.retain(|name| self.shared.look(name, has_locks).unwrap_or(false));
        names.sort_unstable();
        names
    }

    fn locks(&self, resource: &ResourceName) -> Vec<Lock> {
        let look = |state: &State, now: Now<'_>| state.locks(now.instant).cloned().collect();
        self.shared.look(resource, look).unwrap_or_default()
    }

    fn delete_resource(&self, resource: &ResourceName) -> Result<bool, NotWritten> {
        Ok(self.shared.change(resource, State::clear)?.unwrap_or(false))
    }

    fn delete_all(&self) -> Result<(), NotWritten> {
        self.shared.change_each(self.shared.names(), State::clear)
    }

    fn totals(&self) -> Totals {
        Totals {
            resources: self.shared.resources.iter().map(|shard| locked(shard).len()).sum(),
            active: self.shared.active.load(Ordering::Relaxed),
            waiting: self.shared.waiters.load(Ordering::Relaxed),
        }
    }

    fn shut_down(&self) {
        // A request that joins a line reads this under its resource's mutex: either it sees
        // the flag, or the loop below sees the request.
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        let names = self.shared.names();
        names.iter().for_each(|resource| self.shared.dismiss_line(resource));
        // Those who were granted a lock meanwhile by a change that was then taken back.
        for resource in names {
            let dismiss = |state: &mut State, _: Now<'_>, effects: &mut _| {
                state.dismiss_line(&Verdict::ShuttingDown, effects);
            };
            // Nothing of a line is written.
            let _ = self.shared.change(&resource, dismiss);
        }
    }
}

/// Locks a mutex of the core; a poisoned one ends the process.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| poisoned())
}

/// A thread panicked in the middle of a change: the state may be half of it, and a lock
/// server that is not sure of its state must not answer.
pub(super) fn poisoned() -> ! {
    error!("a thread panicked while it changed the locks: stopping rather than answer wrongly");
    process::abort()
}

/// The time in microseconds: more than an earlier run of the server can have counted since its
/// own start, one or two for each request for a lock.
fn first_token(now: SystemTime) -> u64 {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX).clamp(1, MAX_FIRST_TOKEN)
}

/// Half of 2^53, for a clock that is far ahead: there is still room to count.
const MAX_FIRST_TOKEN: u64 = 1 << 52;

/// How many gates one thread holds closed at a time.
const MAX_AT_A_TIME: usize = 4096;

type StateEffects = Effects<Arc<Wait<Verdict>>>;

struct Shared {
    resources: Sharded<HashMap<ResourceName, Arc<Slot>>>,
    deadlines: Deadlines,
    journal: Option<Journal>,
    next_number: AtomicU64,
    active: AtomicUsize,
    waiters: AtomicUsize,
    max_waiters: MaxWaiters,
    reconnect_grace: Duration,
    observer: Arc<dyn Observer>,
    shutting_down: AtomicBool,
}

enum Entered {
    Done(Acquired),
    Waiting(Waiting),
}

/// A request in line.
struct Waiting {
    claim: Claim,
    wait: Arc<Wait<Verdict>>,
    /// It leaves the line at this moment.
    deadline: Instant,
}

/// A change that was made, with what it brought about, and whether it was written.
struct Changed<T> {
    result: T,
    /// If not, it was taken back.
    written: Result<(), NotWritten>,
}

/// A change between its two halves.
enum Begun<T> {
    Done(T),
    /// The gate of the resource is closed.
    Writing(Box<Unwritten<T>>),
}

struct Unwritten<T> {
    result: T,
    effects: StateEffects,
    /// When the resource was due before.
    due: Option<Instant>,
    receipt: Receipt,
}

impl Shared {
    /// Grants a request at once, puts it in line, or refuses it; `None` when the slot has been
    /// retired meanwhile.
    fn enter(&self, slot: &Slot, resource: &ResourceName, asked: &Asked) -> Option<Entered> {
        let changed = self.change_in(slot, resource, |state, now, effects| {
            if self.shutting_down.load(Ordering::SeqCst) {
                return Entered::Done(Acquired::ShuttingDown);
            }
            let wait = Arc::new(Wait::new());
            let seat = |room| self.take_seat(room).then(|| Arc::clone(&wait));
            Entered::Done(match state.acquire(asked.clone(), seat, now, effects) {
                Admission::Granted(lock) => Acquired::Granted(lock),
                Admission::Waiting(claim, deadline) => {
                    return Entered::Waiting(Waiting { claim, wait, deadline });
                }
                Admission::NotFree => Acquired::TimedOut,
                Admission::NoSeat => Acquired::TooManyWaiters,
                Admission::OtherLimit(theirs) => Acquired::OtherLimit(theirs),
                Admission::OtherMode(theirs) => Acquired::OtherMode(theirs),
            })
        })?;
        Some(match (changed.result, changed.written) {
            // It is in line also if what else has changed could not be written.
            (Entered::Waiting(waiting), _) => Entered::Waiting(waiting),
            (Entered::Done(_), Err(error)) => Entered::Done(Acquired::NotWritten(error)),
            (done, Ok(())) => done,
        })
    }

    /// Counts one more waiter, unless there are as many as there may be.
    fn take_seat(&self, room: Room) -> bool {
        let MaxWaiters { in_all, per_resource } = self.max_waiters;
        match room {
            Room::Inherited => {
                self.waiters.fetch_add(1, Ordering::Relaxed);
                true
            }
            Room::New { waiting } if waiting >= per_resource => false,
            Room::New { .. } => {
                let add = |count| (count < in_all).then_some(count + 1);
                self.waiters.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
            }
        }
    }

    /// Sleeps until the wait is over.
    fn wait(&self, slot: &Slot, resource: &ResourceName, waiting: &Waiting) -> Acquired {
        let Waiting { claim, wait, deadline } = waiting;
        let verdict = wait_until(slot, wait, *deadline).or_else(|| {
            let time_out = |state: &mut State, now: Now<'_>, effects: &mut _| {
                state.time_out(*claim, now, effects);
            };
            // It is out of the line also if a grant that follows could not be written. A verdict
            // that races the end of the wait wins.
            self.change_in(slot, resource, time_out);
            wait.told.get().cloned()
        });
        self.waiters.fetch_sub(1, Ordering::Relaxed);
        match verdict {
            Some(Verdict::Granted(lock)) => Acquired::Granted(lock),
            Some(Verdict::TimedOut) => Acquired::TimedOut,
            Some(Verdict::Deleted) => Acquired::Deleted,
            Some(Verdict::Superseded) => Acquired::Superseded,
            Some(Verdict::Withdrawn) => Acquired::Withdrawn,
            Some(Verdict::ShuttingDown) => Acquired::ShuttingDown,
            // Whoever is not in line has been told why.
            None => poisoned(),
        }
    }

    /// Looks at a resource that has locks.
    fn look<T>(
        &self,
        resource: &ResourceName,
        look: impl FnOnce(&State, Now<'_>) -> T,
    ) -> Option<T> {
        // A look changes nothing, so nothing has to be written.
        self.change(resource, |state, now, _| look(state, now)).unwrap_or_default()
    }

    /// Runs `change` on a resource that has locks; `None` when it has none.
    fn change<T>(
        &self,
        resource: &ResourceName,
        change: impl FnOnce(&mut State, Now<'_>, &mut StateEffects) -> T,
    ) -> Result<Option<T>, NotWritten> {
        let Some(slot) = self.slot(resource) else { return Ok(None) };
        match self.change_in(&slot, resource, change) {
            Some(Changed { result, written }) => written.map(|()| Some(result)),
            None => Ok(None),
        }
    }

    /// Runs `change` on each of these resources. All that are written go to disk together.
    ///
    /// # Errors
    /// Some could not be written.
    fn change_each<T>(
        &self,
        mut resources: Vec<ResourceName>,
        change: impl Fn(&mut State, Now<'_>, &mut StateEffects) -> T,
    ) -> Result<(), NotWritten> {
        // Two threads that close several gates each must not wait for each other.
        resources.sort_unstable();
        let mut written = Ok(());
        for some in resources.chunks(MAX_AT_A_TIME) {
            let begun: Vec<_> = some
                .iter()
                .filter_map(|resource| {
                    let slot = self.slot(resource)?;
                    let begun = self.begin(&slot, resource, &change)?;
                    Some((slot, resource, begun))
                })
                .collect();
            for (slot, resource, begun) in begun {
                written = written.and(self.finish(&slot, resource, begun).written);
            }
        }
        written
    }

    /// The way of every change. `None` when the slot is retired, so that the resource has no
    /// locks.
    fn change_in<T>(
        &self,
        slot: &Slot,
        resource: &ResourceName,
        change: impl FnOnce(&mut State, Now<'_>, &mut StateEffects) -> T,
    ) -> Option<Changed<T>> {
        let begun = self.begin(slot, resource, change)?;
        Some(self.finish(slot, resource, begun))
    }

    /// Changes the state, under the mutex of the resource. Who holds it next is written if
    /// there is a journal; until then nobody may see it, and the gate stays closed.
    fn begin<T>(
        &self,
        slot: &Slot,
        resource: &ResourceName,
        change: impl FnOnce(&mut State, Now<'_>, &mut StateEffects) -> T,
    ) -> Option<Begun<T>> {
        let mut entry = slot.enter();
        if entry.retired {
            return None;
        }
        let due = entry.state.next_due();
        let mut effects = Effects::default();
        let result = self.with_now(|now| change(&mut entry.state, now, &mut effects));
        if let Some(journal) = &self.journal
            && let Some(change) = written_change(resource, &entry.state, &effects)
        {
            entry.gate.get_or_insert_default();
            drop(entry);
            let receipt = journal.submit(change);
            let unwritten = Unwritten { result, effects, due, receipt };
            return Some(Begun::Writing(Box::new(unwritten)));
        }
        self.publish(entry, slot, resource, due, effects);
        Some(Begun::Done(result))
    }

    /// Waits until the change is on disk and lets everybody know of it, or takes it back.
    fn finish<T>(&self, slot: &Slot, resource: &ResourceName, begun: Begun<T>) -> Changed<T> {
        let unwritten = match begun {
            Begun::Done(result) => return Changed { result, written: Ok(()) },
            Begun::Writing(unwritten) => *unwritten,
        };
        let Unwritten { result, mut effects, due, receipt } = unwritten;
        let written = receipt.wait();
        let mut entry = locked(&slot.entry);
        if written.is_ok() {
            entry.state.restart_lifetimes(&effects.held, now());
        } else {
            entry.state.take_back(now(), &mut effects);
        }
        self.publish(entry, slot, resource, due, effects);
        Changed { result, written }
    }

    /// Tells everybody in line that the server ends, without waiting for the gate: what is being
    /// written may take longer than the server has, and it is not about those in line. Their
    /// deadlines stay in the index, for which nobody comes any more.
    fn dismiss_line(&self, resource: &ResourceName) {
        let Some(slot) = self.slot(resource) else { return };
        let mut entry = locked(&slot.entry);
        let mut effects = Effects::default();
        entry.state.dismiss_line(&Verdict::ShuttingDown, &mut effects);
        drop(entry);
        for (waiter, verdict) in effects.settled {
            if let Some(wait) = waiter.into_handle() {
                wait.tell(verdict).over.notify_one();
            }
        }
    }

    /// Whatever follows from a change.
    fn publish(
        &self,
        entry: MutexGuard<'_, Entry>,
        slot: &Slot,
        resource: &ResourceName,
        due: Option<Instant>,
        effects: StateEffects,
    ) {
        let next_due = entry.state.next_due();
        if next_due != due {
            self.deadlines.change(resource, due, next_due);
        }
        let settled = effects.settled.into_iter();
        let told = settled
            .filter_map(|(waiter, verdict)| waiter.into_handle().map(|wait| wait.tell(verdict)));
        let told = told.collect();
        // Under the mutex: no lock is taken off before it was added.
        self.active.fetch_add(effects.held.len(), Ordering::Relaxed);
        self.active.fetch_sub(effects.ended.len(), Ordering::Relaxed);
        self.leave(entry, slot, resource, told);
        for (holder, end) in effects.ended {
            self.tell(resource, &holder.lock, end);
        }
    }

    fn tell(&self, resource: &ResourceName, lock: &Lock, end: End) {
        let (id, title) = (lock.id, &lock.request.title);
        match end {
            End::Expired => info!("expired: {resource}/{id} {title:?}"),
            End::Abandoned => info!("released: {resource}/{id} {title:?}, its client has gone"),
            End::Released | End::Deleted | End::Renewed => {}
        }
        let since = match lock.phase {
            Phase::Active { since, .. } | Phase::Waiting { since, .. } => since,
        };
        self.observer.ended(end, SystemTime::now().duration_since(since).unwrap_or_default());
    }

    /// Wakes whose wait is over, and whose turn it is if the gate is closed.
    fn leave(
        &self,
        mut entry: MutexGuard<'_, Entry>,
        slot: &Slot,
        resource: &ResourceName,
        woken: Vec<Arc<Wait<Verdict>>>,
    ) {
        let next = entry.pass_gate();
        let empty = entry.state.is_empty() && entry.gate.is_none();
        drop(entry);

        // Outside the mutex, or a woken thread would at once sleep again, on the mutex.
        woken.iter().for_each(|wait| wait.over.notify_one());
        if let Some(next) = next {
            next.over.notify_one();
        }
        if empty {
            self.retire(slot, resource);
        }
    }

    /// Takes an empty slot out of the map, unless somebody has entered it again.
    fn retire(&self, slot: &Slot, resource: &ResourceName) {
        let mut resources = locked(self.resources.of(resource));
        let mut entry = locked(&slot.entry);
        if entry.state.is_empty() && entry.gate.is_none() && !entry.retired {
            entry.retired = true;
            resources.remove(resource);
        }
    }

    /// Enters a lock that was held before the server started.
    fn restore(&self, Restored { resource, lock, key, remaining }: Restored) {
        let slot = self.slot_or_new(&resource);
        let mut entry = locked(&slot.entry);
        let due = entry.state.next_due();
        self.with_now(|now| entry.state.restore(lock, key, remaining, now));
        self.deadlines.change(&resource, due, entry.state.next_due());
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    fn slot(&self, resource: &ResourceName) -> Option<Arc<Slot>> {
        locked(self.resources.of(resource)).get(resource).cloned()
    }

    fn slot_or_new(&self, resource: &ResourceName) -> Arc<Slot> {
        let mut resources = locked(self.resources.of(resource));
        if let Some(slot) = resources.get(resource) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot::new(Resource::new()));
        resources.insert(resource.clone(), Arc::clone(&slot));
        slot
    }

    /// Called under the mutex of a resource, so that its tokens are in order.
    fn with_now<T>(&self, change: impl FnOnce(Now<'_>) -> T) -> T {
        let next_number = || self.next_number.fetch_add(1, Ordering::Relaxed);
        let (instant, wall) = (now(), SystemTime::now());
        change(Now { instant, wall, next_number: &next_number })
    }

    fn names(&self) -> Vec<ResourceName> {
        let shards = self.resources.iter();
        shards.flat_map(|shard| locked(shard).keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// The body of the reaper thread. Without it no lock would expire: a panic ends the
    /// process.
    fn reap(&self) {
        let expire = |due| self.change_each(due, State::expire).is_ok();
        let run = || reaper::run(&self.deadlines, expire);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            poisoned();
        }
    }
}

/// What a change made of the locks that are held; `None` if nothing.
fn written_change(
    resource: &ResourceName,
    state: &State,
    effects: &StateEffects,
) -> Option<Change> {
    let ended = effects.ended.iter().map(|(holder, _)| holder);
    let held = effects.held.iter().filter_map(|id| state.holder(*id));
    Change::new(resource, ended, held)
}

#[cfg(test)]
#[cfg(shuttle)]
mod schedules;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
