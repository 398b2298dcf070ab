//! Which locks are held together, and who is next when not all fit.

use super::*;

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
fn no_mode_overtakes_the_line() {
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
fn a_release_grants_every_request_at_the_head_that_fits() {
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
fn a_request_that_leaves_the_line_lets_those_behind_it_pass() {
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
fn null_is_granted_at_once_even_if_others_wait() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, 100.0);
    scene.acquire("b", 50.0, 100.0);
    let (_, granted, _) = scene.acquire_in(Mode::Null, "c", 0.0, 100.0);
    assert!(granted);
    assert_eq!(scene.locks(), ["a", "c", "b"]);
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
