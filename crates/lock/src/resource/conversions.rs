//! The locks that wait for another mode, in order of arrival: before the line.

use std::collections::{BTreeMap, HashMap};

use super::compatibility::Counts;
use super::line::Claim;
use crate::nanos::Instant;
use crate::{Conversion, LockId, Mode};

/// A client that waits for its lock to be converted, and `W`, by which it is told.
#[derive(Debug)]
pub(super) struct Converting<W> {
    /// The lock, which is held in its old mode meanwhile.
    pub(super) id: LockId,
    pub(super) wanted: Conversion,
    /// Smaller than that of every conversion that came later.
    pub(super) arrival: u64,
    pub(super) handle: W,
    /// When its request came, and when its wait is over.
    pub(super) came: Instant,
    pub(super) deadline: Instant,
}

/// The queue. Most resources have none, and one pointer is what that costs them.
#[derive(Debug)]
pub(super) struct Conversions<W>(Option<Box<Queue<W>>>);

/// Not empty. Nothing here takes longer the longer the queue is.
#[derive(Debug)]
struct Queue<W> {
    /// By arrival.
    waiting: BTreeMap<u64, Converting<W>>,
    arrivals: HashMap<LockId, u64>,
    /// The modes that they want.
    wanted: Counts,
}

impl<W> Converting<W> {
    pub(super) fn claim(&self) -> Claim {
        Claim::Conversion { id: self.id, arrival: self.arrival }
    }
}

impl<W> Conversions<W> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.waiting.len())
    }

    /// In order of arrival.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Converting<W>> {
        self.from(0)
    }

    /// The same, from this arrival on.
    pub(super) fn from(&self, arrival: u64) -> impl Iterator<Item = &Converting<W>> {
        let queue = self.0.iter();
        queue.flat_map(move |queue| queue.waiting.range(arrival..)).map(|(_, waiting)| waiting)
    }

    /// That of the lock with this id.
    pub(super) fn of(&self, id: LockId) -> Option<&Converting<W>> {
        let queue = self.0.as_ref()?;
        queue.waiting.get(queue.arrivals.get(&id)?)
    }

    /// The one that waits by this claim.
    pub(super) fn with(&self, claim: Claim) -> Option<&Converting<W>> {
        self.of(claim.id()).filter(|waiting| waiting.claim() == claim)
    }

    /// The modes that are wanted.
    pub(super) fn wanted(&self) -> Counts {
        self.0.as_ref().map_or(Counts::default(), |queue| queue.wanted)
    }

    pub(super) fn join(&mut self, waiting: Converting<W>) {
        let queue = self.0.get_or_insert_default();
        queue.wanted.add(waiting.wanted.mode);
        queue.arrivals.insert(waiting.id, waiting.arrival);
        let earlier = queue.waiting.insert(waiting.arrival, waiting);
        debug_assert!(earlier.is_none(), "two conversions came at once");
    }

    /// Takes out that of the lock with this id.
    pub(super) fn remove(&mut self, id: LockId) -> Option<Converting<W>> {
        let queue = self.0.as_mut()?;
        let waiting = queue.waiting.remove(&queue.arrivals.remove(&id)?)?;
        queue.wanted.remove(waiting.wanted.mode);
        if queue.waiting.is_empty() {
            self.0 = None;
        }
        Some(waiting)
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), arrivals: HashMap::new(), wanted: Counts::default() }
    }
}

/// Whether a lock that is held in the mode `held` is one that an earlier conversion waits for. If
/// it waits behind that one, both wait for ever; and as a conversion waits for nothing else than
/// for other locks and for those before it, there is no other way to a deadlock.
pub(super) fn is_waited_for(held: Mode, wanted: Counts) -> bool {
    !wanted.allow(held)
}
