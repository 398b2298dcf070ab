//! The event stream: everything that happens to locks, in order, for any number of subscribers.
//!
//! A ring keeps the latest [`KEPT`] events. An event gets its number under the mutex of its
//! resource, so the events of one resource are in the order in which they happened. Publishing
//! never waits for subscribers: one that is too slow misses events, and is told that it has.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::nanos::Instant;
use super::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use super::sync::{Condvar, Mutex, locked, now, poisoned};
use super::{Actor, End, LockId, Mode, ResourceName, Terms};

/// How many events are kept.
pub const KEPT: usize = if cfg!(shuttle) { 4 } else { 4096 };

/// Something that has happened to a lock, or to a request that waits for one.
#[derive(Debug, Clone)]
pub struct Event {
    /// Larger than that of every earlier event, also of those of an earlier run.
    pub number: u64,
    /// By the wall clock, for display.
    pub time: SystemTime,
    /// On which resource.
    pub resource: ResourceName,
    /// What has happened.
    pub details: EventDetails,
}

/// What has happened, and to which lock or request.
#[derive(Debug, Clone)]
pub struct EventDetails {
    /// What it was.
    pub kind: Kind,
    /// The lock, or the request for it.
    pub id: LockId,
    /// What was asked for, with the mode and lifetime that the lock had at that time.
    pub terms: Terms,
    /// That of the lock; a request that waits has none.
    pub fencing_token: Option<u64>,
    /// Since when it had been held, or had waited.
    pub since: SystemTime,
    /// Who has ended it, if a client has.
    pub by: Option<Arc<Actor>>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request has joined the line.
    Waiting,
    /// A lock was granted.
    Granted,
    /// A lock was converted to another mode.
    Converted,
    /// A lock waits for this mode, and is held in its old one meanwhile.
    Converting(Mode),
    /// A lock no longer waits for another mode, and keeps its old one.
    Unconverted,
    /// A lock, or one lease on it, has ended.
    Ended(End),
    /// A waiting request was deleted.
    Deleted,
    /// The wait of a request was over.
    TimedOut,
    /// The client of a waiting request has gone, or the server ends.
    Withdrawn,
}

impl Kind {
    /// Whether a lock has ended, or a request was deleted.
    fn is_end(self) -> bool {
        match self {
            Self::Ended(end) => end != End::Renewed,
            Self::Deleted => true,
            Self::TimedOut
            | Self::Withdrawn
            | Self::Waiting
            | Self::Granted
            | Self::Converted
            | Self::Converting(_)
            | Self::Unconverted => false,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Granted => "granted",
            Self::Converted => "converted",
            Self::Converting(_) => "converting",
            Self::Unconverted => "unconverted",
            Self::Ended(End::Renewed) => "renewed",
            Self::Ended(End::Released) => "released",
            Self::Ended(End::Expired) => "expired",
            Self::Ended(End::Deleted) | Self::Deleted => "deleted",
            Self::Ended(End::Abandoned) => "abandoned",
            Self::TimedOut => "timed_out",
            Self::Withdrawn => "withdrawn",
        }
    }
}

impl Event {
    /// How long the lock had been held, or the request had waited, by the wall clock.
    pub fn lasted(&self) -> Duration {
        self.time.duration_since(self.details.since).unwrap_or_default()
    }
}

/// The latest events, and their subscribers.
pub struct Events {
    ring: Box<[Mutex<Option<Event>>]>,
    /// The number of the first event of this run, and of the next one.
    first: AtomicU64,
    next: AtomicU64,
    /// Where the numbers of the last run with events ended: from here to `first`, there are none.
    ended: AtomicU64,
    /// The length of `Subscribers::asleep`, so that publishing takes no mutex while it is zero.
    asleep: AtomicUsize,
    subscribers: Mutex<Subscribers>,
}

#[derive(Default)]
struct Subscribers {
    all: Vec<Arc<Signal>>,
    asleep: VecDeque<Arc<Signal>>,
    closed: bool,
}

/// What wakes one subscriber.
#[derive(Default)]
struct Signal {
    cancelled: AtomicBool,
    permanent: bool,
    wake: Condvar,
}

/// Microseconds since the epoch: more than an earlier run can have counted.
#[expect(clippy::disallowed_methods, reason = "numbers have to be larger than before a restart")]
fn first_number() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(0).clamp(1, 1 << 52)
}

impl Default for Events {
    fn default() -> Self {
        let first = first_number();
        Self {
            ring: (0..KEPT).map(|_| Mutex::new(None)).collect(),
            first: AtomicU64::new(first),
            next: AtomicU64::new(first),
            ended: AtomicU64::new(first),
            asleep: AtomicUsize::new(0),
            subscribers: Mutex::default(),
        }
    }
}

