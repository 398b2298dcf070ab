//! The rules of one resource, as tables of steps.

mod conversions;
mod pieces;

use super::*;
use crate::{Limit, Mode};

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

    /// The same in any mode; also, who heard what.
    fn acquire_in(
        &mut self,
        mode: Mode,
        who: &'static str,
        wait: f64,
        lifetime: f64,
    ) -> (LockId, bool, String) {
        let id = LockId::random();
        let asked = Asked { id, ..self.asked(request(mode, who, wait, lifetime), None) };
        let (reply, told) = self.ask(asked);
        (id, matches!(reply, Reply::Granted(_)), told)
    }

    /// Acquires with a key, waiting up to 50 s.
    fn acquire_with(&mut self, key: &str, who: &'static str) -> (Reply, String) {
        let asked = self.asked(request(Mode::EXCLUSIVE, who, 50.0, 100.0), Some(key));
        self.ask(asked)
    }

    /// A request that comes now.
    fn asked(&self, terms: Terms, key: Option<&str>) -> Asked {
        let key = key.map(|key| key.parse().unwrap());
        Asked { id: LockId::random(), terms, key, came: self.instant }
    }

    fn ask(&mut self, asked: Asked) -> (Reply, String) {
        self.happen(acquires(asked))
    }

    /// What an event brings about that is written; the answer, and who heard what.
    fn happen(&mut self, event: Event<&'static str>) -> (Reply, String) {
        let (reply, told) = self.happen_unchecked(event);
        self.resource.check();
        (reply, told)
    }

    fn happen_unchecked(&mut self, event: Event<&'static str>) -> (Reply, String) {
        let now = Now { instant: self.instant, wall: self.wall, numbers: &self.numbers };
        let mut outcome = Outcome::default();
        let Decision { facts, plan, answer } = self.resource.decide(event, now);
        self.resource.note(facts, &mut outcome);
        self.resource.apply(plan, now, &mut outcome);
        (self.resource.answer(answer), heard(outcome))
    }

    /// The same when the store refuses to write: who heard what all the same.
    fn refuse(&mut self, event: Event<&'static str>) -> String {
        let now = Now { instant: self.instant, wall: self.wall, numbers: &self.numbers };
        let mut outcome = Outcome::default();
        let facts = self.resource.decide(event, now).facts;
        self.resource.note(facts, &mut outcome);
        heard(outcome)
    }

    fn release(&mut self, id: LockId) -> (bool, String) {
        is_done(self.happen(Event::Release(id)))
    }

    fn clear(&mut self) -> (bool, String) {
        is_done(self.happen(Event::Delete(u64::MAX)))
    }

    /// Whether it was renewed.
    fn renew(&mut self, id: LockId, seconds: u64) -> (bool, String) {
        let (reply, told) = self.happen(Event::Renew(id, Duration::from_secs(seconds)));
        (matches!(reply, Reply::Granted(_)), told)
    }

    fn expire(&mut self) -> String {
        self.happen(Event::Expire).1
    }

    fn withdraw(&mut self, claim: Claim) -> String {
        self.happen(Event::Withdraw(claim, GRACE)).1
    }

    fn abandon(&mut self, id: LockId) -> String {
        self.happen(Event::Abandon(id, GRACE)).1
    }

    fn time_out(&mut self, claim: Claim) -> String {
        self.happen(Event::TimeOut(claim)).1
    }

    /// The titles of the locks, the holders first.
    fn locks(&self) -> Vec<String> {
        let locks = self.resource.page(None, self.instant, None, usize::MAX).locks.into_iter();
        locks.map(|lock| lock.terms().title.to_string()).collect()
    }
}

const GRACE: Duration = Duration::from_secs(5);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Whoever appears in these tests.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn request(mode: Mode, who: &str, wait: f64, lifetime: f64) -> Terms {
    Terms {
        wait: Duration::from_secs_f64(wait),
        mode,
        client: "nobody".into(),
        ..Terms::exclusive(who, Duration::from_secs_f64(lifetime))
    }
}

