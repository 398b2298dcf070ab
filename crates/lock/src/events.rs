//! What happens to locks, in order, for whoever wants to follow it.
//!
//! The latest [`KEPT`] events are kept in a ring. Each has a number, which it is given under the
//! mutex of its resource, so that the events of a resource are in the order in which they
//! happened. Whoever makes them waits for nobody who follows them: a follower that is too slow
//! has missed some, and is told so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use smol_str::SmolStr;

use super::nanos::Instant;
use super::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use super::sync::{Condvar, Mutex, locked, now, poisoned};
use super::{End, LockId, Mode, Requester, ResourceName};

/// How many events are kept.
pub const KEPT: usize = if cfg!(shuttle) { 4 } else { 4096 };

/// Something that has happened to a lock, or to a request that waits for one.
#[derive(Debug, Clone)]
pub struct Event {
    /// Larger than that of every event before, also of those of an earlier run.
    pub number: u64,
    /// By the wall clock, for display.
    pub time: SystemTime,
    /// On which resource.
    pub resource: ResourceName,
    /// What has happened.
    pub happening: Happening,
}

/// What has happened, and to which lock or request.
#[derive(Debug, Clone)]
pub struct Happening {
    /// What it was.
    pub kind: Kind,
    /// The lock, or the request for it.
    pub id: LockId,
    /// Who asked for it, in the client's words.
    pub title: SmolStr,
    /// Who asked for it, as far as the server knows.
    pub client: Requester,
    /// Its mode.
    pub mode: Mode,
    /// That of the lock; a request that waits has none.
    pub fencing_token: Option<u64>,
    /// Since when it had been held, or had waited.
    pub since: SystemTime,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request has joined the line.
    Waiting,
    /// A lock is held from now on.
    Granted,
    /// A lock is held in another mode from now on.
    Converted,
    /// A lock waits for this mode, and is held in its own meanwhile.
    Converting(Mode),
    /// A lock waits for another mode no more, and keeps its own.
    Unconverted,
    /// A lock, or one lease on it, has ended.
    Ended(End),
    /// A request that waited was deleted.
    Deleted,
    /// A request had waited as long as it was ready to.
    TimedOut,
    /// The client of a request that waited has gone, or the server ends.
    Withdrawn,
}

impl Kind {
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
        self.time.duration_since(self.happening.since).unwrap_or_default()
    }
}

/// The latest events, and those who follow them.
pub struct Events {
    ring: Box<[Mutex<Option<Event>>]>,
    /// The number of the first event of this run, and of the next one.
    first: AtomicU64,
    next: AtomicU64,
    /// How many are asleep until something happens: nobody looks for them if there are none.
    asleep: AtomicUsize,
    followers: Mutex<Followers>,
}

#[derive(Default)]
struct Followers {
    all: Vec<Arc<Ear>>,
    asleep: VecDeque<Arc<Ear>>,
    closed: bool,
}

/// One who follows, and may sleep.
#[derive(Default)]
struct Ear {
    has_left: AtomicBool,
    for_good: bool,
    wake: Condvar,
}

/// In microseconds since the epoch: more than an earlier run can have counted.
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
            asleep: AtomicUsize::new(0),
            followers: Mutex::default(),
        }
    }
}

impl Events {
    /// Notes an event, under the mutex of its resource. Whoever does so calls [`Events::tell`]
    /// when that is given up.
    pub(super) fn note(
        &self,
        resource: &ResourceName,
        time: SystemTime,
        happening: Happening,
    ) -> Event {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let event = Event { number, time, resource: resource.clone(), happening };
        let mut slot = locked(self.slot(number));
        // One that was overtaken by the whole ring is too old to be kept.
        if slot.as_ref().is_none_or(|kept| kept.number < number) {
            *slot = Some(event.clone());
        }
        event
    }

