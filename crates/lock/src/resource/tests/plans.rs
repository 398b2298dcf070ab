//! Plans that could not be written, and what goes on beside one that is being written.

use super::*;

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
    for (seconds, input, told, left) in [
        (0.5, Input::Release(a, Actor::nobody()), "", everybody),
        (0.6, Input::Release(b, Actor::nobody()), "", everybody),
        (0.7, Input::Delete(u64::MAX, Actor::nobody()), "", everybody),
        (0.8, Input::Renew(a, 100 * DAY), "", everybody),
        (2.0, Input::Release(a, Actor::nobody()), "b timed out", without_b),
        (3.0, Input::Delete(u64::MAX, Actor::nobody()), "", without_b),
        (10.1, Input::Expire, "", without_b),
    ] {
        assert_eq!(scene.at(seconds).refuse(input), told, "at {seconds}");
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
    assert_eq!(scene.at(1.0).refuse(Input::Withdraw(first(b), GRACE)), "b departed");
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
    let now = Now { instant: scene.instant, wall: scene.wall };
    let plan = scene.resource.decide(Input::Renew(a, DAY), now, &mut || scene.numbers.next()).plan;
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
    let now = Now { instant: scene.instant, wall: scene.wall };
    let plan = scene
        .resource
        .decide(Input::Release(a, Actor::nobody()), now, &mut || scene.numbers.next())
        .plan;
    let mut beside = |input: &Input<_>| {
        let facts = scene.resource.facts_beside(input, &plan, now)?;
        let mut effects = Effects::default();
        scene.resource.note(facts, &mut effects);
        Some(completed(effects))
    };
    assert_eq!(beside(&Input::TimeOut(b)), None, "it may be granted");
    assert_eq!(beside(&Input::Withdraw(b, GRACE)), None);
    assert_eq!(beside(&Input::Release(c.id(), Actor::nobody())), None);
    assert_eq!(beside(&Input::TimeOut(c)), Some("c timed out".into()));
    assert_eq!(beside(&Input::Dismiss), Some(String::new()), "b is told later");
    let mut effects = Effects::default();
    scene.resource.apply(plan, now, &mut effects);
    assert_eq!(completed(effects), "b granted");
}

/// Found by the torture: the count of arrivals restarted when a promotion emptied the line.
#[test]
fn no_request_overtakes_a_line_whose_promotion_is_refused() {
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
    assert_eq!(scene.happen(Input::Dismiss).1, "b shutting down");
    assert_eq!(scene.locks(), ["a"]);
}

/// The client of a lock that it does not know of asks again, and another lock ends just then,
/// which cannot be written: it is told that nothing has changed.
#[test]
fn a_refused_redelivery_does_not_count() {
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
fn nothing_is_granted_beside_an_expired_lock_whose_end_was_refused() {
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
    assert_eq!(scene.refuse(Input::Abandon(a, GRACE)), "");
    assert_eq!(scene.resource.next_due(), Some(scene.instant));
    assert_eq!(scene.expire(), "a abandoned");
}

#[test]
fn a_retry_does_not_lengthen_the_line_and_a_return_does() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    let lengthens = |scene: &Scene, key| {
        let asked = scene.asked(request(Mode::EXCLUSIVE, "c", 50.0, 100.0), Some(key));
        let now = Now { instant: scene.instant, wall: scene.wall };
        scene
            .resource
            .decide(acquires(asked), now, &mut || scene.numbers.next())
            .lengthens_line(&scene.resource)
    };
    assert!(lengthens(&scene, "k"));
    let b = claim(scene.acquire_with("k", "b").0);
    assert!(!lengthens(&scene, "k"), "it inherits the place of the earlier sending");
    scene.withdraw(b);
    assert!(lengthens(&scene, "k"), "nobody waits there any more");
}
