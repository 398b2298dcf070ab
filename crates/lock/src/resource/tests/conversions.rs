//! The rules of conversions: a held lock gets another mode.

use super::*;

impl Scene {
    /// Holds a lock in this mode for 100 s.
    fn hold(&mut self, mode: Mode, who: &'static str) -> LockId {
        let (id, granted, _) = self.acquire_in(mode, who, 0.0, 100.0);
        assert!(granted, "{who} in {mode}");
        id
    }

    /// Converts a lock: the result, and who else was told what.
    fn convert(&mut self, id: LockId, mode: Mode, who: &'static str, wait: f64) -> (Reply, String) {
        self.happen(self.conversion(id, mode, who, wait))
    }

    fn conversion(
        &self,
        id: LockId,
        mode: Mode,
        who: &'static str,
        wait: f64,
    ) -> Input<&'static str> {
        let wait = Duration::from_secs_f64(wait);
        let wanted = Conversion { mode, wait, lifetime: None };
        Input::Convert(Box::new(ConvertRequest { id, wanted, arrived_at: self.instant }), who)
    }

    /// Its mode and its fencing token.
    fn held(&self, id: LockId) -> (Mode, u64) {
        let grant = self.resource.holders.get(id).expect("it is held").grant();
        (grant.terms.mode, grant.fencing_token)
    }
}

/// The result in a word.
fn effects(reply: &Reply) -> &'static str {
    match reply {
        Reply::Granted(_) => "granted",
        Reply::InLine(Claim::Conversion { .. }, _) => "waits",
        Reply::Refused(refusal) => refusal.name(),
        Reply::InLine(Claim::Place { .. }, _) | Reply::Done => panic!("{reply:?}"),
    }
}

const EX: Mode = Mode::EXCLUSIVE;

fn pairs() -> impl Iterator<Item = (Mode, Mode)> {
    Mode::ALL.into_iter().flat_map(|from| Mode::ALL.map(|to| (from, to)))
}

#[test]
fn each_of_the_36_pairs_alone_is_converted_at_once() {
    for (from, to) in pairs() {
        let mut scene = Scene::new();
        let a = scene.hold(from, "a");
        let (_, token) = scene.held(a);
        let (reply, told) = scene.convert(a, to, "a", 0.0);
        assert_eq!((effects(&reply), told.as_str()), ("granted", ""), "{from} to {to}");
        assert_eq!(scene.held(a), (to, token), "{from} to {to}");
    }
}

#[test]
fn each_of_the_36_pairs_beside_each_other_holder() {
    for (from, to) in pairs() {
        for other in Mode::ALL.into_iter().filter(|other| together(*other, from)) {
            let mut scene = Scene::new();
            let b = scene.hold(other, "b");
            let a = scene.hold(from, "a");
            let case = format!("{from} to {to} beside {other}");
            let fits = together(other, to);
            let expected = if fits { "granted" } else { "timed_out" };
            let (reply, _) = scene.convert(a, to, "a", 0.0);
            assert_eq!(effects(&reply), expected, "{case}");
            assert_eq!(scene.held(a).0, if fits { to } else { from }, "{case}");
            if !fits {
                assert_eq!(effects(&scene.convert(a, to, "a", 9.0).0), "waits", "{case}");
                assert_eq!(scene.held(a).0, from, "{case}");
                assert_eq!(scene.release(b), (true, "a granted".into()), "{case}");
                assert_eq!(scene.held(a).0, to, "{case}");
            }
        }
    }
}

#[test]
fn each_of_the_36_pairs_with_a_request_that_waits() {
    for (from, to) in pairs() {
        for wanted in Mode::ALL.into_iter().filter(|wanted| !together(from, *wanted)) {
            let mut scene = Scene::new();
            let a = scene.hold(from, "a");
            scene.acquire_in(wanted, "b", 50.0, 100.0);
            let (reply, told) = scene.convert(a, to, "a", 0.0);
            let expected = if together(to, wanted) { "b granted" } else { "" };
            assert_eq!(
                (effects(&reply), told.as_str()),
                ("granted", expected),
                "{from} to {to}, and {wanted} waits"
            );
        }
    }
}

