//! One resource: who holds it, who waits for it, who is next.
//!
//! Pure: the time and the fencing tokens are arguments, there is no thread, no clock and no I/O
//! here, so that every rule of the lock can be tested as a table of steps. An event is first
//! decided ([`Resource::decide`] changes nothing), then made.

mod compatibility;
mod conversions;
mod decision;
mod holders;
mod line;
#[cfg(test)]
mod model;
mod packed;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use super::nanos::Instant;
use super::numbers::Numbers;
use super::{
    Conversion, Cursor, End, EventDetails, Grant, IdempotencyKey, Kind, Lock, LockId, Page,
    Refusal, Terms,
};
#[cfg(all(test, shuttle))]
pub(super) use compatibility::can_be_held_together;
use conversions::Conversions;
pub(super) use decision::{Answer, Decision, Facts, Plan, Reply};
pub(super) use holders::Holder;
use holders::Holders;
pub(super) use line::{Claim, Place};
use line::{Line, Waiter};

/// How many locks one event ends at most, and how many it grants: the rest follows piece by piece,
/// and others have their turn between. Both together have room in one transaction of etcd.
pub(super) const PIECE: usize = 240;

/// The state of one resource. `W` is how a client that waits is told of its end; a resource
/// hands it back in [`Outcome`].
///
/// Between two events: what is held fits together, the first conversion that waits does not fit
/// beside the other locks, and if none waits, whoever is first in line does not either; unless the plan to grant it is being written or could not be, or what made room was
/// a fact beside a plan: then it is granted as soon as that is written. And if so much ended or
/// fits at once that it takes several events, until the last of them: see [`Resource::is_behind`].
#[derive(Debug)]
pub(super) struct Resource<W> {
    holders: Holders,
    conversions: Conversions<W>,
    line: Line<W>,
}

/// Something that happens to a resource.
#[derive(Debug)]
pub(super) enum Event<W> {
    /// A request comes; `W`, if it has to wait.
    Acquire(Box<Asked>, W),
    /// The lock or request with this id is given up.
    Release(LockId),
    /// The same of the one with this key.
    ReleaseByKey(IdempotencyKey),
    /// The lock is to expire this long from now.
    Renew(LockId, Duration),
    /// A lock is to have another mode; `W`, if it has to wait.
    Convert(Box<Wish>, W),
    /// The client that waits by this claim has gone. With a key, its place is kept so long.
    Withdraw(Claim, Duration),
    /// The wait of this claim is over.
    TimeOut(Claim),
    /// An answer that tells of this lock could not be delivered. If no other does, the lock is
    /// released; with a key, after so long.
    Abandon(LockId, Duration),
    /// Something is due.
    Expire,
    /// All locks and requests whose numbers are before this one are deleted.
    Delete(u64),
    /// The server ends: nobody waits any more. The locks stay held.
    Dismiss,
}

impl<W> Event<W> {
    /// Whether one client has asked for it, whose thread does nothing else until it is answered:
    /// not a deletion, which begins many before it waits for the first.
    pub(super) fn is_asked_for(&self) -> bool {
        matches!(
            self,
            Self::Acquire(..)
                | Self::Release(_)
                | Self::ReleaseByKey(_)
                | Self::Renew(..)
                | Self::Convert(..)
        )
    }
}

/// A request, as it comes to a resource.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// For the lock, if it is a new one.
    pub(super) id: LockId,
    pub(super) terms: Terms,
    pub(super) key: Option<IdempotencyKey>,
    /// When it came: its wait is counted from then.
    pub(super) came: Instant,
}

/// The wish for another mode, as it comes to a resource.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// The lock.
    pub(super) id: LockId,
    pub(super) wanted: Conversion,
    /// When it came: its wait is counted from then.
    pub(super) came: Instant,
}

/// One moment on all clocks: deadlines are counted on the monotonic one, the wall clock is only
/// for display, and the numbers tell what came first.
#[derive(Clone, Copy)]
pub(super) struct Now<'n> {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
    pub(super) numbers: &'n Numbers,
}

