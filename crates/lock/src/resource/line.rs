//! The line of requests that wait for one resource, in order of arrival.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use crate::nanos::Instant;
use crate::{Actor, IdempotencyKey, Limit, LockId, Mode, Terms, Waiting};

/// Identifies one wait of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// One delivery of a request. When the request is sent again with the same key, the claims of
    /// earlier deliveries are void.
    Place { id: LockId, attempt: u32 },
    /// A lock that waits for another mode. Its next conversion has another arrival.
    Conversion { id: LockId, arrival: u64 },
}

impl Claim {
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
    pub(crate) terms: Terms,
    pub(crate) key: Option<IdempotencyKey>,
    /// How many times the request was sent again.
    pub(crate) attempt: u32,
    /// Increases with each request.
    pub(crate) arrival: u64,
    /// For display.
    pub(crate) since: SystemTime,
}

/// A request that waits in line, and its client.
#[derive(Debug)]
pub(super) struct Queued<W> {
    pub(super) place: Place,
    pub(super) waiter: W,
    pub(super) arrived_at: Instant,
    /// When its wait is over.
    pub(super) deadline: Instant,
    /// The deadline, for display.
    pub(super) expires: SystemTime,
}

/// The place of a client that has gone. It is passed over, and kept for the client's return.
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
        Waiting { id: self.id, terms: self.terms.clone(), since: self.since, expires }
    }
}

/// The line. An empty one, as most resources have, costs one pointer.
#[derive(Debug)]
pub(super) struct Line<W>(Option<Box<Places<W>>>);

/// Not empty. No operation is linear in the length of the line.
#[derive(Debug)]
struct Places<W> {
    /// By arrival.
    waiting: BTreeMap<u64, Queued<W>>,
    kept: BTreeMap<u64, Kept>,
    kept_until: BTreeSet<(Instant, u64)>,
    arrivals: HashMap<LockId, u64>,
    keys: HashMap<IdempotencyKey, u64>,
    /// All places that came before this number are being deleted.
    deleted_before: Option<(u64, Arc<Actor>)>,
    /// How many want the mode EX, and the limit of the latest of these.
    exclusive: usize,
    limit: Option<Limit>,
    /// How many places were visited by walks so far.
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

