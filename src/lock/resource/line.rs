//! The line of those who wait for one resource, in order of arrival.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Instant, SystemTime};

use crate::lock::{Claim, IdempotencyKey, Limit, Lock, LockId, Phase};

/// A place in line, and who sits there.
#[derive(Debug)]
pub(in crate::lock) struct Waiter<W> {
    pub(super) place: Place,
    pub(super) seat: Seat<W>,
}

/// A request with its place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) lock: Lock,
    pub(super) key: Option<IdempotencyKey>,
    /// How many times the request was sent again.
    pub(super) attempt: u32,
    /// Smaller than that of every request that came later.
    pub(super) arrival: u64,
}

/// Who sits at a place in line.
#[derive(Debug)]
pub(super) enum Seat<W> {
    /// A client, until its wait is over.
    Taken { handle: W, deadline: Instant },
    /// Nobody; the place is kept for the client's return.
    Kept { until: Instant },
}

impl Place {
    pub(super) fn claim(&self) -> Claim {
        Claim { id: self.lock.id, attempt: self.attempt }
    }

    pub(super) fn set_wait_expires(&mut self, time: SystemTime) {
        if let Phase::Waiting { expires, .. } = &mut self.lock.phase {
            *expires = time;
        }
    }
}

impl<W> Waiter<W> {
    /// Whoever waits there.
    pub(in crate::lock) fn into_handle(self) -> Option<W> {
        match self.seat {
            Seat::Taken { handle, .. } => Some(handle),
            Seat::Kept { .. } => None,
        }
    }
}

/// The line. Most resources have none, and one pointer is what that costs them.
///
/// It is searched from its front: whoever is looked for is usually there, and a search through
/// thousands takes microseconds.
#[derive(Debug)]
pub(super) struct Line<W>(Option<Box<Queue<W>>>);

#[derive(Debug)]
struct Queue<W> {
    waiters: VecDeque<Waiter<W>>,
    by_key: HashMap<IdempotencyKey, LockId>,
    /// The places that are kept, by the end of that.
    kept: BTreeSet<(Instant, LockId)>,
    overdue_since: Option<Instant>,
}

impl<W> Line<W> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.waiters.len())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiter<W>> {
        self.0.iter().flat_map(|queue| &queue.waiters)
    }

    pub(super) fn find(&self, id: LockId) -> Option<&Waiter<W>> {
        self.iter().find(|waiter| waiter.place.lock.id == id)
    }

    pub(super) fn id_of(&self, key: &IdempotencyKey) -> Option<LockId> {
        self.0.as_ref()?.by_key.get(key).copied()
    }

    /// The first whose client is there, and when its wait is over. Kept places are passed over.
    pub(super) fn first_seated(&self) -> Option<(&Waiter<W>, Instant)> {
        self.iter().find_map(|waiter| match waiter.seat {
            Seat::Taken { deadline, .. } => Some((waiter, deadline)),
            Seat::Kept { .. } => None,
        })
    }

    /// The limit of those that wait for the mode EX.
    pub(super) fn limit(&self) -> Option<Limit> {
        self.iter().find_map(|waiter| waiter.place.lock.request.mode.limit())
    }

    /// When the first of the kept places is given up, or since when somebody should have been
    /// granted the lock.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let queue = self.0.as_ref()?;
        let given_up = queue.kept.first().map(|(until, _)| *until);
        given_up.into_iter().chain(queue.overdue_since).min()
    }

    /// Notes that somebody in line should have been granted the lock, or that nobody should.
    pub(super) fn set_overdue(&mut self, since: Option<Instant>) {
        if let Some(queue) = &mut self.0 {
            queue.overdue_since = since;
        }
    }

    /// Adds a waiter at its place.
    pub(super) fn insert(&mut self, waiter: Waiter<W>) {
        let queue = self.0.get_or_insert_default();
        let id = waiter.place.lock.id;
        if let Some(key) = &waiter.place.key {
            queue.by_key.insert(key.clone(), id);
        }
        if let Seat::Kept { until } = waiter.seat {
            queue.kept.insert((until, id));
        }
        let place =
            queue.waiters.partition_point(|other| other.place.arrival < waiter.place.arrival);
        queue.waiters.insert(place, waiter);
    }

    pub(super) fn remove(&mut self, id: LockId) -> Option<Waiter<W>> {
        let queue = self.0.as_mut()?;
        let place = queue.waiters.iter().position(|waiter| waiter.place.lock.id == id)?;
        let waiter = queue.waiters.remove(place)?;
        if let Some(key) = &waiter.place.key {
            queue.by_key.remove(key);
        }
        if let Seat::Kept { until } = waiter.seat {
            queue.kept.remove(&(until, id));
        }
        if queue.waiters.is_empty() {
            self.0 = None;
        }
        Some(waiter)
    }

    /// Takes out the kept places whose time is over at `now`.
    pub(super) fn remove_due(&mut self, now: Instant) {
        while let Some((until, id)) = self.0.as_ref().and_then(|queue| queue.kept.first().copied())
            && until <= now
        {
            self.remove(id);
        }
    }

    /// Takes out everybody, in order.
    pub(super) fn take_all(&mut self) -> VecDeque<Waiter<W>> {
        self.0.take().map(|queue| queue.waiters).unwrap_or_default()
    }
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            waiters: VecDeque::new(),
            by_key: HashMap::new(),
            kept: BTreeSet::new(),
            overdue_since: None,
        }
    }
}