fn acquires(asked: Asked) -> Event<&'static str> {
    let title = &asked.terms.title;
    let who = NAMES.iter().find(|name| *name == title).unwrap();
    Event::Acquire(Box::new(asked), who)
}

fn heard(outcome: Outcome<&'static str>) -> String {
    let ended = outcome.happened.into_iter().filter_map(|grant| match grant.kind {
        Kind::Ended(End::Expired) => Some(format!("{} expired", grant.terms.title)),
        Kind::Ended(End::Abandoned) => Some(format!("{} abandoned", grant.terms.title)),
        _ => None,
    });
    let told = outcome.told.into_iter().map(|(who, word)| match word {
        Reply::Granted(_) => format!("{who} granted"),
        Reply::Refused(refusal) => format!("{who} {}", refusal.name().replace('_', " ")),
        Reply::Done | Reply::InLine(..) => panic!("{who} heard {word:?}"),
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

/// The claim of the first sending of a request.
fn first(id: LockId) -> Claim {
    Claim::Place { id, attempt: 0 }
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
        assert!(!fits, "somebody waits for a free lock");
        self.check_conversions();
    }

    /// The first waits for another lock, and none for one behind it.
    fn check_conversions(&self) {
        let mut before = compatibility::Counts::default();
        for super::conversions::Converting { id, wanted, .. } in self.conversions.iter() {
            let held = self.holders.get(*id).expect("what is converted is held").terms.mode;
            let mut others = self.holders.counts();
            others.remove(held);
            let fits = others.allow(wanted.mode);
            let first = before == compatibility::Counts::default();
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
fn whoever_leaves_the_line_is_not_granted() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let (b, _) = scene.acquire("b", 50.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    scene.time_out(first(b));
    assert_eq!(scene.locks(), ["a", "c"]);
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

#[test]
fn a_deleted_waiter_hears_of_it_and_the_others_move_up() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let (b, _) = scene.acquire("b", 50.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    assert_eq!(scene.release(b), (true, "b deleted".into()));
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

#[test]
fn clearing_ends_every_wait_and_grants_nobody() {
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
            let (_, told) = self.happen_unchecked(Event::Release(holder));
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
            scene.happen_unchecked(Event::Withdraw(gone, GRACE));
        }
        scene.walked_by_hand_overs()
    };
    let (few, many) = (walked(5), walked(5_000));
    assert!(few == many && few > 0, "{few} with 5 kept, {many} with 5,000");
}

#[test]
fn whoever_is_deleted_as_the_holder_expires_is_not_granted() {
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

#[test]
fn a_plan_that_is_refused_has_not_happened() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 10.0);
    let (b, _) = scene.acquire("b", 1.0, 100.0);
    scene.acquire("c", 50.0, 100.0);
    scene.acquire("d", 50.0, 100.0);
    let everybody = &["a", "b", "c", "d"][..];
    // That the wait of b has run out is a fact.
    let without_b = &["a", "c", "d"][..];
    for (seconds, event, told, left) in [
        (0.5, Event::Release(a), "", everybody),
        (0.6, Event::Release(b), "", everybody),
        (0.7, Event::Delete(u64::MAX), "", everybody),
        (0.8, Event::Renew(a, 100 * DAY), "", everybody),
        (2.0, Event::Release(a), "b timed out", without_b),
        (3.0, Event::Delete(u64::MAX), "", without_b),
        (10.1, Event::Expire, "", without_b),
    ] {
        assert_eq!(scene.at(seconds).refuse(event), told, "at {seconds}");
        assert_eq!(scene.at(0.9).locks(), left, "at {seconds}");
    }
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

#[test]
fn a_grant_that_is_refused_is_due_at_once() {
    let mut scene = Scene::new();
    scene.acquire_in(Mode::ProtectedRead, "a", 0.0, 100.0);
    let (b, ..) = scene.acquire_in(Mode::EXCLUSIVE, "b", 50.0, 100.0);
    scene.acquire_in(Mode::ProtectedRead, "c", 50.0, 100.0);
    let next_due = scene.resource.next_due();
    assert_eq!(scene.at(1.0).refuse(Event::Withdraw(first(b), GRACE)), "b departed");
    assert_eq!(scene.locks(), ["a", "c"], "b is gone all the same");
    assert!(scene.resource.next_due().is_some_and(|due| due <= scene.instant));
    assert_eq!(scene.at(2.0).expire(), "c granted");
    assert_eq!(scene.resource.next_due(), next_due);
}

/// What a renewal that is being written will have made is neither shown nor gone.
#[test]
fn a_lock_whose_renewal_is_being_written_is_shown_as_held() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 10.0);
    let now = Now { instant: scene.instant, wall: scene.wall, numbers: &scene.numbers };
    let plan = scene.resource.decide(Event::Renew(a, DAY), now).plan;
    let late = scene.start + Duration::from_secs(11);
    assert!(scene.resource.find(a, Some(&plan), late).is_some());
    assert!(scene.resource.find(a, None, late).is_none());
}

/// A time-out and a departure are facts while a plan is being written, unless it is about them.
#[test]
fn facts_pass_a_plan_that_is_not_about_them() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let [b, c] = ["b", "c"].map(|who| first(scene.acquire(who, 50.0, 100.0).0));
    let now = Now { instant: scene.instant, wall: scene.wall, numbers: &scene.numbers };
    let plan = scene.resource.decide(Event::Release(a), now).plan;
    let mut beside = |event: &Event<_>| {
        let facts = scene.resource.facts_beside(event, &plan, now)?;
        let mut outcome = Outcome::default();
        scene.resource.note(facts, &mut outcome);
        Some(heard(outcome))
    };
    assert_eq!(beside(&Event::TimeOut(b)), None, "it may be granted");
    assert_eq!(beside(&Event::Withdraw(b, GRACE)), None);
    assert_eq!(beside(&Event::Release(c.id())), None);
    assert_eq!(beside(&Event::TimeOut(c)), Some("c timed out".into()));
    assert_eq!(beside(&Event::Dismiss), Some(String::new()), "b hears later");
    let mut outcome = Outcome::default();
    scene.resource.apply(plan, now, &mut outcome);
    assert_eq!(heard(outcome), "b granted");
}

/// Found by the torture: the count of arrivals began anew when a promotion emptied the line.
#[test]
fn nobody_overtakes_a_line_whose_promotion_is_refused() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 10.0);
    for who in ["b", "c"] {
        scene.acquire_in(Mode::ConcurrentRead, who, 50.0, 100.0);
    }
    let asked = scene.at(11.0).asked(request(Mode::EXCLUSIVE, "d", 50.0, 100.0), None);
    assert_eq!(scene.refuse(acquires(asked)), "");
    assert_eq!(scene.locks(), ["b", "c", "d"]);
    assert_eq!(scene.expire(), "a expired, b granted, c granted");
}

