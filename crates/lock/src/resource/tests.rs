//! The rules of one resource, as tables of steps.

mod conversions;
mod keys;
mod modes;
mod pieces;
mod plans;

use super::*;
use crate::numbers::Numbers;
use crate::{Actor, Conversion, Limit, Mode, Terms};

/// A resource whose time is set by the test; waiters are known by their titles.
struct Scene {
    resource: Resource<&'static str>,
    start: Instant,
    instant: Instant,
    wall: SystemTime,
    numbers: Numbers,
}

impl Scene {
    fn new() -> Self {
        let start = Instant::since_start(DAY);
        let wall = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let numbers = Numbers::after(0, SystemTime::UNIX_EPOCH);
        Self { resource: Resource::new(), start, instant: start, wall, numbers }
    }

    /// Sets the time, in seconds since the start.
    fn at(&mut self, seconds: f64) -> &mut Self {
        self.instant = self.start + Duration::from_secs_f64(seconds);
        self
    }

    /// Acquires EX with these seconds of wait and lifetime; the id, and whether granted.
    fn acquire(&mut self, who: &'static str, wait: f64, lifetime: f64) -> (LockId, bool) {
        let (id, granted, _) = self.acquire_in(Mode::EXCLUSIVE, who, wait, lifetime);
        (id, granted)
    }

    /// The same in any mode; also, who was told what.
    fn acquire_in(
        &mut self,
        mode: Mode,
        who: &'static str,
        wait: f64,
        lifetime: f64,
    ) -> (LockId, bool, String) {
        let id = LockId::random();
        let asked = Arrival { id, ..self.asked(request(mode, who, wait, lifetime), None) };
        let (reply, told) = self.ask(asked);
        (id, matches!(reply, Reply::Granted(_)), told)
    }

    /// Acquires with a key, waiting up to 50 s.
    fn acquire_with(&mut self, key: &str, who: &'static str) -> (Reply, String) {
        let asked = self.asked(request(Mode::EXCLUSIVE, who, 50.0, 100.0), Some(key));
        self.ask(asked)
    }

    /// A request that comes now.
    fn asked(&self, terms: Terms, key: Option<&str>) -> Arrival {
        let key = key.map(|key| key.parse().unwrap());
        Arrival { id: LockId::random(), terms, key, arrived_at: self.instant }
    }

    fn ask(&mut self, asked: Arrival) -> (Reply, String) {
        self.happen(acquires(asked))
    }

    /// Runs an input whose plan is written: the reply, and who was told what.
    fn happen(&mut self, input: Input<&'static str>) -> (Reply, String) {
        let (reply, told) = self.happen_unchecked(input);
        self.resource.check();
        (reply, told)
    }

    fn happen_unchecked(&mut self, input: Input<&'static str>) -> (Reply, String) {
        let now = Now { instant: self.instant, wall: self.wall };
        let mut effects = Effects::default();
        let Decision { facts, plan, answer } =
            self.resource.decide(input, now, &mut || self.numbers.next());
        self.resource.note(facts, &mut effects);
        self.resource.apply(plan, now, &mut effects);
        (self.resource.answer(answer), completed(effects))
    }

    /// The same when the store refuses to write: who was told what even so.
    fn refuse(&mut self, input: Input<&'static str>) -> String {
        let now = Now { instant: self.instant, wall: self.wall };
        let mut effects = Effects::default();
        let facts = self.resource.decide(input, now, &mut || self.numbers.next()).facts;
        self.resource.note(facts, &mut effects);
        completed(effects)
    }

    fn release(&mut self, id: LockId) -> (bool, String) {
        is_done(self.happen(Input::Release(id, Actor::nobody())))
    }

    fn clear(&mut self) -> (bool, String) {
        is_done(self.happen(Input::Delete(u64::MAX, Actor::nobody())))
    }

    /// Whether it was renewed.
    fn renew(&mut self, id: LockId, seconds: u64) -> (bool, String) {
        let (reply, told) = self.happen(Input::Renew(id, Duration::from_secs(seconds)));
        (matches!(reply, Reply::Granted(_)), told)
    }

