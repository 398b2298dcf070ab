//! What an event brings about, worked out before anything is changed.
//!
//! A [`Decision`] has two halves. [`Facts`] hold whatever becomes of the rest: that a wait has
//! run out, that a client has gone, that another has joined the line. They are made at once. The
//! [`Plan`] is about who holds the lock, and is made when it is written; if it cannot be written
//! it is forgotten, and there is nothing to undo.

use std::time::{Duration, SystemTime};

use super::compatibility::Counts;
use super::conversions::{Converting, is_waited_for};
use super::holders::Holder;
use super::line::{Claim, Place, Waiter};
use super::request::Request;
use super::{Asked, Event, Now, Resource, Wish};
use crate::nanos::Instant;
use crate::{Conversion, End, Grant, IdempotencyKey, Limit, LockId, LockRequest, Mode, Refusal};

/// What becomes of a resource by an event, and of whoever caused it.
#[derive(Debug)]
pub(crate) struct Decision<W> {
    pub(crate) facts: Facts<W>,
    pub(crate) plan: Plan,
    pub(crate) answer: Answer,
}

/// What whoever caused an event hears of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This, whatever becomes of the plan.
    Now(AtOnce),
    /// That the plan was made.
    Done,
    /// That it holds this lock, when the plan is made.
    Granted(LockId),
}

/// An answer that depends on no plan.
#[derive(Debug)]
pub(crate) enum AtOnce {
    /// It is noted.
    Noted,
    /// The request waits, until this moment at most.
    InLine(Claim, Instant),
    /// It is not done, and why.
    Refused(Refusal),
}

/// The answer, when it can be given.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// The lock is held.
    Granted(Grant),
    /// The request waits, until this moment at most.
    InLine(Claim, Instant),
    /// It is not done, and why.
    Refused(Refusal),
}

impl From<AtOnce> for Reply {
    fn from(answer: AtOnce) -> Self {
        match answer {
            AtOnce::Noted => Self::Done,
            AtOnce::InLine(claim, deadline) => Self::InLine(claim, deadline),
            AtOnce::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// What holds whether or not the plan can be written.
#[derive(Debug)]
pub(crate) struct Facts<W> {
    /// A client that comes into the line, or takes over the place of its request there.
    pub(super) joined: Option<Box<Waiter<W>>>,
    /// Clients whose wait is over without a lock, in order.
    pub(super) left: Vec<(LockId, Refusal)>,
    /// A lock that waits for another mode from now on.
    pub(super) converting: Option<Box<Converting<W>>>,
    /// Locks that wait for another mode no more, in order.
    pub(super) unconverted: Vec<(LockId, Refusal)>,
    /// A client that has gone, whose place is kept until then.
    pub(super) kept: Option<(LockId, Instant, SystemTime)>,
    /// Kept places whose time is over.
    pub(super) given_up: Vec<LockId>,
    /// A lock of which one answer was lost. If it was the last, the lock goes at this time.
    pub(super) unheard: Option<(LockId, Instant)>,
}

/// Who holds the lock next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Locks that are held no more.
    pub(super) ended: Vec<Ending>,
    /// Locks that are granted, in order. Their lifetimes begin when the plan is made.
    pub(super) granted: Vec<Granting>,
    /// Locks that are renewed or converted, in order.
    pub(super) changed: Vec<Changing>,
    /// A lock that one more answer tells of.
    pub(super) told_again: Option<LockId>,
    /// Requests in line that are deleted, in order.
    pub(super) deleted: Vec<LockId>,
}

#[derive(Debug)]
pub(super) struct Ending {
    pub(super) id: LockId,
    pub(super) fencing_token: u64,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) struct Granting {
    pub(super) holder: Holder,
    /// The request that caused the event, rather than one that waits. If another sending of it
    /// waits, that one is superseded.
    pub(super) to_newcomer: bool,
}

#[derive(Debug)]
pub(super) struct Changing {
    /// The lock, as it is then.
    pub(super) holder: Holder,
    /// Its lifetime begins when the plan is made.
    pub(super) begins: bool,
    /// It has waited for that, with its client.
    pub(super) has_waited: bool,
}

impl<W> Decision<W> {
    /// Nothing happens.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let answer = Answer::Now(AtOnce::Refused(refusal));
        Self { facts: Facts::default(), plan: Plan::default(), answer }
    }

    /// Whether one more client waits then.
    pub(crate) fn lengthens_line(&self, resource: &Resource<W>) -> bool {
        let joined = self.facts.joined.as_ref();
        let joins = |waiter: &Waiter<W>| resource.line.waiter_with(waiter.place.id).is_none();
        joined.is_some_and(|waiter| joins(waiter)) || self.facts.converting.is_some()
    }

    /// Whether there are more locks for the request that came: it is granted one, and neither does
    /// a kept place go for it nor does another lock end.
    pub(crate) fn adds_lock(&self, resource: &Resource<W>) -> bool {
        let to_newcomer = self.plan.granted.iter().find(|granting| granting.to_newcomer);
        to_newcomer.is_some_and(|granting| {
            self.plan.ended.is_empty() && !resource.line.is_kept(granting.holder.id)
        })
    }
}

impl<W> Default for Facts<W> {
    fn default() -> Self {
        Self {
            joined: None,
            left: Vec::new(),
            converting: None,
            unconverted: Vec::new(),
            kept: None,
            given_up: Vec::new(),
            unheard: None,
        }
    }
}

impl Plan {
    /// Whether the plan is about the client that waits for this: what becomes of it is open
    /// until the plan is made or forgotten.
    pub(super) fn concerns(&self, claim: Claim) -> bool {
        match claim {
            Claim::Place { id, .. } => self.is_about_place(id),
            Claim::Conversion { id, .. } => self.converts(id),
        }
    }

