//! One resource: who holds it, who waits for it, who is next.
//!
//! Pure: the time and the fencing tokens are arguments, there is no thread, no clock and no I/O
//! here, so that every rule of the lock can be tested as a table of steps.

mod holders;
mod line;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use super::{Claim, End, IdempotencyKey, Limit, Lock, LockId, LockRequest, Mode, Phase, Renewal};
pub(super) use holders::Holder;
use holders::{Counts, Holders, index};
pub(super) use line::Waiter;
use line::{Line, Place, Seat};

/// A lock lives this much longer than its lifetime. Its holder counts from the answer, which
/// takes a moment to reach it: the lock must not pass to another before.
const ANSWER_GRACE: Duration = Duration::from_millis(1);

/// Which modes can be held beside which: the compatibility of lock modes of the VMS distributed
/// lock manager, in the order of [`Mode::ALL`].
#[rustfmt::skip]
const TOGETHER: [[bool; 6]; 6] = {
    const Y: bool = true;
    const N: bool = false;
    [//  NL CR CW PR PW EX
        [Y, Y, Y, Y, Y, Y], // NL
        [Y, Y, Y, Y, Y, N], // CR
        [Y, Y, Y, N, N, N], // CW
        [Y, Y, N, Y, N, N], // PR
        [Y, Y, N, N, N, N], // PW
        [Y, N, N, N, N, N], // EX
    ]
};

/// Whether a lock of this mode can be held beside so many of each: as the table says, but as
/// many in the mode EX as its limit allows.
fn fits(mode: Mode, held: Counts) -> bool {
    let limit = mode.limit().map_or(0, Limit::get);
    let exclusive = index(Mode::EXCLUSIVE);
    let beside = |other: usize| {
        held[other] == 0
            || TOGETHER[index(mode)][other]
            || (other == exclusive && held[exclusive] < limit)
    };
    (0..held.len()).all(beside)
}

/// Whether locks of these modes can all be held at a time.
pub(super) fn can_be_held_together(modes: impl Iterator<Item = Mode>) -> bool {
    let mut held = Counts::default();
    modes.into_iter().all(|mode| {
        let fits = fits(mode, held);
        held[index(mode)] += 1;
        fits
    })
}

/// The state of one resource.
///
/// `W` stands for whoever waits; a resource hands it back in [`Effects`] when its wait is
/// over.
///
/// Between two calls: what is held fits together, and whoever is first in line does not fit
/// beside it, unless its grant had to be taken back.
#[derive(Debug)]
pub(super) struct Resource<W> {
    holders: Holders,
    line: Line<W>,
}

/// One moment on all clocks: deadlines are counted on the monotonic one, the wall clock is
/// only for display, and the numbers tell what came first.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
    /// A larger number at each call, and than in every earlier change: for fencing tokens, and
    /// for places in line.
    pub(super) next_number: &'a dyn Fn() -> u64,
}

/// What a change to a resource brought about besides its result.
#[derive(Debug)]
pub(super) struct Effects<W> {
    /// The waits that are over, in order, with the word for each.
    pub(super) settled: Vec<(Waiter<W>, Verdict)>,
    /// The locks that are held no more, or renewed, as they were, in order.
    pub(super) ended: Vec<(Holder, End)>,
    /// The locks that are granted or renewed.
    pub(super) held: Vec<LockId>,
    /// The lock that one more answer is about to tell of, as it was.
    told: Option<Box<Holder>>,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { settled: Vec::new(), ended: Vec::new(), held: Vec::new(), told: None }
    }
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    Granted(Lock),
    TimedOut,
    Deleted,
    Superseded,
    Withdrawn,
    ShuttingDown,
}

/// A request, as it comes to a resource.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// For the lock, if it is a new one.
    pub(super) id: LockId,
    pub(super) request: LockRequest,
    pub(super) key: Option<IdempotencyKey>,
}