impl Events {
    /// How the lock with this id has ended, or its request was deleted, if that is among the events
    /// kept. Reads all of them: for requests that have failed.
    pub fn end_of(&self, resource: &ResourceName, id: LockId) -> Option<Event> {
        self.ring.iter().find_map(|slot| {
            let slot = locked(slot);
            let is_end = |event: &&Event| event.details.id == id && event.details.kind.is_end();
            slot.as_ref().filter(is_end).filter(|event| event.resource == *resource).cloned()
        })
    }

    /// Adds an event, under the mutex of its resource. Call [`Events::notify`] once that is
    /// unlocked.
    pub(super) fn record(
        &self,
        resource: &ResourceName,
        time: SystemTime,
        details: EventDetails,
    ) -> Event {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let event = Event { number, time, resource: resource.clone(), details };
        let mut slot = locked(self.slot(number));
        // If the whole ring has overtaken this event, it is too old to be kept.
        if slot.as_ref().is_none_or(|kept| kept.number < number) {
            *slot = Some(event.clone());
        }
        event
    }

    /// Wakes one sleeping subscriber, which wakes the next.
    pub(super) fn notify(&self) {
        // Either this load sees the sleeper, or the sleeper sees the event.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut subscribers = locked(&self.subscribers);
        let woken = subscribers.asleep.pop_front();
        self.asleep.store(subscribers.asleep.len(), Ordering::SeqCst);
        drop(subscribers);
        if let Some(signal) = woken {
            signal.wake.notify_one();
        }
    }

    /// Ends every subscription once it has received all events.
    pub fn close(&self) {
        let mut subscribers = locked(&self.subscribers);
        subscribers.closed = true;
        let all = subscribers.all.clone();
        drop(subscribers);
        all.iter().for_each(|signal| signal.wake.notify_one());
    }

    /// Ends all subscriptions but the permanent ones: from now on, another server has the events.
    pub fn end_subscriptions(&self) {
        let subscribers = locked(&self.subscribers);
        let temporary = subscribers.all.iter().filter(|signal| !signal.permanent);
        let ended: Vec<_> = temporary.cloned().collect();
        ended.iter().for_each(|signal| signal.cancelled.store(true, Ordering::SeqCst));
        drop(subscribers);
        ended.iter().for_each(|signal| signal.wake.notify_one());
    }

    /// Goes on with larger numbers, because another server had the events in between. No event may
    /// be recorded at the same time.
    pub fn restart_numbering(&self) {
        let first = first_number();
        let ended = self.next.fetch_max(first, Ordering::SeqCst);
        if ended > self.first.load(Ordering::SeqCst) {
            self.ended.store(ended, Ordering::SeqCst);
        }
        self.first.store(ended.max(first), Ordering::SeqCst);
    }

    /// Subscribes to the events of this server from now on, beyond [`Events::end_subscriptions`].
    pub fn subscribe_permanently(self: &Arc<Self>) -> Subscriber {
        self.subscribe_with(None, Signal { permanent: true, ..Signal::default() })
    }

    /// Subscribes to the events after this number; `None`: from now on.
    pub fn subscribe(self: &Arc<Self>, after: Option<u64>) -> Subscriber {
        self.subscribe_with(after, Signal::default())
    }

    fn subscribe_with(self: &Arc<Self>, after: Option<u64>, signal: Signal) -> Subscriber {
        let signal = Arc::new(signal);
        locked(&self.subscribers).all.push(Arc::clone(&signal));
        let newest = self.next.load(Ordering::SeqCst);
        let oldest = self.oldest(newest);
        let (next, missed) = match after.map(|number| number.saturating_add(1)) {
            None => (newest, false),
            Some(next) if (oldest..=newest).contains(&next) => (next, false),
            Some(_) => (newest, true),
        };
        Subscriber { events: Arc::clone(self), signal, next, missed }
    }

    /// The number after which the latest `count` wanted events begin.
    pub fn before_latest(&self, count: usize, wanted: impl Fn(&Event) -> bool) -> u64 {
        let newest = self.next.load(Ordering::SeqCst);
        let oldest = self.oldest(newest);
        let is_wanted = |number: &u64| {
            let slot = locked(self.slot(*number));
            slot.as_ref().is_some_and(|event| event.number == *number && wanted(event))
        };
        let latest = (oldest..newest).rev().filter(is_wanted).take(count);
        latest.last().unwrap_or(newest) - 1
    }

    /// Whether there were more events than are kept.
    pub fn is_full(&self) -> bool {
        let first = self.first.load(Ordering::SeqCst);
        self.next.load(Ordering::SeqCst).saturating_sub(first) > KEPT as u64
    }

    /// The number of the oldest event that is kept.
    fn oldest(&self, newest: u64) -> u64 {
        self.first.load(Ordering::SeqCst).max(newest.saturating_sub(KEPT as u64))
    }

    fn slot(&self, number: u64) -> &Mutex<Option<Event>> {
        &self.ring[(number % KEPT as u64) as usize]
    }
}