/// b, in NL, waits for EX beside c in PR.
#[test]
fn each_of_the_36_pairs_with_a_conversion_that_waits() {
    for (from, to) in pairs().filter(|(from, _)| together(Mode::ProtectedRead, *from)) {
        let mut scene = Scene::new();
        let c = scene.hold(Mode::ProtectedRead, "c");
        let b = scene.hold(Mode::Null, "b");
        let a = scene.hold(from, "a");
        assert_eq!(effects(&scene.convert(b, EX, "b", 50.0).0), "waits");
        let case = format!("{from} to {to}");
        let (reply, told) = scene.convert(a, to, "a", 9.0);
        let expected = match (together(Mode::ProtectedRead, to), from) {
            (true, _) => "granted",
            (false, Mode::Null) => "waits",
            // b waits for a, and a would wait behind b.
            (false, _) => "deadlock",
        };
        assert_eq!((effects(&reply), told.as_str()), (expected, ""), "{case}");
        let a_hinders = scene.held(a).0 != Mode::Null;
        let expected = if a_hinders { "" } else { "b granted" };
        assert_eq!(scene.release(c), (true, expected.into()), "{case}");
        if a_hinders {
            assert_eq!(scene.release(a), (true, "b granted".into()), "{case}");
        }
    }
}

#[test]
fn of_two_readers_that_both_want_to_write_the_second_hears_of_the_deadlock() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    assert_eq!(effects(&scene.convert(a, EX, "a", 50.0).0), "waits");
    assert_eq!(effects(&scene.convert(b, EX, "b", 50.0).0), "deadlock");
    assert_eq!(scene.held(b).0, Mode::ProtectedRead, "as before");
    let (reply, told) = scene.convert(b, Mode::Null, "b", 0.0);
    assert_eq!((effects(&reply), told.as_str()), ("granted", "a granted"));
    // From there it may wait.
    assert_eq!(effects(&scene.convert(b, EX, "b", 50.0).0), "waits");
    assert_eq!(scene.release(a), (true, "b granted".into()));
}

#[test]
fn a_conversion_without_a_wait_times_out_instead_of_a_deadlock() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    scene.convert(a, EX, "a", 50.0);
    assert_eq!(effects(&scene.convert(b, EX, "b", 0.0).0), "timed_out");
}

#[test]
fn conversions_are_made_in_order_of_arrival() {
    let mut scene = Scene::new();
    let c = scene.hold(Mode::ConcurrentRead, "c");
    let d = scene.hold(Mode::ProtectedRead, "d");
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::Null, who));
    let waits = claim(scene.convert(a, EX, "a", 50.0).0);
    scene.convert(b, Mode::ProtectedWrite, "b", 50.0);
    assert_eq!(scene.release(d), (true, String::new()), "b would fit, but a is first");
    assert_eq!(scene.time_out(waits), "a timed out, b granted");
    assert_eq!((scene.held(a).0, scene.held(b).0), (Mode::Null, Mode::ProtectedWrite));
    assert_eq!(scene.release(c), (true, String::new()));
}

#[test]
fn one_release_lets_all_conversions_pass_that_fit_together() {
    let mut scene = Scene::new();
    let d = scene.hold(EX, "d");
    let [a, b, c] = ["a", "b", "c"].map(|who| scene.hold(Mode::Null, who));
    scene.convert(a, Mode::ProtectedRead, "a", 50.0);
    scene.convert(b, Mode::ProtectedRead, "b", 50.0);
    scene.convert(c, Mode::ConcurrentWrite, "c", 50.0);
    scene.acquire_in(Mode::ProtectedRead, "e", 50.0, 100.0);
    assert_eq!(scene.release(d), (true, "a granted, b granted".into()));
    assert_eq!(scene.release(a), (true, String::new()));
    assert_eq!(scene.release(b), (true, "c granted".into()));
    assert_eq!(scene.release(c), (true, "e granted".into()));
}

