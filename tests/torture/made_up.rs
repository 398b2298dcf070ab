//! The checker tested on made-up histories: each rule catches one that breaks it, and says
//! nothing to one that only looks like it.

use std::time::Duration;

use crate::history::{
    Action, Call, Fault, FaultKind, History, Mode, Outcome, Seen, Span, Time, Wish,
};
use crate::nemesis::Scratch;
use crate::rules::{self, Rule};

/// A history of one resource, in milliseconds.
struct Story(History);

fn at(millis: u64) -> Time {
    Time::default() + Duration::from_millis(millis)
}

/// An exclusive lock for ten seconds, for which a client waits for a second.
fn wish(title: &str) -> Wish {
    let (wait, lifetime) = (Duration::from_secs(1), Duration::from_secs(10));
    Wish { title: title.into(), mode: Mode::Ex, limit: 1, wait, lifetime, key: None }
}

fn lives(title: &str, millis: u64) -> Wish {
    Wish { lifetime: Duration::from_millis(millis), ..wish(title) }
}

fn keyed(title: &str) -> Wish {
    Wish { key: Some(format!("key-{title}")), limit: 3, ..wish(title) }
}

impl Story {
    fn new() -> Self {
        Self(History::default())
    }

    fn on_disk() -> Self {
        let restart_grace = Duration::from_secs(1);
        Self(History { durable: true, restart_grace, ..History::default() })
    }

    fn call(mut self, sent: u64, returned: u64, action: Action, outcome: Outcome) -> Self {
        let (sent, returned) = (at(sent), at(returned));
        let resource = "r".to_string();
        let call = Call { client: 1, resource, action, sent, returned, outcome, timely: true };
        self.0.calls.push(call);
        self
    }

    fn asks(self, sent: u64, returned: u64, wish: &Wish, outcome: Outcome) -> Self {
        self.call(sent, returned, Action::Acquire(wish.clone()), outcome)
    }

    /// The uid of a lock is its title.
    fn granted(self, sent: u64, returned: u64, wish: &Wish, token: u64) -> Self {
        let outcome = Outcome::Granted { uid: wish.title.clone(), token };
        self.asks(sent, returned, wish, outcome)
    }

    fn released(self, sent: u64, returned: u64, uid: &str) -> Self {
        self.call(sent, returned, Action::Release { uid: uid.into() }, Outcome::Done)
    }

    fn looked(self, sent: u64, returned: u64, uid: &str, is_there: bool) -> Self {
        let seen = Outcome::Shown(vec![seen(uid, true)]);
        let outcome = if is_there { seen } else { Outcome::Refused(404) };
        self.call(sent, returned, Action::Get { uid: uid.into() }, outcome)
    }

    fn listed(self, sent: u64, returned: u64, locks: &[(&str, bool)]) -> Self {
        let shown = locks.iter().map(|(title, active)| seen(title, *active)).collect();
        self.call(sent, returned, Action::List, Outcome::Shown(shown))
    }

    fn fault(mut self, kind: FaultKind, from: u64, to: u64) -> Self {
        self.0.faults.push(Fault { kind, span: Span { from: at(from), to: at(to) } });
        self
    }

    /// The operator accepts that the store has lost writes.
    fn loss_accepted(mut self, time: u64) -> Self {
        self.0.accepted.push(at(time));
        self
    }

    fn broken(&self) -> Vec<Rule> {
        let verdicts = rules::check_all(&self.0).into_iter();
        verdicts.filter(|(_, v)| !v.violations.is_empty()).map(|(rule, _)| rule).collect()
    }

    #[track_caller]
    fn breaks(self, rule: Rule) {
        assert!(self.broken().contains(&rule), "{:?} instead of {rule:?}", self.broken());
    }

    #[track_caller]
    fn keeps_all(self) {
        let broken: Vec<_> = rules::check_all(&self.0)
            .into_iter()
            .filter(|(_, verdict)| !verdict.violations.is_empty())
            .collect();
        assert!(broken.is_empty(), "{broken:?}");
    }
}

fn seen(title: &str, active: bool) -> Seen {
    let (uid, title) = (title.to_string(), title.to_string());
    Seen { uid, title, active, token: None, mode: Mode::Ex, limit: 1, wait: Duration::from_secs(1) }
}

#[test]
fn two_holders_are_caught() {
    let first = || Story::new().granted(0, 10, &wish("a"), 1);
    first().granted(100, 110, &wish("b"), 2).breaks(Rule::Exclusion);
    // The release was asked for just before.
    first().released(105, 120, "a").granted(100, 110, &wish("b"), 2).keeps_all();
    // It may have expired.
    let short = Story::new().granted(0, 10, &lives("a", 105), 1);
    short.granted(100, 110, &wish("b"), 2).keeps_all();
    first().listed(20, 30, &[("a", true), ("b", true)]).breaks(Rule::Exclusion);
}

