//! Who is next: grants and conversions, tried on counts of modes alone.

use std::sync::Arc;
use std::time::Duration;

use super::compatibility::ModeCounts;
use super::conversions::Converting;
use super::decision::{Answer, ChangedLock, Decision, EndedLock, Facts, GrantedLock, Plan, Reply};
use super::holders::Holder;
use super::line::{Place, Queued};
use super::packed::PackedTerms;
use super::{Now, PIECE, Resource};
use crate::nanos::Instant;
use crate::{Actor, Conversion, End, Grant, IdempotencyKey, Limit, LockId, Mode, Refusal, Terms};

/// Where a decision gets arrivals and fencing tokens from: each is larger than all before.
pub(super) type NextNumber<'n> = &'n mut dyn FnMut() -> u64;

/// A decision that is being worked out.
pub(super) struct Planner<'r, 'n, W> {
    pub(super) resource: &'r Resource<W>,
    pub(super) now: Now,
    pub(super) numbers: NextNumber<'n>,
    /// The modes that are held once the plan is applied.
    held: ModeCounts,
    /// The modes that locks wait for then.
    pub(super) wanted: ModeCounts,
    /// The arrival of the first conversion that was not tried yet.
    next_conversion: u64,
    pub(super) facts: Facts<W>,
    pub(super) plan: Plan,
}

impl<'r, 'n, W> Planner<'r, 'n, W> {
    /// Begins with the end of what is due, one piece at most.
    pub(super) fn new(resource: &'r Resource<W>, now: Now, numbers: NextNumber<'n>) -> Self {
        let given_up = resource.line.given_up(now.instant).take(PIECE).collect();
        let mut planner = Self {
            resource,
            now,
            numbers,
            held: resource.holders.counts(),
            wanted: resource.conversions.wanted(),
            next_conversion: 0,
            facts: Facts { given_up, ..Facts::default() },
            plan: Plan::default(),
        };
        resource.holders.due(now.instant).take(PIECE).for_each(|holder| planner.end_due(holder));
        planner
    }

    pub(super) fn done(self) -> Decision<W> {
        self.decision(Answer::Done)
    }

    pub(super) fn decision(self, answer: Answer) -> Decision<W> {
        Decision { facts: self.facts, plan: self.plan, answer }
    }