/// What whoever comes into the line takes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// A seat more than the line has.
    New { waiting: usize },
    /// The seat of an earlier sending.
    Inherited,
}

/// What becomes of a request at once.
#[derive(Debug)]
pub(super) enum Admission {
    Granted(Lock),
    /// In line, until this moment at most.
    Waiting(Claim, Instant),
    /// The lock is not free, and the request does not wait.
    NotFree,
    /// The lock is not free, and there is no seat for whoever would wait.
    NoSeat,
    /// The locks that are there have this limit.
    OtherLimit(Limit),
    /// The request with this key is there, for another mode.
    OtherMode(Mode),
}

impl<W> Resource<W> {
    pub(super) fn new() -> Self {
        Self { holders: Holders::default(), line: Line::new() }
    }

    /// Adds a lock that is held since before a restart of the server, for `remaining` from now.
    pub(super) fn restore(
        &mut self,
        mut lock: Lock,
        key: Option<IdempotencyKey>,
        remaining: Duration,
        now: Now<'_>,
    ) {
        if let Phase::Active { expires, .. } = &mut lock.phase {
            *expires = now.wall + remaining;
        }
        let expires = now.instant + remaining + ANSWER_GRACE;
        self.holders.insert(Holder::new(lock, expires, key));
    }

    /// Grants a request at once, puts it in line, or refuses it. `seat` is asked for whoever
    /// waits, if there is room.
    ///
    /// A request that has the key of another one is that one, sent again.
    pub(super) fn acquire(
        &mut self,
        asked: Asked,
        seat: impl FnOnce(Room) -> Option<W>,
        now: Now<'_>,
        effects: &mut Effects<W>,
    ) -> Admission {
        self.expire(now, effects);
        let Asked { id, request, key } = asked;
        if let Some(earlier) = key.as_ref().and_then(|key| self.find_key(key)) {
            let (id, theirs) = (earlier.id, earlier.request.mode);
            if theirs != request.mode {
                return Admission::OtherMode(theirs);
            }
            return self.resume(id, request, seat, now, effects);
        }
        if let Some(theirs) = self.other_limit(request.mode) {
            return Admission::OtherLimit(theirs);
        }
        let phase = Phase::Waiting { since: now.wall, expires: now.wall + request.wait };
        let lock = Lock { id, request, phase };
        let place = Place { lock, key, attempt: 0, arrival: (now.next_number)() };
        let room = Room::New { waiting: self.line.len() };
        self.admit(place, || seat(room), now, effects)
    }

    /// Takes out what is due at `now`, and grants whoever in line now fits.
    pub(super) fn expire(&mut self, now: Now<'_>, effects: &mut Effects<W>) {
        self.promote(now, effects);
    }

    /// Releases the lock with this id, or takes it out of the line. Returns whether it was
    /// there.
    pub(super) fn release(&mut self, id: LockId, now: Now<'_>, effects: &mut Effects<W>) -> bool {
        // Holders first: the line is long to search. Without an expiry before, which might grant
        // the lock to whom this deletes.
        let found = if self.holders.get(id).is_some() {
            self.end_due(now, effects);
            self.end(id, End::Released, effects)
        } else {
            let waiter = self.line.remove(id);
            let waited = waiter.is_some();
            effects.settled.extend(waiter.map(|waiter| (waiter, Verdict::Deleted)));
            waited
        };
        self.promote(now, effects);
        found
    }

