//! The line of those who wait for one resource, in order of arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::SystemTime;

use crate::nanos::Instant;
use crate::{IdempotencyKey, Limit, LockId, LockRequest, Mode, Waiting};

/// What a client that waits has, by which its wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// What one sending of a request has of its place in line. When the request is sent again
    /// with the same key, the earlier claims are worth nothing any more.
    Place { id: LockId, attempt: u32 },
    /// What a lock has that waits for another mode. Its next conversion has another arrival.
    Conversion { id: LockId, arrival: u64 },
}

impl Claim {
    /// Of the lock, or of the request for it.
    pub(super) fn id(self) -> LockId {
        match self {
            Self::Place { id, .. } | Self::Conversion { id, .. } => id,
        }
    }
}

/// A request with its place in line.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) id: LockId,
    pub(crate) request: LockRequest,
    pub(crate) key: Option<IdempotencyKey>,
    /// How many times the request was sent again.
    pub(crate) attempt: u32,
    /// Smaller than that of every request that came later.
    pub(crate) arrival: u64,
    /// For display.
    pub(crate) since: SystemTime,
}

/// A client that waits, and `W`, by which it is told.
#[derive(Debug)]
pub(super) struct Waiter<W> {
    pub(super) place: Place,
    pub(super) handle: W,
    /// When its request came, and when its wait is over.
    pub(super) came: Instant,
    pub(super) deadline: Instant,
    /// The end of the wait, for display.
    pub(super) expires: SystemTime,
}

/// A place whose client has gone. It is passed over, and kept for the client's return.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) place: Place,
    pub(super) until: Instant,
    /// The same, for display.
    pub(super) until_wall: SystemTime,
}

impl Place {
    pub(super) fn claim(&self) -> Claim {
        Claim::Place { id: self.id, attempt: self.attempt }
    }

    fn shown(&self, expires: SystemTime) -> Waiting {
        Waiting { id: self.id, request: self.request.clone(), since: self.since, expires }
    }
}

/// The line. Most resources have none, and one pointer is what that costs them.
#[derive(Debug)]
pub(super) struct Line<W>(Option<Box<Places<W>>>);

/// Not empty. Nothing here takes longer the longer the line is.
#[derive(Debug)]
struct Places<W> {
    /// By arrival.
    waiting: BTreeMap<u64, Waiter<W>>,
    kept: BTreeMap<u64, Kept>,
    kept_until: BTreeSet<(Instant, u64)>,
    arrivals: HashMap<LockId, u64>,
    keys: HashMap<IdempotencyKey, u64>,
    /// How many want the mode EX, and the limit that they all have.
    exclusive: usize,
    limit: Option<Limit>,
    /// How many places were walked past so far.
    #[cfg(test)]
    walked: std::cell::Cell<usize>,
}

