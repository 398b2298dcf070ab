//! The rules of a lock: what each input changes.

use std::sync::Arc;
use std::time::Duration;

use super::conversions::{Converting, is_waited_for};
use super::decision::{Answer, Decision, Facts, KeptUntil, Plan, Reply};
use super::holders::Holder;
use super::line::{Claim, Place};
use super::planner::{NextNumber, Planner};
use super::{Arrival, ConvertRequest, Input, Now, PIECE, Resource};
use crate::{Actor, Conversion, End, IdempotencyKey, Limit, LockId, Mode, Refusal, Terms};

/// Works out what an input changes. Pure: the same arguments give the same decision.
pub(super) fn decide<W>(
    resource: &Resource<W>,
    input: Input<W>,
    now: Now,
    numbers: NextNumber<'_>,
) -> Decision<W> {
    let planner = Planner::new(resource, now, numbers);
    match input {
        Input::Acquire(arrival, waiter) => planner.acquire(*arrival, waiter),
        Input::Release(id, by) => planner.release(id, by),
        Input::ReleaseByKey(key, by) => planner.release_by_key(&key, by),
        Input::Renew(id, lifetime) => planner.renew(id, lifetime),
        Input::Convert(request, waiter) => planner.convert(*request, waiter),
        Input::Withdraw(claim, grace) => {
            planner.end_wait(claim, withdrawn(resource, claim, grace, now))
        }
        Input::TimeOut(claim) => planner.end_wait(claim, timed_out(resource, claim)),
        Input::Abandon(id, grace) => planner.abandon(id, grace),
        Input::Expire => planner.promote_all().done(),
        Input::Delete(before, by) => planner.delete(before, by),
        Input::Dismiss => {
            let facts = dismissed(resource, &Plan::default());
            Decision { facts, plan: Plan::default(), answer: Answer::Done }
        }
    }
}

/// The facts of an input that need not wait while `plan` is being written; `None` if it has to.
pub(super) fn facts_beside<W>(
    resource: &Resource<W>,
    input: &Input<W>,
    plan: &Plan,
    now: Now,
) -> Option<Facts<W>> {
    match input {
        Input::Withdraw(claim, _) | Input::TimeOut(claim) if plan.concerns(*claim) => None,
        Input::Withdraw(claim, grace) => Some(withdrawn(resource, *claim, *grace, now)),
        Input::TimeOut(claim) => Some(timed_out(resource, *claim)),
        Input::Dismiss => Some(dismissed(resource, plan)),
        _ => None,
    }
}

impl<W> Planner<'_, '_, W> {
    /// Grants a request at once, puts it in line, or refuses it. A request with the key of an
    /// earlier one is a redelivery of that one, and takes over its lock or place.
    fn acquire(mut self, arrival: Arrival, waiter: W) -> Decision<W> {
        let Arrival { id, terms, key, arrived_at } = arrival;
        if let Some(holder) = key.as_ref().and_then(|key| self.holder_of(key)) {
            let theirs = holder.terms.mode;
            if !is_repetition(&terms, theirs) {
                return Decision::refused(Refusal::OtherMode(theirs));
            }
            self.plan.redelivered = Some(holder.id);
            let answer = Answer::Granted(holder.id);
            return self.promote_all().decision(answer);
        }
        let place = match key.as_ref().and_then(|key| self.place_of(key)) {
            Some(earlier) if !is_repetition(&terms, earlier.terms.mode) => {
                return Decision::refused(Refusal::OtherMode(earlier.terms.mode));
            }
            Some(earlier) => Place { terms, attempt: earlier.attempt + 1, ..earlier.clone() },
            None => {
                let theirs = self.other_limit(terms.mode).filter(|_| !terms.other_limits);
                if let Some(theirs) = theirs {
                    return Decision::refused(Refusal::OtherLimit(theirs));
                }
                let since = self.now.wall - self.now.instant.saturating_duration_since(arrived_at);
                Place { id, terms, key, attempt: 0, arrival: (self.numbers)(), since }
            }
        };
        self.admit(place, waiter, arrived_at)
    }

