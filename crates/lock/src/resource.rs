//! One resource: who holds it, who waits for it, who is next.
//!
//! Pure: no threads, clocks or I/O. The time and the fencing tokens are arguments, so every rule is
//! tested as a table of steps. An input is first decided ([`Resource::decide`] changes nothing),
//! then applied ([`Resource::note`], [`Resource::apply`]).

mod compatibility;
mod conversions;
mod decide;
mod decision;
mod holders;
mod input;
mod line;
#[cfg(test)]
mod model;
mod packed;
mod planner;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::nanos::Instant;
use super::{
    Cursor, End, EventDetails, Grant, IdempotencyKey, Kind, Lock, LockId, Page, Refusal, Standing,
};
#[cfg(test)]
pub(super) use compatibility::can_be_held_together;
use conversions::Conversions;
pub(super) use decision::{Answer, Decision, Facts, Plan, Reply};
use decision::{ChangedLock, GrantedLock, KeptUntil};
pub(super) use holders::Holder;
use holders::Holders;
pub(super) use input::{Arrival, ConvertRequest, Input};
use line::Line;
pub(super) use line::{Claim, Place};
use planner::NextNumber;

/// How many locks one input ends at most, and how many it grants. The rest follows piece by piece,
/// with room for other work in between. Both together fit into one transaction of the store.
pub(super) const PIECE: usize = 240;

/// The state of one resource. `W` stands for a client that waits; [`Effects`] hand it back with the
/// result.
///
/// Invariants between two inputs:
/// - What is held fits together. Always; the rest may be delayed.
/// - The first conversion does not fit beside the other locks.
/// - If no conversion waits, the first request in line does not fit.
///
/// The last two do not hold while the plan that restores them is being written, or after it could
/// not be, and until the last piece if it takes several: see [`Resource::is_behind`].
#[derive(Debug)]
pub(super) struct Resource<W> {
    holders: Holders,
    conversions: Conversions<W>,
    line: Line<W>,
}

/// One moment on both clocks. Deadlines are counted on the monotonic one; the wall clock is only
/// for display.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

/// What others have to be told of an applied decision.
#[derive(Debug)]
pub(super) struct Effects<W> {
    /// The clients whose wait is over, in order, with the result for each.
    pub(super) results: Vec<(W, Reply)>,
    /// In order.
    pub(super) events: Vec<EventDetails>,
    /// Places of requests with a key that were taken or left, by their arrival.
    pub(super) places: Vec<(u64, Option<Place>)>,
}

/// How many locks and places a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) held: usize,
    pub(super) waiting: usize,
    pub(super) kept: usize,
}

impl<W> Resource<W> {
    pub(super) fn new() -> Self {
        Self { holders: Holders::default(), conversions: Conversions::new(), line: Line::new() }
    }

    /// A resource with a lock of an earlier run of the server. It lives for `remaining` from now;
    /// `None`: without an end.
    pub(super) fn restored(
        grant: Grant,
        key: Option<IdempotencyKey>,
        remaining: Option<Duration>,
        now: Now,
    ) -> Self {
        let mut resource = Self::new();
        resource.holders.insert(Holder::new(grant, remaining, key, now));
        resource
    }

    /// Adds other locks of an earlier run, unless they are there. Returns whether all were new.
    pub(super) fn absorb(&mut self, other: &Self) -> bool {
        let (known, new): (Vec<_>, Vec<_>) =
            other.holders.iter().partition(|holder| self.holders.get(holder.id).is_some());
        new.into_iter().for_each(|holder| self.holders.insert(holder.clone()));
        known.is_empty()
    }

    /// Whether all locks that are held can be held together.
    pub(super) fn fits_together(&self) -> bool {
        self.holders.fit_together()
    }

    /// Adds a place in line of an earlier run, kept for `grace`, unless its request holds a lock.
    /// Returns whether it was added.
    pub(super) fn restore_place(&mut self, place: Place, grace: Duration, now: Now) -> bool {
        let held = self.holders.get(place.id).is_some()
            || place.key.as_ref().is_some_and(|key| self.holders.of_key(key).is_some());
        if !held {
            self.line.restore(place, now.instant + grace, now.wall + grace);
        }
        !held
    }

    /// Takes a request out of the line, and notes that its place is gone.
    fn take_out(&mut self, id: LockId, effects: &mut Effects<W>) -> Option<W> {
        let place = self.line.place(id).filter(|place| place.key.is_some());
        effects.places.extend(place.map(|place| (place.arrival, None)));
        self.line.remove(id)
    }