    /// Lets the lock with this id expire `lifetime` from now. At the end of its lifetime it is
    /// either renewed or gone, never both.
    pub(super) fn renew(
        &mut self,
        id: LockId,
        lifetime: Duration,
        now: Now<'_>,
        effects: &mut Effects<W>,
    ) -> Renewal {
        if self.holders.get(id).is_none() && self.line.find(id).is_some() {
            return Renewal::StillWaiting;
        }
        self.expire(now, effects);
        let Some(before) = self.holders.get(id) else { return Renewal::Gone };
        effects.ended.push((before.clone(), End::Renewed));
        effects.held.push(id);
        let renewed = self.holders.update(id, |holder| {
            holder.expires = now.instant + lifetime + ANSWER_GRACE;
            holder.lock.request.lifetime = lifetime;
            if let Phase::Active { expires, .. } = &mut holder.lock.phase {
                *expires = now.wall + lifetime;
            }
            // Whoever renews it knows of it.
            holder.add_answer();
        });
        renewed.map_or(Renewal::Gone, |holder| Renewal::Renewed(holder.lock.clone()))
    }

    /// The client that waits by this claim is gone: it leaves the line. With a key, its place is
    /// kept for `grace`.
    pub(super) fn withdraw(
        &mut self,
        claim: Claim,
        grace: Duration,
        now: Now<'_>,
        effects: &mut Effects<W>,
    ) {
        let Some(waiter) = self.unseat(claim) else { return };
        if waiter.place.key.is_some() && !grace.is_zero() {
            let mut place = waiter.place.clone();
            place.set_wait_expires(now.wall + grace);
            let seat = Seat::Kept { until: now.instant + grace };
            self.line.insert(Waiter { place, seat });
        }
        effects.settled.push((waiter, Verdict::Withdrawn));
        self.promote(now, effects);
    }

    /// An answer that tells of this lock could not be delivered. If no other does, the lock is
    /// released; with a key it is kept for `grace`.
    pub(super) fn abandon(
        &mut self,
        id: LockId,
        grace: Duration,
        now: Now<'_>,
        effects: &mut Effects<W>,
    ) {
        self.holders.update(id, |holder| {
            let kept = if holder.key().is_some() { grace } else { Duration::ZERO };
            holder.lose_answer(now.instant + kept);
        });
        self.promote(now, effects);
    }

    /// The wait of this claim is over.
    pub(super) fn time_out(&mut self, claim: Claim, now: Now<'_>, effects: &mut Effects<W>) {
        let waiter = self.unseat(claim);
        effects.settled.extend(waiter.map(|waiter| (waiter, Verdict::TimedOut)));
        self.promote(now, effects);
    }

    /// Deletes the holders and everybody in line. Returns whether there was anybody.
    pub(super) fn clear(&mut self, now: Now<'_>, effects: &mut Effects<W>) -> bool {
        let waited = !self.line.is_empty();
        self.dismiss_line(&Verdict::Deleted, effects);
        self.end_due(now, effects);
        let held = std::mem::take(&mut self.holders);
        let holders = held.in_order().into_iter();
        effects.ended.extend(holders.map(|holder| (holder.clone(), End::Deleted)));
        waited || !held.is_empty()
    }

    /// Ends every wait with `verdict`; the holders keep their locks.
    pub(super) fn dismiss_line(&mut self, verdict: &Verdict, effects: &mut Effects<W>) {
        let waiters = self.line.take_all().into_iter();
        effects.settled.extend(waiters.map(|waiter| (waiter, verdict.clone())));
    }

    /// Takes a change back: who held holds again, and who was granted or deleted has its place
    /// in line again. What cannot be taken back is left in the effects: waits that ran out, and
    /// clients that are gone.
    pub(super) fn take_back(&mut self, now: Instant, effects: &mut Effects<W>) {
        if let Some(holder) = effects.told.take() {
            self.holders.update(holder.lock.id, |told| *told = *holder);
        }
        for id in effects.held.drain(..) {
            self.holders.remove(id);
        }
        for (holder, _) in effects.ended.drain(..) {
            self.holders.insert(holder);
        }
        let settled = std::mem::take(&mut effects.settled).into_iter();
        let (undone, facts): (Vec<_>, Vec<_>) = settled
            .partition(|(_, verdict)| matches!(verdict, Verdict::Granted(_) | Verdict::Deleted));
        for (waiter, _) in undone {
            self.line.insert(waiter);
        }
        for (waiter, verdict) in facts {
            // Whoever took over a place and is not there was answered in vain: the place is the
            // earlier one's again.
            let is_vacant = self.line.find(waiter.place.lock.id).is_none();
            if matches!(verdict, Verdict::Superseded) && is_vacant {
                self.line.insert(waiter);
            } else {
                effects.settled.push((waiter, verdict));
            }
        }
        let first = self.line.first_seated();
        let fits = first.is_some_and(|(first, _)| self.fits(first.place.lock.request.mode));
        self.line.set_overdue(fits.then_some(now));
    }