    fn expire(&mut self) -> String {
        self.happen(Input::Expire).1
    }

    fn withdraw(&mut self, claim: Claim) -> String {
        self.happen(Input::Withdraw(claim, GRACE)).1
    }

    fn abandon(&mut self, id: LockId) -> String {
        self.happen(Input::Abandon(id, GRACE)).1
    }

    fn time_out(&mut self, claim: Claim) -> String {
        self.happen(Input::TimeOut(claim)).1
    }

    /// The titles of the locks, the holders first.
    fn locks(&self) -> Vec<String> {
        let locks = self.resource.page(None, self.instant, None, usize::MAX).locks.into_iter();
        locks.map(|lock| lock.terms().title.to_string()).collect()
    }
}

const GRACE: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The clients in these tests.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn request(mode: Mode, who: &str, wait: f64, lifetime: f64) -> Terms {
    Terms {
        wait: Duration::from_secs_f64(wait),
        mode,
        client: "nobody".into(),
        ..Terms::exclusive(who, Duration::from_secs_f64(lifetime))
    }
}

fn acquires(asked: Arrival) -> Input<&'static str> {
    let title = &asked.terms.title;
    let who = NAMES.iter().find(|name| *name == title).unwrap();
    Input::Acquire(Box::new(asked), who)
}

fn completed(effects: Effects<&'static str>) -> String {
    let ended = effects.events.into_iter().filter_map(|grant| match grant.kind {
        Kind::Ended(End::Expired) => Some(format!("{} expired", grant.terms.title)),
        Kind::Ended(End::Abandoned) => Some(format!("{} abandoned", grant.terms.title)),
        _ => None,
    });
    let told = effects.results.into_iter().map(|(who, result)| match result {
        Reply::Granted(_) => format!("{who} granted"),
        Reply::Refused(refusal) => format!("{who} {}", refusal.name().replace('_', " ")),
        Reply::Done | Reply::InLine(..) => panic!("{who} got {result:?}"),
    });
    ended.chain(told).collect::<Vec<_>>().join(", ")
}

fn is_done((reply, told): (Reply, String)) -> (bool, String) {
    match reply {
        Reply::Done => (true, told),
        Reply::Refused(Refusal::NoSuchLock) => (false, told),
        other => panic!("{other:?}"),
    }
}

fn claim(reply: Reply) -> Claim {
    match reply {
        Reply::Granted(grant) => first(grant.id),
        Reply::InLine(claim, _) => claim,
        other => panic!("{other:?}"),
    }
}

/// The claim of the first delivery of a request.
fn first(id: LockId) -> Claim {
    Claim::Place { id, attempt: 0 }
}

/// The compatibility of lock modes as the manuals of VMS print it.
const VMS: [(&str, &str); 6] = [
    ("NL", "NL CR CW PR PW EX"),
    ("CR", "NL CR CW PR PW"),
    ("CW", "NL CR CW"),
    ("PR", "NL CR PR"),
    ("PW", "NL CR"),
    ("EX", "NL"),
];

fn together(held: Mode, asked: Mode) -> bool {
    let (_, beside) = VMS.into_iter().find(|(name, _)| *name == held.name()).unwrap();
    beside.contains(asked.name())
}

fn semaphore(limit: u32) -> Mode {
    Mode::Exclusive { limit: Limit::new(limit).unwrap() }
}

impl<W> Resource<W> {
    /// What holds between two events that were written.
    pub(super) fn check(&self) {
        let counts = self.holders.counts();
        assert!(self.holders.fit_together(), "cannot be held together: {:?}", self.holders);
        let limit = self.holders.limit().map_or(0, Limit::get);
        assert!(counts.exclusive() <= limit, "more than the limit: {:?}", self.holders);
        let first = self.line.first().filter(|_| self.conversions.is_empty());
        let fits = first.is_some_and(|first| counts.allow(first.place.terms.mode));
        assert!(!fits, "a request waits for a free lock");
        self.check_conversions();
    }

