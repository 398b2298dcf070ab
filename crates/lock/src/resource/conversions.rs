//! The locks that wait for another mode, in order of arrival. They come before the line.

use std::collections::{BTreeMap, HashMap};

use super::compatibility::ModeCounts;
use super::line::Claim;
use crate::nanos::Instant;
use crate::{Conversion, LockId, Mode};

/// A conversion that waits, and its client.
#[derive(Debug)]
pub(super) struct Converting<W> {
    /// The lock, held in its old mode meanwhile.
    pub(super) id: LockId,
    pub(super) wanted: Conversion,
    /// Increases with each conversion.
    pub(super) arrival: u64,
    pub(super) waiter: W,
    pub(super) arrived_at: Instant,
    /// When its wait is over.
    pub(super) deadline: Instant,
}

/// The queue. An empty one, as most resources have, costs one pointer.
#[derive(Debug)]
pub(super) struct Conversions<W>(Option<Box<Queue<W>>>);

/// Not empty. No operation is linear in the length of the queue.
#[derive(Debug)]
struct Queue<W> {
    /// By arrival.
    waiting: BTreeMap<u64, Converting<W>>,
    arrivals: HashMap<LockId, u64>,
    /// The modes that are waited for.
    wanted: ModeCounts,
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

    /// The conversion of the lock with this id.
    pub(super) fn of(&self, id: LockId) -> Option<&Converting<W>> {
        let queue = self.0.as_ref()?;
        queue.waiting.get(queue.arrivals.get(&id)?)
    }

    /// The conversion of this claim.
    pub(super) fn with(&self, claim: Claim) -> Option<&Converting<W>> {
        self.of(claim.id()).filter(|waiting| waiting.claim() == claim)
    }

    /// The modes that are waited for.
    pub(super) fn wanted(&self) -> ModeCounts {
        self.0.as_ref().map_or(ModeCounts::default(), |queue| queue.wanted)
    }

    pub(super) fn join(&mut self, waiting: Converting<W>) {
        let queue = self.0.get_or_insert_default();
        queue.wanted.add(waiting.wanted.mode);
        queue.arrivals.insert(waiting.id, waiting.arrival);
        let earlier = queue.waiting.insert(waiting.arrival, waiting);
        assert!(earlier.is_none(), "two conversions with one arrival");
    }

    /// Takes out the conversion of the lock with this id, and returns its client.
    pub(super) fn remove(&mut self, id: LockId) -> Option<W> {
        let queue = self.0.as_mut()?;
        let waiting = queue.waiting.remove(&queue.arrivals.remove(&id)?)?;
        queue.wanted.remove(waiting.wanted.mode);
        if queue.waiting.is_empty() {
            self.0 = None;
        }
        Some(waiting.waiter)
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), arrivals: HashMap::new(), wanted: ModeCounts::default() }
    }
}

/// Whether an earlier conversion waits for a lock that is held in this mode. If that lock waited
/// behind it, both would wait for ever. There is no other deadlock, since a conversion waits only
/// for locks and for the conversions before it.
pub(super) fn is_waited_for(held: Mode, wanted: ModeCounts) -> bool {
    !wanted.allow(held)
}