/// Found by the torture: its client was told that nothing had changed, and its place was gone.
#[test]
fn a_return_to_a_place_that_is_refused_leaves_the_place() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let gone = claim(scene.acquire_with("k", "b").0);
    scene.withdraw(gone);
    assert!(scene.release(a).0);
    let asked = scene.asked(request(Mode::EXCLUSIVE, "c", 50.0, 100.0), Some("k"));
    assert_eq!(scene.refuse(acquires(asked)), "");
    assert_eq!(scene.locks(), ["b"]);
    let (back, _) = scene.acquire_with("k", "d");
    assert_eq!(claim(back).id(), gone.id());
}

#[test]
fn clearing_after_the_holder_expired_finds_nothing() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 10.0);
    assert_eq!(scene.at(10.1).clear(), (false, String::new()));
}

#[test]
fn shutting_down_ends_every_wait_and_the_holder_keeps_the_lock() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 50.0, 100.0);
    assert_eq!(scene.happen(Event::Dismiss).1, "b shutting down");
    assert_eq!(scene.locks(), ["a"]);
}

/// The client of a lock that it does not know of asks again, and another lock ends just then,
/// which cannot be written: it is told that nothing has changed.
#[test]
fn an_answer_that_is_refused_does_not_count() {
    let mut scene = Scene::new();
    let ask = |scene: &Scene, who: &'static str, lifetime, key: Option<&str>| {
        scene.asked(request(semaphore(2), who, 50.0, lifetime), key)
    };
    let asked = ask(&scene, "a", 100.0, Some("k"));
    let unknown = claim(scene.ask(asked).0).id();
    let asked = ask(&scene, "b", 1.0, None);
    scene.ask(asked);
    assert_eq!(scene.abandon(unknown), "");
    let again = ask(scene.at(2.0), "c", 100.0, Some("k"));
    assert_eq!(scene.refuse(acquires(again)), "");
    assert_eq!(scene.at(4.9).expire(), "b expired");
    assert_eq!(scene.at(5.1).expire(), "a abandoned");
}