    /// Releases the lock, or deletes the waiting request, that has this key.
    fn release_by_key(self, key: &IdempotencyKey, by: Arc<Actor>) -> Decision<W> {
        let held = self.resource.holders.of_key(key).map(|holder| holder.id);
        match held.or_else(|| self.resource.line.place_of(key).map(|place| place.id)) {
            Some(id) => self.release(id, by),
            None => Decision::refused(Refusal::NoSuchLock),
        }
    }

    /// Ends a lock, or takes a request out of the line. Whether it is there is decided before
    /// anything else happens: a waiting request is not granted the lock first by an expiry that is
    /// due at this moment.
    fn release(mut self, id: LockId, by: Arc<Actor>) -> Decision<W> {
        match self.resource.holders.get(id) {
            Some(holder) if !holder.is_due(self.now.instant) => {
                let end = if by.is(&holder.terms.client()) { End::Released } else { End::Deleted };
                self.end(holder, end, Some(by));
            }
            None if self.resource.line.place(id).is_some() => self.plan.deleted.push((id, by)),
            _ => return Decision::refused(Refusal::NoSuchLock),
        }
        self.promote(Some(id)).done()
    }

    /// Starts a lifetime over. A lock that is due is gone, and cannot be renewed.
    fn renew(mut self, id: LockId, lifetime: Duration) -> Decision<W> {
        let holder = match held(self.resource, id, self.now) {
            Ok(holder) => holder,
            Err(refusal) => return Decision::refused(refusal),
        };
        self.change(holder, None, Some(lifetime), false);
        self.promote_all().decision(Answer::Granted(id))
    }

    /// Converts a lock at once if its new mode fits beside the other locks, even if requests wait
    /// in line; else it waits behind the other conversions, unless one of them waits for this lock.
    fn convert(mut self, request: ConvertRequest, waiter: W) -> Decision<W> {
        let ConvertRequest { id, wanted, arrived_at } = request;
        let holder = match held(self.resource, id, self.now) {
            Ok(holder) => holder,
            Err(refusal) => return Decision::refused(refusal),
        };
        let (from, Conversion { mode, wait, lifetime }) = (holder.terms.mode, wanted);
        let is_semaphore = |mode: Mode| mode.limit().is_some_and(|limit| limit != Limit::ONE);
        if is_semaphore(from) || is_semaphore(mode) {
            return Decision::refused(Refusal::NotConvertible);
        }
        if self.resource.conversions.of(id).is_some() {
            return Decision::refused(Refusal::Converting);
        }
        if let Some(theirs) = self.other_limit(mode) {
            return Decision::refused(Refusal::OtherLimit(theirs));
        }
        self.convert_each(None);
        if mode == from && lifetime.is_none() {
            self.plan.redelivered = Some(id);
            return self.promote_all().decision(Answer::Granted(id));
        }
        if self.allows_conversion(from, mode) {
            self.change(holder, Some(mode), lifetime, false);
            return self.promote_all().decision(Answer::Granted(id));
        }
        let deadline = arrived_at + wait;
        let timed_out = deadline <= self.now.instant;
        if timed_out || is_waited_for(from, self.wanted) {
            let refusal = if timed_out { Refusal::TimedOut } else { Refusal::Deadlock };
            return self.promote_all().decision(Answer::Now(Reply::Refused(refusal)));
        }
        let arrival = (self.numbers)();
        let converting = Converting { id, wanted, arrival, waiter, arrived_at, deadline };
        let answer = Answer::Now(Reply::InLine(converting.claim(), deadline));
        self.facts.converting = Some(Box::new(converting));
        self.decision(answer)
    }

    /// Ends the wait of this claim, as `facts` say.
    fn end_wait(mut self, claim: Claim, facts: Facts<W>) -> Decision<W> {
        let Resource { line, conversions, .. } = self.resource;
        if line.queued(claim).is_none() && conversions.with(claim).is_none() {
            return self.promote_all().decision(Answer::Now(Reply::Done));
        }
        let Facts { dequeued, unconverted, kept, .. } = facts;
        (self.facts.dequeued, self.facts.unconverted) = (dequeued, unconverted);
        self.facts.kept = kept;
        self.promote(Some(claim.id())).decision(Answer::Now(Reply::Done))
    }