/// What a subscriber receives.
#[derive(Debug)]
pub enum Received {
    /// The next events, in order; not empty.
    Events(Vec<Event>),
    /// Some events were dropped before they were received.
    Missed {
        /// The next ones come after this number.
        last: u64,
        /// How many of this run.
        count: u64,
    },
    /// Nothing happened in the time given.
    TimedOut,
    /// The subscription has ended.
    Closed,
}

/// Receives events, and sleeps while there are none.
pub struct Subscriber {
    events: Arc<Events>,
    signal: Arc<Signal>,
    next: u64,
    missed: bool,
}

/// Ends a subscription from another thread.
pub struct Canceller(Arc<Events>, Arc<Signal>);

impl Canceller {
    /// Ends it.
    pub fn cancel(self) {
        // Under the mutex, or the subscriber could fall asleep between its check and the wake-up.
        let subscribers = locked(&self.0.subscribers);
        self.1.cancelled.store(true, Ordering::SeqCst);
        drop(subscribers);
        self.1.wake.notify_one();
    }
}

impl Subscriber {
    /// Ends this subscription from another thread.
    pub fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.events), Arc::clone(&self.signal))
    }

    /// Waits for the next events, at most `limit` of them, for no longer than `wait`.
    pub fn receive(&mut self, limit: usize, wait: Duration) -> Received {
        let deadline = now() + wait;
        loop {
            if self.signal.cancelled.load(Ordering::SeqCst) {
                return Received::Closed;
            }
            let events = self.take(limit);
            if self.missed {
                return self.skip_missed();
            }
            if !events.is_empty() {
                return Received::Events(events);
            }
            if let Some(received) = self.sleep(deadline) {
                return received;
            }
        }
    }

    /// Sleeps for this long, whatever happens; `false` if the subscription ends before that.
    pub fn pause(&self, time: Duration) -> bool {
        let deadline = now() + time;
        let mut subscribers = locked(&self.events.subscribers);
        loop {
            let remaining = deadline.saturating_duration_since(now());
            if subscribers.closed || self.signal.cancelled.load(Ordering::SeqCst) {
                return false;
            }
            if remaining.is_zero() {
                return true;
            }
            let waited = self.signal.wake.wait_timeout(subscribers, remaining);
            subscribers = waited.unwrap_or_else(|_| poisoned()).0;
        }
    }

    /// Goes on after the newest event.
    fn skip_missed(&mut self) -> Received {
        let newest = self.events.next.load(Ordering::SeqCst);
        let first = self.events.first.load(Ordering::SeqCst).max(self.next);
        (self.next, self.missed) = (newest, false);
        Received::Missed { last: newest - 1, count: newest.saturating_sub(first) }
    }

    /// What is there at this moment.
    fn take(&mut self, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let first = self.events.first.load(Ordering::SeqCst);
        while events.len() < limit && !self.missed {
            if (self.events.ended.load(Ordering::SeqCst)..first).contains(&self.next) {
                self.next = first;
            }
            match &*locked(self.events.slot(self.next)) {
                Some(event) if event.number == self.next => events.push(event.clone()),
                Some(event) if event.number > self.next && events.is_empty() => {
                    self.missed = true;
                    break;
                }
                // Of an earlier run, in which nothing is being recorded any more.
                _ if self.next < first && events.is_empty() => {
                    self.missed = true;
                    break;
                }
                // Not recorded yet; or overwritten, which the next call reports.
                _ => break,
            }
            self.next += 1;
        }
        events
    }

    /// Sleeps until there is an event (`None`), the deadline or the end.
    fn sleep(&self, deadline: Instant) -> Option<Received> {
        let mut subscribers = locked(&self.events.subscribers);
        subscribers.asleep.push_back(Arc::clone(&self.signal));
        loop {
            self.events.asleep.store(subscribers.asleep.len(), Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let is_woken = !subscribers.asleep.iter().any(|s| Arc::ptr_eq(s, &self.signal));
            let remaining = deadline.saturating_duration_since(now());
            let has_next = self.has_next();
            let outcome = if is_woken || has_next {
                Some(None)
            } else if subscribers.closed || self.signal.cancelled.load(Ordering::SeqCst) {
                Some(Some(Received::Closed))
            } else if remaining.is_zero() {
                Some(Some(Received::TimedOut))
            } else {
                None
            };
            if let Some(outcome) = outcome {
                subscribers.asleep.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
                self.events.asleep.store(subscribers.asleep.len(), Ordering::SeqCst);
                drop(subscribers);
                // An event for this subscriber is one for those that fell asleep before it, too.
                if has_next {
                    self.events.notify();
                }
                return outcome;
            }
            let waited = self.signal.wake.wait_timeout(subscribers, remaining);
            subscribers = waited.unwrap_or_else(|_| poisoned()).0;
        }
    }

    fn has_next(&self) -> bool {
        locked(self.events.slot(self.next)).as_ref().is_some_and(|kept| kept.number >= self.next)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        locked(&self.events.subscribers).all.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
