//! Random sequences of all that can happen to a resource, against a model of the rules that is
//! too simple to be fast: it looks at every lock at every millisecond.
//!
//! `PROPTEST_CASES` says how many sequences are tried.

use std::cell::Cell;
use std::collections::HashMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::*;

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resource_does_what_the_model_does(sequential 1..60 => Checked);
}

const GRACE_MS: u64 = 50;

/// How many in one mode there may be at a time; the second number is the limit of EX.
const MODES: [(&str, u32); 8] =
    [("NL", 0), ("CR", 0), ("CW", 0), ("PR", 0), ("PW", 0), ("EX", 1), ("EX", 2), ("EX", 3)];

/// Something that happens. A number stands for the sending of a request, from 0.
#[derive(Debug, Clone)]
enum Event {
    Acquire {
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: u64,
        key: Option<u8>,
    },
    Release(usize),
    Renew {
        number: usize,
        lifetime_ms: u64,
    },
    /// The client that waits is gone.
    Withdraw(usize),
    /// The answer to this sending, which tells of a grant, cannot be delivered.
    Abandon(usize),
    Clear,
    Pass {
        ms: u64,
    },
}

/// What somebody hears: the number of its sending, and the word.
type Heard = (usize, &'static str);

#[derive(Debug, Clone, Default)]
struct Model {
    now: u64,
    /// In order of their grants.
    held: Vec<ModelLock>,
    /// In order of arrival.
    line: Vec<ModelLock>,
    /// How many sendings there were.
    sent: usize,
    /// What was heard at the last event.
    heard: Vec<Heard>,
    /// The sendings that were told of a grant, and of which.
    told: HashMap<usize, usize>,
}

#[derive(Debug, Clone)]
struct ModelLock {
    /// The first sending of the request, and the last one.
    number: usize,
    sender: usize,
    mode: (&'static str, u32),
    key: Option<u8>,
    lifetime_ms: u64,
    /// Of the wait or of the lifetime.
    end: u64,
    /// How many answers tell that it is held.
    answers: u32,
    /// Nobody is connected who knows of it: it goes at this time.
    lost: Option<u64>,
}

impl Model {
    fn fits(&self, mode: (&str, u32)) -> bool {
        let beside = |held: &str| match (held, mode.0) {
            ("NL", _) | (_, "NL") => true,
            ("CR", other) | (other, "CR") => other != "EX",
            ("CW", "CW") | ("PR", "PR") => true,
            _ => false,
        };
        let exclusive = self.held.iter().filter(|lock| lock.mode.0 == "EX").count();
        let room = mode.0 == "EX" && exclusive < mode.1 as usize;
        self.held.iter().all(|lock| beside(lock.mode.0) || (lock.mode.0 == "EX" && room))
    }

    fn hold(&mut self, mut lock: ModelLock) {
        lock.end = self.now + lock.lifetime_ms + 1;
        lock.answers = 1;
        self.told.insert(lock.sender, lock.number);
        self.heard.push((lock.sender, "granted"));
        self.held.push(lock);
    }

    fn promote(&mut self) {
        while let Some(first) = self.line.iter().position(|lock| lock.lost.is_none())
            && self.fits(self.line[first].mode)
        {
            let lock = self.line.remove(first);
            self.hold(lock);
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        self.held.retain(|lock| lock.end > now && lock.lost.is_none_or(|until| until > now));
        let over = |lock: &ModelLock| lock.lost.unwrap_or(lock.end) <= now;
        let timed_out = self.line.iter().filter(|lock| over(lock) && lock.lost.is_none());
        self.heard.extend(timed_out.map(|lock| (lock.sender, "timed out")));
        self.line.retain(|lock| !over(lock));
        self.promote();
    }

    fn acquire(
        &mut self,
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: u64,
        key: Option<u8>,
    ) {
        let number = self.sent;
        self.sent += 1;
        let same = |lock: &&mut ModelLock| lock.key == key && key.is_some();
        if let Some(lock) = self.held.iter_mut().find(same) {
            if lock.mode == mode {
                lock.answers += 1;
                lock.lost = None;
                self.told.insert(number, lock.number);
            }
            let word = if lock.mode == mode { "granted" } else { "other mode" };
            return self.heard.push((number, word));
        }
        let there = self.line.iter().position(|lock| lock.key == key && key.is_some());
        if there.is_some_and(|there| self.line[there].mode != mode) {
            return self.heard.push((number, "other mode"));
        }
        let mut lock = ModelLock {
            number,
            sender: number,
            mode,
            key,
            lifetime_ms,
            end: self.now + wait_ms,
            answers: 0,
            lost: None,
        };
        let place = there.unwrap_or(self.line.len());
        if let Some(there) = there {
            let earlier = self.line.remove(there);
            lock.number = earlier.number;
            if earlier.lost.is_none() {
                self.heard.push((earlier.sender, "superseded"));
            }
        } else {
            let mut limits = self.held.iter().chain(&self.line).filter(|lock| lock.mode.0 == "EX");
            if mode.0 == "EX" && limits.any(|lock| lock.mode != mode) {
                return self.heard.push((number, "other limit"));
            }
        }
        let behind = self.line[..place].iter().any(|lock| lock.lost.is_none());
        if self.fits(mode) && (!behind || mode.0 == "NL") {
            self.hold(lock);
        } else if wait_ms == 0 {
            self.heard.push((number, "not free"));
        } else {
            self.line.insert(place, lock);
        }
        self.promote();
    }

    fn withdraw(&mut self, number: usize) {
        let theirs = |lock: &ModelLock| lock.sender == number && lock.lost.is_none();
        let Some(place) = self.line.iter().position(theirs) else { return };
        if self.line[place].key.is_some() {
            self.line[place].lost = Some(self.now + GRACE_MS);
        } else {
            self.line.remove(place);
        }
        self.heard.push((number, "withdrawn"));
        self.promote();
    }

    fn abandon(&mut self, number: usize) {
        let Some(lock) = self.told.remove(&number) else { return };
        let Some(place) = self.held.iter().position(|held| held.number == lock) else { return };
        self.held[place].answers -= 1;
        if self.held[place].key.is_none() {
            self.held.remove(place);
        } else if self.held[place].answers == 0 {
            self.held[place].lost = Some(self.now + GRACE_MS);
        }
        self.promote();
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Event;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Event> {
        // The latest ones, whose locks are mostly still there.
        let number = state.sent.saturating_sub(15)..state.sent.max(1);
        let mode = proptest::sample::select(&MODES[..]);
        let wait_ms = prop_oneof![Just(0), 1..200_u64];
        let key = proptest::option::weighted(0.4, 0..4_u8);
        let faithful = proptest::bool::weighted(0.9);
        let acquire = (mode, wait_ms, 1..300_u64, key, faithful).prop_map(
            |(mode, wait_ms, lifetime_ms, key, faithful)| {
                // Who sends a request again mostly asks for the same.
                let mode = match key {
                    Some(key) if faithful => MODES[3 + usize::from(key)],
                    _ => mode,
                };
                Event::Acquire { mode, wait_ms, lifetime_ms, key }
            },
        );
        prop_oneof![
            8 => acquire,
            4 => number.clone().prop_map(Event::Release),
            1 => (number.clone(), 1..300_u64)
                .prop_map(|(number, lifetime_ms)| Event::Renew { number, lifetime_ms }),
            2 => number.clone().prop_map(Event::Withdraw),
            1 => number.prop_map(Event::Abandon),
            4 => (1..80_u64).prop_map(|ms| Event::Pass { ms }),
            // So seldom that crowds can form.
            if state.sent > 30 { 1 } else { 0 } => Just(Event::Clear),
        ]
        .boxed()
    }

    fn apply(mut state: Self, event: &Event) -> Self {
        state.heard.clear();
        match *event {
            Event::Acquire { mode, wait_ms, lifetime_ms, key } => {
                state.acquire(mode, wait_ms, lifetime_ms, key);
            }
            Event::Release(number) => {
                let deleted = state.line.iter().filter(|l| l.number == number && l.lost.is_none());
                state.heard.extend(deleted.map(|lock| (lock.sender, "deleted")));
                state.held.retain(|lock| lock.number != number);
                state.line.retain(|lock| lock.number != number);
                state.promote();
            }
            Event::Renew { number, lifetime_ms } => {
                let now = state.now;
                for lock in state.held.iter_mut().filter(|lock| lock.number == number) {
                    (lock.end, lock.lost) = (now + lifetime_ms + 1, None);
                    lock.answers += 1;
                }
            }
            Event::Withdraw(number) => state.withdraw(number),
            Event::Abandon(number) => state.abandon(number),
            Event::Clear => {
                let connected = state.line.iter().filter(|lock| lock.lost.is_none());
                state.heard.extend(connected.map(|lock| (lock.sender, "deleted")));
                (state.held, state.line) = (Vec::new(), Vec::new());
            }
            Event::Pass { ms } => (0..ms).for_each(|_| state.tick()),
        }
        state
    }
}

/// The resource, driven as the table drives it.
struct Checked {
    resource: Resource<usize>,
    start: Instant,
    now_ms: u64,
    last_number: Cell<u64>,
    /// What each sending has of the line, also one that only repeats another.
    claims: HashMap<usize, Claim>,
    /// The sendings that were told of a grant, and of which.
    told: HashMap<usize, LockId>,
    /// The first sending of each request.
    numbers: HashMap<LockId, usize>,
    sent: usize,
    heard: Vec<Heard>,
}

impl Checked {
    fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Resource<usize>, Now<'_>, &mut Effects<usize>) -> T,
    ) -> T {
        let next_number = || {
            self.last_number.set(self.last_number.get() + 1);
            self.last_number.get()
        };
        let since_start = Duration::from_millis(self.now_ms);
        let (instant, wall) = (self.start + since_start, SystemTime::UNIX_EPOCH + since_start);
        let mut effects = Effects::default();
        let now = Now { instant, wall, next_number: &next_number };
        let result = change(&mut self.resource, now, &mut effects);
        for (waiter, verdict) in effects.settled {
            let id = waiter.place.lock.id;
            let number = waiter.into_handle();
            let word = match verdict {
                Verdict::Granted(_) => {
                    self.told.extend(number.map(|number| (number, id)));
                    "granted"
                }
                Verdict::TimedOut => "timed out",
                Verdict::Deleted => "deleted",
                Verdict::Superseded => "superseded",
                Verdict::Withdrawn => "withdrawn",
                Verdict::ShuttingDown => "shut down",
            };
            self.heard.extend(number.map(|number| (number, word)));
        }
        result
    }

    fn acquire(&mut self, request: LockRequest, key: Option<u8>) {
        let number = self.sent;
        self.sent += 1;
        let key = key.map(|key| key.to_string().parse().unwrap());
        let asked = Asked { id: LockId::random(), request, key };
        let admission =
            self.change(|state, now, effects| state.acquire(asked, |_| Some(number), now, effects));
        let (claim, word) = match admission {
            Admission::Granted(lock) => {
                self.told.insert(number, lock.id);
                self.numbers.entry(lock.id).or_insert(number);
                (None, Some("granted"))
            }
            Admission::Waiting(claim, _) => (Some(claim), None),
            Admission::NotFree => (None, Some("not free")),
            Admission::OtherLimit(_) => (None, Some("other limit")),
            Admission::OtherMode(_) => (None, Some("other mode")),
            Admission::NoSeat => (None, Some("no seat")),
        };
        self.heard.extend(word.map(|word| (number, word)));
        if let Some(claim) = claim {
            self.claims.insert(number, claim);
            self.numbers.entry(claim.id).or_insert(number);
        }
    }

    /// The lock that was first asked for by this sending.
    fn id(&self, number: usize) -> Option<LockId> {
        let mut numbers = self.numbers.iter();
        numbers.find(|(_, first)| **first == number).map(|(id, _)| *id)
    }

    /// Lets time pass from one deadline to the next: the reaper comes, and waits run out.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            let now = self.start + Duration::from_millis(self.now_ms);
            let over = |waiter: &Waiter<usize>| match waiter.seat {
                Seat::Taken { deadline, .. } if deadline <= now => Some(waiter.place.claim()),
                _ => None,
            };
            let over: Vec<_> = self.resource.line.iter().filter_map(over).collect();
            for claim in over {
                self.change(|state, now, effects| state.time_out(claim, now, effects));
            }
            if self.resource.next_due().is_some_and(|due| due <= now) {
                self.change(|state, now, effects| state.expire(now, effects));
            }
        }
    }
}

impl StateMachineTest for Checked {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        Self {
            resource: Resource::new(),
            start: Instant::now(),
            now_ms: 0,
            last_number: Cell::new(0),
            claims: HashMap::new(),
            told: HashMap::new(),
            numbers: HashMap::new(),
            sent: 0,
            heard: Vec::new(),
        }
    }

    fn apply(mut checked: Self, model: &Model, event: Event) -> Self {
        checked.heard.clear();
        let ms = Duration::from_millis;
        let grace = ms(GRACE_MS);
        match event {
            Event::Acquire { mode: (name, limit), wait_ms, lifetime_ms, key } => {
                let mode = match Limit::new(limit) {
                    Some(limit) => Mode::Exclusive { limit },
                    None => Mode::named(name).unwrap(),
                };
                let (title, client) = ("".into(), "".into());
                let (wait, lifetime) = (ms(wait_ms), ms(lifetime_ms));
                checked.acquire(LockRequest { title, wait, lifetime, mode, client }, key);
            }
            Event::Release(number) => {
                if let Some(id) = checked.id(number) {
                    checked.change(|state, now, effects| state.release(id, now, effects));
                }
            }
            Event::Renew { number, lifetime_ms } => {
                if let Some(id) = checked.id(number) {
                    let lifetime = ms(lifetime_ms);
                    checked.change(|state, now, effects| state.renew(id, lifetime, now, effects));
                }
            }
            Event::Withdraw(number) => {
                if let Some(&claim) = checked.claims.get(&number) {
                    checked
                        .change(|state, now, effects| state.withdraw(claim, grace, now, effects));
                }
            }
            Event::Abandon(number) => {
                if let Some(id) = checked.told.remove(&number) {
                    checked.change(|state, now, effects| state.abandon(id, grace, now, effects));
                }
            }
            Event::Clear => {
                checked.change(|state, now, effects| state.clear(now, effects));
            }
            Event::Pass { ms } => checked.pass(ms),
        }
        let sorted = |heard: &[Heard]| {
            let mut heard = heard.to_vec();
            heard.sort_unstable();
            heard
        };
        assert_eq!(sorted(&checked.heard), sorted(&model.heard), "what was heard");
        checked
    }

    fn check_invariants(checked: &Self, model: &Model) {
        checked.resource.check();
        let now = checked.start + Duration::from_millis(checked.now_ms);
        let locks = checked.resource.locks(now);
        let locks: Vec<_> = locks.map(|lock| checked.numbers[&lock.id]).collect();
        let expected: Vec<_> = model.held.iter().chain(&model.line).map(|l| l.number).collect();
        assert_eq!(locks, expected, "the locks in order, the held ones first");
    }
}