#[test]
fn nobody_in_line_is_granted_while_a_conversion_waits() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    let waits = claim(scene.convert(a, EX, "a", 5.0).0);
    let (_, granted, _) = scene.acquire_in(Mode::ProtectedRead, "c", 50.0, 100.0);
    assert!(!granted, "a newcomer that fits joins the line");
    assert!(scene.acquire_in(Mode::Null, "d", 0.0, 100.0).1, "but NL hinders nobody");
    assert_eq!(scene.at(5.0).time_out(waits), "a timed out, c granted");
    assert_eq!(scene.time_out(waits), "", "it is out");
    assert_eq!(scene.held(a).0, Mode::ProtectedRead);

    let waits = claim(scene.convert(a, EX, "a", 5.0).0);
    scene.acquire_in(Mode::ProtectedRead, "e", 50.0, 100.0);
    assert_eq!(scene.withdraw(waits), "a departed, e granted");
    assert_eq!(scene.held(a).0, Mode::ProtectedRead, "the lock is not lost");
    assert_eq!(scene.release(b), (true, String::new()));
}

#[test]
fn a_conversion_whose_wait_is_over_is_passed_over() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    scene.convert(a, EX, "a", 5.0);
    scene.acquire_in(EX, "c", 50.0, 100.0);
    assert_eq!(scene.at(5.0).release(b), (true, "a timed out".into()));
    assert_eq!(scene.release(a), (true, "c granted".into()));
}

/// A claim says nothing of the next conversion of the same lock.
#[test]
fn a_claim_is_of_one_conversion() {
    let mut scene = Scene::new();
    let [a, _b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    let first = claim(scene.convert(a, EX, "a", 5.0).0);
    assert_eq!(scene.withdraw(first), "a departed");
    assert_eq!(effects(&scene.convert(a, EX, "c", 50.0).0), "waits");
    assert_eq!(scene.at(5.0).time_out(first), "");
    assert_eq!(scene.withdraw(first), "");
    assert_eq!(scene.resource.tally().waiting, 1);
}

#[test]
fn the_conversion_of_a_lock_that_ends_ends_with_it() {
    type End = fn(&mut Scene, LockId) -> String;
    let ends: [End; 4] = [
        |scene, a| scene.release(a).1,
        |scene, _| scene.at(100.1).expire(),
        |scene, a| scene.abandon(a),
        |scene, _| scene.clear().1,
    ];
    let told = [
        "a no such lock, c granted",
        "a expired, a no such lock, c granted",
        "a abandoned, a no such lock, c granted",
        "a no such lock, c deleted",
    ];
    for (end, expected) in ends.into_iter().zip(told) {
        let mut scene = Scene::new();
        let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
        scene.renew(b, 500);
        assert_eq!(effects(&scene.convert(a, EX, "a", 500.0).0), "waits");
        scene.acquire_in(Mode::ProtectedRead, "c", 500.0, 100.0);
        assert_eq!(end(&mut scene, a), expected);
        assert_eq!(scene.resource.tally().waiting, 0);
    }
}

#[test]
fn a_lock_waits_for_one_mode_at_a_time() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    scene.convert(a, EX, "a", 50.0);
    for mode in [EX, Mode::Null, Mode::ProtectedRead] {
        assert_eq!(effects(&scene.convert(a, mode, "c", 50.0).0), "converting");
    }
    assert_eq!(scene.release(b), (true, "a granted".into()));
}

#[test]
fn a_lock_that_waits_for_another_mode_can_be_renewed() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    scene.convert(a, EX, "a", 500.0);
    assert_eq!(scene.at(90.0).renew(a, 100), (true, String::new()));
    scene.renew(b, 10);
    assert_eq!(scene.at(100.1).expire(), "b expired, a granted");
    assert_eq!(scene.at(189.0).expire(), "");
    assert_eq!(scene.at(190.1).expire(), "a expired");
}