    pub(super) fn waiting_count(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.waiting.len())
    }

    pub(super) fn kept_count(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.kept.len())
    }

    #[cfg(test)]
    pub(super) fn walked(&self) -> usize {
        self.0.as_ref().map_or(0, |places| places.walked.get())
    }

    /// The requests that wait, in order, within these arrivals.
    pub(super) fn waiting(
        &self,
        arrivals: impl std::ops::RangeBounds<u64>,
    ) -> impl Iterator<Item = &Queued<W>> {
        let places = self.0.as_ref();
        let waiting = places.map(|places| {
            places.waiting.range(arrivals).map(|(_, queued)| queued).inspect(|_| places.walk())
        });
        waiting.into_iter().flatten()
    }

    /// The first request in line that waits.
    pub(super) fn first(&self) -> Option<&Queued<W>> {
        self.waiting(..).next()
    }

    /// At most `limit` places after this arrival, in order, each with its own.
    pub(super) fn behind(&self, arrival: Option<u64>, limit: usize) -> Vec<(u64, Waiting)> {
        let Some(places) = &self.0 else { return Vec::new() };
        let from = (arrival.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let waiting =
            places.waiting.range(from).map(|(arrival, queued)| (*arrival, queued.shown()));
        let mut behind: Vec<_> = waiting.inspect(|_| places.walk()).take(limit).collect();
        let kept = places.kept.range(from).map(|(arrival, kept)| (*arrival, kept.shown()));
        behind.extend(kept.inspect(|_| places.walk()).take(limit));
        behind.sort_unstable_by_key(|(arrival, _)| *arrival);
        behind.truncate(limit);
        behind
    }

    /// The place with this id, as readers see it.
    pub(super) fn show(&self, id: LockId) -> Option<Waiting> {
        let places = self.0.as_ref()?;
        let arrival = places.arrivals.get(&id)?;
        let waiting = places.waiting.get(arrival).map(Queued::shown);
        waiting.or_else(|| places.kept.get(arrival).map(Kept::shown))
    }

    /// The ids of the latest places before this arrival, in order.
    pub(super) fn latest(&self, before: u64, limit: usize) -> Vec<LockId> {
        let Some(places) = &self.0 else { return Vec::new() };
        let waiting = places.waiting.range(..before).rev().take(limit);
        let waiting = waiting.map(|(arrival, queued)| (*arrival, queued.place.id));
        let kept = places.kept.range(..before).rev().take(limit);
        let kept = kept.map(|(arrival, kept)| (*arrival, kept.place.id));
        let mut latest: Vec<_> = waiting.chain(kept).inspect(|_| places.walk()).collect();
        latest.sort_unstable();
        latest.split_off(latest.len().saturating_sub(limit)).into_iter().map(|(_, id)| id).collect()
    }

    /// Whether there is a place before this arrival.
    pub(super) fn has_before(&self, arrival: u64) -> bool {
        self.0.as_ref().is_some_and(|places| {
            let first = [places.waiting.keys().next(), places.kept.keys().next()];
            first.into_iter().flatten().any(|first| *first < arrival)
        })
    }

    /// Whether the place of this arrival is kept, and its time is over.
    pub(super) fn is_given_up(&self, arrival: u64, now: Instant) -> bool {
        let kept = self.0.as_ref().and_then(|places| places.kept.get(&arrival));
        kept.is_some_and(|kept| kept.until <= now)
    }

    pub(super) fn place(&self, id: LockId) -> Option<&Place> {
        let places = self.0.as_ref()?;
        places.place(*places.arrivals.get(&id)?)
    }

    pub(super) fn place_of(&self, key: &IdempotencyKey) -> Option<&Place> {
        let places = self.0.as_ref()?;
        places.place(*places.keys.get(key)?)
    }

    /// The request of this claim, if it still waits.
    pub(super) fn queued(&self, claim: Claim) -> Option<&Queued<W>> {
        self.queued_with(claim.id()).filter(|queued| queued.place.claim() == claim)
    }

    /// The request with this id, if it waits.
    pub(super) fn queued_with(&self, id: LockId) -> Option<&Queued<W>> {
        let places = self.0.as_ref()?;
        places.waiting.get(places.arrivals.get(&id)?)
    }

    /// Whether the place with this id is kept.
    pub(super) fn is_kept(&self, id: LockId) -> bool {
        self.place(id).is_some() && self.queued_with(id).is_none()
    }

    /// The limit of the requests for the mode EX.
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

    /// When the next kept place is given up.
    pub(super) fn next_given_up(&self) -> Option<Instant> {
        self.0.as_ref()?.kept_until.first().map(|(until, _)| *until)
    }

    /// Who deletes this place, with all that were in line at that time.
    pub(super) fn deleted_by(&self, arrival: u64) -> Option<Arc<Actor>> {
        let (before, by) = self.0.as_ref()?.deleted_before.as_ref()?;
        (arrival < *before).then(|| Arc::clone(by))
    }

    /// What is left of the places before this number is being deleted.
    pub(super) fn delete_before(&mut self, number: u64, by: Arc<Actor>) {
        if let Some(places) = &mut self.0 {
            places.deleted_before = Some((number, by));
        }
    }

    /// Puts a request in line. Returns the client of its earlier delivery, if that waited.
    pub(super) fn join(&mut self, queued: Queued<W>) -> Option<W> {
        let earlier = self.remove(queued.place.id);
        let places = self.0.get_or_insert_default();
        places.index(&queued.place);
        places.waiting.insert(queued.place.arrival, queued);
        earlier
    }

    /// Keeps the place of a client that has gone, and returns the client.
    pub(super) fn keep(&mut self, id: LockId, until: Instant, until_wall: SystemTime) -> Option<W> {
        let Queued { place, waiter, .. } = self.take(id)?;
        self.restore(place, until, until_wall);
        Some(waiter)
    }

    /// Adds a kept place.
    pub(super) fn restore(&mut self, place: Place, until: Instant, until_wall: SystemTime) {
        let places = self.0.get_or_insert_default();
        places.index(&place);
        places.kept_until.insert((until, place.arrival));
        places.kept.insert(place.arrival, Kept { place, until, until_wall });
    }

    /// Takes out the place with this id. Returns the client that waited there, if one did.
    pub(super) fn remove(&mut self, id: LockId) -> Option<W> {
        self.take(id).map(|queued| queued.waiter)
    }

    fn take(&mut self, id: LockId) -> Option<Queued<W>> {
        let places = self.0.as_mut()?;
        let arrival = places.arrivals.remove(&id)?;
        let queued = places.waiting.remove(&arrival);
        let kept = places.kept.remove(&arrival);
        if let Some(kept) = &kept {
            places.kept_until.remove(&(kept.until, arrival));
        }
        let place = queued.as_ref().map(|q| &q.place).or(kept.as_ref().map(|k| &k.place))?;
        if let Some(key) = &place.key {
            places.keys.remove(key);
        }
        places.exclusive -= usize::from(matches!(place.terms.mode, Mode::Exclusive { .. }));
        if places.arrivals.is_empty() {
            self.0 = None;
        }
        queued
    }
}

impl<W> Queued<W> {
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
    /// Counts a visited place.
    fn walk(&self) {
        #[cfg(test)]
        self.walked.set(self.walked.get() + 1);
    }

    fn place(&self, arrival: u64) -> Option<&Place> {
        let waiting = self.waiting.get(&arrival).map(|queued| &queued.place);
        waiting.or_else(|| self.kept.get(&arrival).map(|kept| &kept.place))
    }

    fn index(&mut self, place: &Place) {
        self.arrivals.insert(place.id, place.arrival);
        if let Some(key) = &place.key {
            self.keys.insert(key.clone(), place.arrival);
        }
        if let Mode::Exclusive { limit } = place.terms.mode {
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
            deleted_before: None,
            exclusive: 0,
            limit: None,
            #[cfg(test)]
            walked: std::cell::Cell::new(0),
        }
    }
}