    /// Works out what an input changes, and changes nothing. `numbers` gives arrivals and fencing
    /// tokens.
    pub(super) fn decide(&self, input: Input<W>, now: Now, numbers: NextNumber<'_>) -> Decision<W> {
        decide::decide(self, input, now, numbers)
    }

    /// The facts of an input that need not wait while `plan` is being written; `None` if it has to.
    pub(super) fn facts_beside(&self, input: &Input<W>, plan: &Plan, now: Now) -> Option<Facts<W>> {
        decide::facts_beside(self, input, plan, now)
    }

    /// Ends the wait of a request, with an event.
    fn dequeue(&mut self, id: LockId, kind: Kind, refusal: Refusal, effects: &mut Effects<W>) {
        let by = match &refusal {
            Refusal::Deleted(by) => Some(Arc::clone(by)),
            _ => None,
        };
        let event = self.of_place(id, kind);
        effects.events.extend(event.map(|event| EventDetails { by, ..event }));
        let waiter = self.take_out(id, effects);
        effects.complete(waiter, Reply::Refused(refusal));
    }

    /// Applies the facts of a decision.
    pub(super) fn note(&mut self, facts: Facts<W>, effects: &mut Effects<W>) {
        let Facts { joined, dequeued, converting, unconverted, kept, given_up, undelivered } =
            facts;
        for id in given_up {
            self.dequeue(id, Kind::Withdrawn, Refusal::Departed, effects);
        }
        for (id, refusal) in dequeued {
            let kind = match refusal {
                Refusal::TimedOut | Refusal::Superseded => Kind::TimedOut,
                _ => Kind::Withdrawn,
            };
            self.dequeue(id, kind, refusal, effects);
        }
        for (id, refusal) in unconverted {
            effects.events.extend(self.of_holder(id, Kind::Unconverted));
            effects.complete(self.conversions.remove(id), Reply::Refused(refusal));
        }
        if let Some(converting) = converting {
            let kind = Kind::Converting(converting.wanted.mode);
            effects.events.extend(self.of_holder(converting.id, kind));
            self.conversions.join(*converting);
        }
        if let Some(KeptUntil { id, until, until_wall }) = kept {
            let departed = self.line.keep(id, until, until_wall);
            effects.complete(departed, Reply::Refused(Refusal::Departed));
        }
        if let Some(queued) = joined {
            if queued.place.key.is_some() {
                effects.places.push((queued.place.arrival, Some(queued.place.clone())));
            }
            let id = queued.place.id;
            let is_new = self.line.place(id).is_none();
            let earlier = self.line.join(*queued);
            if is_new {
                effects.events.extend(self.of_place(id, Kind::Waiting));
            }
            effects.complete(earlier, Reply::Refused(Refusal::Superseded));
        }
        if let Some((id, until)) = undelivered {
            self.holders.update(id, |holder| holder.lose_delivery(until));
        }
    }

    /// Applies the plan of a decision. Lifetimes begin now.
    pub(super) fn apply(&mut self, plan: Plan, now: Now, effects: &mut Effects<W>) {
        let Plan { ended, granted, changed, redelivered, deleted, deletes_before } = plan;
        for lock in ended {
            let holder = self.holders.remove(lock.id);
            let event = |holder: Holder| {
                let event = of_grant(holder.grant(), Kind::Ended(lock.end));
                EventDetails { by: lock.by, ..event }
            };
            effects.events.extend(holder.map(event));
            let waiter = self.conversions.remove(lock.id);
            effects.complete(waiter, Reply::Refused(Refusal::NoSuchLock));
        }
        for lock in changed {
            self.change(lock, now, effects);
        }
        if let Some(id) = redelivered {
            self.holders.update(id, Holder::add_delivery);
        }
        for (id, by) in deleted {
            self.dequeue(id, Kind::Deleted, Refusal::Deleted(by), effects);
        }
        if let Some((number, by)) = deletes_before {
            self.line.delete_before(number, by);
        }
        for GrantedLock { mut holder, to_newcomer } in granted {
            holder.begin(holder.lifetime(), now);
            let asked = self.line.place(holder.id).map(|place| place.since);
            let granted = of_grant(holder.grant(), Kind::Granted);
            let since = asked.unwrap_or(granted.since);
            effects.events.push(EventDetails { since, ..granted });
            if let Some(waiter) = self.take_out(holder.id, effects) {
                let result = match to_newcomer {
                    true => Reply::Refused(Refusal::Superseded),
                    false => Reply::Granted(holder.grant()),
                };
                effects.complete(Some(waiter), result);
            }
            let fits = self.holders.counts().allow(holder.terms.mode);
            assert!(fits, "{holder:?} beside {:?}", self.holders);
            self.holders.insert(holder);
        }
        // The promise of this program. Where it breaks, the process ends rather than answer.
        assert!(self.holders.counts().fit_together(u32::MAX), "held together: {:?}", self.holders);
    }