#[test]
fn modes_that_conflict_are_caught_and_others_not() {
    for (a, b, right) in [
        (Mode::Cr, Mode::Ex, false),
        (Mode::Pw, Mode::Pr, false),
        (Mode::Cw, Mode::Pr, false),
        (Mode::Cr, Mode::Pw, true),
        (Mode::Nl, Mode::Ex, true),
        (Mode::Pr, Mode::Pr, true),
    ] {
        let (a, b) = (Wish { mode: a, ..wish("a") }, Wish { mode: b, ..wish("b") });
        let story = Story::new().granted(0, 10, &a, 1).granted(100, 110, &b, 2);
        assert_eq!(story.broken().is_empty(), right, "{:?} {:?}", a.mode, b.mode);
    }
}

#[test]
fn one_holder_too_many_of_a_semaphore_is_caught() {
    let wish = |title| Wish { limit: 2, ..wish(title) };
    let two = || Story::new().granted(0, 10, &wish("a"), 1).granted(20, 30, &wish("b"), 2);
    two().keeps_all();
    two().granted(40, 50, &wish("c"), 3).breaks(Rule::Exclusion);
    two().released(35, 60, "a").granted(40, 50, &wish("c"), 3).keeps_all();
}

#[test]
fn tokens_that_do_not_grow_are_caught() {
    let second = |token| {
        let first = Story::on_disk().granted(0, 10, &wish("a"), 7).released(20, 30, "a");
        first.fault(FaultKind::Kill, 32, 38).granted(40, 50, &wish("b"), token)
    };
    second(8).keeps_all();
    second(7).breaks(Rule::Tokens);
    second(3).breaks(Rule::Tokens);
    // Both were asked for at once, but one waited for the other.
    let waited = |token| {
        let first = Story::new().granted(0, 10, &wish("a"), 7);
        first.granted(5, 35, &wish("b"), token).released(20, 30, "a")
    };
    waited(8).keeps_all();
    waited(6).breaks(Rule::Tokens);
}

#[test]
fn a_lock_that_ends_early_is_caught() {
    let lock = || Story::new().granted(0, 10, &lives("a", 100), 1);
    lock().looked(80, 90, "a", false).breaks(Rule::Lifetime);
    lock().looked(95, 105, "a", false).keeps_all();
    lock().listed(80, 90, &[]).breaks(Rule::Lifetime);
    let release = Action::Release { uid: "a".into() };
    lock().call(80, 90, release, Outcome::Refused(404)).breaks(Rule::Lifetime);
    lock().call(80, 90, Action::Delete, Outcome::Refused(404)).breaks(Rule::Lifetime);
    // Somebody may have deleted it.
    let deleted = lock().call(20, 70, Action::Delete, Outcome::Unknown);
    deleted.looked(80, 90, "a", false).keeps_all();
}

#[test]
fn a_renewal_counts_from_when_it_was_sent() {
    let renewed = |outcome| {
        let lifetime = Duration::from_millis(500);
        let lock = Story::new().granted(0, 10, &lives("a", 100), 1);
        lock.call(50, 60, Action::Renew { uid: "a".into(), lifetime }, outcome)
    };
    renewed(Outcome::Done).looked(500, 540, "a", false).breaks(Rule::Lifetime);
    renewed(Outcome::Done).looked(500, 560, "a", false).keeps_all();
    renewed(Outcome::Unknown).looked(500, 540, "a", false).keeps_all();
}

#[test]
fn a_lock_that_is_seen_after_its_end_is_caught() {
    let lock = || Story::new().granted(0, 10, &lives("a", 100), 1);
    lock().looked(200, 210, "a", true).breaks(Rule::Lifetime);
    lock().looked(115, 125, "a", true).keeps_all();
    let restarted = Story::on_disk().granted(0, 10, &lives("a", 100), 1);
    restarted.fault(FaultKind::Kill, 50, 60).looked(800, 810, "a", true).keeps_all();
}

#[test]
fn a_grant_that_a_kill_has_lost_is_caught() {
    let story = || Story::on_disk().granted(0, 10, &wish("a"), 1).fault(FaultKind::Kill, 20, 40);
    story().looked(50, 60, "a", false).breaks(Rule::Durability);
    story().looked(50, 60, "a", true).keeps_all();
    let in_memory = Story::new().granted(0, 10, &wish("a"), 1).fault(FaultKind::Kill, 20, 40);
    in_memory.looked(50, 60, "a", false).granted(70, 80, &wish("b"), 2).keeps_all();
}

