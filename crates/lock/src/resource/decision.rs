//! The result of a decision: what an input changes, before anything is changed.
//!
//! A [`Decision`] has two halves. [`Facts`] are true whether or not the store can write: a wait
//! has run out, a client has gone, another has joined the line. They are applied at once. The
//! [`Plan`] says who holds the lock next. It is applied once it is written; if it cannot be
//! written, it is dropped, so nothing ever has to be undone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use super::Resource;
use super::conversions::Converting;
use super::holders::Holder;
use super::line::{Claim, Queued};
use crate::nanos::Instant;
use crate::{Actor, End, Grant, LockId, Refusal};

/// What an input changes, and what its caller is told.
#[derive(Debug)]
pub(crate) struct Decision<W> {
    pub(crate) facts: Facts<W>,
    pub(crate) plan: Plan,
    pub(crate) answer: Answer,
}

/// When the caller gets its reply, and which.
#[derive(Debug)]
pub(crate) enum Answer {
    /// At once, since it does not depend on the plan.
    Now(Reply),
    /// [`Reply::Done`], once the plan is applied.
    Done,
    /// This lock, once the plan is applied.
    Granted(LockId),
}

/// The result of a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// It is done.
    Done,
    /// The lock is held.
    Granted(Grant),
    /// The request waits, until this moment at most.
    InLine(Claim, Instant),
    /// It was not done.
    Refused(Refusal),
}

/// What holds whether or not the plan can be written.
#[derive(Debug)]
pub(crate) struct Facts<W> {
    /// A client joins the line, or takes over the place of its request there.
    pub(super) joined: Option<Box<Queued<W>>>,
    /// Clients whose wait ends without a lock, in order.
    pub(super) dequeued: Vec<(LockId, Refusal)>,
    /// A lock begins to wait for another mode.
    pub(super) converting: Option<Box<Converting<W>>>,
    /// Locks that no longer wait for another mode, in order.
    pub(super) unconverted: Vec<(LockId, Refusal)>,
    /// A client has gone, and its place is kept.
    pub(super) kept: Option<KeptUntil>,
    /// Kept places whose time is over.
    pub(super) given_up: Vec<LockId>,
    /// A response that told of this lock was lost. If it was the last one, the lock ends then.
    pub(super) undelivered: Option<(LockId, Instant)>,
}

/// How long the place of a client that has gone is kept.
#[derive(Debug)]
pub(super) struct KeptUntil {
    pub(super) id: LockId,
    pub(super) until: Instant,
    /// The same, for display.
    pub(super) until_wall: SystemTime,
}

/// Who holds the lock next.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(super) ended: Vec<EndedLock>,
    /// In order. Their lifetimes begin when the plan is applied.
    pub(super) granted: Vec<GrantedLock>,
    /// Locks that are renewed or converted, in order.
    pub(super) changed: Vec<ChangedLock>,
    /// A lock whose request was sent again, so that one more response tells of it.
    pub(super) redelivered: Option<LockId>,
    /// Requests in line that are deleted, in order.
    pub(super) deleted: Vec<(LockId, Arc<Actor>)>,
    /// Of those in line, all that came before this number are to be deleted, too.
    pub(super) deletes_before: Option<(u64, Arc<Actor>)>,
}

#[derive(Debug)]
pub(super) struct EndedLock {
    pub(super) id: LockId,
    pub(super) fencing_token: u64,
    pub(super) end: End,
    pub(super) by: Option<Arc<Actor>>,
}

#[derive(Debug)]
pub(super) struct GrantedLock {
    pub(super) holder: Holder,
    /// It goes to the request that arrives with this input. If an earlier delivery of that request
    /// waits in line, that one is superseded.
    pub(super) to_newcomer: bool,
}

#[derive(Debug)]
pub(super) struct ChangedLock {
    /// The lock after the change.
    pub(super) holder: Holder,
    /// Its lifetime starts over when the plan is applied.
    pub(super) begins: bool,
    /// Its client waits for this change.
    pub(super) has_waited: bool,
}

impl<W> Decision<W> {
    /// Nothing happens.
    pub(crate) fn refused(refusal: Refusal) -> Self {
        let answer = Answer::Now(Reply::Refused(refusal));
        Self { facts: Facts::default(), plan: Plan::default(), answer }
    }

    /// Whether one more client will wait.
    pub(crate) fn lengthens_line(&self, resource: &Resource<W>) -> bool {
        let joined = self.facts.joined.as_ref();
        let is_new = |queued: &Queued<W>| resource.line.queued_with(queued.place.id).is_none();
        joined.is_some_and(|queued| is_new(queued)) || self.facts.converting.is_some()
    }

    /// Whether the request that arrives adds to the number of locks: it is granted one, and neither
    /// a kept place nor another lock goes in exchange.
    pub(crate) fn adds_lock(&self, resource: &Resource<W>) -> bool {
        let to_newcomer = self.plan.granted.iter().find(|granted| granted.to_newcomer);
        to_newcomer.is_some_and(|granted| {
            self.plan.ended.is_empty() && !resource.line.is_kept(granted.holder.id)
        })
    }
}

impl<W> Default for Facts<W> {
    fn default() -> Self {
        Self {
            joined: None,
            dequeued: Vec::new(),
            converting: None,
            unconverted: Vec::new(),
            kept: None,
            given_up: Vec::new(),
            undelivered: None,
        }
    }
}

impl Plan {
    /// Whether the plan ends the wait of this claim. Until the plan is applied or dropped, nobody
    /// else may end it.
    pub(super) fn concerns(&self, claim: Claim) -> bool {
        self.waiting().any(|id| id == claim.id())
    }

    /// The requests and conversions whose wait the plan ends.
    pub(super) fn waits_that_end(&self) -> HashSet<LockId> {
        self.waiting().collect()
    }

    fn waiting(&self) -> impl Iterator<Item = LockId> {
        let granted = self.granted.iter().map(|granted| granted.holder.id);
        let converted = self.changed.iter().filter(|changed| changed.has_waited);
        let converted = converted.map(|changed| changed.holder.id);
        granted.chain(self.deleted.iter().map(|(id, _)| *id)).chain(converted)
    }

    /// The locks that the plan renews or converts.
    pub(super) fn going_on(&self) -> HashSet<LockId> {
        self.changed.iter().map(|changed| changed.holder.id).collect()
    }

    /// How many locks and requests it changes.
    pub(crate) fn len(&self) -> usize {
        self.ended.len() + self.granted.len() + self.changed.len() + self.deleted.len()
    }

    /// The fencing tokens of the locks that end or change.
    pub(crate) fn ended_tokens(&self) -> impl Iterator<Item = u64> {
        let changed = self.changed.iter().map(|changed| changed.holder.fencing_token);
        self.ended.iter().map(|ended| ended.fencing_token).chain(changed)
    }

    /// The locks that are held from then on.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Holder> {
        let granted = self.granted.iter().map(|granted| &granted.holder);
        granted.chain(self.changed.iter().map(|changed| &changed.holder))
    }
}
