//! Requests with a key that are sent again, and places that are kept for them.

use super::*;

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
fn a_lock_is_kept_when_one_of_two_responses_is_lost() {
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
fn a_client_that_returns_to_a_free_lock_is_granted_it_at_once() {
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
fn a_repetition_without_a_wait_gives_up_its_place() {
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
fn an_undelivered_grant_is_kept_for_the_grace() {
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
fn an_undelivered_grant_without_a_key_is_released() {
    let mut scene = Scene::new();
    let (a, _) = scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 50.0, 100.0);
    assert_eq!(scene.abandon(a), "a abandoned, b granted");
    assert_eq!(scene.abandon(a), "");
}

#[test]
fn a_renewal_counts_as_a_delivery() {
    let mut scene = Scene::new();
    let granted = claim(scene.acquire_with("k", "a").0);
    scene.abandon(granted.id());
    assert!(scene.at(1.0).renew(granted.id(), 20).0);
    assert_eq!(scene.at(20.9).expire(), "");
    assert_eq!(scene.at(21.1).expire(), "a expired");
}
