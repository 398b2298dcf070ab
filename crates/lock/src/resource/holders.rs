//! The locks of one resource that are held.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use super::Now;
use super::compatibility::ModeCounts;
use super::packed::PackedTerms;
use crate::nanos::{Instant, Span, WallTime};
use crate::{Grant, IdempotencyKey, Lifetime, Limit, LockId};

/// A lock lives this much longer than its lifetime. Its holder counts from the response, which
/// takes a moment to arrive; the lock must not be granted to another before that.
const ANSWER_GRACE: Duration = Duration::from_millis(1);

/// A lock that is held: a [`Grant`] in less memory.
#[derive(Debug, Clone)]
pub(crate) struct Holder {
    pub(crate) id: LockId,
    pub(crate) terms: PackedTerms,
    pub(crate) fencing_token: u64,
    since: WallTime,
    /// `None`: without an end.
    term: Option<Term>,
    /// Most holders have none, which costs one pointer.
    delivery: Option<Box<Delivery>>,
}

/// How long a lock lives.
#[derive(Debug, Clone, Copy)]
struct Term {
    lifetime: Span,
    ends: Instant,
    /// When it ends as its client counts, for display.
    expires: WallTime,
}

/// Whether the client knows of its lock, if it sent a key or if a response was lost.
#[derive(Debug, Clone)]
struct Delivery {
    key: Option<IdempotencyKey>,
    /// How many responses tell of the grant and have not failed. While there is one, the client may
    /// have read it.
    in_flight: u32,
    /// All responses have failed. The lock ends at this time, unless the request is sent again.
    reclaim_at: Option<Instant>,
}

impl Delivery {
    fn one(key: Option<IdempotencyKey>) -> Box<Self> {
        Box::new(Self { key, in_flight: 1, reclaim_at: None })
    }
}

impl Term {
    fn new(lifetime: Duration, remaining: Duration, now: Now) -> Self {
        let expires = (now.wall + remaining).into();
        Self { lifetime: lifetime.into(), ends: now.instant + remaining + ANSWER_GRACE, expires }
    }
}

impl Holder {
    /// A lock that one response tells of. It lives for `remaining` from now (`None`: without an
    /// end), whatever the grant says.
    pub(super) fn new(
        grant: Grant,
        remaining: Option<Duration>,
        key: Option<IdempotencyKey>,
        now: Now,
    ) -> Self {
        let Grant { id, terms, since, expires: _, fencing_token } = grant;
        let term = remaining.map(|remaining| {
            Term::new(terms.lifetime.duration().unwrap_or(remaining), remaining, now)
        });
        let delivery = key.map(|key| Delivery::one(Some(key)));
        let terms = PackedTerms::new(&terms);
        Self { id, terms, fencing_token, since: since.into(), term, delivery }
    }

    /// What its client is told.
    pub(crate) fn grant(&self) -> Grant {
        Grant {
            id: self.id,
            terms: self.terms.unpack(self.lifetime()),
            since: self.since(),
            expires: self.expires(),
            fencing_token: self.fencing_token,
        }
    }

    pub(super) fn lifetime(&self) -> Lifetime {
        self.term.map_or(Lifetime::Endless, |term| Lifetime::For(term.lifetime.into()))
    }

    /// When it ends, for display; `None`: without an end.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.term.map(|term| term.expires.into())
    }

    /// When it was granted, for display.
    pub(super) fn since(&self) -> SystemTime {
        self.since.into()
    }

    /// Starts the lifetime now, since its client is told only now.
    pub(super) fn begin(&mut self, lifetime: Lifetime, now: Now) {
        self.term = lifetime.duration().map(|lifetime| Term::new(lifetime, lifetime, now));
    }

    /// How long it lives from now on, as its client counts; `None`: without an end.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        self.term.map(|term| term.ends.saturating_duration_since(now + ANSWER_GRACE))
    }

    /// One more response tells of the lock.
    pub(super) fn add_delivery(&mut self) {
        if let Some(delivery) = &mut self.delivery {
            delivery.in_flight = delivery.in_flight.saturating_add(1);
            delivery.reclaim_at = None;
        }
    }

    /// Whether at most one response tells of the lock.
    pub(super) fn is_delivered_once(&self) -> bool {
        self.delivery.as_ref().is_none_or(|delivery| delivery.in_flight <= 1)
    }

    /// A response was lost. If it was the last one, the lock ends at `until`.
    pub(super) fn lose_delivery(&mut self, until: Instant) {
        let delivery = self.delivery.get_or_insert_with(|| Delivery::one(None));
        delivery.in_flight = delivery.in_flight.saturating_sub(1);
        delivery.reclaim_at = (delivery.in_flight == 0).then_some(until);
    }

    pub(crate) fn key(&self) -> Option<&IdempotencyKey> {
        self.delivery.as_ref()?.key.as_ref()
    }

    /// Whether its lifetime is over.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.term.is_some_and(|term| term.ends <= now)
    }

    /// When the lock ends by itself, if it does.
    pub(super) fn due(&self) -> Option<Instant> {
        let reclaim_at = self.delivery.as_ref().and_then(|delivery| delivery.reclaim_at);
        reclaim_at.into_iter().chain(self.term.map(|term| term.ends)).min()
    }

    /// Whether it has ended by itself.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }
}

/// All holders of a resource. No operation is linear in their number, but for [`Holders::iter`].
///
/// Most resources have one at a time, which needs no index.
#[derive(Debug, Default)]
pub(super) enum Holders {
    #[default]
    None,
    One(Holder),
    Many(Box<Crowd>),
}

/// Not empty.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    by_id: HashMap<LockId, Holder>,
    by_key: HashMap<IdempotencyKey, LockId>,
    by_token: BTreeMap<u64, LockId>,
    by_due: BTreeSet<(Instant, LockId)>,
    counts: ModeCounts,
    /// The limit of the latest in the mode EX. Meaningless without one.
    limit: Option<Limit>,
}