    /// The first waits for another lock, and none for one behind it.
    fn check_conversions(&self) {
        let mut before = compatibility::ModeCounts::default();
        for super::conversions::Converting { id, wanted, .. } in self.conversions.iter() {
            let held = self.holders.get(*id).expect("what is converted is held").terms.mode;
            let mut others = self.holders.counts();
            others.remove(held);
            let fits = others.allow(wanted.mode);
            let first = before == compatibility::ModeCounts::default();
            assert!(!first || !fits, "a conversion waits for nothing");
            assert!(before.allow(held), "a deadlock");
            before.add(wanted.mode);
        }
        assert_eq!(before, self.conversions.wanted());
    }
}

#[test]
fn a_free_lock_is_granted_and_a_held_one_is_not() {
    let mut scene = Scene::new();
    let (a, granted) = scene.acquire("a", 0.0, 10.0);
    assert!(granted);
    assert!(!scene.acquire("b", 5.0, 10.0).1);
    assert_eq!(scene.locks(), ["a", "b"]);
    assert_eq!(scene.release(a), (true, "b granted".into()));
    assert_eq!(scene.release(a), (false, String::new()), "released twice");
}

#[test]
fn grants_are_in_order_of_arrival() {
    let mut scene = Scene::new();
    let (mut holder, _) = scene.acquire("a", 0.0, 100.0);
    let ids = ["b", "c", "d"].map(|who| scene.acquire(who, 50.0, 100.0).0);
    for (id, who) in ids.into_iter().zip(["b", "c", "d"]) {
        assert_eq!(scene.release(holder), (true, format!("{who} granted")));
        holder = id;
    }
    assert_eq!(scene.release(holder), (true, String::new()));
    assert!(scene.resource.is_empty());
}

#[test]
fn a_lock_expires_at_its_lifetime_and_not_before() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 10.0);
    let expiry = scene.resource.next_due().unwrap();
    let lives = Duration::from_millis(10_001);
    assert_eq!(expiry, scene.start + lives, "a moment for the answer");
    scene.instant = scene.start + (lives - Duration::from_nanos(1));
    assert_eq!(scene.expire(), "");
    assert_eq!(scene.locks(), ["a"]);
    scene.instant = expiry;
    assert_eq!(scene.expire(), "a expired");
    assert_eq!(scene.release(a), (false, String::new()));
    assert_eq!(scene.resource.next_due(), None);
}

#[test]
fn an_expired_lock_is_gone_before_the_reaper_comes() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 10.0);
    assert_eq!(scene.at(10.1).release(a), (false, String::new()));
    assert!(scene.acquire("b", 0.0, 10.0).1);
    assert!(scene.at(20.2).acquire("c", 0.0, 1.0).1, "free again at b's lifetime");
}

#[test]
fn the_lifetime_of_a_waiter_begins_with_its_grant() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 10.0);
    scene.acquire("b", 60.0, 10.0);
    assert_eq!(scene.at(12.0).expire(), "a expired, b granted");
    assert_eq!(scene.at(21.9).expire(), "");
    assert_eq!(scene.at(22.1).expire(), "b expired");
}

#[test]
fn a_renewed_lock_expires_its_new_lifetime_from_then() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 10.0);
    let (b, _) = scene.acquire("b", 600.0, 10.0);
    assert_eq!(scene.at(9.0).renew(a, 20), (true, String::new()));
    assert_eq!(scene.at(28.9).expire(), "");
    assert_eq!(scene.renew(a, 1), (true, String::new()), "to a shorter one as well");
    assert!(!scene.renew(b, 100).0, "it still waits");
    assert_eq!(scene.at(30.0).expire(), "a expired, b granted");
    // At the very end: gone, and then it stays gone.
    scene.instant = scene.resource.next_due().unwrap();
    assert_eq!(scene.renew(b, 100), (false, String::new()));
    assert_eq!(scene.expire(), "b expired");
    assert!(!scene.renew(b, 100).0);
    assert!(scene.resource.is_empty());
}

#[test]
fn a_waiter_whose_wait_is_over_is_passed_over() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 5.0, 100.0);
    scene.acquire("c", 9.0, 100.0);
    assert_eq!(scene.at(5.0).release(a), (true, "b timed out, c granted".into()));
}