    fn is_about_place(&self, id: LockId) -> bool {
        self.granted.iter().any(|granting| granting.holder.id == id) || self.deleted.contains(&id)
    }

    /// Whether the wait of this lock for another mode ends with the plan.
    fn converts(&self, id: LockId) -> bool {
        let waited = self.changed.iter().filter(|changing| changing.has_waited);
        waited.map(|changing| &changing.holder).any(|holder| holder.id == id)
    }

    /// Whether this lock is held by the plan, renewed or in another mode.
    pub(super) fn goes_on(&self, id: LockId) -> bool {
        self.changed.iter().any(|changing| changing.holder.id == id)
    }

    /// The fencing tokens of the locks that are not held as before any more.
    pub(crate) fn ended_tokens(&self) -> impl Iterator<Item = u64> {
        let changed = self.changed.iter().map(|changing| changing.holder.fencing_token);
        self.ended.iter().map(|ending| ending.fencing_token).chain(changed)
    }

    /// The locks that are held from then on.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Holder> {
        let granted = self.granted.iter().map(|granting| &granting.holder);
        granted.chain(self.changed.iter().map(|changing| &changing.holder))
    }
}

/// Works out what becomes of a resource by an event.
pub(super) fn decide<W>(resource: &Resource<W>, event: Event<W>, now: Now<'_>) -> Decision<W> {
    match event {
        Event::Acquire(asked, handle) => acquire(resource, *asked, handle, now),
        Event::Release(id) => release(resource, id, now),
        Event::ReleaseByKey(key) => release_by_key(resource, &key, now),
        Event::Renew(id, lifetime) => renew(resource, id, lifetime, now),
        Event::Convert(wish, handle) => convert(resource, *wish, handle, now),
        Event::Withdraw(claim, grace) => {
            let facts = withdrawn(resource, claim, grace, now);
            depart(resource, claim, facts, now)
        }
        Event::TimeOut(claim) => depart(resource, claim, timed_out(resource, claim), now),
        Event::Abandon(id, grace) => abandon(resource, id, grace, now),
        Event::Expire => Draft::new(resource, now).promote_all().done(),
        Event::Delete => delete(resource, now),
        Event::Dismiss => {
            let facts = dismissed(resource, &Plan::default());
            Decision { facts, plan: Plan::default(), answer: Answer::Done }
        }
    }
}

/// What of an event holds while `plan` is being written; `None` if it has to wait for that.
pub(super) fn facts_beside<W>(
    resource: &Resource<W>,
    event: &Event<W>,
    plan: &Plan,
    now: Now<'_>,
) -> Option<Facts<W>> {
    match event {
        Event::Withdraw(claim, _) | Event::TimeOut(claim) if plan.concerns(*claim) => None,
        Event::Withdraw(claim, grace) => Some(withdrawn(resource, *claim, *grace, now)),
        Event::TimeOut(claim) => Some(timed_out(resource, *claim)),
        Event::Dismiss => Some(dismissed(resource, plan)),
        _ => None,
    }
}