#[test]
fn a_lifetime_begins_anew_if_that_is_asked_for() {
    for (lifetime, expires) in [(None, 100.0), (Some(60), 110.0)] {
        for waits in [false, true] {
            let mut scene = Scene::new();
            let a = scene.hold(Mode::ProtectedRead, "a");
            let b = waits.then(|| scene.hold(Mode::ProtectedRead, "b"));
            let lifetime = lifetime.map(Duration::from_secs);
            let wanted = Conversion { mode: EX, wait: Duration::from_secs(20), lifetime };
            let arrived_at = scene.at(if waits { 40.0 } else { 50.0 }).instant;
            scene.happen(Input::Convert(
                Box::new(ConvertRequest { id: a, wanted, arrived_at }),
                "a",
            ));
            if let Some(b) = b {
                assert_eq!(scene.at(50.0).release(b), (true, "a granted".into()));
            }
            assert_eq!(scene.held(a).0, EX);
            assert_eq!(scene.at(expires - 0.1).expire(), "", "{lifetime:?}");
            assert_eq!(scene.at(expires + 0.1).expire(), "a expired", "{lifetime:?}");
        }
    }
}

#[test]
fn what_cannot_be_converted() {
    let mut scene = Scene::new();
    let unknown = LockId::random();
    assert_eq!(effects(&scene.convert(unknown, EX, "a", 0.0).0), "no_such_lock");
    let a = scene.hold(semaphore(3), "a");
    let n = scene.hold(Mode::Null, "h");
    assert_eq!(effects(&scene.convert(a, Mode::Null, "a", 0.0).0), "not_convertible");
    assert_eq!(effects(&scene.convert(n, semaphore(3), "h", 0.0).0), "not_convertible");
    assert_eq!(effects(&scene.convert(n, EX, "h", 0.0).0), "mismatch", "they have the limit 3");
    scene.release(a);
    let reader = scene.hold(Mode::ProtectedRead, "b");
    let (waiting, _, _) = scene.acquire_in(semaphore(3), "c", 50.0, 100.0);
    assert_eq!(effects(&scene.convert(waiting, EX, "c", 0.0).0), "still_waiting");
    assert_eq!(effects(&scene.convert(n, EX, "h", 50.0).0), "mismatch");
    scene.release(waiting);
    assert_eq!(effects(&scene.convert(n, EX, "h", 50.0).0), "waits");
    let asked = scene.asked(request(semaphore(3), "c", 50.0, 100.0), None);
    assert!(matches!(scene.ask(asked).0, Reply::Refused(Refusal::OtherLimit(Limit::ONE))));
    assert_eq!(scene.at(100.0).convert(reader, Mode::Null, "b", 0.0).1, "h timed out");
    assert_eq!(effects(&scene.at(100.1).convert(reader, EX, "b", 0.0).0), "no_such_lock");
}

#[test]
fn a_conversion_that_is_refused_has_not_happened() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    let input = scene.conversion(a, Mode::Null, "a", 0.0);
    assert_eq!(scene.refuse(input), "");
    assert_eq!(scene.held(a).0, Mode::ProtectedRead);
    // One that waits is a fact.
    let input = scene.conversion(a, EX, "a", 50.0);
    scene.refuse(input);
    scene.acquire_in(Mode::ProtectedRead, "c", 50.0, 100.0);
    scene.release(b);
    assert_eq!(scene.held(a).0, EX);
}

/// The first conversion leaves, and what follows from that cannot be written: b fits, and waits.
fn overdue(scene: &mut Scene) -> LockId {
    scene.hold(Mode::ConcurrentRead, "c");
    let d = scene.hold(Mode::ProtectedRead, "d");
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::Null, who));
    let first = claim(scene.convert(a, EX, "a", 50.0).0);
    assert_eq!(effects(&scene.convert(b, Mode::ProtectedWrite, "b", 50.0).0), "waits");
    assert_eq!(scene.release(d), (true, String::new()));
    assert!(scene.resource.next_due().is_none_or(|due| due > scene.instant));
    assert_eq!(scene.refuse(Input::Withdraw(first, GRACE)), "a departed");
    assert_eq!(scene.held(b).0, Mode::Null);
    b
}