    /// The lock of the request with this key. If it is due, it ends even if it is not among the
    /// first piece of those.
    pub(super) fn holder_of(&mut self, key: &IdempotencyKey) -> Option<&'r Holder> {
        let holder = self.resource.holders.of_key(key)?;
        if !holder.is_due(self.now.instant) {
            return Some(holder);
        }
        if !self.plan.ended.iter().any(|ended| ended.id == holder.id) {
            self.end_due(holder);
        }
        None
    }

    /// The place of the request with this key. If its time is over, it is given up even if it is
    /// not among the first piece of those.
    pub(super) fn place_of(&mut self, key: &IdempotencyKey) -> Option<&'r Place> {
        let place = self.resource.line.place_of(key)?;
        if !self.resource.line.is_given_up(place.arrival, self.now.instant) {
            return Some(place);
        }
        if !self.facts.given_up.contains(&place.id) {
            self.facts.given_up.push(place.id);
        }
        None
    }

    /// If a lock of this mode would need another limit than the locks in the mode EX that are held
    /// or waited for then: their limit.
    pub(super) fn other_limit(&self, mode: Mode) -> Option<Limit> {
        let own = mode.limit()?;
        let Resource { holders, line, .. } = self.resource;
        let held = holders.limit().filter(|_| self.held.exclusive() > 0);
        let wanted = (self.wanted.exclusive() > 0).then_some(Limit::ONE);
        held.or(wanted).or_else(|| line.limit()).filter(|theirs| *theirs != own)
    }

    fn end_due(&mut self, holder: &Holder) {
        let expired = holder.has_expired(self.now.instant);
        self.end(holder, if expired { End::Expired } else { End::Abandoned }, None);
    }

    pub(super) fn end(&mut self, holder: &Holder, end: End, by: Option<Arc<Actor>>) {
        let &Holder { id, fencing_token, terms: PackedTerms { mode, .. }, .. } = holder;
        self.held.remove(mode);
        if let Some(waiting) = self.resource.conversions.of(id) {
            self.wanted.remove(waiting.wanted.mode);
        }
        self.plan.ended.push(EndedLock { id, fencing_token, end, by });
    }

    pub(super) fn promote_all(self) -> Self {
        self.promote(None)
    }

    /// Converts locks from the head of the conversions. If none of these is left, grants locks from
    /// the head of the line, as long as the next one fits. The one that `leaves` is passed over.
    pub(super) fn promote(mut self, leaves: Option<LockId>) -> Self {
        if self.convert_each(leaves) {
            self.grant_each(self.resource.line.waiting(..), leaves);
        }
        self
    }

    /// Converts one lock after the other; `false` if one does not fit, or the piece is full.
    pub(super) fn convert_each(&mut self, leaves: Option<LockId>) -> bool {
        let instant = self.now.instant;
        for waiting in self.resource.conversions.from(self.next_conversion) {
            if self.is_full() {
                return false;
            }
            let Converting { id, wanted: Conversion { mode, lifetime, .. }, .. } = *waiting;
            let holder = self.resource.holders.get(id).filter(|holder| !holder.is_due(instant));
            match holder.filter(|_| leaves != Some(id)) {
                // The lock ends, or its client leaves.
                None => {}
                Some(_) if waiting.deadline <= instant => {
                    self.facts.unconverted.push((id, Refusal::TimedOut));
                    self.wanted.remove(mode);
                }
                Some(holder) if self.allows_conversion(holder.terms.mode, mode) => {
                    self.change(holder, Some(mode), lifetime, true);
                    self.wanted.remove(mode);
                }
                Some(_) => return false,
            }
            self.next_conversion = waiting.arrival + 1;
        }
        true
    }

    /// Whether a lock that is held in the mode `from` can be held in `to`, beside the others.
    pub(super) fn allows_conversion(&self, from: Mode, to: Mode) -> bool {
        let mut others = self.held;
        others.remove(from);
        others.allow(to)
    }

    /// Changes the mode of a lock, starts its lifetime over, or both. `has_waited`: its client
    /// waits for that.
    pub(super) fn change(
        &mut self,
        holder: &Holder,
        mode: Option<Mode>,
        lifetime: Option<Duration>,
        has_waited: bool,
    ) {
        let is_it = |changed: &ChangedLock| changed.holder.id == holder.id;
        // A renewal, which comes first, may be followed by the conversion of the same lock.
        let mut changed = match self.plan.changed.first().is_some_and(is_it) {
            true => self.plan.changed.remove(0),
            false => ChangedLock { holder: holder.clone(), begins: false, has_waited: false },
        };
        changed.has_waited |= has_waited;
        if let Some(mode) = mode {
            self.held.remove(changed.holder.terms.mode);
            self.held.add(mode);
            changed.holder.terms.mode = mode;
        }
        if let Some(lifetime) = lifetime {
            changed.holder.begin(lifetime.into(), self.now);
            changed.begins = true;
        }
        self.plan.changed.push(changed);
    }

    /// Grants a request that has arrived if it fits and none is before it in line. Else it joins
    /// the line, unless its wait is over.
    pub(super) fn admit(mut self, place: Place, waiter: W, arrived_at: Instant) -> Decision<W> {
        let Terms { mode, wait, .. } = place.terms;
        let (id, line, arrival) = (place.id, &self.resource.line, place.arrival);
        let (instant, deadline) = (self.now.instant, arrived_at + wait);
        let first = self.convert_each(None) && self.grant_each(line.waiting(..arrival), None);
        if (first || mode == Mode::Null) && self.held.allow(mode) {
            self.grant(&place, true);
            if first {
                self.grant_each(line.waiting(arrival..), Some(id));
            }
            return self.decision(Answer::Granted(id));
        }
        if deadline > instant {
            let answer = Answer::Now(Reply::InLine(place.claim(), deadline));
            let expires = self.now.wall + deadline.saturating_duration_since(instant);
            let queued = Queued { place, waiter, arrived_at, deadline, expires };
            self.facts.joined = Some(Box::new(queued));
            return self.decision(answer);
        }
        if line.place(id).is_some() {
            self.facts.dequeued.push((id, Refusal::Superseded));
        }
        if first {
            self.grant_each(line.waiting(arrival..), Some(id));
        }
        self.decision(Answer::Now(Reply::Refused(Refusal::TimedOut)))
    }

    /// Whether this decision ends as many waits as one may.
    fn is_full(&self) -> bool {
        let fulfilled = self.plan.granted.len() + self.plan.changed.len();
        let refused = self.facts.dequeued.len() + self.facts.unconverted.len();
        fulfilled + self.plan.deleted.len() + refused >= PIECE
    }

    /// Grants one request after the other; `false` if one does not fit, or the piece is full.
    fn grant_each<'w>(
        &mut self,
        line: impl Iterator<Item = &'w Queued<W>>,
        leaves: Option<LockId>,
    ) -> bool
    where
        W: 'w,
    {
        for Queued { place, deadline, .. } in line {
            if leaves == Some(place.id) {
                continue;
            }
            if self.is_full() {
                return false;
            }
            if *deadline <= self.now.instant {
                self.facts.dequeued.push((place.id, Refusal::TimedOut));
            } else if let Some(by) = self.resource.line.deleted_by(place.arrival) {
                self.plan.deleted.push((place.id, by));
            } else if self.held.allow(place.terms.mode) {
                self.grant(place, false);
            } else {
                return false;
            }
        }
        true
    }

    fn grant(&mut self, place: &Place, to_newcomer: bool) {
        let terms = place.terms.clone();
        let (mode, remaining) = (terms.mode, terms.lifetime.duration());
        let (since, fencing_token) = (self.now.wall, (self.numbers)());
        // `Holder` counts its own.
        let expires = None;
        let grant = Grant { id: place.id, terms, since, expires, fencing_token };
        let holder = Holder::new(grant, remaining, place.key.clone(), self.now);
        self.held.add(mode);
        self.plan.granted.push(GrantedLock { holder, to_newcomer });
    }
}