/// Grants a request at once, puts it in line, or refuses it. A request that has the key of
/// another one is that one, sent again, which has the lock or the place from now on.
fn acquire<W>(resource: &Resource<W>, asked: Asked, handle: W, now: Now<'_>) -> Decision<W> {
    let Asked { id, request, key, came } = asked;
    let mut draft = Draft::new(resource, now);
    let held = key.as_ref().and_then(|key| resource.holders.of_key(key));
    if let Some(holder) = held.filter(|holder| !holder.is_due(now.instant)) {
        let theirs = holder.request.mode;
        if !goes_with(&request, theirs) {
            return Decision::refused(Refusal::OtherMode(theirs));
        }
        draft.plan.told_again = Some(holder.id);
        let answer = Answer::Granted(holder.id);
        return draft.promote_all().decision(answer);
    }
    let place = match key.as_ref().and_then(|key| draft.place_of(key)) {
        Some(earlier) if !goes_with(&request, earlier.request.mode) => {
            return Decision::refused(Refusal::OtherMode(earlier.request.mode));
        }
        Some(earlier) => Place { request, attempt: earlier.attempt + 1, ..earlier.clone() },
        None => {
            let theirs = draft.other_limit(request.mode).filter(|_| !request.other_limits);
            if let Some(theirs) = theirs {
                return Decision::refused(Refusal::OtherLimit(theirs));
            }
            let since = now.wall - now.instant.saturating_duration_since(came);
            Place { id, request, key, attempt: 0, arrival: now.numbers.next(), since }
        }
    };
    draft.admit(place, handle, came)
}

/// Whether a request may be one that was sent before for this mode.
fn goes_with(request: &LockRequest, mode: Mode) -> bool {
    let both_limited = request.mode.limit().is_some() && mode.limit().is_some();
    mode == request.mode || (request.other_limits && both_limited)
}

/// Releases what the request with this key has.
fn release_by_key<W>(resource: &Resource<W>, key: &IdempotencyKey, now: Now<'_>) -> Decision<W> {
    let held = resource.holders.of_key(key).map(|holder| holder.id);
    match held.or_else(|| resource.line.place_of(key).map(|place| place.id)) {
        Some(id) => release(resource, id, now),
        None => Decision::refused(Refusal::NoSuchLock),
    }
}

/// Ends a lock, or takes a request out of the line. It is there or not before anything else
/// happens: whoever waits is not granted the lock first by an expiry at this moment.
fn release<W>(resource: &Resource<W>, id: LockId, now: Now<'_>) -> Decision<W> {
    let mut draft = Draft::new(resource, now);
    match resource.holders.get(id) {
        Some(holder) if !holder.is_due(now.instant) => draft.end(holder, End::Released),
        None if resource.line.place(id).is_some() => draft.plan.deleted.push(id),
        _ => return Decision::refused(Refusal::NoSuchLock),
    }
    draft.promote(Some(id)).done()
}

/// Starts a lifetime anew. At its end, a lock is either renewed or gone, never both.
fn renew<W>(resource: &Resource<W>, id: LockId, lifetime: Duration, now: Now<'_>) -> Decision<W> {
    let holder = match held(resource, id, now) {
        Ok(holder) => holder,
        Err(refusal) => return Decision::refused(refusal),
    };
    let mut draft = Draft::new(resource, now);
    draft.change(holder, None, Some(lifetime), false);
    draft.promote_all().decision(Answer::Granted(id))
}

/// The lock with this id, or why it is none that can be changed.
fn held<'r, W>(resource: &'r Resource<W>, id: LockId, now: Now<'_>) -> Result<&'r Holder, Refusal> {
    match resource.holders.get(id) {
        Some(holder) if !holder.is_due(now.instant) => Ok(holder),
        None if resource.line.place(id).is_some() => Err(Refusal::StillWaiting),
        _ => Err(Refusal::NoSuchLock),
    }
}