    /// Renews a lock, or converts it, and completes the wait for that.
    fn change(&mut self, lock: ChangedLock, now: Now, effects: &mut Effects<W>) {
        let ChangedLock { holder: changed, begins, has_waited } = lock;
        let Some(mut holder) = self.holders.remove(changed.id) else { return };
        let kind = match holder.terms.mode == changed.terms.mode {
            true => Kind::Ended(End::Renewed),
            false => Kind::Converted,
        };
        holder.terms.mode = changed.terms.mode;
        if begins {
            holder.begin(changed.lifetime(), now);
        }
        // A client that changes a lock knows that it has it.
        holder.add_delivery();
        effects.events.push(of_grant(holder.grant(), kind));
        if has_waited {
            let waiter = self.conversions.remove(holder.id);
            effects.complete(waiter, Reply::Granted(holder.grant()));
        }
        self.holders.insert(holder);
    }

    /// An event of a place in line.
    fn of_place(&self, id: LockId, kind: Kind) -> Option<EventDetails> {
        let Place { id, terms, since, .. } = self.line.place(id)?;
        let terms = terms.clone();
        Some(EventDetails { kind, id: *id, terms, fencing_token: None, since: *since, by: None })
    }

    /// An event of a lock that stays.
    fn of_holder(&self, id: LockId, kind: Kind) -> Option<EventDetails> {
        self.holders.get(id).map(|holder| of_grant(holder.grant(), kind))
    }

    /// The reply to the caller, once the decision is applied.
    pub(super) fn answer(&self, answer: Answer) -> Reply {
        match answer {
            Answer::Now(reply) => reply,
            Answer::Done => Reply::Done,
            Answer::Granted(id) => match self.holders.get(id) {
                Some(holder) => Reply::Granted(holder.grant()),
                None => Reply::Refused(Refusal::NoSuchLock),
            },
        }
    }

    /// The lock or waiting request with this id, if it is there at this moment. A lock that is due
    /// is, while `plan` renews it.
    pub(super) fn find(&self, id: LockId, plan: Option<&Plan>, now: Instant) -> Option<Lock> {
        let going_on = going_on(plan);
        let held = self.holders.get(id).filter(|holder| is_held(holder, &going_on, now));
        let held = held.map(|holder| Lock::Held(holder.grant()));
        held.or_else(|| self.line.show(id).map(Lock::Waiting))
    }

    /// The first locks that are held at this moment, each with the key of its request.
    pub(super) fn first_holders(
        &self,
        plan: Option<&Plan>,
        now: Instant,
        limit: usize,
    ) -> Vec<(Grant, Option<IdempotencyKey>)> {
        let going_on = going_on(plan);
        let held = self.holders.in_order().filter(|holder| is_held(holder, &going_on, now));
        held.take(limit).map(|holder| (holder.grant(), holder.key().cloned())).collect()
    }

    /// The locks that are held at this moment in order of their grants, then the waiting requests
    /// in order: at most `limit` of those after the cursor.
    pub(super) fn page(
        &self,
        plan: Option<&Plan>,
        now: Instant,
        after: Option<Cursor>,
        limit: usize,
    ) -> Page {
        let (token, arrival) = match after {
            None => (None, None),
            Some(Cursor::Held(token)) => (Some(token), None),
            Some(Cursor::Waiting(arrival)) => (Some(u64::MAX), Some(arrival)),
        };
        let mut next = after;
        let (mut locks, mut converting) = (Vec::new(), HashMap::new());
        let going_on = going_on(plan);
        let held = self.holders.behind(token).filter(|holder| is_held(holder, &going_on, now));
        for holder in held.take(limit) {
            next = Some(Cursor::Held(holder.fencing_token));
            let wanted = self.conversions.of(holder.id).map(|waiting| waiting.wanted.mode);
            converting.extend(wanted.map(|mode| (holder.id, mode)));
            locks.push(Lock::Held(holder.grant()));
        }
        for (arrival, waiting) in self.line.behind(arrival, limit - locks.len()) {
            next = Some(Cursor::Waiting(arrival));
            locks.push(Lock::Waiting(waiting));
        }
        let is_full = locks.len() == limit;
        let waiting = self.waiting_count();
        Page { locks, converting, waiting, next: next.filter(|_| is_full) }
    }

