//! Random sequences of all that can happen to a resource, against a model of the rules that is
//! too simple to be fast: it looks at every lock at every millisecond. Now and then the store
//! refuses to write.
//!
//! `PROPTEST_CASES` says how many sequences are tried.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::conversions::Converting;
use super::*;
use crate::{Limit, Mode, NotWritten};

prop_state_machine! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resource_does_what_the_model_does(sequential 1..60 => Checked);
}

const GRACE_MS: u64 = 50;

/// How many in one mode there may be at a time; the second number is the limit of EX.
const MODES: [(&str, u32); 8] =
    [("NL", 0), ("CR", 0), ("CW", 0), ("PR", 0), ("PW", 0), ("EX", 1), ("EX", 2), ("EX", 3)];

/// Something that happens, and whether the store refuses to write what follows from it.
#[derive(Debug, Clone)]
struct Happening {
    step: Step,
    refused: bool,
}

/// What happens. A number stands for the sending of a request, from 0.
#[derive(Debug, Clone)]
enum Step {
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
    Convert {
        number: usize,
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: Option<u64>,
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

/// The words after which all is as it was.
const NOTHING_HAPPENS: [&str; 5] =
    ["still_waiting", "no_such_lock", "not_convertible", "converting", "mismatch"];

/// What somebody hears: the number of its sending, and the word.
type Heard = (usize, &'static str);

#[derive(Debug, Clone, Default)]
struct Model {
    now: u64,
    /// In order of their grants.
    held: Vec<ModelLock>,
    /// In order of arrival.
    converting: Vec<ModelConversion>,
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

/// The wish for another mode, which waits.
#[derive(Debug, Clone)]
struct ModelConversion {
    sender: usize,
    /// The first sending of the lock.
    number: usize,
    mode: (&'static str, u32),
    lifetime_ms: Option<u64>,
    /// Of the wait.
    end: u64,
}

fn beside(one: &str, other: &str) -> bool {
    match (one, other) {
        ("NL", _) | (_, "NL") => true,
        ("CR", other) | (other, "CR") => other != "EX",
        ("CW", "CW") | ("PR", "PR") => true,
        _ => false,
    }
}

impl Model {
    fn fits(&self, mode: (&str, u32)) -> bool {
        let exclusive = self.held.iter().filter(|lock| lock.mode.0 == "EX").count();
        let room = mode.0 == "EX" && exclusive < mode.1 as usize;
        let fits = |held: &str| beside(held, mode.0) || (held == "EX" && room);
        self.held.iter().all(|lock| fits(lock.mode.0))
    }

    /// Converts those at the head that fit; whether none is left.
    fn convert_each(&mut self) -> bool {
        self.drop_conversions();
        while let Some(first) = self.converting.first() {
            let mut others = self.held.iter().filter(|lock| lock.number != first.number);
            if !others.all(|lock| beside(lock.mode.0, first.mode.0)) {
                return false;
            }
            let first = self.converting.remove(0);
            self.convert_now(&first);
        }
        true
    }

    /// Those whose lock is gone are gone.
    fn drop_conversions(&mut self) {
        let Self { held, converting, heard, .. } = self;
        converting.retain(|waiting| {
            let is_held = held.iter().any(|lock| lock.number == waiting.number);
            if !is_held {
                heard.push((waiting.sender, "no_such_lock"));
            }
            is_held
        });
    }

    fn convert_now(&mut self, to: &ModelConversion) {
        let now = self.now;
        let lock = self.held.iter_mut().find(|lock| lock.number == to.number).unwrap();
        lock.mode = to.mode;
        if let Some(lifetime_ms) = to.lifetime_ms {
            lock.end = now + lifetime_ms + 1;
        }
        lock.answers += 1;
        lock.lost = None;
        self.told.insert(to.sender, to.number);
        self.heard.push((to.sender, "granted"));
    }

    fn convert(
        &mut self,
        number: usize,
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: Option<u64>,
    ) {
        let sender = self.sent;
        self.sent += 1;
        let Some(lock) = self.held.iter().find(|lock| lock.number == number) else {
            let waits = self.line.iter().any(|lock| lock.number == number);
            let word = if waits { "still_waiting" } else { "no_such_lock" };
            return self.heard.push((sender, word));
        };
        let from = lock.mode;
        if from.1 > 1 || mode.1 > 1 {
            return self.heard.push((sender, "not_convertible"));
        }
        if self.converting.iter().any(|waiting| waiting.number == number) {
            return self.heard.push((sender, "converting"));
        }
        if mode.0 == "EX" && self.held.iter().chain(&self.line).any(|lock| lock.mode.1 > 1) {
            return self.heard.push((sender, "mismatch"));
        }
        self.convert_each();
        let mut others = self.held.iter().filter(|lock| lock.number != number);
        let end = self.now + wait_ms;
        let to = ModelConversion { sender, number, mode, lifetime_ms, end };
        if others.all(|lock| beside(lock.mode.0, mode.0)) {
            self.convert_now(&to);
        } else if wait_ms == 0 {
            self.heard.push((sender, "timed_out"));
        } else if self.converting.iter().any(|waiting| !beside(waiting.mode.0, from.0)) {
            self.heard.push((sender, "deadlock"));
        } else {
            self.converting.push(to);
        }
        self.promote();
    }

    fn hold(&mut self, mut lock: ModelLock) {
        lock.end = self.now + lock.lifetime_ms + 1;
        lock.answers = 1;
        self.told.insert(lock.sender, lock.number);
        self.heard.push((lock.sender, "granted"));
        self.held.push(lock);
    }

    fn promote(&mut self) {
        if !self.convert_each() {
            return;
        }
        while let Some(first) = self.line.iter().position(|lock| lock.lost.is_none())
            && self.fits(self.line[first].mode)
        {
            let lock = self.line.remove(first);
            self.hold(lock);
        }
    }

    /// Grants those whose grant was refused before, up to the place of this key.
    fn promote_before(&mut self, key: Option<u8>) {
        if !self.convert_each() {
            return;
        }
        while let Some(first) = self.line.iter().position(|lock| lock.lost.is_none())
            && (key.is_none() || self.line[..=first].iter().all(|lock| lock.key != key))
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
        self.drop_conversions();
        let timed_out = self.converting.iter().filter(|waiting| waiting.end <= now);
        self.heard.extend(timed_out.map(|waiting| (waiting.sender, "timed_out")));
        self.converting.retain(|waiting| waiting.end > now);
        let over = |lock: &ModelLock| lock.lost.unwrap_or(lock.end) <= now;
        let timed_out = self.line.iter().filter(|lock| over(lock) && lock.lost.is_none());
        self.heard.extend(timed_out.map(|lock| (lock.sender, "timed_out")));
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
        self.promote_before(key);
        let same = |lock: &&mut ModelLock| lock.key == key && key.is_some();
        if let Some(lock) = self.held.iter_mut().find(same) {
            if lock.mode == mode {
                lock.answers += 1;
                lock.lost = None;
                self.told.insert(number, lock.number);
            }
            let word = if lock.mode == mode { "granted" } else { "mismatch" };
            return self.heard.push((number, word));
        }
        let there = self.line.iter().position(|lock| lock.key == key && key.is_some());
        if there.is_some_and(|there| self.line[there].mode != mode) {
            return self.heard.push((number, "mismatch"));
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
            let locks = self.held.iter().chain(&self.line).map(|lock| lock.mode);
            let wanted = self.converting.iter().map(|waiting| waiting.mode);
            let mut limits = locks.chain(wanted).filter(|mode| mode.0 == "EX");
            if mode.0 == "EX" && limits.any(|theirs| theirs != mode) {
                return self.heard.push((number, "mismatch"));
            }
        }
        let behind = self.line[..place].iter().any(|lock| lock.lost.is_none())
            || !self.converting.is_empty();
        if self.fits(mode) && (!behind || mode.0 == "NL") {
            self.hold(lock);
        } else if wait_ms == 0 {
            self.heard.push((number, "timed_out"));
        } else {
            self.line.insert(place, lock);
        }
        self.promote();
    }

    fn withdraw(&mut self, number: usize) {
        if let Some(place) = self.converting.iter().position(|waiting| waiting.sender == number) {
            self.converting.remove(place);
            return self.heard.push((number, "departed"));
        }
        let theirs = |lock: &ModelLock| lock.sender == number && lock.lost.is_none();
        let Some(place) = self.line.iter().position(theirs) else { return };
        if self.line[place].key.is_some() {
            self.line[place].lost = Some(self.now + GRACE_MS);
        } else {
            self.line.remove(place);
        }
        self.heard.push((number, "departed"));
    }

    fn abandon(&mut self, number: usize) {
        let Some(lock) = self.told.remove(&number) else { return };
        let Some(held) = self.held.iter_mut().find(|held| held.number == lock) else { return };
        if held.is_over(self.now) {
            return;
        }
        held.answers -= 1;
        if held.answers == 0 || held.key.is_none() {
            let grace = if held.key.is_some() { GRACE_MS } else { 0 };
            held.lost = Some(self.now + grace);
        }
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Happening;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self::default()).boxed()
    }

    fn transitions(state: &Self) -> BoxedStrategy<Happening> {
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
                Step::Acquire { mode, wait_ms, lifetime_ms, key }
            },
        );
        let mode = proptest::sample::select(&MODES[..]);
        let wait_ms = prop_oneof![Just(0), 1..200_u64];
        let lifetime_ms = proptest::option::weighted(0.3, 1..300_u64);
        let convert = (number.clone(), mode, wait_ms, lifetime_ms).prop_map(
            |(number, mode, wait_ms, lifetime_ms)| Step::Convert {
                number,
                mode,
                wait_ms,
                lifetime_ms,
            },
        );
        let step = prop_oneof![
            8 => acquire,
            4 => number.clone().prop_map(Step::Release),
            1 => (number.clone(), 1..300_u64)
                .prop_map(|(number, lifetime_ms)| Step::Renew { number, lifetime_ms }),
            5 => convert,
            2 => number.clone().prop_map(Step::Withdraw),
            1 => number.prop_map(Step::Abandon),
            4 => (1..80_u64).prop_map(|ms| Step::Pass { ms }),
            // So seldom that crowds can form.
            if state.sent > 30 { 1 } else { 0 } => Just(Step::Clear),
        ];
        let refused = proptest::bool::weighted(0.15);
        (step, refused).prop_map(|(step, refused)| Happening { step, refused }).boxed()
    }

    fn apply(state: Self, happening: &Happening) -> Self {
        let Happening { step, refused } = happening;
        // Whatever comes late is written.
        if *refused && !matches!(step, Step::Pass { .. }) {
            state.refused(step)
        } else {
            state.written(step)
        }
    }
}

impl Model {
    fn written(mut self, step: &Step) -> Self {
        self.heard.clear();
        let before = self.clone();
        self.end_lost();
        match *step {
            Step::Acquire { mode, wait_ms, lifetime_ms, key } => {
                self.acquire(mode, wait_ms, lifetime_ms, key);
                if let Some(mismatch) = self.heard.iter().find(|heard| heard.1 == "mismatch") {
                    return Self { heard: vec![*mismatch], sent: self.sent, ..before };
                }
            }
            Step::Convert { number, mode, wait_ms, lifetime_ms } => {
                let sender = self.sent;
                self.convert(number, mode, wait_ms, lifetime_ms);
                let word = self.heard.iter().find(|heard| heard.0 == sender);
                if let Some(word) = word.filter(|heard| NOTHING_HAPPENS.contains(&heard.1)) {
                    return Self { heard: vec![*word], sent: self.sent, ..before };
                }
            }
            Step::Release(number)
            | Step::Renew { number, .. }
            | Step::Withdraw(number)
            | Step::Abandon(number)
                if !self.has(step, number) =>
            {
                return before;
            }
            Step::Release(number) => {
                let deleted = self.line.iter().filter(|l| l.number == number && l.lost.is_none());
                self.heard.extend(deleted.map(|lock| (lock.sender, "deleted")));
                self.held.retain(|lock| lock.number != number);
                self.line.retain(|lock| lock.number != number);
                self.promote();
            }
            Step::Renew { number, lifetime_ms } => {
                let now = self.now;
                for lock in self.held.iter_mut().filter(|lock| lock.number == number) {
                    (lock.end, lock.lost) = (now + lifetime_ms + 1, None);
                    lock.answers += 1;
                }
                self.promote();
            }
            Step::Withdraw(number) => {
                self.withdraw(number);
                self.promote();
            }
            Step::Abandon(number) => {
                self.abandon(number);
                self.end_lost();
                self.promote();
            }
            Step::Clear => {
                let connected = self.line.iter().filter(|lock| lock.lost.is_none());
                self.heard.extend(connected.map(|lock| (lock.sender, "deleted")));
                (self.held, self.line) = (Vec::new(), Vec::new());
                self.drop_conversions();
            }
            Step::Pass { ms } => (0..ms).for_each(|_| self.tick()),
        }
        self
    }

    /// Facts are made, and nothing else if that would have to be written.
    fn refused(mut self, step: &Step) -> Self {
        let written = self.clone().written(step);
        let holders = |model: &Self| {
            let held = model.held.iter().map(|lock| (lock.number, lock.mode, lock.end));
            held.collect::<Vec<_>>()
        };
        let renews = match step {
            Step::Renew { number, .. } => {
                let renewed = |lock: &ModelLock| lock.number == *number && !lock.is_over(self.now);
                self.held.iter().any(renewed)
            }
            Step::Convert { lifetime_ms: Some(_), .. } => {
                written.heard.contains(&(self.sent, "granted"))
            }
            _ => false,
        };
        if holders(&self) == holders(&written) && !renews {
            return written;
        }
        self.heard.clear();
        match *step {
            Step::Acquire { .. } => {
                let newcomer = self.sent;
                self.sent += 1;
                if written.heard.contains(&(newcomer, "granted")) {
                    self.heard.push((newcomer, "not_written"));
                    return self;
                }
                let theirs = |heard: &&Heard| heard.0 == newcomer || heard.1 == "superseded";
                self.heard.extend(written.heard.iter().filter(theirs));
                let gone = |lock: &ModelLock| self.heard.contains(&(lock.sender, "superseded"));
                let joined = written.line.iter().find(|lock| lock.sender == newcomer);
                let number = joined.map(|lock| lock.number);
                let place = self.line.iter().position(|l| gone(l) || Some(l.number) == number);
                if let Some(place) = place {
                    self.line.remove(place);
                }
                if let Some(joined) = joined {
                    self.line.insert(place.unwrap_or(self.line.len()), joined.clone());
                }
            }
            Step::Convert { .. } => {
                let newcomer = self.sent;
                self.sent += 1;
                let theirs = written.heard.iter().filter(|heard| heard.0 == newcomer);
                self.heard.extend(theirs.map(|(sender, word)| match *word {
                    "granted" => (*sender, "not_written"),
                    word => (*sender, word),
                }));
                let joined = written.converting.iter().find(|waiting| waiting.sender == newcomer);
                self.converting.extend(joined.cloned());
            }
            Step::Withdraw(number) => self.withdraw(number),
            Step::Abandon(number) => self.abandon(number),
            Step::Release(_) | Step::Renew { .. } | Step::Clear | Step::Pass { .. } => {}
        }
        self
    }

    /// Whether there is what this happens to.
    fn has(&self, step: &Step, number: usize) -> bool {
        let held = || self.held.iter().any(|lock| lock.number == number);
        match step {
            Step::Release(_) => held() || self.line.iter().any(|lock| lock.number == number),
            Step::Withdraw(_) => {
                self.line.iter().any(|lock| lock.sender == number && lock.lost.is_none())
                    || self.converting.iter().any(|waiting| waiting.sender == number)
            }
            Step::Abandon(_) => self.told.contains_key(&number),
            _ => held(),
        }
    }

    /// Ends the locks of which nobody has heard and whose time is over.
    fn end_lost(&mut self) {
        let now = self.now;
        self.held.retain(|lock| !lock.is_over(now));
    }
}

impl ModelLock {
    /// Held by nobody who knows of it, and not kept any longer.
    fn is_over(&self, now: u64) -> bool {
        self.lost.is_some_and(|until| until <= now)
    }
}

fn real_mode((name, limit): (&str, u32)) -> Mode {
    match Limit::new(limit) {
        Some(limit) => Mode::Exclusive { limit },
        None => Mode::named(name).unwrap(),
    }
}

/// The resource, driven as the table drives it.
struct Checked {
    resource: Resource<usize>,
    start: Instant,
    now_ms: u64,
    numbers: Numbers,
    /// What each sending has of the line, also one that only repeats another.
    claims: HashMap<usize, Claim>,
    /// The sendings that were told of a grant, and of which.
    told: HashMap<usize, LockId>,
    /// The first sending of each request.
    numbers_of: HashMap<LockId, usize>,
    sent: usize,
    heard: Vec<Heard>,
    /// The store refuses to write.
    refuses: bool,
}

impl Checked {
    /// Runs an event as the table does, and notes who heard what. The answer to whoever caused it.
    fn happen(&mut self, event: Event<usize>) -> Reply {
        let since_start = Duration::from_millis(self.now_ms);
        let (instant, wall) = (self.start + since_start, SystemTime::UNIX_EPOCH + since_start);
        let now = Now { instant, wall, numbers: &self.numbers };
        let mut outcome = Outcome::default();
        let Decision { facts, plan, answer } = self.resource.decide(event, now);
        self.resource.note(facts, &mut outcome);
        let is_written = plan.ended_tokens().chain(plan.holders().map(|_| 0)).next().is_some();
        let refused = self.refuses && is_written;
        if !refused {
            self.resource.apply(plan, now, &mut outcome);
        }
        for (number, word) in outcome.told {
            self.hear(number, &word);
        }
        match answer {
            Answer::Done | Answer::Granted(_) if refused => {
                Reply::Refused(Refusal::NotWritten(NotWritten::Refused("refused".into())))
            }
            answer => self.resource.answer(answer),
        }
    }

    fn hear(&mut self, number: usize, word: &Reply) {
        let word = match word {
            Reply::Granted(grant) => {
                self.told.insert(number, grant.id);
                self.numbers_of.entry(grant.id).or_insert(number);
                "granted"
            }
            Reply::Refused(refusal) => refusal.name(),
            Reply::InLine(claim, _) => {
                self.claims.insert(number, *claim);
                self.numbers_of.entry(claim.id()).or_insert(number);
                return;
            }
            Reply::Done => panic!("{number} heard {word:?}"),
        };
        self.heard.push((number, word));
    }

    fn acquire(&mut self, terms: Terms, key: Option<u8>) {
        let number = self.sent;
        self.sent += 1;
        let key = key.map(|key| key.to_string().parse().unwrap());
        let came = self.start + Duration::from_millis(self.now_ms);
        let asked = Asked { id: LockId::random(), terms, key, came };
        let reply = self.happen(Event::Acquire(Box::new(asked), number));
        self.hear(number, &reply);
    }

    fn convert(&mut self, number: usize, wanted: Conversion) {
        let sender = self.sent;
        self.sent += 1;
        let id = self.id(number).unwrap_or_else(LockId::random);
        let came = self.start + Duration::from_millis(self.now_ms);
        let reply = self.happen(Event::Convert(Box::new(Wish { id, wanted, came }), sender));
        self.hear(sender, &reply);
    }

    /// The lock that was first asked for by this sending.
    fn id(&self, number: usize) -> Option<LockId> {
        let mut numbers = self.numbers_of.iter();
        numbers.find(|(_, first)| **first == number).map(|(id, _)| *id)
    }

    /// Lets time pass from one deadline to the next: the reaper comes, and waits run out.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            let now = self.start + Duration::from_millis(self.now_ms);
            let over = self.resource.line.waiters(..).filter(|waiter| waiter.deadline <= now);
            let over: Vec<_> = over.map(|waiter| waiter.place.claim()).collect();
            let conversions = self.resource.conversions.iter();
            let conversions = conversions.filter(|waiting| waiting.deadline <= now);
            let conversions: Vec<_> = conversions.map(Converting::claim).collect();
            if !conversions.is_empty() {
                // A lock that ends now takes its conversion with it.
                self.happen(Event::Expire);
            }
            for claim in over.into_iter().chain(conversions) {
                self.happen(Event::TimeOut(claim));
            }
            if self.resource.next_due().is_some_and(|due| due <= now) {
                self.happen(Event::Expire);
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
            start: Instant::since_start(Duration::from_secs(1)),
            now_ms: 0,
            numbers: Numbers::after(0, SystemTime::UNIX_EPOCH),
            claims: HashMap::new(),
            told: HashMap::new(),
            numbers_of: HashMap::new(),
            sent: 0,
            heard: Vec::new(),
            refuses: false,
        }
    }

    fn apply(mut checked: Self, model: &Model, happening: Happening) -> Self {
        checked.heard.clear();
        let Happening { step, refused } = happening;
        checked.refuses = refused && !matches!(step, Step::Pass { .. });
        let ms = Duration::from_millis;
        let grace = ms(GRACE_MS);
        match step {
            Step::Acquire { mode, wait_ms, lifetime_ms, key } => {
                let mode = real_mode(mode);
                let wait = ms(wait_ms);
                let terms = Terms { wait, mode, ..Terms::exclusive("", ms(lifetime_ms)) };
                checked.acquire(terms, key);
            }
            Step::Release(number) => {
                if let Some(id) = checked.id(number) {
                    checked.happen(Event::Release(id));
                }
            }
            Step::Renew { number, lifetime_ms } => {
                if let Some(id) = checked.id(number) {
                    let lifetime = ms(lifetime_ms);
                    checked.happen(Event::Renew(id, lifetime));
                }
            }
            Step::Convert { number, mode, wait_ms, lifetime_ms } => {
                let (mode, wait) = (real_mode(mode), ms(wait_ms));
                let lifetime = lifetime_ms.map(ms);
                checked.convert(number, Conversion { mode, wait, lifetime });
            }
            Step::Withdraw(number) => {
                let claim = checked.claims.get(&number).copied();
                let Resource { line, conversions, .. } = &checked.resource;
                let waits = |claim: &Claim| {
                    line.waiter(*claim).is_some() || conversions.with(*claim).is_some()
                };
                if let Some(claim) = claim.filter(waits) {
                    checked.happen(Event::Withdraw(claim, grace));
                }
            }
            Step::Abandon(number) => {
                if let Some(id) = checked.told.remove(&number) {
                    checked.happen(Event::Abandon(id, grace));
                }
            }
            Step::Clear => {
                checked.happen(Event::Delete(u64::MAX));
            }
            Step::Pass { ms } => checked.pass(ms),
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
        let now = checked.start + Duration::from_millis(checked.now_ms);
        // Whoever fits is held up by the store alone.
        if checked.resource.next_due().is_none_or(|due| due > now) {
            checked.resource.check();
        }
        let locks = checked.resource.page(None, now, None, usize::MAX).locks.into_iter();
        let locks: Vec<_> = locks.map(|lock| checked.numbers_of[&lock.id()]).collect();
        let held = model.held.iter().filter(|lock| !lock.is_over(model.now));
        let expected: Vec<_> = held.chain(&model.line).map(|lock| lock.number).collect();
        assert_eq!(locks, expected, "the locks in order, the held ones first");
        for lock in model.held.iter().filter(|lock| !lock.is_over(model.now)) {
            let id = checked.id(lock.number).unwrap();
            let mode = checked.resource.holders.get(id).unwrap().terms.mode;
            assert_eq!(mode, real_mode(lock.mode), "the mode of {}", lock.number);
        }
        let converting = checked.resource.conversions.iter().map(|waiting| waiting.handle);
        let expected = model.converting.iter().map(|waiting| waiting.sender);
        assert_eq!(converting.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "conversions");
    }
}