    /// Wakes one who sleeps until something happens. That one wakes the next.
    pub(super) fn tell(&self) {
        // Either this sees that somebody is asleep, or that one sees the event.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut followers = locked(&self.followers);
        let woken = followers.asleep.pop_front();
        self.asleep.store(followers.asleep.len(), Ordering::SeqCst);
        drop(followers);
        if let Some(ear) = woken {
            ear.wake.notify_one();
        }
    }

    /// Lets followers come to their end when they have heard all that has happened.
    pub fn close(&self) {
        let mut followers = locked(&self.followers);
        followers.closed = true;
        let all = followers.all.clone();
        drop(followers);
        all.iter().for_each(|ear| ear.wake.notify_one());
    }

    /// Ends those that follow now, but for those that do so for good: what happens from now on is
    /// told elsewhere.
    pub fn dismiss(&self) {
        let followers = locked(&self.followers);
        let dismissed: Vec<_> = followers.all.iter().filter(|ear| !ear.for_good).cloned().collect();
        dismissed.iter().for_each(|ear| ear.has_left.store(true, Ordering::SeqCst));
        drop(followers);
        dismissed.iter().for_each(|ear| ear.wake.notify_one());
    }

    /// Begins with larger numbers: what has happened meanwhile was told elsewhere. Nothing happens
    /// at this moment.
    pub fn begin_anew(&self) {
        let first = first_number();
        let first = self.next.fetch_max(first, Ordering::SeqCst).max(first);
        self.first.store(first, Ordering::SeqCst);
    }

    /// Follows what happens here from now on, whoever is told elsewhere.
    pub fn follow_for_good(self: &Arc<Self>) -> Follower {
        self.follow_with(None, Ear { for_good: true, ..Ear::default() })
    }

    /// Follows what happens behind the event `after`; without one, from now on.
    pub fn follow(self: &Arc<Self>, after: Option<u64>) -> Follower {
        self.follow_with(after, Ear::default())
    }

    fn follow_with(self: &Arc<Self>, after: Option<u64>, ear: Ear) -> Follower {
        let ear = Arc::new(ear);
        locked(&self.followers).all.push(Arc::clone(&ear));
        let newest = self.next.load(Ordering::SeqCst);
        let oldest = self.oldest(newest);
        let (next, missed) = match after.map(|number| number.saturating_add(1)) {
            None => (newest, false),
            Some(next) if (oldest..=newest).contains(&next) => (next, false),
            Some(_) => (newest, true),
        };
        Follower { events: Arc::clone(self), ear, next, missed }
    }

    /// The event behind which the latest `count` of those begin that are wanted.
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

    /// The number of the oldest event that is kept.
    fn oldest(&self, newest: u64) -> u64 {
        self.first.load(Ordering::SeqCst).max(newest.saturating_sub(KEPT as u64))
    }

    fn slot(&self, number: u64) -> &Mutex<Option<Event>> {
        &self.ring[(number % KEPT as u64) as usize]
    }
}

/// What a follower hears.
#[derive(Debug)]
pub enum Heard {
    /// These have happened next, in order; not empty.
    Events(Vec<Event>),
    /// So much has happened that some is not known any more. What comes next is behind this
    /// event.
    Missed(u64),
    /// Nothing until the deadline.
    Nothing,
    /// It has left, or nothing will happen any more.
    End,
}

/// Follows events. It sleeps as long as nothing happens.
pub struct Follower {
    events: Arc<Events>,
    ear: Arc<Ear>,
    next: u64,
    missed: bool,
}

/// Ends the following from another thread.
pub struct Leave(Arc<Events>, Arc<Ear>);

impl Leave {
    /// Ends it.
    pub fn leave(self) {
        // Under the mutex, or the follower could fall asleep between its look and the wake.
        let followers = locked(&self.0.followers);
        self.1.has_left.store(true, Ordering::SeqCst);
        drop(followers);
        self.1.wake.notify_one();
    }
}

impl Follower {
    /// By which another thread ends the following.
    pub fn leave(&self) -> Leave {
        Leave(Arc::clone(&self.events), Arc::clone(&self.ear))
    }