    /// Lets the lifetimes of these locks begin now, because their holders hear of them only now.
    pub(super) fn restart_lifetimes(&mut self, ids: &[LockId], now: Instant) {
        for id in ids {
            self.holders.update(*id, |holder| {
                holder.expires = now + holder.lock.request.lifetime + ANSWER_GRACE;
            });
        }
    }

    /// The lock or waiting request with this id, if it is there at this moment.
    pub(super) fn find(&self, id: LockId, now: Instant) -> Option<&Lock> {
        let held = self.holders.get(id).filter(|holder| holder.due() > now);
        let held = held.map(|holder| &holder.lock);
        held.or_else(|| self.line.find(id).map(|waiter| &waiter.place.lock))
    }

    /// The locks that are active at this moment in order of their grants, then the waiting ones
    /// in order.
    pub(super) fn locks(&self, now: Instant) -> impl Iterator<Item = &Lock> {
        let holders = self.holders.in_order().into_iter();
        let held = holders.filter(move |holder| holder.due() > now).map(|holder| &holder.lock);
        held.chain(self.line.iter().map(|waiter| &waiter.place.lock))
    }

    /// Whether any lock is active or waiting at this moment.
    pub(super) fn has_locks(&self, now: Instant) -> bool {
        !self.line.is_empty() || self.holders.iter().any(|holder| holder.due() > now)
    }

    /// Who holds the lock with this id, also if its lifetime is just over.
    pub(super) fn holder(&self, id: LockId) -> Option<&Holder> {
        self.holders.get(id)
    }