/// Converts a lock at once if its new mode fits beside the other locks, whoever waits; else puts
/// it behind the other conversions, unless one of them waits for this very lock.
fn convert<W>(resource: &Resource<W>, wish: Wish, handle: W, now: Now<'_>) -> Decision<W> {
    let Wish { id, wanted, came } = wish;
    let holder = match held(resource, id, now) {
        Ok(holder) => holder,
        Err(refusal) => return Decision::refused(refusal),
    };
    let (from, Conversion { mode, wait, lifetime }) = (holder.request.mode, wanted);
    let is_semaphore = |mode: Mode| mode.limit().is_some_and(|limit| limit != Limit::ONE);
    if is_semaphore(from) || is_semaphore(mode) {
        return Decision::refused(Refusal::NotConvertible);
    }
    if resource.conversions.of(id).is_some() {
        return Decision::refused(Refusal::Converting);
    }
    let mut draft = Draft::new(resource, now);
    if let Some(theirs) = draft.other_limit(mode) {
        return Decision::refused(Refusal::OtherLimit(theirs));
    }
    draft.convert_each(None);
    if mode == from && lifetime.is_none() {
        draft.plan.told_again = Some(id);
        return draft.promote_all().decision(Answer::Granted(id));
    }
    if draft.allows_conversion(from, mode) {
        draft.change(holder, Some(mode), lifetime, false);
        return draft.promote_all().decision(Answer::Granted(id));
    }
    let deadline = came + wait;
    if deadline <= now.instant || is_waited_for(from, draft.wanted) {
        let refusal = if deadline <= now.instant { Refusal::TimedOut } else { Refusal::Deadlock };
        return draft.promote_all().decision(Answer::Now(AtOnce::Refused(refusal)));
    }
    let arrival = now.numbers.next();
    let converting = Converting { id, wanted, arrival, handle, came, deadline };
    let answer = Answer::Now(AtOnce::InLine(converting.claim(), deadline));
    draft.facts.converting = Some(Box::new(converting));
    draft.decision(answer)
}

/// The wait of this claim is over, as the facts say.
fn depart<W>(resource: &Resource<W>, claim: Claim, facts: Facts<W>, now: Now<'_>) -> Decision<W> {
    let mut draft = Draft::new(resource, now);
    if resource.line.waiter(claim).is_none() && resource.conversions.with(claim).is_none() {
        return draft.promote_all().decision(Answer::Now(AtOnce::Noted));
    }
    let Facts { left, unconverted, kept, .. } = facts;
    (draft.facts.left, draft.facts.unconverted, draft.facts.kept) = (left, unconverted, kept);
    draft.promote(Some(claim.id())).decision(Answer::Now(AtOnce::Noted))
}

fn withdrawn<W>(resource: &Resource<W>, claim: Claim, grace: Duration, now: Now<'_>) -> Facts<W> {
    let mut facts = Facts::default();
    match resource.line.waiter(claim) {
        Some(waiter) if waiter.place.key.is_some() && !grace.is_zero() => {
            facts.kept = Some((claim.id(), now.instant + grace, now.wall + grace));
        }
        Some(_) => facts.left.push((claim.id(), Refusal::Departed)),
        None => facts.unconverted.extend(unconverted(resource, claim, Refusal::Departed)),
    }
    facts
}

fn timed_out<W>(resource: &Resource<W>, claim: Claim) -> Facts<W> {
    let waits = resource.line.waiter(claim).is_some();
    let left = waits.then_some((claim.id(), Refusal::TimedOut)).into_iter().collect();
    let unconverted = unconverted(resource, claim, Refusal::TimedOut).into_iter().collect();
    Facts { left, unconverted, ..Facts::default() }
}

/// The conversion that waits by this claim does so no more, and its lock is held as before.
fn unconverted<W>(
    resource: &Resource<W>,
    claim: Claim,
    refusal: Refusal,
) -> Option<(LockId, Refusal)> {
    resource.conversions.with(claim).map(|waiting| (waiting.id, refusal))
}

/// Nobody waits any more, but for those whom `plan` is about.
fn dismissed<W>(resource: &Resource<W>, plan: &Plan) -> Facts<W> {
    let open = |claim: &Claim| !plan.concerns(*claim);
    let told = |claim: Claim| (claim.id(), Refusal::ShuttingDown);
    let in_line = resource.line.waiters(..).map(|waiter| waiter.place.claim());
    let converting = resource.conversions.iter().map(Converting::claim);
    Facts {
        left: in_line.filter(open).map(told).collect(),
        unconverted: converting.filter(open).map(told).collect(),
        ..Facts::default()
    }
}