#[test]
fn a_renewal_that_a_standby_repeats_may_have_ended_the_lock_earlier() {
    let repeated = |sent| {
        let renewal = Action::Renew { uid: "a".into(), lifetime: Duration::from_millis(100) };
        let story = Story::on_disk().granted(0, 10, &wish("a"), 1);
        story.call(sent, 600, renewal, Outcome::Refused(404)).fault(FaultKind::Kill, 40, 500)
    };
    repeated(30).keeps_all();
    // Too late to be over by then.
    repeated(550).breaks(Rule::Durability);
}

#[test]
fn what_a_store_has_lost_is_judged_until_the_operator_accepts_that() {
    let held = || Story::on_disk().granted(0, 10, &wish("a"), 5);
    let emptied = || held().fault(FaultKind::EtcdEmptied, 100, 500);
    emptied().granted(200, 210, &wish("b"), 6).loss_accepted(300).breaks(Rule::Exclusion);
    emptied().looked(200, 210, "a", false).loss_accepted(300).breaks(Rule::Durability);
    emptied().loss_accepted(300).granted(400, 410, &wish("b"), 1).keeps_all();
    // What is granted afterwards is held.
    let again = || emptied().loss_accepted(300).granted(400, 410, &wish("b"), 1);
    again().granted(600, 610, &wish("c"), 2).breaks(Rule::Exclusion);
}

#[test]
fn a_release_that_a_kill_has_lost_is_caught() {
    let story = |outcome| {
        let story = Story::on_disk().granted(0, 10, &wish("a"), 1);
        let release = Action::Release { uid: "a".into() };
        story.call(11, 15, release, outcome).fault(FaultKind::Kill, 20, 40)
    };
    story(Outcome::Done).looked(50, 60, "a", true).breaks(Rule::Durability);
    story(Outcome::Unknown).looked(50, 60, "a", true).keeps_all();
}

#[test]
fn a_release_that_is_not_done_is_caught() {
    let story = || Story::new().granted(0, 10, &wish("a"), 1).released(20, 30, "a");
    story().looked(40, 50, "a", true).breaks(Rule::Release);
    story().listed(40, 50, &[("a", true)]).breaks(Rule::Release);
    story().released(40, 50, "a").breaks(Rule::Release);
    story().looked(25, 50, "a", true).keeps_all();
}

#[test]
fn a_release_that_was_refused_has_no_effect() {
    let release = Action::Release { uid: "a".into() };
    let story = Story::on_disk().granted(0, 10, &wish("a"), 1);
    let story = story.call(20, 30, release, Outcome::Refused(503));
    story.granted(40, 50, &wish("b"), 2).breaks(Rule::Exclusion);
}

#[test]
fn whoever_overtakes_is_caught() {
    let story = |listed: u64, first, second| {
        let story = Story::new().granted(0, 10, &wish("a"), 1).released(100, 110, "a");
        let story = story.listed(listed, listed + 5, &[("a", true), ("b", false)]);
        let story = story.granted(20, 150, &wish("b"), first).released(160, 170, "b");
        story.granted(50, 150, &wish("c"), second).released(160, 170, "c")
    };
    let broken = |story: Story| story.broken().contains(&Rule::Order);
    assert!(broken(story(30, 3, 2)));
    assert!(!broken(story(30, 2, 3)));
    assert!(!broken(story(48, 3, 2)), "it is not certain who came first");
    // Turned away, although another one was granted the lock later.
    let story = Story::new().listed(30, 35, &[("b", false)]);
    let story = story.asks(20, 1030, &wish("b"), Outcome::Refused(408));
    story.granted(50, 900, &wish("c"), 2).breaks(Rule::Order);
}

/// A client with a key left the line at 50, another one joined it, and the first came back.
fn comeback(listed_as: &str, tokens: [u64; 2]) -> Story {
    let (first, again) = (keyed("b"), Wish { wait: Duration::from_secs(2), ..keyed("b") });
    let mut back = seen(listed_as, false);
    (back.title, back.wait) = ("b".into(), again.wait);
    let story = Story::new().granted(0, 10, &wish("a"), 1).released(200, 210, "a");
    let story = story.asks(20, 50, &first, Outcome::Left);
    let story = story.listed(30, 35, &[("a", true), ("b", false)]);
    let story = story.granted(60, 220, &wish("c"), tokens[1]).released(240, 250, "c");
    let story = story.granted(100, 220, &again, tokens[0]).released(230, 240, "b");
    story.call(110, 120, Action::List, Outcome::Shown(vec![seen("a", true), back]))
}