    /// When [`Resource::expire`] has something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.holders.next_due().into_iter().chain(self.line.next_due()).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.line.is_empty()
    }

    fn fits(&self, mode: Mode) -> bool {
        fits(mode, self.holders.counts())
    }

    /// The limit of the locks in the mode EX that are there, active or waiting, if a lock of
    /// this mode has another.
    fn other_limit(&self, mode: Mode) -> Option<Limit> {
        let own = mode.limit()?;
        self.holders.limit().or_else(|| self.line.limit()).filter(|theirs| *theirs != own)
    }

    /// The lock or waiting request that was asked for with this key.
    fn find_key(&self, key: &IdempotencyKey) -> Option<&Lock> {
        let held = self.holders.id_of(key).and_then(|id| self.holders.get(id));
        let waits = || self.line.id_of(key).and_then(|id| self.line.find(id));
        held.map(|holder| &holder.lock).or_else(|| waits().map(|waiter| &waiter.place.lock))
    }

    /// A request that holds a lock or is in line came again, on another connection, which has
    /// the lock or the place from now on.
    fn resume(
        &mut self,
        id: LockId,
        request: LockRequest,
        seat: impl FnOnce(Room) -> Option<W>,
        now: Now<'_>,
        effects: &mut Effects<W>,
    ) -> Admission {
        if let Some(holder) = self.holders.get(id) {
            let lock = holder.lock.clone();
            effects.told = Some(Box::new(holder.clone()));
            self.holders.update(id, Holder::add_answer);
            return Admission::Granted(lock);
        }
        let Some(earlier) = self.line.remove(id) else { return Admission::NotFree };
        let mut place = earlier.place.clone();
        place.attempt += 1;
        place.set_wait_expires(now.wall + request.wait);
        place.lock.request = request;
        let room = match earlier.seat {
            // Whoever sits there is about to get up.
            Seat::Taken { .. } => Room::Inherited,
            Seat::Kept { .. } => Room::New { waiting: self.line.len() },
        };
        let admission = self.admit(place, || seat(room), now, effects);
        if let Admission::NoSeat = admission {
            self.line.insert(earlier);
        } else {
            effects.settled.push((earlier, Verdict::Superseded));
            self.promote(now, effects);
        }
        admission
    }

    /// Grants a request if it fits and nobody is before it in line; else puts it there.
    fn admit(
        &mut self,
        place: Place,
        seat: impl FnOnce() -> Option<W>,
        now: Now<'_>,
        effects: &mut Effects<W>,
    ) -> Admission {
        let LockRequest { mode, wait, .. } = place.lock.request;
        let first = self.line.first_seated();
        let is_behind = first.is_some_and(|(first, _)| first.place.arrival < place.arrival);
        if (mode == Mode::Null || !is_behind) && self.fits(mode) {
            return Admission::Granted(self.hold(place, now, effects));
        }
        if wait.is_zero() {
            return Admission::NotFree;
        }
        let Some(handle) = seat() else { return Admission::NoSeat };
        let (claim, deadline) = (place.claim(), now.instant + wait);
        self.line.insert(Waiter { place, seat: Seat::Taken { handle, deadline } });
        Admission::Waiting(claim, deadline)
    }

    /// Grants everybody at the head of the line who fits now and whose wait is not over yet.
    /// First takes out what is due: it may have been put back by a change that could not be
    /// written, and nobody fits beside it.
    fn promote(&mut self, now: Now<'_>, effects: &mut Effects<W>) {
        self.end_due(now, effects);
        self.line.set_overdue(None);
        while let Some((first, deadline)) = self.line.first_seated() {
            let in_time = deadline > now.instant;
            if in_time && !self.fits(first.place.lock.request.mode) {
                return;
            }
            let id = first.place.lock.id;
            let Some(waiter) = self.line.remove(id) else { return };
            let verdict = if in_time {
                Verdict::Granted(self.hold(waiter.place.clone(), now, effects))
            } else {
                Verdict::TimedOut
            };
            effects.settled.push((waiter, verdict));
        }
    }

    fn hold(&mut self, place: Place, now: Now<'_>, effects: &mut Effects<W>) -> Lock {
        let Place { mut lock, key, .. } = place;
        lock.phase = Phase::Active {
            since: now.wall,
            expires: now.wall + lock.request.lifetime,
            fencing_token: (now.next_number)(),
        };
        let expires = now.instant + lock.request.lifetime + ANSWER_GRACE;
        effects.held.push(lock.id);
        self.holders.insert(Holder::new(lock.clone(), expires, key));
        lock
    }

    /// Takes out what is due at `now`: locks, and places that were kept.
    fn end_due(&mut self, now: Now<'_>, effects: &mut Effects<W>) {
        while let Some(holder) = self.holders.remove_due(now.instant) {
            let expired = holder.expires <= now.instant;
            let end = if expired { End::Expired } else { End::Abandoned };
            effects.ended.push((holder, end));
        }
        self.line.remove_due(now.instant);
    }

    fn end(&mut self, id: LockId, end: End, effects: &mut Effects<W>) -> bool {
        let holder = self.holders.remove(id);
        let held = holder.is_some();
        effects.ended.extend(holder.map(|holder| (holder, end)));
        held
    }

    /// Takes the client with this claim out of the line, unless another sits there by now.
    fn unseat(&mut self, claim: Claim) -> Option<Waiter<W>> {
        let waiter = self.line.find(claim.id)?;
        let sits = matches!(waiter.seat, Seat::Taken { .. }) && waiter.place.claim() == claim;
        if sits { self.line.remove(claim.id) } else { None }
    }
}