/// An answer that tells of a lock could not be delivered. If no other does, the lock is
/// released; with a key it is kept for `grace`.
fn abandon<W>(resource: &Resource<W>, id: LockId, grace: Duration, now: Now<'_>) -> Decision<W> {
    let mut draft = Draft::new(resource, now);
    let mut ends = None;
    if let Some(holder) = resource.holders.get(id)
        && !holder.is_due(now.instant)
    {
        let kept = if holder.key().is_some() { grace } else { Duration::ZERO };
        draft.facts.unheard = Some((id, now.instant + kept));
        if kept.is_zero() && holder.has_one_answer() {
            draft.end(holder, End::Abandoned);
            ends = Some(id);
        }
    }
    draft.promote(ends).done()
}

/// Ends every lock and every wait.
fn delete<W>(resource: &Resource<W>, now: Now<'_>) -> Decision<W> {
    let mut draft = Draft::new(resource, now);
    if !resource.has_locks(None, now.instant) {
        return Decision::refused(Refusal::NoSuchLock);
    }
    let held = resource.holders.in_order();
    let held = held.filter(|holder| !holder.is_due(now.instant));
    held.for_each(|holder| draft.end(holder, End::Deleted));
    draft.plan.deleted = resource.line.ids();
    draft.done()
}

/// A decision that is being worked out: what is held if it is made, by counts alone.
struct Draft<'r, 'n, W> {
    resource: &'r Resource<W>,
    now: Now<'n>,
    held: Counts,
    /// The first conversion that is not worked out yet, by its arrival.
    next_conversion: u64,
    /// The modes that locks wait for.
    wanted: Counts,
    facts: Facts<W>,
    plan: Plan,
}

impl<'r, 'n, W> Draft<'r, 'n, W> {
    /// Whatever is due ends first.
    fn new(resource: &'r Resource<W>, now: Now<'n>) -> Self {
        let held = resource.holders.counts();
        let facts =
            Facts { given_up: resource.line.given_up(now.instant).collect(), ..Facts::default() };
        let (next_conversion, wanted) = (0, resource.conversions.wanted());
        let plan = Plan::default();
        let mut draft = Self { resource, now, held, next_conversion, wanted, facts, plan };
        for holder in resource.holders.due(now.instant) {
            let expired = holder.has_expired(now.instant);
            draft.end(holder, if expired { End::Expired } else { End::Abandoned });
        }
        draft
    }

    fn done(self) -> Decision<W> {
        self.decision(Answer::Done)
    }

    fn decision(self, answer: Answer) -> Decision<W> {
        Decision { facts: self.facts, plan: self.plan, answer }
    }

    fn end(&mut self, holder: &Holder, end: End) {
        let &Holder { id, fencing_token, request: Request { mode, .. }, .. } = holder;
        self.held.remove(mode);
        if let Some(waiting) = self.resource.conversions.of(id) {
            self.wanted.remove(waiting.wanted.mode);
        }
        self.plan.ended.push(Ending { id, fencing_token, end });
    }

    fn promote_all(self) -> Self {
        self.promote(None)
    }

    /// Converts every lock at the head of the conversions, and then, if none of them waits any
    /// more, grants everybody at the head of the line who fits then and whose wait is not over,
    /// but for the one that leaves.
    fn promote(mut self, leaves: Option<LockId>) -> Self {
        if self.convert_each(leaves) {
            self.grant_each(self.resource.line.waiters(..), leaves);
        }
        self
    }