impl<W> Line<W> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many clients wait.
    pub(super) fn waiting(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.waiting.len())
    }

    /// How many places are kept.
    pub(super) fn kept(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.kept.len())
    }

    /// How many places were walked past since the line began.
    #[cfg(test)]
    pub(super) fn walked(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.walked.get())
    }

    /// The clients that wait, in order, from `arrivals` alone.
    pub(super) fn waiters(
        &self,
        arrivals: impl std::ops::RangeBounds<u64>,
    ) -> impl Iterator<Item = &Waiter<W>> {
        let places = self.0.as_ref();
        let waiting = places.map(|places| {
            places.waiting.range(arrivals).map(|(_, waiter)| waiter).inspect(|_| places.walk())
        });
        waiting.into_iter().flatten()
    }

    /// The first client in line.
    pub(super) fn first(&self) -> Option<&Waiter<W>> {
        self.waiters(..).next()
    }

    /// At most `limit` places that came behind this arrival, in order, each with its own.
    pub(super) fn behind(&self, arrival: Option<u64>, limit: usize) -> Vec<(u64, Waiting)> {
        let Some(places) = &self.0 else { return Vec::new() };
        let from = (arrival.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let waiting =
            places.waiting.range(from).map(|(arrival, waiter)| (*arrival, waiter.shown()));
        let mut behind: Vec<_> = waiting.inspect(|_| places.walk()).take(limit).collect();
        let kept = places.kept.range(from).map(|(arrival, kept)| (*arrival, kept.shown()));
        behind.extend(kept.inspect(|_| places.walk()).take(limit));
        behind.sort_unstable_by_key(|(arrival, _)| *arrival);
        behind.truncate(limit);
        behind
    }

    /// The place with this id, as a look at it shows.
    pub(super) fn show(&self, id: LockId) -> Option<Waiting> {
        let places = self.0.as_ref()?;
        let arrival = places.arrivals.get(&id)?;
        let waiter = places.waiting.get(arrival).map(Waiter::shown);
        waiter.or_else(|| places.kept.get(arrival).map(Kept::shown))
    }

    /// The ids of all places, in order.
    pub(super) fn ids(&self) -> Vec<LockId> {
        let places = self.behind(None, usize::MAX).into_iter();
        places.map(|(_, waiting)| waiting.id).collect()
    }

    pub(super) fn place(&self, id: LockId) -> Option<&Place> {
        let places = self.0.as_ref()?;
        places.place(*places.arrivals.get(&id)?)
    }

    pub(super) fn place_of(&self, key: &IdempotencyKey) -> Option<&Place> {
        let places = self.0.as_ref()?;
        places.place(*places.keys.get(key)?)
    }

    /// The client that has this claim, if it still waits.
    pub(super) fn waiter(&self, claim: Claim) -> Option<&Waiter<W>> {
        self.waiter_with(claim.id()).filter(|waiter| waiter.place.claim() == claim)
    }

    /// The client that waits for the lock with this id, by whatever claim.
    pub(super) fn waiter_with(&self, id: LockId) -> Option<&Waiter<W>> {
        let places = self.0.as_ref()?;
        places.waiting.get(places.arrivals.get(&id)?)
    }

    /// Whether the place with this id is kept.
    pub(super) fn is_kept(&self, id: LockId) -> bool {
        self.place(id).is_some() && self.waiter_with(id).is_none()
    }

    /// The limit of those that wait for the mode EX.
    pub(super) fn limit(&self) -> Option<Limit> {
        let places = self.0.as_ref()?;
        places.limit.filter(|_| places.exclusive > 0)
    }

    /// The ids of the kept places whose time is over at `now`.
    pub(super) fn given_up(&self, now: Instant) -> impl Iterator<Item = LockId> {
        let due = self.0.iter().flat_map(move |places| {
            let kept = places.kept_until.iter().inspect(|_| places.walk());
            let due = kept.take_while(move |(until, _)| *until <= now);
            due.filter_map(|(_, arrival)| places.place(*arrival))
        });
        due.map(|place| place.id)
    }

    /// When the first of the kept places is given up.
    pub(super) fn next_given_up(&self) -> Option<Instant> {
        self.0.as_ref()?.kept_until.first().map(|(until, _)| *until)
    }

    /// Puts a client in line, at the place that its request has. Returns whoever was there.
    pub(super) fn join(&mut self, waiter: Waiter<W>) -> Option<Waiter<W>> {
        let earlier = self.remove(waiter.place.id);
        let places = self.0.get_or_insert_default();
        places.index(&waiter.place);
        places.waiting.insert(waiter.place.arrival, waiter);
        earlier
    }

    /// Keeps the place of a client that has gone, and returns that client's handle.
    pub(super) fn keep(&mut self, id: LockId, until: Instant, until_wall: SystemTime) -> Option<W> {
        let Waiter { place, handle, .. } = self.remove(id)?;
        self.restore(place, until, until_wall);
        Some(handle)
    }

    /// Adds a kept place.
    pub(super) fn restore(&mut self, place: Place, until: Instant, until_wall: SystemTime) {
        let places = self.0.get_or_insert_default();
        places.index(&place);
        places.kept_until.insert((until, place.arrival));
        places.kept.insert(place.arrival, Kept { place, until, until_wall });
    }

    /// Takes out the place with this id. Returns who waited there, if anybody did.
    pub(super) fn remove(&mut self, id: LockId) -> Option<Waiter<W>> {
        let places = self.0.as_mut()?;
        let arrival = places.arrivals.remove(&id)?;
        let waiter = places.waiting.remove(&arrival);
        let kept = places.kept.remove(&arrival);
        if let Some(kept) = &kept {
            places.kept_until.remove(&(kept.until, arrival));
        }
        let place = waiter.as_ref().map(|w| &w.place).or(kept.as_ref().map(|k| &k.place))?;
        if let Some(key) = &place.key {
            places.keys.remove(key);
        }
        places.exclusive -= usize::from(matches!(place.request.mode, Mode::Exclusive { .. }));
        if places.arrivals.is_empty() {
            self.0 = None;
        }
        waiter
    }
}

impl<W> Waiter<W> {
    fn shown(&self) -> Waiting {
        self.place.shown(self.expires)
    }
}

impl Kept {
    fn shown(&self) -> Waiting {
        self.place.shown(self.until_wall)
    }
}

impl<W> Places<W> {
    /// Another place is looked at, on the way to some other one.
    fn walk(&self) {
        #[cfg(test)]
        self.walked.set(self.walked.get() + 1);
    }

    fn place(&self, arrival: u64) -> Option<&Place> {
        let waiting = self.waiting.get(&arrival).map(|waiter| &waiter.place);
        waiting.or_else(|| self.kept.get(&arrival).map(|kept| &kept.place))
    }

    fn index(&mut self, place: &Place) {
        self.arrivals.insert(place.id, place.arrival);
        if let Some(key) = &place.key {
            self.keys.insert(key.clone(), place.arrival);
        }
        if let Mode::Exclusive { limit } = place.request.mode {
            self.exclusive += 1;
            self.limit = Some(limit);
        }
    }
}

impl<W> Default for Places<W> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            kept: BTreeMap::new(),
            kept_until: BTreeSet::new(),
            arrivals: HashMap::new(),
            keys: HashMap::new(),
            exclusive: 0,
            limit: None,
            #[cfg(test)]
            walked: std::cell::Cell::new(0),
        }
    }
}