/// A lock that is due is in the way until its end is written, even if its modes fit.
#[test]
fn nobody_is_granted_beside_an_expired_lock_whose_end_was_refused() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 1.0);
    let (b, ..) = scene.acquire_in(Mode::ProtectedRead, "b", 50.0, 100.0);
    let asked = scene.at(2.0).asked(request(semaphore(2), "c", 50.0, 100.0), None);
    scene.refuse(acquires(asked));
    assert_eq!(scene.withdraw(first(b)), "a expired, b departed, c granted");
}

/// The disk refuses just when the client of a lock without a key is found gone.
#[test]
fn an_abandoned_grant_whose_end_was_refused_is_due() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 1e9);
    assert_eq!(scene.refuse(Event::Abandon(a, GRACE)), "");
    assert_eq!(scene.resource.next_due(), Some(scene.instant));
    assert_eq!(scene.expire(), "a abandoned");
}

#[test]
fn a_retry_does_not_lengthen_the_line_and_a_return_does() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    let lengthens = |scene: &Scene, key| {
        let asked = scene.asked(request(Mode::EXCLUSIVE, "c", 50.0, 100.0), Some(key));
        let now = Now { instant: scene.instant, wall: scene.wall, numbers: &scene.numbers };
        scene.resource.decide(acquires(asked), now).lengthens_line(&scene.resource)
    };
    assert!(lengthens(&scene, "k"));
    let b = claim(scene.acquire_with("k", "b").0);
    assert!(!lengthens(&scene, "k"), "it inherits the place of the earlier sending");
    scene.withdraw(b);
    assert!(lengthens(&scene, "k"), "nobody waits there any more");
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

#[test]
fn each_of_the_36_pairs_is_held_together_or_not_as_in_vms() {
    for held in Mode::ALL {
        for asked in Mode::ALL {
            let mut scene = Scene::new();
            let (a, ..) = scene.acquire_in(held, "a", 0.0, 100.0);
            let (_, granted, _) = scene.acquire_in(asked, "b", 50.0, 100.0);
            assert_eq!(granted, together(held, asked), "{asked} beside {held}");
            let told = if granted { "" } else { "b granted" };
            assert_eq!(scene.release(a), (true, told.into()), "{asked} after {held}");
        }
    }
}

/// All mixes of four who come one after the other.
#[test]
fn nobody_overtakes_whatever_the_modes() {
    let mut waited = 0;
    for mix in (0..6 * 6 * 6 * 6).map(|n| [n / 216, n / 36 % 6, n / 6 % 6, n % 6]) {
        let modes = mix.map(|mode| Mode::ALL[mode]);
        let mut scene = Scene::new();
        let (mut held, mut line) = (Vec::new(), Vec::new());
        for (mode, who) in modes.into_iter().zip(NAMES) {
            let (id, granted, _) = scene.acquire_in(mode, who, 50.0, 100.0);
            assert!(!granted || mode == Mode::Null || line.is_empty(), "{modes:?}: {who}");
            if granted { held.push(id) } else { line.push((id, who)) }
        }
        waited += line.len();
        // Released one after the other, they make room for the line in its order.
        let mut line = line.into_iter();
        while let Some(id) = held.pop() {
            let told = scene.release(id).1;
            for told in told.split(", ").filter(|told| !told.is_empty()) {
                let (id, who) = line.next().unwrap();
                assert_eq!(told, format!("{who} granted"), "{modes:?}");
                held.push(id);
            }
        }
        assert!(scene.resource.is_empty() && line.next().is_none(), "{modes:?}");
    }
    assert!(waited > 1_000, "only {waited} had to wait");
}