    /// Waits for what happens next, no longer than `wait`: at most `limit` events.
    pub fn hear(&mut self, limit: usize, wait: Duration) -> Heard {
        let deadline = now() + wait;
        loop {
            if self.ear.has_left.load(Ordering::SeqCst) {
                return Heard::End;
            }
            let events = self.take(limit);
            if self.missed {
                self.missed = false;
                self.next = self.events.next.load(Ordering::SeqCst);
                return Heard::Missed(self.next - 1);
            }
            if !events.is_empty() {
                return Heard::Events(events);
            }
            if let Some(heard) = self.sleep(deadline) {
                return heard;
            }
        }
    }

    /// Sleeps so long, whatever happens; `false` if there is an end before that.
    pub fn pause(&self, time: Duration) -> bool {
        let deadline = now() + time;
        let mut followers = locked(&self.events.followers);
        loop {
            let left = deadline.saturating_duration_since(now());
            if followers.closed || self.ear.has_left.load(Ordering::SeqCst) {
                return false;
            }
            if left.is_zero() {
                return true;
            }
            let waited = self.ear.wake.wait_timeout(followers, left);
            followers = waited.unwrap_or_else(|_| poisoned()).0;
        }
    }

    /// What is there at this moment.
    fn take(&mut self, limit: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < limit && !self.missed {
            match &*locked(self.events.slot(self.next)) {
                Some(event) if event.number == self.next => events.push(event.clone()),
                Some(event) if event.number > self.next && events.is_empty() => {
                    self.missed = true;
                    break;
                }
                // Not yet, or not any more, which is said next time.
                _ => break,
            }
            self.next += 1;
        }
        events
    }