    /// A response that told of a lock could not be delivered. If it was the only one, the lock
    /// ends; with a key, it is kept for `grace`.
    fn abandon(mut self, id: LockId, grace: Duration) -> Decision<W> {
        let mut ends = None;
        if let Some(holder) = self.resource.holders.get(id)
            && !holder.is_due(self.now.instant)
        {
            let kept = if holder.key().is_some() { grace } else { Duration::ZERO };
            self.facts.undelivered = Some((id, self.now.instant + kept));
            if kept.is_zero() && holder.is_delivered_once() {
                self.end(holder, End::Abandoned, None);
                ends = Some(id);
            }
        }
        self.promote(ends).done()
    }

    /// Ends a piece of the locks and requests with numbers before this one. The end of the line
    /// goes first, so that no request is granted a lock which the next piece ends. If the rest of
    /// the line gets its turn before the next piece, it is deleted then.
    fn delete(mut self, before: u64, by: Arc<Actor>) -> Decision<W> {
        let Self { resource, now, .. } = self;
        if !resource.has_locks_before(before, now.instant) {
            return Decision::refused(Refusal::NoSuchLock);
        }
        let latest = resource.line.latest(before, PIECE).into_iter();
        self.plan.deleted = latest.map(|id| (id, Arc::clone(&by))).collect();
        self.plan.deletes_before = Some((before, Arc::clone(&by)));
        let held = resource.holders.in_order().take_while(|holder| holder.fencing_token < before);
        let held = held.filter(|holder| !holder.is_due(now.instant));
        let room = PIECE - self.plan.deleted.len();
        let delete = |holder| self.end(holder, End::Deleted, Some(Arc::clone(&by)));
        held.take(room).for_each(delete);
        self.done()
    }
}

/// Whether a request may be a redelivery of an earlier one for this mode.
fn is_repetition(terms: &Terms, mode: Mode) -> bool {
    let both_limited = terms.mode.limit().is_some() && mode.limit().is_some();
    mode == terms.mode || (terms.other_limits && both_limited)
}

/// The lock with this id, or why there is none to change.
fn held<W>(resource: &Resource<W>, id: LockId, now: Now) -> Result<&Holder, Refusal> {
    match resource.holders.get(id) {
        Some(holder) if !holder.is_due(now.instant) => Ok(holder),
        None if resource.line.place(id).is_some() => Err(Refusal::StillWaiting),
        _ => Err(Refusal::NoSuchLock),
    }
}

fn withdrawn<W>(resource: &Resource<W>, claim: Claim, grace: Duration, now: Now) -> Facts<W> {
    let mut facts = Facts::default();
    match resource.line.queued(claim) {
        Some(queued) if queued.place.key.is_some() && !grace.is_zero() => {
            let (until, until_wall) = (now.instant + grace, now.wall + grace);
            facts.kept = Some(KeptUntil { id: claim.id(), until, until_wall });
        }
        Some(_) => facts.dequeued.push((claim.id(), Refusal::Departed)),
        None => facts.unconverted.extend(unconverted(resource, claim, Refusal::Departed)),
    }
    facts
}

fn timed_out<W>(resource: &Resource<W>, claim: Claim) -> Facts<W> {
    let waits = resource.line.queued(claim).is_some();
    let dequeued = waits.then_some((claim.id(), Refusal::TimedOut)).into_iter().collect();
    let unconverted = unconverted(resource, claim, Refusal::TimedOut).into_iter().collect();
    Facts { dequeued, unconverted, ..Facts::default() }
}

/// Ends the conversion of this claim, if it still waits; its lock stays as it is.
fn unconverted<W>(
    resource: &Resource<W>,
    claim: Claim,
    refusal: Refusal,
) -> Option<(LockId, Refusal)> {
    resource.conversions.with(claim).map(|waiting| (waiting.id, refusal))
}

/// Ends every wait but those that `plan` is about to end.
fn dismissed<W>(resource: &Resource<W>, plan: &Plan) -> Facts<W> {
    let concerned = plan.waits_that_end();
    let open = |claim: &Claim| !concerned.contains(&claim.id());
    let refused = |claim: Claim| (claim.id(), Refusal::ShuttingDown);
    let in_line = resource.line.waiting(..).map(|queued| queued.place.claim());
    let converting = resource.conversions.iter().map(Converting::claim);
    Facts {
        dequeued: in_line.filter(open).map(refused).collect(),
        unconverted: converting.filter(open).map(refused).collect(),
        ..Facts::default()
    }
}
