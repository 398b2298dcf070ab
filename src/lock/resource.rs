//! One resource: who holds it, who waits for it, who is next.
//!
//! Pure: `now` is an argument, there is no thread, no clock and no I/O here, so that every
//! rule of the lock can be tested as a table of steps.

use std::collections::VecDeque;
use std::time::{Instant, SystemTime};

use super::{Lock, LockId, LockRequest, Phase};

/// The state of one resource.
///
/// `W` stands for whoever waits; a resource hands it back in [`Effects`] when its wait is
/// over.
///
/// Between two calls: nobody waits unless somebody holds the lock.
#[derive(Debug)]
pub(super) struct Resource<W> {
    holder: Option<Holder>,
    line: VecDeque<Waiter<W>>,
}

/// One moment on both clocks: deadlines are counted on the monotonic one, the wall clock is
/// only for display.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

/// What a change to a resource brought about besides its result.
#[derive(Debug)]
pub(super) struct Effects<W> {
    /// The waits that are over, in order, with the word for each.
    pub(super) settled: Vec<(W, Verdict)>,
    /// The lock that reached the end of its lifetime.
    pub(super) expired: Option<Lock>,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { settled: Vec::new(), expired: None }
    }
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    Granted(Lock),
    TimedOut,
    Deleted,
    ShuttingDown,
}

#[derive(Debug)]
struct Holder {
    lock: Lock,
    expires: Instant,
}

#[derive(Debug)]
struct Waiter<W> {
    lock: Lock,
    deadline: Instant,
    handle: W,
}

impl<W> Resource<W> {
    pub(super) fn new() -> Self {
        Self { holder: None, line: VecDeque::new() }
    }

    /// Grants the lock at once if it is free and nobody is in line for it.
    pub(super) fn try_grant(
        &mut self,
        request: &LockRequest,
        now: Now,
        effects: &mut Effects<W>,
    ) -> Option<Lock> {
        self.expire(now, effects);
        if self.holder.is_some() {
            return None;
        }
        let request = request.clone();
        Some(self.hold(Lock { id: LockId::random(), request, phase: Phase::Active(now.wall) }, now))
    }

    /// Puts a request at the end of the line of a held resource. Whoever waits is named
    /// `handle` when its wait is over.
    pub(super) fn join_line(&mut self, request: LockRequest, handle: W, now: Now) -> LockId {
        debug_assert!(self.holder.is_some(), "a free lock is granted, not waited for");
        let id = LockId::random();
        let deadline = now.instant + request.wait;
        let lock = Lock { id, request, phase: Phase::Waiting(now.wall) };
        self.line.push_back(Waiter { lock, deadline, handle });
        id
    }

    /// Takes out what has reached its end at `now`: the holder at its lifetime.
    pub(super) fn expire(&mut self, now: Now, effects: &mut Effects<W>) {
        if let Some(holder) = self.holder.take_if(|holder| holder.expires <= now.instant) {
            effects.expired = Some(holder.lock);
            self.promote(now, effects);
        }
    }

    /// Releases the lock with this id, or takes it out of the line. Returns whether it was
    /// there.
    pub(super) fn release(&mut self, id: LockId, now: Now, effects: &mut Effects<W>) -> bool {
        self.expire(now, effects);
        if self.holder.take_if(|holder| holder.lock.id == id).is_some() {
            self.promote(now, effects);
            return true;
        }
        match self.remove_waiter(id) {
            Some(waiter) => {
                effects.settled.push((waiter.handle, Verdict::Deleted));
                true
            }
            None => false,
        }
    }

    /// Takes a waiting request out of the line, at the wish of whoever waits.
    pub(super) fn leave_line(&mut self, id: LockId) {
        self.remove_waiter(id);
    }

    /// Deletes the holder and everybody in line. Returns whether there was anybody.
    pub(super) fn clear(&mut self, now: Now, effects: &mut Effects<W>) -> bool {
        self.expire(now, effects);
        self.dismiss_line(&Verdict::Deleted, effects);
        self.holder.take().is_some()
    }

    /// Ends every wait with `verdict`; the holder keeps the lock.
    pub(super) fn dismiss_line(&mut self, verdict: &Verdict, effects: &mut Effects<W>) {
        let waiters = self.line.drain(..);
        effects.settled.extend(waiters.map(|waiter| (waiter.handle, verdict.clone())));
    }

    /// The active lock, then the waiting ones in order.
    pub(super) fn locks(&self) -> impl Iterator<Item = &Lock> {
        let holder = self.holder.iter().map(|holder| &holder.lock);
        holder.chain(self.line.iter().map(|waiter| &waiter.lock))
    }

    /// When the holder's lifetime ends.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.holder.as_ref().map(|holder| holder.expires)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holder.is_none() && self.line.is_empty()
    }

    /// Grants the free lock to the first in line whose wait is not over yet.
    fn promote(&mut self, now: Now, effects: &mut Effects<W>) {
        while let Some(waiter) = self.line.pop_front() {
            if waiter.deadline <= now.instant {
                effects.settled.push((waiter.handle, Verdict::TimedOut));
                continue;
            }
            let lock = self.hold(Lock { phase: Phase::Active(now.wall), ..waiter.lock }, now);
            effects.settled.push((waiter.handle, Verdict::Granted(lock)));
            return;
        }
    }

    fn hold(&mut self, lock: Lock, now: Now) -> Lock {
        let expires = now.instant + lock.request.lifetime;
        self.holder = Some(Holder { lock: lock.clone(), expires });
        lock
    }

    fn remove_waiter(&mut self, id: LockId) -> Option<Waiter<W>> {
        let place = self.line.iter().position(|waiter| waiter.lock.id == id)?;
        self.line.remove(place)
    }
}