impl Holders {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(crowd) => crowd.by_id.len(),
        }
    }

    pub(super) fn get(&self, id: LockId) -> Option<&Holder> {
        match self {
            Self::None => None,
            Self::One(holder) => Some(holder).filter(|holder| holder.id == id),
            Self::Many(crowd) => crowd.by_id.get(&id),
        }
    }

    pub(super) fn of_key(&self, key: &IdempotencyKey) -> Option<&Holder> {
        match self {
            Self::None => None,
            Self::One(holder) => Some(holder).filter(|holder| holder.key() == Some(key)),
            Self::Many(crowd) => crowd.by_id.get(crowd.by_key.get(key)?),
        }
    }

    /// Whether all can be held at a time, each within its own limit.
    pub(super) fn fit_together(&self) -> bool {
        let limits = self.iter().filter_map(|holder| holder.terms.mode.limit());
        self.counts().fit_together(limits.map(Limit::get).max().unwrap_or(0))
    }

    pub(super) fn counts(&self) -> ModeCounts {
        match self {
            Self::None => ModeCounts::default(),
            Self::One(holder) => {
                let mut counts = ModeCounts::default();
                counts.add(holder.terms.mode);
                counts
            }
            Self::Many(crowd) => crowd.counts,
        }
    }

    /// The limit of the locks in the mode EX.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self {
            Self::None => None,
            Self::One(holder) => holder.terms.mode.limit(),
            Self::Many(crowd) => crowd.limit.filter(|_| crowd.counts.exclusive() > 0),
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::One(holder) => holder.due(),
            Self::Many(crowd) => crowd.by_due.first().map(|(due, _)| *due),
        }
    }

    /// Whether more than this many are due at `now`.
    pub(super) fn has_due(&self, more_than: usize, now: impl FnOnce() -> Instant) -> bool {
        let Self::Many(crowd) = self else { return false };
        let Some((first, _)) = crowd.by_due.first() else { return false };
        if crowd.by_due.len() <= more_than {
            return false;
        }
        let now = now();
        *first <= now && crowd.by_due.iter().nth(more_than).is_some_and(|(due, _)| *due <= now)
    }

    /// The locks that are due at `now`, the earliest first.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = &Holder> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(holder) => (Some(holder).filter(|holder| holder.is_due(now)), None),
            Self::Many(crowd) => (None, Some(crowd)),
        };
        let many = many.into_iter().flat_map(move |crowd| {
            let due = crowd.by_due.iter().take_while(move |(due, _)| *due <= now);
            due.filter_map(|(_, id)| crowd.by_id.get(id))
        });
        one.into_iter().chain(many)
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Holder> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(holder) => (Some(holder), None),
            Self::Many(crowd) => (None, Some(crowd.by_id.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// In the order of their grants.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Holder> {
        self.behind(None)
    }

    /// The locks with larger fencing tokens, in the order of their grants.
    pub(super) fn behind(&self, token: Option<u64>) -> impl Iterator<Item = &Holder> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(holder) => (Some(holder), None),
            Self::Many(crowd) => (None, Some(crowd)),
        };
        let one = one.filter(move |holder| token.is_none_or(|t| holder.fencing_token > t));
        let from = token.map_or(Bound::Unbounded, Bound::Excluded);
        let many = many.into_iter().flat_map(move |crowd| {
            let behind = crowd.by_token.range((from, Bound::Unbounded));
            behind.filter_map(|(_, id)| crowd.by_id.get(id))
        });
        one.into_iter().chain(many)
    }

    pub(super) fn insert(&mut self, holder: Holder) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(holder),
            Self::One(first) => {
                let mut crowd = Box::<Crowd>::default();
                crowd.insert(first);
                crowd.insert(holder);
                Self::Many(crowd)
            }
            Self::Many(mut crowd) => {
                crowd.insert(holder);
                Self::Many(crowd)
            }
        };
    }

    pub(super) fn remove(&mut self, id: LockId) -> Option<Holder> {
        match self {
            Self::Many(crowd) => {
                let removed = crowd.remove(id)?;
                if crowd.by_id.is_empty() {
                    *self = Self::None;
                }
                Some(removed)
            }
            Self::One(holder) if holder.id == id => match std::mem::take(self) {
                Self::One(holder) => Some(holder),
                _ => None,
            },
            Self::None | Self::One(_) => None,
        }
    }

    /// Changes one, if it is there.
    pub(super) fn update(&mut self, id: LockId, change: impl FnOnce(&mut Holder)) {
        if let Some(mut holder) = self.remove(id) {
            change(&mut holder);
            self.insert(holder);
        }
    }
}

impl Crowd {
    fn insert(&mut self, holder: Holder) {
        let id = holder.id;
        let mode = holder.terms.mode;
        self.counts.add(mode);
        self.limit = mode.limit().or(self.limit);
        self.by_due.extend(holder.due().map(|due| (due, id)));
        self.by_token.insert(holder.fencing_token, id);
        if let Some(key) = holder.key() {
            self.by_key.insert(key.clone(), id);
        }
        let earlier = self.by_id.insert(id, holder);
        assert!(earlier.is_none(), "{id} is held already");
    }

    fn remove(&mut self, id: LockId) -> Option<Holder> {
        let holder = self.by_id.remove(&id)?;
        self.counts.remove(holder.terms.mode);
        if let Some(due) = holder.due() {
            self.by_due.remove(&(due, id));
        }
        self.by_token.remove(&holder.fencing_token);
        if let Some(key) = holder.key() {
            self.by_key.remove(key);
        }
        Some(holder)
    }
}