/// Who has to hear of what was made.
#[derive(Debug)]
pub(super) struct Outcome<W> {
    /// The clients whose wait is over, in order, with the word for each.
    pub(super) told: Vec<(W, Reply)>,
    /// What has happened, in order.
    pub(super) happened: Vec<EventDetails>,
    /// Places in line of requests with a key that have come, or gone, by their arrival.
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

    /// One with a lock that has been held since before a restart of the server, for `remaining`
    /// from now, or without an end.
    pub(super) fn restored(
        grant: Grant,
        key: Option<IdempotencyKey>,
        remaining: Option<Duration>,
        now: Now<'_>,
    ) -> Self {
        let mut resource = Self::new();
        resource.holders.insert(Holder::new(grant, remaining, key, now));
        resource
    }

    /// Adds other locks that have been held since then, but for those that are there already.
    /// Returns whether there was none of these.
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

    /// Adds a place in line that was kept over a restart of the server, until `until`, unless its
    /// request holds a lock. Returns whether it was added.
    pub(super) fn restore_place(&mut self, place: Place, grace: Duration, now: Now<'_>) -> bool {
        let held = place.key.as_ref().is_some_and(|key| self.holders.of_key(key).is_some());
        if !held {
            self.line.restore(place, now.instant + grace, now.wall + grace);
        }
        !held
    }

    /// Takes a request out of the line, and notes that its place is gone.
    fn take_out(&mut self, id: LockId, outcome: &mut Outcome<W>) -> Option<Waiter<W>> {
        let place = self.line.place(id).filter(|place| place.key.is_some());
        outcome.places.extend(place.map(|place| (place.arrival, None)));
        self.line.remove(id)
    }

    /// What becomes of the resource by an event.
    pub(super) fn decide(&self, event: Event<W>, now: Now<'_>) -> Decision<W> {
        decision::decide(self, event, now)
    }

    /// What of an event holds even while `plan` is being written; `None` if the event has to
    /// wait for that.
    pub(super) fn facts_beside(
        &self,
        event: &Event<W>,
        plan: &Plan,
        now: Now<'_>,
    ) -> Option<Facts<W>> {
        decision::facts_beside(self, event, plan, now)
    }

    /// Makes the facts of a decision.
    pub(super) fn note(&mut self, facts: Facts<W>, outcome: &mut Outcome<W>) {
        let Facts { joined, left, converting, unconverted, kept, given_up, unheard } = facts;
        for id in given_up {
            outcome.happened.extend(self.of_place(id, Kind::Withdrawn));
            self.take_out(id, outcome);
        }
        for (id, refusal) in left {
            let kind = match refusal {
                Refusal::TimedOut | Refusal::Superseded => Kind::TimedOut,
                _ => Kind::Withdrawn,
            };
            outcome.happened.extend(self.of_place(id, kind));
            let waiter = self.take_out(id, outcome);
            outcome.told.extend(waiter.map(|w| (w.handle, Reply::Refused(refusal))));
        }
        for (id, refusal) in unconverted {
            outcome.happened.extend(self.of_holder(id, Kind::Unconverted));
            let waiting = self.conversions.remove(id);
            outcome.told.extend(waiting.map(|w| (w.handle, Reply::Refused(refusal))));
        }
        if let Some(converting) = converting {
            let kind = Kind::Converting(converting.wanted.mode);
            outcome.happened.extend(self.of_holder(converting.id, kind));
            self.conversions.join(*converting);
        }
        if let Some((id, until, until_wall)) = kept {
            let gone = self.line.keep(id, until, until_wall);
            outcome.told.extend(gone.map(|handle| (handle, Reply::Refused(Refusal::Departed))));
        }
        if let Some(waiter) = joined {
            if waiter.place.key.is_some() {
                outcome.places.push((waiter.place.arrival, Some(waiter.place.clone())));
            }
            let id = waiter.place.id;
            let is_new = self.line.place(id).is_none();
            let earlier = self.line.join(*waiter);
            if is_new {
                outcome.happened.extend(self.of_place(id, Kind::Waiting));
            }
            outcome.told.extend(earlier.map(|w| (w.handle, Reply::Refused(Refusal::Superseded))));
        }
        if let Some((id, until)) = unheard {
            self.holders.update(id, |holder| holder.lose_answer(until));
        }
    }