#[test]
fn a_conversion_whose_plan_is_refused_is_due_at_once_and_before_everybody() {
    let mut scene = Scene::new();
    let b = overdue(&mut scene);
    assert!(scene.resource.next_due().is_some_and(|due| due <= scene.instant));
    assert_eq!(scene.expire(), "b granted");
    assert_eq!(scene.held(b).0, Mode::ProtectedWrite);
    assert!(scene.resource.next_due().is_none_or(|due| due > scene.instant));

    for (mode, granted) in [(Mode::ConcurrentRead, true), (Mode::ProtectedRead, false)] {
        let mut scene = Scene::new();
        overdue(&mut scene);
        let (_, is_granted, told) = scene.acquire_in(mode, "e", 50.0, 100.0);
        assert_eq!((is_granted, told.as_str()), (granted, "b granted"), "{mode} comes behind b");
    }
}

#[test]
fn a_renewal_beside_an_overdue_conversion_of_the_same_lock_makes_both() {
    let mut scene = Scene::new();
    let b = overdue(&mut scene);
    assert_eq!(scene.at(10.0).renew(b, 200), (true, "b granted".into()));
    assert_eq!(scene.held(b).0, Mode::ProtectedWrite);
    scene.at(209.9).expire();
    assert_eq!(scene.locks(), ["b"]);
    assert_eq!(scene.at(210.1).expire(), "b expired");
}

#[test]
fn what_is_fact_beside_a_plan_of_a_conversion() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    let n = scene.hold(Mode::Null, "h");
    let first = claim(scene.convert(a, EX, "a", 50.0).0);
    let second = claim(scene.convert(n, EX, "h", 50.0).0);
    let now = Now { instant: scene.instant, wall: scene.wall };
    let Decision { plan, .. } =
        scene
            .resource
            .decide(Input::Release(b, Actor::nobody()), now, &mut || scene.numbers.next());
    let beside = |input| scene.resource.facts_beside(&input, &plan, now).is_some();
    assert!(!beside(Input::TimeOut(first)), "it is being converted");
    assert!(!beside(Input::Withdraw(first, GRACE)));
    assert!(beside(Input::TimeOut(second)));
    assert!(beside(Input::Withdraw(second, GRACE)));
    let facts = scene.resource.facts_beside(&Input::Dismiss, &plan, now).unwrap();
    assert_eq!(facts.unconverted, [(n, Refusal::ShuttingDown)]);
}

#[test]
fn shutting_down_ends_every_conversion() {
    let mut scene = Scene::new();
    let [a, _b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    scene.convert(a, EX, "a", 50.0);
    assert_eq!(scene.happen(Input::Dismiss).1, "a shutting down");
    assert_eq!(scene.held(a).0, Mode::ProtectedRead);
}

#[test]
fn the_lock_is_held_in_its_new_mode_in_what_is_written() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|who| scene.hold(Mode::ProtectedRead, who));
    let n = scene.hold(Mode::Null, "h");
    scene.at(30.0).convert(a, EX, "a", 50.0);
    scene.acquire_in(Mode::ConcurrentRead, "c", 50.0, 100.0);
    let now = Now { instant: scene.instant, wall: scene.wall };
    let Decision { plan, .. } =
        scene
            .resource
            .decide(Input::Release(b, Actor::nobody()), now, &mut || scene.numbers.next());
    let mut ended: Vec<_> = plan.ended_tokens().collect();
    ended.sort_unstable();
    assert_eq!(ended, [scene.held(a).1, scene.held(b).1]);
    let held: Vec<_> = plan.holders().collect();
    assert_eq!(held.len(), 1);
    assert_eq!((held[0].terms.mode, held[0].fencing_token), (EX, scene.held(a).1));
    assert_eq!(held[0].remaining(scene.instant), Some(Duration::from_secs(70)), "not started over");
    assert_eq!(scene.held(n).0, Mode::Null);
}