#[test]
fn a_release_grants_everybody_at_the_head_who_fits() {
    let mut scene = Scene::new();
    let (read, write) = (Mode::ProtectedRead, Mode::EXCLUSIVE);
    let (a, ..) = scene.acquire_in(write, "a", 0.0, 100.0);
    let line = [(read, "b"), (read, "c"), (write, "d"), (read, "e")];
    let [b, c, d, _] = line.map(|(mode, who)| scene.acquire_in(mode, who, 50.0, 100.0).0);
    assert_eq!(scene.release(a), (true, "b granted, c granted".into()));
    let (_, granted, _) = scene.acquire_in(read, "f", 50.0, 100.0);
    assert!(!granted, "a reader overtook the writer that waits");
    assert_eq!(scene.release(c), (true, String::new()));
    assert_eq!(scene.release(b), (true, "d granted".into()));
    assert_eq!(scene.release(d), (true, "e granted, f granted".into()));
    let tokens = scene.resource.holders.in_order().map(|h| h.fencing_token);
    let [e, f] = tokens.collect::<Vec<_>>()[..] else { panic!() };
    assert!(e < f, "each grant has a token of its own");
}

#[test]
fn whoever_leaves_the_line_lets_those_behind_pass() {
    let read = Mode::ProtectedRead;
    let leave: [fn(&mut Scene, LockId) -> String; 3] = [
        |scene, id| scene.time_out(first(id)),
        |scene, id| scene.withdraw(first(id)),
        |scene, id| scene.release(id).1,
    ];
    for (leave, how) in leave.into_iter().zip(["timed out", "departed", "deleted"]) {
        let mut scene = Scene::new();
        scene.acquire_in(read, "a", 0.0, 100.0);
        let (b, ..) = scene.acquire_in(Mode::EXCLUSIVE, "b", 50.0, 100.0);
        scene.acquire_in(read, "c", 50.0, 100.0);
        scene.acquire_in(read, "d", 50.0, 100.0);
        assert_eq!(leave(&mut scene, b), format!("b {how}, c granted, d granted"));
    }
}

#[test]
fn null_is_granted_at_once_whoever_waits() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 50.0, 100.0);
    let (_, granted, _) = scene.acquire_in(Mode::Null, "c", 0.0, 100.0);
    assert!(granted);
    assert_eq!(scene.locks(), ["a", "c", "b"]);
}

fn semaphore(limit: u32) -> Mode {
    Mode::Exclusive { limit: Limit::new(limit).unwrap() }
}

#[test]
fn a_semaphore_is_held_by_as_many_as_its_limit() {
    let mut scene = Scene::new();
    let who = ["a", "b", "c", "d", "e"];
    let asked = who.map(|who| scene.acquire_in(semaphore(3), who, 50.0, 100.0));
    assert_eq!(asked.each_ref().map(|(_, granted, _)| *granted), [true, true, true, false, false]);
    // A reader waits in the same line.
    let (f, granted, _) = scene.acquire_in(Mode::ProtectedRead, "f", 50.0, 100.0);
    assert!(!granted);
    assert_eq!(scene.release(asked[1].0), (true, "d granted".into()));
    assert_eq!(scene.release(asked[0].0), (true, "e granted".into()));
    for id in [asked[2].0, asked[3].0] {
        assert_eq!(scene.release(id), (true, String::new()));
    }
    assert_eq!(scene.release(asked[4].0), (true, "f granted".into()));
    assert_eq!(scene.release(f), (true, String::new()));
}