    /// Makes the plan of a decision. Lifetimes begin now.
    pub(super) fn apply(&mut self, plan: Plan, now: Now<'_>, outcome: &mut Outcome<W>) {
        let Plan { ended, granted, changed, told_again, deleted } = plan;
        for ending in ended {
            let holder = self.holders.remove(ending.id);
            let happening = |holder: Holder| of_grant(holder.grant(), Kind::Ended(ending.end));
            outcome.happened.extend(holder.map(happening));
            let waiting = self.conversions.remove(ending.id);
            let word = Reply::Refused(Refusal::NoSuchLock);
            outcome.told.extend(waiting.map(|w| (w.handle, word)));
        }
        for changing in changed {
            self.change(changing, now, outcome);
        }
        if let Some(id) = told_again {
            self.holders.update(id, Holder::add_answer);
        }
        for id in deleted {
            outcome.happened.extend(self.of_place(id, Kind::Deleted));
            let waiter = self.take_out(id, outcome);
            outcome.told.extend(waiter.map(|w| (w.handle, Reply::Refused(Refusal::Deleted))));
        }
        for decision::Granting { mut holder, to_newcomer } in granted {
            holder.begin(holder.lifetime(), now);
            let asked = self.line.place(holder.id).map(|place| place.since);
            let granted = of_grant(holder.grant(), Kind::Granted);
            let since = asked.unwrap_or(granted.since);
            outcome.happened.push(EventDetails { since, ..granted });
            let waiter = self.take_out(holder.id, outcome);
            let word = |holder: &Holder| match to_newcomer {
                true => Reply::Refused(Refusal::Superseded),
                false => Reply::Granted(holder.grant()),
            };
            outcome.told.extend(waiter.map(|w| (w.handle, word(&holder))));
            self.holders.insert(holder);
        }
        // Without a look at the limit of each.
        debug_assert!(self.holders.counts().fit_together(u32::MAX), "{:?}", self.holders);
    }

    /// Renews a lock, or converts it, and tells the client that waits for that.
    fn change(&mut self, changing: decision::Changing, now: Now<'_>, outcome: &mut Outcome<W>) {
        let decision::Changing { holder: changed, begins, has_waited } = changing;
        let Some(mut holder) = self.holders.remove(changed.id) else { return };
        let kind = match holder.terms.mode == changed.terms.mode {
            true => Kind::Ended(End::Renewed),
            false => Kind::Converted,
        };
        holder.terms.mode = changed.terms.mode;
        if begins {
            holder.begin(changed.lifetime(), now);
        }
        // Whoever changes it knows of it.
        holder.add_answer();
        outcome.happened.push(of_grant(holder.grant(), kind));
        if has_waited {
            let waiting = self.conversions.remove(holder.id);
            let word = Reply::Granted(holder.grant());
            outcome.told.extend(waiting.map(|w| (w.handle, word)));
        }
        self.holders.insert(holder);
    }

    /// What happens to a place in line.
    fn of_place(&self, id: LockId, kind: Kind) -> Option<EventDetails> {
        let Place { id, terms, since, .. } = self.line.place(id)?;
        let terms = terms.clone();
        Some(EventDetails { kind, id: *id, terms, fencing_token: None, since: *since })
    }

    /// What happens to a lock that stays.
    fn of_holder(&self, id: LockId, kind: Kind) -> Option<EventDetails> {
        self.holders.get(id).map(|holder| of_grant(holder.grant(), kind))
    }

    /// The answer to whoever caused a decision that has been made.
    pub(super) fn answer(&self, answer: Answer) -> Reply {
        match answer {
            Answer::Now(answer) => answer.into(),
            Answer::Done => Reply::Done,
            Answer::Granted(id) => match self.holders.get(id) {
                Some(holder) => Reply::Granted(holder.grant()),
                None => Reply::Refused(Refusal::NoSuchLock),
            },
        }
    }