    /// Whether a lock with a smaller number is held or waited for at this moment.
    pub(super) fn has_locks_before(&self, number: u64, now: Instant) -> bool {
        let mut held = self.holders.in_order();
        let first = held.find(|holder| !holder.is_due(now));
        self.line.has_before(number) || first.is_some_and(|first| first.fencing_token < number)
    }

    /// Whether an [`Input::Expire`] has to come before any other input: more than a piece is due,
    /// or a request that waits fits.
    pub(super) fn is_behind(&self, now: impl FnOnce() -> Instant) -> bool {
        self.holders.has_due(PIECE, now)
            || self.overdue_conversion().is_some()
            || self.overdue_waiter().is_some()
    }

    /// Whether any lock is held or waited for at this moment.
    pub(super) fn has_locks(&self, plan: Option<&Plan>, now: Instant) -> bool {
        let going_on = going_on(plan);
        !self.line.is_empty() || self.holders.iter().any(|holder| is_held(holder, &going_on, now))
    }

    /// How it stands at this moment, for display; `None` if there are no locks.
    pub(super) fn standing(&self, plan: Option<&Plan>, now: Instant) -> Option<Standing> {
        self.has_locks(plan, now).then(|| Standing {
            held_since: self.holders.iter().map(Holder::since).min(),
            waited_for_since: self.line.first().map(|queued| queued.place.since),
            waiting: self.waiting_count(),
            ends: self.holders.iter().filter_map(Holder::expires).min(),
        })
    }

    /// How many requests wait, including kept places.
    fn waiting_count(&self) -> usize {
        self.conversions.len() + self.line.waiting_count() + self.line.kept_count()
    }

    /// When [`Input::Expire`] has something to do. If a request that waits fits, the plan to grant
    /// it could not be written, and it has been due since it arrived.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.holders.next_due().into_iter().chain(self.line.next_given_up());
        due.chain(self.overdue_conversion()).chain(self.overdue_waiter()).min()
    }

    /// Since when the first conversion has been due, if it fits.
    fn overdue_conversion(&self) -> Option<Instant> {
        let first = self.conversions.iter().next()?;
        let mut others = self.holders.counts();
        others.remove(self.holders.get(first.id)?.terms.mode);
        others.allow(first.wanted.mode).then_some(first.arrived_at)
    }

    /// Since when the first in line has been due, if it fits and no conversion waits.
    fn overdue_waiter(&self) -> Option<Instant> {
        let first = self.line.first().filter(|_| self.conversions.is_empty());
        let overdue = first.filter(|first| self.holders.counts().allow(first.place.terms.mode));
        overdue.map(|first| first.arrived_at)
    }

    pub(super) fn tally(&self) -> Tally {
        let waiting = self.line.waiting_count() + self.conversions.len();
        Tally { held: self.holders.len(), waiting, kept: self.line.kept_count() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.line.is_empty()
    }
}

/// The locks that stay visible while `plan` renews or converts them.
fn going_on(plan: Option<&Plan>) -> HashSet<LockId> {
    plan.map(Plan::going_on).unwrap_or_default()
}

/// Whether readers see the lock at this moment.
fn is_held(holder: &Holder, going_on: &HashSet<LockId>, now: Instant) -> bool {
    !holder.is_due(now) || going_on.contains(&holder.id)
}

/// An event of a lock.
fn of_grant(grant: Grant, kind: Kind) -> EventDetails {
    let Grant { id, terms, since, fencing_token, .. } = grant;
    EventDetails { kind, id, terms, fencing_token: Some(fencing_token), since, by: None }
}

impl<W> Effects<W> {
    fn complete(&mut self, waiter: Option<W>, result: Reply) {
        self.results.extend(waiter.map(|waiter| (waiter, result)));
    }
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { results: Vec::new(), events: Vec::new(), places: Vec::new() }
    }
}