    /// Converts one lock after the other until the new mode of one does not fit, which is
    /// `false`.
    fn convert_each(&mut self, leaves: Option<LockId>) -> bool {
        let instant = self.now.instant;
        for waiting in self.resource.conversions.from(self.next_conversion) {
            let Converting { id, wanted: Conversion { mode, lifetime, .. }, .. } = *waiting;
            let holder = self.resource.holders.get(id).filter(|holder| !holder.is_due(instant));
            match holder.filter(|_| leaves != Some(id)) {
                // The lock ends, or waits no more.
                None => {}
                Some(_) if waiting.deadline <= instant => {
                    self.facts.unconverted.push((id, Refusal::TimedOut));
                    self.wanted.remove(mode);
                }
                Some(holder) if self.allows_conversion(holder.request.mode, mode) => {
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
    fn allows_conversion(&self, from: Mode, to: Mode) -> bool {
        let mut others = self.held;
        others.remove(from);
        others.allow(to)
    }

    /// Changes the mode of a lock, starts its lifetime anew, or both; `has_waited`, if that is
    /// what its client waits for.
    fn change(
        &mut self,
        holder: &Holder,
        mode: Option<Mode>,
        lifetime: Option<Duration>,
        has_waited: bool,
    ) {
        let is_it = |changing: &Changing| changing.holder.id == holder.id;
        // The lock that is renewed, which is the first then, may be converted by the same event.
        let mut changing = match self.plan.changed.first().is_some_and(is_it) {
            true => self.plan.changed.remove(0),
            false => Changing { holder: holder.clone(), begins: false, has_waited: false },
        };
        changing.has_waited |= has_waited;
        if let Some(mode) = mode {
            self.held.remove(changing.holder.request.mode);
            self.held.add(mode);
            changing.holder.request.mode = mode;
        }
        if let Some(lifetime) = lifetime {
            changing.holder.begin(lifetime.into(), self.now);
            changing.begins = true;
        }
        self.plan.changed.push(changing);
    }

    /// Grants a request that came if it fits and nobody is before it in line; else puts it
    /// there, unless its wait is over.
    fn admit(mut self, place: Place, handle: W, came: Instant) -> Decision<W> {
        let LockRequest { mode, wait, .. } = place.request;
        let (id, line, arrival) = (place.id, &self.resource.line, place.arrival);
        let (instant, deadline) = (self.now.instant, came + wait);
        let first = self.convert_each(None) && self.grant_each(line.waiters(..arrival), None);
        if (first || mode == Mode::Null) && self.held.allow(mode) {
            self.grant(&place, true);
            if first {
                self.grant_each(line.waiters(arrival..), Some(id));
            }
            return self.decision(Answer::Granted(id));
        }
        if deadline > instant {
            let answer = Answer::Now(AtOnce::InLine(place.claim(), deadline));
            let expires = self.now.wall + deadline.saturating_duration_since(instant);
            let waiter = Waiter { place, handle, came, deadline, expires };
            self.facts.joined = Some(Box::new(waiter));
            return self.decision(answer);
        }
        if line.place(id).is_some() {
            self.facts.left.push((id, Refusal::Superseded));
        }
        if first {
            self.grant_each(line.waiters(arrival..), Some(id));
        }
        self.decision(Answer::Now(AtOnce::Refused(Refusal::TimedOut)))
    }

    /// Grants one waiter after the other until one does not fit, which is `false`.
    fn grant_each<'w>(
        &mut self,
        waiters: impl Iterator<Item = &'w Waiter<W>>,
        leaves: Option<LockId>,
    ) -> bool
    where
        W: 'w,
    {
        for Waiter { place, deadline, .. } in waiters {
            if leaves == Some(place.id) {
                continue;
            }
            if *deadline <= self.now.instant {
                self.facts.left.push((place.id, Refusal::TimedOut));
            } else if self.held.allow(place.request.mode) {
                self.grant(place, false);
            } else {
                return false;
            }
        }
        true
    }

    fn grant(&mut self, place: &Place, to_newcomer: bool) {
        let LockRequest { title, wait, lifetime, mode, client, .. } = place.request.clone();
        let (since, fencing_token) = (self.now.wall, self.now.numbers.next());
        let (id, remaining) = (place.id, lifetime.duration());
        // The holder knows, from when it was told.
        let expires = None;
        let grant =
            Grant { id, title, client, mode, wait, lifetime, since, expires, fencing_token };
        let holder = Holder::new(grant, remaining, place.key.clone(), self.now);
        self.held.add(mode);
        self.plan.granted.push(Granting { holder, to_newcomer });
    }

    /// The place of the request with this key, unless it is given up at this moment.
    fn place_of(&self, key: &IdempotencyKey) -> Option<&'r Place> {
        let place = self.resource.line.place_of(key)?;
        (!self.facts.given_up.contains(&place.id)).then_some(place)
    }

    /// The limit of the locks in the mode EX that are there then, held or waited for, if a lock
    /// of this mode has another.
    fn other_limit(&self, mode: Mode) -> Option<Limit> {
        let own = mode.limit()?;
        let Resource { holders, line, .. } = self.resource;
        let held = holders.limit().filter(|_| self.held.exclusive() > 0);
        let wanted = (self.wanted.exclusive() > 0).then_some(Limit::ONE);
        held.or(wanted).or_else(|| line.limit()).filter(|theirs| *theirs != own)
    }
}