#[test]
fn a_request_that_leaves_the_line_is_not_granted() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let (b, _) = scene.acquire("b", 50.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    scene.time_out(first(b));
    assert_eq!(scene.locks(), ["a", "c"]);
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

#[test]
fn a_deleted_waiter_is_told_and_the_others_move_up() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let (b, _) = scene.acquire("b", 50.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    assert_eq!(scene.release(b), (true, "b deleted".into()));
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

#[test]
fn a_deletion_ends_every_wait_and_grants_nothing() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 50.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    assert_eq!(scene.clear(), (true, "b deleted, c deleted".into()));
    assert!(scene.resource.is_empty());
    assert_eq!(scene.clear(), (false, String::new()));
}

#[test]
fn a_waiter_that_is_gone_is_passed_over_and_a_holder_stays() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let (b, _) = scene.acquire("b", 50.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    assert_eq!(scene.withdraw(first(b)), "b departed");
    assert_eq!(scene.withdraw(first(b)), "");
    assert_eq!(scene.withdraw(first(a)), "");
    assert_eq!(scene.locks(), ["a", "c"]);
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

#[test]
fn no_step_of_the_wall_clock_changes_when_a_lock_expires() {
    let steps: [fn(SystemTime, Duration) -> SystemTime; 2] = [|t, d| t - d, |t, d| t + d];
    for step in steps {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 10.0);
        scene.acquire("b", 20.0, 10.0);
        scene.wall = step(scene.wall, DAY);
        assert_eq!(scene.at(9.9).expire(), "");
        assert_eq!(scene.at(10.1).expire(), "a expired, b granted");
        assert_eq!(scene.at(20.0).expire(), "");
        assert_eq!(scene.at(20.2).expire(), "b expired");
    }
}

impl Scene {
    /// A request that comes into the line.
    fn join(&mut self) {
        let asked = self.asked(request(Mode::EXCLUSIVE, "b", 1e6, 1e6), None);
        self.happen_unchecked(acquires(asked));
    }

    /// The lock is released and handed over, a hundred times, and each time another joins the
    /// line; how many places are walked past.
    fn walked_by_hand_overs(&mut self) -> usize {
        let before = self.resource.line.walked();
        for _ in 0..100 {
            self.join();
            let holder = self.resource.holders.iter().next().unwrap().id;
            let (_, told) = self.happen_unchecked(Input::Release(holder, Actor::nobody()));
            assert_eq!(told, "b granted");
        }
        self.resource.line.walked() - before
    }
}

#[test]
fn a_hand_over_costs_the_same_with_a_long_line() {
    let walked = |line: usize| {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 1e6);
        (0..line).for_each(|_| scene.join());
        scene.walked_by_hand_overs()
    };
    let (short, long) = (walked(5), walked(5_000));
    assert!(short == long && short > 0, "{short} with 5 waiting, {long} with 5,000");
}

#[test]
fn kept_places_at_the_head_are_not_walked_again_and_again() {
    let walked = |kept: usize| {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 1e6);
        for n in 0..kept {
            let asked =
                scene.asked(request(Mode::EXCLUSIVE, "c", 50.0, 100.0), Some(&n.to_string()));
            let gone = claim(scene.happen_unchecked(acquires(asked)).0);
            scene.happen_unchecked(Input::Withdraw(gone, GRACE));
        }
        scene.walked_by_hand_overs()
    };
    let (few, many) = (walked(5), walked(5_000));
    assert!(few == many && few > 0, "{few} with 5 kept, {many} with 5,000");
}

#[test]
fn a_request_deleted_as_the_holder_expires_is_not_granted() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 10.0);
    scene.acquire("b", 50.0, 100.0);
    assert_eq!(scene.at(10.1).clear(), (true, "a expired, b deleted".into()));
    assert!(scene.resource.is_empty());

    scene.acquire("c", 0.0, 10.0);
    let (d, _) = scene.acquire("d", 50.0, 100.0);
    scene.acquire("e", 50.0, 100.0);
    assert_eq!(scene.at(30.0).release(d), (true, "c expired, d deleted, e granted".into()));
}
