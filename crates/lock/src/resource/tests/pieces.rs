//! How much one input changes, and how many it takes for all.

use super::*;

const HOUR: f64 = 3600.0;

impl Scene {
    /// Has so many readers ask; each waits for an hour if it has to.
    fn read(&mut self, readers: usize, lifetime: f64) {
        let modes = std::iter::repeat_n(Mode::ProtectedRead, readers);
        modes.for_each(|mode| drop(self.acquire_in(mode, "b", HOUR, lifetime)));
    }

    /// Repeats an input for as long as it changes something, never more than a piece;
    /// returns how many times that was.
    fn repeat(&mut self, input: impl Fn() -> Input<&'static str>) -> usize {
        let now = |scene: &Self| scene.instant;
        for times in 0.. {
            let at = Now { instant: now(self), wall: self.wall };
            let Decision { facts, plan, .. } =
                self.resource.decide(input(), at, &mut || self.numbers.next());
            let sizes =
                [plan.ended.len(), plan.deleted.len() + plan.granted.len(), facts.given_up.len()];
            if sizes == [0; 3] {
                return times;
            }
            assert!(sizes.iter().all(|size| *size <= PIECE), "{sizes:?} at once");
            let mut effects = Effects::default();
            self.resource.note(facts, &mut effects);
            self.resource.apply(plan, at, &mut effects);
        }
        unreachable!()
    }
}

/// Twice as much takes twice as many pieces.
fn is_linear(pieces: impl Fn(usize) -> usize) {
    for count in [1, PIECE, PIECE + 1, 2 * PIECE, 4 * PIECE] {
        assert_eq!(pieces(count), count.div_ceil(PIECE), "{count}");
    }
}

#[test]
fn what_expires_together_does_so_in_pieces() {
    is_linear(|count| {
        let mut scene = Scene::new();
        scene.read(count, 10.0);
        let pieces = scene.at(11.0).repeat(|| Input::Expire);
        assert!(scene.resource.is_empty());
        pieces
    });
}

#[test]
fn what_fits_together_is_granted_in_pieces_and_in_order() {
    is_linear(|count| {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 10.0);
        scene.read(count, HOUR);
        let pieces = scene.at(11.0).repeat(|| Input::Expire);
        assert_eq!((scene.resource.holders.len(), scene.resource.line.waiting_count()), (count, 0));
        pieces
    });
}

#[test]
fn places_are_given_up_in_pieces() {
    is_linear(|count| {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, HOUR);
        for number in 0..count {
            let (reply, _) = scene.acquire_with(&format!("key-{number}"), "b");
            let Reply::InLine(claim, _) = reply else { panic!("{reply:?}") };
            scene.withdraw(claim);
        }
        let pieces = scene.at(30.0).repeat(|| Input::Expire);
        assert_eq!(scene.resource.line.kept_count(), 0);
        pieces
    });
}

/// Those in line go first, from its end: no request is granted a lock which the next piece ends.
#[test]
fn a_deletion_is_done_in_pieces_and_spares_later_requests() {
    is_linear(|count| {
        let mut scene = Scene::new();
        let (held, waiting) = (count.div_ceil(2), count / 2);
        scene.read(held, HOUR);
        if waiting > 0 {
            scene.acquire("a", HOUR, HOUR);
            scene.read(waiting - 1, HOUR);
        }
        let before = scene.numbers.next();
        scene.acquire("c", HOUR, HOUR);
        let pieces = scene.repeat(|| Input::Delete(before, Actor::nobody()));
        assert_eq!(scene.locks(), ["c"]);
        assert!(scene.resource.is_behind(|| scene.instant), "the newcomer is next");
        scene.expire();
        assert_eq!(scene.resource.holders.len(), 1);
        pieces
    });
}

/// Nothing can be written, or all of them would have expired before anything else happens.
#[test]
fn a_key_does_not_find_an_expired_lock() {
    let mut scene = Scene::new();
    let key = |number: usize| format!("key-{number}");
    for number in 0..=PIECE {
        let request = request(Mode::Null, "b", 0.0, 10.0);
        scene.ask(scene.asked(request, Some(&key(number))));
    }
    let request = request(Mode::Null, "c", 0.0, 100.0);
    let asked = scene.at(11.0).asked(request, Some(&key(PIECE)));
    let (reply, _) = scene.ask(asked);
    let Reply::Granted(grant) = reply else { panic!("{reply:?}") };
    assert_eq!(grant.terms.title, "c");
    scene.expire();
    let holder = scene.resource.holders.of_key(&key(PIECE).parse().unwrap());
    assert_eq!(holder.map(|holder| holder.id), Some(grant.id));
}

#[test]
fn a_key_does_not_find_a_place_whose_time_is_over() {
    let mut scene = Scene::new();
    scene.acquire("a", 0.0, HOUR);
    for number in 0..=PIECE {
        let (reply, _) = scene.acquire_with(&format!("key-{number}"), "b");
        let Reply::InLine(claim, _) = reply else { panic!("{reply:?}") };
        scene.withdraw(claim);
    }
    // More are due than one input gives up.
    let key = format!("key-{PIECE}");
    let (reply, _) = scene.at(30.0).acquire_with(&key, "b");
    let Reply::InLine(Claim::Place { id, attempt, .. }, _) = reply else { panic!("{reply:?}") };
    assert_eq!(attempt, 0, "it is a new place");
    scene.expire();
    let place = scene.resource.line.place_of(&key.parse().unwrap());
    assert_eq!(place.map(|place| place.id), Some(id));
}

#[test]
fn nobody_in_line_is_granted_a_lock_between_the_pieces_of_a_deletion() {
    let mut scene = Scene::new();
    let (holder, _) = scene.acquire("a", 0.0, HOUR);
    scene.read(2 * PIECE + 1, HOUR);
    let before = scene.numbers.next();
    // One who comes later is not concerned.
    let later = scene.acquire("c", HOUR, HOUR).0;
    scene.happen(Input::Delete(before, Actor::nobody()));
    assert_eq!(scene.resource.tally().waiting, PIECE + 2);
    let told = scene.happen_unchecked(Input::Release(holder, Actor::nobody())).1;
    assert!(told.contains("b deleted") && !told.contains("b granted"), "{told}");
    scene.expire();
    assert_eq!(scene.resource.tally().waiting, 0);
    assert!(scene.resource.holders.get(later).is_some());
}