#[test]
fn whoever_comes_back_with_a_key_has_the_place_from_before() {
    let story = comeback("b", [2, 3]);
    assert!(!story.broken().contains(&Rule::Order), "{:?}", story.broken());
    assert!(!story.broken().contains(&Rule::Retry), "{:?}", story.broken());
    comeback("b", [3, 2]).breaks(Rule::Order);
    comeback("another uid", [2, 3]).breaks(Rule::Retry);
    comeback("b", [2, 3]).listed(70, 80, &[("a", true)]).breaks(Rule::Retry);
}

#[test]
fn a_free_lock_with_a_waiter_is_caught() {
    let story = |until: u64| {
        let story = Story::new().granted(0, 10, &wish("a"), 1).released(20, 30, "a");
        story.granted(15, until, &wish("b"), 2)
    };
    story(125).keeps_all();
    story(135).breaks(Rule::Starvation);
    story(475).fault(FaultKind::StopServer, 50, 90).breaks(Rule::Starvation);
    story(475).fault(FaultKind::StopServer, 50, 110).keeps_all();
    let mut hiccup = story(435);
    hiccup.0.hiccups.push(Span { from: at(40), to: at(400) });
    hiccup.keeps_all();
    let turned_away = Story::new().granted(0, 10, &wish("a"), 1).released(20, 30, "a");
    turned_away.asks(15, 1020, &wish("b"), Outcome::Refused(408)).breaks(Rule::Starvation);
    let held = Story::new().granted(0, 10, &wish("a"), 1);
    let held = held.asks(15, 1020, &wish("b"), Outcome::Refused(408));
    held.keeps_all();
    let early = Story::new().granted(0, 10, &wish("a"), 1);
    early.asks(15, 1000, &wish("b"), Outcome::Refused(408)).breaks(Rule::Starvation);
    // Whoever got no answer may hold it.
    let doubtful = Story::new().asks(0, 20, &wish("x"), Outcome::Unknown);
    doubtful.granted(30, 900, &wish("b"), 2).keeps_all();
}

#[test]
fn a_grant_to_a_client_that_has_left_is_caught() {
    let story = || {
        let story = Story::new().granted(0, 10, &wish("a"), 1);
        let story = story.asks(20, 50, &wish("b"), Outcome::Left);
        story.listed(30, 35, &[("a", true), ("b", false)]).released(60, 70, "a")
    };
    story().listed(1100, 1110, &[("b", true)]).breaks(Rule::Departure);
    story().listed(1100, 1110, &[("b", false)]).breaks(Rule::Departure);
    story().listed(1040, 1110, &[("b", true)]).keeps_all();
    story().listed(1100, 1110, &[]).keeps_all();
    let stopped = story().fault(FaultKind::StopServer, 200, 400);
    stopped.listed(1100, 1110, &[("b", true)]).keeps_all();
    // The lock may have been free when it left.
    let granted = Story::new().granted(0, 10, &lives("a", 40), 1);
    let granted = granted.asks(20, 50, &wish("b"), Outcome::Left);
    let granted = granted.listed(30, 35, &[("a", true), ("b", false)]);
    granted.listed(1100, 1110, &[("b", true)]).keeps_all();
}

#[test]
fn a_retry_with_another_effect_is_caught() {
    let story = || Story::new().granted(0, 10, &keyed("a"), 1);
    story().granted(20, 30, &keyed("a"), 1).keeps_all();
    let other = Outcome::Granted { uid: "other".into(), token: 2 };
    story().asks(20, 30, &keyed("a"), other.clone()).breaks(Rule::Retry);
    story().asks(20, 1030, &keyed("a"), Outcome::Refused(408)).breaks(Rule::Retry);
    story().released(15, 40, "a").asks(20, 30, &keyed("a"), other).keeps_all();
    let mut twice = [seen("a", false), seen("a", false)];
    twice[1].uid = "b".into();
    let story = Story::new().asks(0, 100, &keyed("a"), Outcome::Unknown);
    story.call(10, 20, Action::List, Outcome::Shown(twice.to_vec())).breaks(Rule::Retry);
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let story = comeback("b", [3, 2]).fault(FaultKind::StopServer, 300, 400);
    let scratch = Scratch::new(false);
    let path = scratch.path().join("torture/history.json");
    story.0.write(&path);
    let read = Story(History::read(&path));
    assert_eq!(format!("{:?}", read.0), format!("{:?}", story.0));
    assert_eq!(read.broken(), story.broken());
}