#[test]
fn a_limit_is_that_of_the_locks_there_until_the_last_is_gone() {
    let mut scene = Scene::new();
    let refused = |scene: &mut Scene, limit| {
        let request = request(semaphore(limit), "h", 50.0, 100.0);
        let asked = scene.asked(request, None);
        match scene.ask(asked).0 {
            Reply::Refused(Refusal::OtherLimit(theirs)) => Some(theirs.get()),
            _ => None,
        }
    };
    let (a, ..) = scene.acquire_in(semaphore(2), "a", 0.0, 100.0);
    assert_eq!(refused(&mut scene, 3), Some(2));
    assert_eq!(refused(&mut scene, 1), Some(2));
    assert_eq!(scene.release(a), (true, String::new()));

    // Who waits counts as well, and readers have no limit.
    let (b, ..) = scene.acquire_in(Mode::ProtectedRead, "b", 0.0, 100.0);
    let (c, granted, _) = scene.acquire_in(semaphore(5), "c", 50.0, 100.0);
    assert!(!granted);
    assert_eq!(refused(&mut scene, 2), Some(5));
    assert!(scene.release(c).0);
    assert_eq!(scene.release(b), (true, String::new()));
    let (_, granted, _) = scene.acquire_in(semaphore(7), "d", 0.0, 10.0);
    assert!(granted);
    assert_eq!(refused(scene.at(10.1), 9), None, "the last one has expired");
}

#[test]
fn the_same_key_gets_the_same_lock() {
    let mut scene = Scene::new();
    let (first, _) = scene.acquire_with("k", "a");
    let (again, told) = scene.acquire_with("k", "b");
    let (Reply::Granted(first), Reply::Granted(again)) = (first, again) else { panic!() };
    assert_eq!((told.as_str(), again.id), ("", first.id));
    assert_eq!(scene.locks(), ["a"]);
    assert_eq!(scene.release(first.id), (true, String::new()));
    let (new, _) = scene.acquire_with("k", "c");
    assert_ne!(claim(new).id(), first.id, "after that it is a new request");
}

/// A request that was held up in the network arrives when its client holds the lock already,
/// by a retry, and has closed the connection.
#[test]
fn a_lock_that_one_answer_tells_of_is_kept_when_another_is_lost() {
    for lost in 0..=3 {
        let mut scene = Scene::new();
        let lock = claim(scene.acquire_with("k", "a").0).id();
        for _ in 0..2 {
            assert_eq!(claim(scene.acquire_with("k", "b").0).id(), lock);
        }
        for _ in 0..lost {
            assert_eq!(scene.abandon(lock), "");
        }
        assert_eq!(scene.at(99.0).expire(), if lost < 3 { "" } else { "a abandoned" });
    }
}

#[test]
fn the_same_key_takes_over_the_place_in_line() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let first = claim(scene.acquire_with("k", "b").0);
    scene.acquire("c", 50.0, 100.0);
    let (again, told) = scene.acquire_with("k", "d");
    let again = claim(again);
    assert_eq!((told.as_str(), again.id()), ("b superseded", first.id()));
    assert_eq!(scene.withdraw(first), "", "a superseded claim is worth nothing");
    assert_eq!(scene.time_out(first), "");
    assert_eq!(scene.locks(), ["a", "d", "c"]);
    assert_eq!(scene.release(a), (true, "d granted".into()));
}

#[test]
fn a_key_is_of_one_mode() {
    let mut scene = Scene::new();
    claim(scene.acquire_with("k", "a").0);
    claim(scene.acquire_with("l", "b").0);
    for key in ["k", "l"] {
        let request = request(Mode::ProtectedRead, "c", 50.0, 100.0);
        let asked = scene.asked(request, Some(key));
        let (admission, told) = scene.ask(asked);
        assert!(matches!(admission, Reply::Refused(Refusal::OtherMode(Mode::Exclusive { .. }))));
        assert_eq!(told, "");
    }
    assert_eq!(scene.locks(), ["a", "b"]);
}