    /// Sleeps until something has happened (`None`), the deadline or the end.
    fn sleep(&self, deadline: Instant) -> Option<Heard> {
        let mut followers = locked(&self.events.followers);
        followers.asleep.push_back(Arc::clone(&self.ear));
        loop {
            self.events.asleep.store(followers.asleep.len(), Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let is_woken = !followers.asleep.iter().any(|ear| Arc::ptr_eq(ear, &self.ear));
            let left = deadline.saturating_duration_since(now());
            let has_next = self.has_next();
            let outcome = if is_woken || has_next {
                Some(None)
            } else if followers.closed || self.ear.has_left.load(Ordering::SeqCst) {
                Some(Some(Heard::End))
            } else if left.is_zero() {
                Some(Some(Heard::Nothing))
            } else {
                None
            };
            if let Some(outcome) = outcome {
                followers.asleep.retain(|ear| !Arc::ptr_eq(ear, &self.ear));
                self.events.asleep.store(followers.asleep.len(), Ordering::SeqCst);
                drop(followers);
                // Who has fallen asleep earlier has news if this one has; without, nobody has.
                if has_next {
                    self.events.tell();
                }
                return outcome;
            }
            let waited = self.ear.wake.wait_timeout(followers, left);
            followers = waited.unwrap_or_else(|_| poisoned()).0;
        }
    }

    fn has_next(&self) -> bool {
        locked(self.events.slot(self.next)).as_ref().is_some_and(|kept| kept.number >= self.next)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        locked(&self.events.followers).all.retain(|ear| !Arc::ptr_eq(ear, &self.ear));
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use std::sync::mpsc::{RecvTimeoutError, channel};
    use std::thread;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn happening(title: &str) -> Happening {
        Happening {
            kind: Kind::Granted,
            id: LockId::random(),
            title: title.into(),
            client: "nobody".into(),
            mode: Mode::EXCLUSIVE,
            fencing_token: Some(1),
            since: SystemTime::UNIX_EPOCH,
        }
    }

    fn happens(events: &Events, title: &str) -> u64 {
        let resource = "r".parse().unwrap();
        let event = events.note(&resource, UNIX_EPOCH, happening(title));
        events.tell();
        event.number
    }

    /// The titles of what is heard at once.
    fn hears(follower: &mut Follower) -> Vec<String> {
        match follower.hear(usize::MAX, Duration::ZERO) {
            Heard::Events(events) => {
                events.into_iter().map(|event| event.happening.title.to_string()).collect()
            }
            Heard::Missed(_) => vec!["missed".into()],
            Heard::Nothing => Vec::new(),
            Heard::End => vec!["end".into()],
        }
    }

    #[test]
    fn what_was_told_elsewhere_is_missed() {
        let events = Arc::new(Events::default());
        let first = happens(&events, "a");
        let mut follows = events.follow(Some(first));
        let mut for_good = events.follow_for_good();
        events.dismiss();
        assert!(matches!(follows.hear(1, Duration::ZERO), Heard::End));
        events.begin_anew();
        assert!(matches!(events.follow(Some(first)).hear(1, Duration::ZERO), Heard::Missed(_)));
        let second = happens(&events, "b");
        assert!(second > first);
        assert_eq!(hears(&mut events.follow(Some(second - 1))), ["b"]);
        assert!(!matches!(for_good.hear(1, Duration::ZERO), Heard::End));
    }

    #[test]
    fn a_follower_hears_each_event_once_in_order() {
        let events = Arc::<Events>::default();
        happens(&events, "before");
        let mut follower = events.follow(None);
        assert!(hears(&mut follower).is_empty());
        for title in ["a", "b", "c"] {
            happens(&events, title);
        }
        assert_eq!(hears(&mut follower), ["a", "b", "c"]);
        assert!(hears(&mut follower).is_empty());
    }

    #[test]
    fn who_comes_back_goes_on_behind_the_last_event_or_hears_that_some_are_missed() {
        let events = Arc::<Events>::default();
        let first = happens(&events, "a");
        happens(&events, "b");
        assert_eq!(hears(&mut events.follow(Some(first))), ["b"]);
        assert!(hears(&mut events.follow(Some(first + 1))).is_empty());
        for unknown in [0, first - 2, first + 2, u64::MAX] {
            let mut follower = events.follow(Some(unknown));
            assert_eq!(hears(&mut follower), ["missed"], "{unknown}");
            assert!(hears(&mut follower).is_empty());
        }
        let mut slow = events.follow(Some(first));
        for n in 0..KEPT {
            happens(&events, &n.to_string());
        }
        assert_eq!(hears(&mut slow), ["missed"]);
        happens(&events, "c");
        assert_eq!(hears(&mut slow), ["c"]);
    }

    #[test]
    fn the_latest_that_are_wanted_are_found() {
        let events = Arc::<Events>::default();
        for title in ["a", "b", "a", "b", "a"] {
            happens(&events, title);
        }
        let is_a = |event: &Event| event.happening.title == "a";
        let from = |count| hears(&mut events.follow(Some(events.before_latest(count, is_a))));
        assert_eq!(from(1), ["a"]);
        assert_eq!(from(2), ["a", "b", "a"]);
        assert_eq!(from(9), ["a", "b", "a", "b", "a"]);
        assert!(from(0).is_empty());
    }

    #[test]
    fn all_who_sleep_are_woken() {
        let events = Arc::<Events>::default();
        let (sender, heard) = channel();
        for _ in 0..20 {
            let (mut follower, sender) = (events.follow(None), sender.clone());
            thread::spawn(move || {
                while let Heard::Events(events) = follower.hear(1, PATIENCE) {
                    sender.send(events[0].happening.title.clone()).unwrap();
                }
            });
        }
        drop(sender);
        for title in ["a", "b"] {
            happens(&events, title);
            for _ in 0..20 {
                assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), title);
            }
        }
        assert_eq!(heard.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
        events.close();
        assert_eq!(heard.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn who_leaves_is_woken() {
        let events = Arc::<Events>::default();
        for pausing in [false, true] {
            let mut follower = events.follow(None);
            let leave = follower.leave();
            let left = thread::spawn(move || match pausing {
                false => matches!(follower.hear(1, PATIENCE), Heard::End),
                true => !follower.pause(PATIENCE),
            });
            leave.leave();
            assert!(left.join().unwrap());
        }
        assert!(locked(&events.followers).all.is_empty());
    }
}
