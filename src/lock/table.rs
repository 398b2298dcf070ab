//! All resources: the map from names to states, and the threads that wait.
//!
//! Order of the mutexes: a shard of the map, then one resource, then a shard of the deadlines
//! or the alarm. No thread takes an earlier one while it holds a later one, and none is held
//! across I/O.

use std::collections::HashMap;
use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use log::{error, info};

use super::reaper::{self, Deadlines};
use super::resource::{Effects, Now, Resource, Verdict};
use super::sharded::Sharded;
use super::{Acquired, Lock, LockId, LockManager, LockRequest, ResourceName};

/// How many requests may wait at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxWaiters {
    /// For all resources together.
    pub in_all: usize,
    /// For one resource.
    pub per_resource: usize,
}

/// The locks of one server, in memory.
pub struct LockTable {
    shared: Arc<Shared>,
    reaper: Option<JoinHandle<()>>,
}

impl LockTable {
    /// An empty table. Starts the reaper thread.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn new(max_waiters: MaxWaiters) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            resources: Sharded::default(),
            deadlines: Deadlines::default(),
            next_token: AtomicU64::new(first_token(SystemTime::now())),
            waiters: AtomicUsize::new(0),
            max_waiters,
            shutting_down: AtomicBool::new(false),
        });
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
        on_wait: &mut dyn FnMut(LockId),
    ) -> Acquired {
        let id = LockId::random();
        let (slot, entered) = loop {
            let slot = self.shared.slot_or_new(resource);
            if let Some(entered) = self.shared.enter(&slot, resource, id, &request) {
                break (slot, entered);
            }
        };
        match entered {
            Entered::Done(outcome) => outcome,
            Entered::Waiting(wait, deadline) => {
                on_wait(id);
                self.shared.wait(&slot, id, &wait, deadline)
            }
        }
    }

    fn withdraw(&self, resource: &ResourceName, id: LockId) {
        self.shared.change(resource, |state, _, effects| {
            state.dismiss(id, Verdict::Withdrawn, effects);
        });
    }

    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock> {
        self.shared.look(resource, |state| state.locks().find(|lock| lock.id == id).cloned())?
    }

    fn release(&self, resource: &ResourceName, id: LockId) -> bool {
        let release = |state: &mut State, now, effects: &mut _| state.release(id, now, effects);
        self.shared.change(resource, release).unwrap_or(false)
    }

    fn resources(&self) -> Vec<ResourceName> {
        let mut names = self.shared.names();
        let has_locks = |state: &State| !state.is_empty();
        names.retain(|name| self.shared.look(name, has_locks).unwrap_or(false));
        names.sort_unstable();
        names
    }

    fn locks(&self, resource: &ResourceName) -> Vec<Lock> {
        self.shared.look(resource, |state| state.locks().cloned().collect()).unwrap_or_default()
    }

    fn delete_resource(&self, resource: &ResourceName) -> bool {
        let clear = |state: &mut State, now, effects: &mut _| state.clear(now, effects);
        self.shared.change(resource, clear).unwrap_or(false)
    }

    fn delete_all(&self) {
        for resource in self.shared.names() {
            self.delete_resource(&resource);
        }
    }

    fn shut_down(&self) {
        // A request that joins a line reads this under its resource's mutex: either it sees
        // the flag, or the loop below sees the request.
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        for resource in self.shared.names() {
            self.shared.change(&resource, |state, _, effects| {
                state.dismiss_line(&Verdict::ShuttingDown, effects);
            });
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

/// The time in microseconds: more than an earlier run of the server can have granted since
/// its own start.
fn first_token(now: SystemTime) -> u64 {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX).clamp(1, MAX_FIRST_TOKEN)
}

/// Half of 2^53, for a clock that is far ahead: there is still room to count.
const MAX_FIRST_TOKEN: u64 = 1 << 52;

type State = Resource<Arc<Wait>>;

struct Shared {
    resources: Sharded<HashMap<ResourceName, Arc<Slot>>>,
    deadlines: Deadlines,
    next_token: AtomicU64,
    waiters: AtomicUsize,
    max_waiters: MaxWaiters,
    shutting_down: AtomicBool,
}

/// The place of one resource. In the map as long as it has locks.
struct Slot {
    entry: Mutex<Entry>,
}

struct Entry {
    state: State,
    /// Taken out of the map: whoever comes by an older look-up has to look again.
    retired: bool,
}

/// One request that waits: the thread that serves it sleeps on `over`, together with the
/// mutex of its resource.
struct Wait {
    /// Set once, under the mutex of the resource.
    verdict: OnceLock<Verdict>,
    over: Condvar,
}

enum Entered {
    Done(Acquired),
    /// Until this moment at most.
    Waiting(Arc<Wait>, Instant),
}

impl Shared {
    /// Grants a request at once, puts it in line, or refuses it; `None` when the slot has been
    /// retired meanwhile.
    fn enter(
        &self,
        slot: &Slot,
        resource: &ResourceName,
        id: LockId,
        request: &LockRequest,
    ) -> Option<Entered> {
        self.change_in(slot, resource, |state, now, effects| {
            if self.shutting_down.load(Ordering::SeqCst) {
                return Entered::Done(Acquired::ShuttingDown);
            }
            if let Some(lock) = state.try_grant(id, request, now, effects) {
                return Entered::Done(Acquired::Granted(lock));
            }
            if request.wait.is_zero() {
                return Entered::Done(Acquired::TimedOut);
            }
            if state.waiting() >= self.max_waiters.per_resource || !self.count_waiter() {
                return Entered::Done(Acquired::TooManyWaiters);
            }
            let wait = Arc::new(Wait { verdict: OnceLock::new(), over: Condvar::new() });
            state.join_line(id, request.clone(), Arc::clone(&wait), now);
            Entered::Waiting(wait, now.instant + request.wait)
        })
    }

    /// Counts one more waiter, unless there are as many as there may be.
    fn count_waiter(&self) -> bool {
        let add = |count| (count < self.max_waiters.in_all).then_some(count + 1);
        self.waiters.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn wait(&self, slot: &Slot, id: LockId, wait: &Wait, deadline: Instant) -> Acquired {
        let verdict = self.wait_for_verdict(slot, id, wait, deadline);
        self.waiters.fetch_sub(1, Ordering::Relaxed);
        match verdict {
            Verdict::Granted(lock) => Acquired::Granted(lock),
            Verdict::TimedOut => Acquired::TimedOut,
            Verdict::Deleted => Acquired::Deleted,
            Verdict::Withdrawn => Acquired::Withdrawn,
            Verdict::ShuttingDown => Acquired::ShuttingDown,
        }
    }

    /// Sleeps until the wait is over. A verdict that races the deadline wins.
    fn wait_for_verdict(&self, slot: &Slot, id: LockId, wait: &Wait, deadline: Instant) -> Verdict {
        let mut entry = locked(&slot.entry);
        loop {
            if let Some(verdict) = wait.verdict.get() {
                return verdict.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // The holder stays, so the slot cannot become empty by this.
                entry.state.leave_line(id);
                return Verdict::TimedOut;
            }
            let woken = wait.over.wait_timeout(entry, left);
            entry = woken.unwrap_or_else(|_| poisoned()).0;
        }
    }

    /// Looks at a resource that has locks, without those that have expired.
    fn look<T>(&self, resource: &ResourceName, look: impl FnOnce(&State) -> T) -> Option<T> {
        self.change(resource, |state, now, effects| {
            state.expire(now, effects);
            look(state)
        })
    }

    /// Runs `change` on a resource that has locks.
    fn change<T>(
        &self,
        resource: &ResourceName,
        change: impl FnOnce(&mut State, Now, &mut Effects<Arc<Wait>>) -> T,
    ) -> Option<T> {
        let slot = locked(self.resources.of(resource)).get(resource).cloned()?;
        self.change_in(&slot, resource, change)
    }

    /// The way of every change: under the mutex of the resource, then whatever follows from
    /// it. `None` when the slot is retired, so that the resource has no locks.
    fn change_in<T>(
        &self,
        slot: &Slot,
        resource: &ResourceName,
        change: impl FnOnce(&mut State, Now, &mut Effects<Arc<Wait>>) -> T,
    ) -> Option<T> {
        let mut entry = locked(&slot.entry);
        if entry.retired {
            return None;
        }
        let expiry = entry.state.next_expiry();
        let now = self.now();
        let mut effects = Effects::default();
        let result = change(&mut entry.state, now, &mut effects);
        let new_expiry = entry.state.next_expiry();
        if new_expiry != expiry {
            self.deadlines.change(resource, expiry, new_expiry);
        }
        let woken: Vec<_> = effects.settled.into_iter().map(Wait::settle).collect();
        let empty = entry.state.is_empty();
        drop(entry);

        // Outside the mutex, or a woken thread would at once sleep again, on the mutex.
        woken.iter().for_each(|wait| wait.over.notify_one());
        if let Some(lock) = effects.expired {
            info!("expired: {resource}/{} {:?}", lock.id, lock.request.title);
        }
        if empty {
            self.retire(slot, resource);
        }
        Some(result)
    }

    /// Takes an empty slot out of the map, unless somebody has entered it again.
    fn retire(&self, slot: &Slot, resource: &ResourceName) {
        let mut resources = locked(self.resources.of(resource));
        let mut entry = locked(&slot.entry);
        if entry.state.is_empty() && !entry.retired {
            entry.retired = true;
            resources.remove(resource);
        }
    }

    fn slot_or_new(&self, resource: &ResourceName) -> Arc<Slot> {
        let mut resources = locked(self.resources.of(resource));
        if let Some(slot) = resources.get(resource) {
            return Arc::clone(slot);
        }
        let entry = Entry { state: Resource::new(), retired: false };
        let slot = Arc::new(Slot { entry: Mutex::new(entry) });
        resources.insert(resource.clone(), Arc::clone(&slot));
        slot
    }

    /// Called under the mutex of a resource, so that its tokens are in order.
    fn now(&self) -> Now {
        let fencing_token = self.next_token.fetch_add(1, Ordering::Relaxed);
        Now { instant: Instant::now(), wall: SystemTime::now(), fencing_token }
    }

    fn names(&self) -> Vec<ResourceName> {
        let shards = self.resources.iter();
        shards.flat_map(|shard| locked(shard).keys().cloned().collect::<Vec<_>>()).collect()
    }

    /// The body of the reaper thread. Without it no lock would expire: a panic ends the
    /// process.
    fn reap(&self) {
        let expire = |resource: &ResourceName| {
            self.change(resource, |state, now, effects| state.expire(now, effects));
        };
        let run = || reaper::run(&self.deadlines, expire);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            poisoned();
        }
    }
}

impl Wait {
    fn settle((wait, verdict): (Arc<Self>, Verdict)) -> Arc<Self> {
        // A waiter leaves the line with its verdict, so nobody can give it a second one.
        let first = wait.verdict.set(verdict).is_ok();
        debug_assert!(first);
        wait
    }
}

#[cfg(test)]
mod tests;