#[test]
fn a_kept_place_is_passed_over_until_its_client_returns() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    let gone = claim(scene.acquire_with("k", "b").0);
    let (c, _) = scene.acquire("c", 50.0, 100.0);
    scene.acquire("d", 50.0, 100.0);
    assert_eq!(scene.at(1.0).withdraw(gone), "b departed");
    assert_eq!(scene.withdraw(gone), "");
    assert_eq!(scene.locks(), ["a", "b", "c", "d"]);
    assert_eq!(scene.release(a), (true, "c granted".into()));
    // Back in time, it is before d again.
    let (back, told) = scene.at(5.9).acquire_with("k", "e");
    assert_eq!((claim(back).id(), told.as_str()), (gone.id(), ""));
    assert_eq!(scene.at(9.0).release(c), (true, "e granted".into()));
}

#[test]
fn a_kept_place_is_given_up_at_the_end_of_the_grace() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    let gone = claim(scene.acquire_with("k", "b").0);
    scene.withdraw(gone);
    assert_eq!(scene.resource.next_due(), Some(scene.start + GRACE));
    assert_eq!(scene.at(4.9).expire(), "");
    assert_eq!(scene.locks(), ["a", "b"]);
    assert_eq!(scene.at(5.0).expire(), "");
    assert_eq!(scene.locks(), ["a"]);
    let (new, _) = scene.acquire_with("k", "b");
    assert_ne!(claim(new).id(), gone.id());
}

#[test]
fn who_returns_to_a_free_lock_has_it_at_once() {
    for wait in [0.0, 50.0] {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 100.0);
        let gone = claim(scene.acquire_with("k", "b").0);
        scene.withdraw(gone);
        assert_eq!(scene.release(a), (true, String::new()));
        assert_eq!(scene.locks(), ["b"]);
        let request = request(Mode::EXCLUSIVE, "c", wait, 100.0);
        let asked = scene.asked(request, Some("k"));
        let (back, _) = scene.ask(asked);
        let Reply::Granted(back) = back else { panic!("{back:?}") };
        assert_eq!(back.id, gone.id());
    }
}

#[test]
fn whoever_comes_again_without_waiting_gives_up_its_place() {
    let mut scene = Scene::new();
    scene.acquire_in(Mode::ProtectedRead, "a", 0.0, 100.0);
    claim(scene.acquire_with("k", "b").0);
    scene.acquire_in(Mode::ProtectedRead, "c", 50.0, 100.0);
    let request = request(Mode::EXCLUSIVE, "d", 0.0, 100.0);
    let asked = scene.asked(request, Some("k"));
    let (again, told) = scene.ask(asked);
    assert!(matches!(again, Reply::Refused(Refusal::TimedOut)));
    assert_eq!(told, "b superseded, c granted");
}

#[test]
fn a_grant_that_nobody_has_heard_of_is_kept_for_the_grace() {
    let mut scene = Scene::new();
    let granted = claim(scene.acquire_with("k", "a").0).id();
    scene.acquire("b", 90.0, 100.0);
    assert_eq!(scene.abandon(granted), "");
    assert_eq!(scene.at(4.9).expire(), "");
    // Its client returns, and has it for the rest of the lifetime.
    let (back, _) = scene.acquire_with("k", "c");
    let back = claim(back).id();
    assert_eq!(scene.at(60.0).expire(), "");
    assert_eq!(scene.abandon(back), "");
    assert_eq!(scene.at(65.0).expire(), "a abandoned, b granted");
}

#[test]
fn a_grant_without_a_key_that_nobody_has_heard_of_is_released() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 50.0, 100.0);
    assert_eq!(scene.abandon(a), "a abandoned, b granted");
    assert_eq!(scene.abandon(a), "");
}

#[test]
fn whoever_renews_a_lock_knows_of_it() {
    let mut scene = Scene::new();
    let granted = claim(scene.acquire_with("k", "a").0);
    scene.abandon(granted.id());
    assert!(scene.at(1.0).renew(granted.id(), 20).0);
    assert_eq!(scene.at(20.9).expire(), "");
    assert_eq!(scene.at(21.1).expire(), "a expired");
}