    /// The lock or waiting request with this id, if it is there at this moment. A lock whose
    /// renewal is being written by `plan` is.
    pub(super) fn find(&self, id: LockId, plan: Option<&Plan>, now: Instant) -> Option<Lock> {
        let going_on = going_on(plan);
        let held = self.holders.get(id).filter(|holder| is_held(holder, &going_on, now));
        let held = held.map(|holder| Lock::Held(holder.grant()));
        held.or_else(|| self.line.show(id).map(Lock::Waiting))
    }

    /// The first of those that hold a lock at this moment, each with the key of its request.
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

    /// The locks that are held at this moment in order of their grants, then the waiting
    /// requests in order: at most `limit` of those behind `after`.
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
        let waiting = self.conversions.len() + self.line.waiting() + self.line.kept();
        Page { locks, converting, waiting, next: next.filter(|_| is_full) }
    }

    /// Whether a lock is held or waited for at this moment that came before this number.
    pub(super) fn has_locks_before(&self, number: u64, now: Instant) -> bool {
        let mut held = self.holders.in_order();
        let first = held.find(|holder| !holder.is_due(now));
        self.line.has_before(number) || first.is_some_and(|first| first.fencing_token < number)
    }

    /// Whether an [`Event::Expire`] comes before any other event: what has ended is more than a
    /// piece, or somebody who waits fits.
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

    /// Since when the lock is held that is held longest, for display.
    pub(super) fn held_since(&self) -> Option<SystemTime> {
        self.holders.iter().map(|holder| holder.since()).min()
    }

    /// Since when the first in line waits, for display.
    pub(super) fn waited_for_since(&self) -> Option<SystemTime> {
        self.line.first().map(|waiter| waiter.place.since)
    }

    /// When [`Event::Expire`] has something to do. Somebody who waits and fits has been due
    /// since its request came: the plan to grant it could not be written.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let due = self.holders.next_due().into_iter().chain(self.line.next_given_up());
        due.chain(self.overdue_conversion()).chain(self.overdue_waiter()).min()
    }

    /// Since when the first conversion has been due, if it fits.
    fn overdue_conversion(&self) -> Option<Instant> {
        let first = self.conversions.iter().next()?;
        let mut others = self.holders.counts();
        others.remove(self.holders.get(first.id)?.terms.mode);
        others.allow(first.wanted.mode).then_some(first.came)
    }

    /// Since when the first in line has been due, if it fits and no conversion is before it.
    fn overdue_waiter(&self) -> Option<Instant> {
        let first = self.line.first().filter(|_| self.conversions.is_empty());
        let overdue = first.filter(|first| self.holders.counts().allow(first.place.terms.mode));
        overdue.map(|first| first.came)
    }

    pub(super) fn tally(&self) -> Tally {
        let waiting = self.line.waiting() + self.conversions.len();
        Tally { held: self.holders.len(), waiting, kept: self.line.kept() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.line.is_empty()
    }
}

/// The locks that a look shows while `plan` renews or converts them: they do not come and go.
fn going_on(plan: Option<&Plan>) -> HashSet<LockId> {
    plan.map(Plan::going_on).unwrap_or_default()
}

/// Whether a look at this moment shows the lock.
fn is_held(holder: &Holder, going_on: &HashSet<LockId>, now: Instant) -> bool {
    !holder.is_due(now) || going_on.contains(&holder.id)
}

/// What happens to a lock.
fn of_grant(grant: Grant, kind: Kind) -> EventDetails {
    let Grant { id, terms, since, fencing_token, .. } = grant;
    EventDetails { kind, id, terms, fencing_token: Some(fencing_token), since }
}

impl<W> Default for Outcome<W> {
    fn default() -> Self {
        Self { told: Vec::new(), happened: Vec::new(), places: Vec::new() }
    }
}
