//! Races of conversions.

use super::*;

/// If two holders both want to convert to EX, one is refused because of the deadlock.
#[test]
fn two_readers_that_both_want_to_write() {
    check(|world| {
        let ask = |()| world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None).unwrap();
        let readers = [(), ()].map(ask);
        let writers = readers.map(|held| {
            world.spawn(move |world| match world.convert(&held, LONG, &mut |_| {}) {
                Ok(grant) => {
                    assert_eq!(grant.fencing_token, held.fencing_token);
                    world.use_and_release(&grant);
                    true
                }
                Err(Refusal::Deadlock) => {
                    assert!(world.release(&held));
                    false
                }
                other => panic!("{other:?}"),
            })
        });
        let writers = writers.map(|writer| writer.join().unwrap());
        assert!(writers.contains(&true), "{writers:?}");
        world.end();
    });
}

#[test]
fn a_conversion_against_the_end_of_its_wait() {
    check(|world| {
        let ask = |world: &World| world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None);
        let (other, held) = (ask(&world).unwrap(), ask(&world).unwrap());
        let writer = world.spawn(move |world| match world.convert(&held, SECOND, &mut |_| {}) {
            Ok(grant) => world.use_and_release(&grant),
            Err(Refusal::TimedOut) => assert!(world.release(&held)),
            other => panic!("{other:?}"),
        });
        let behind = world.spawn(|world| {
            let grant = world.ask(Mode::ProtectedRead, LONG, LONG, None).unwrap();
            assert!(world.release(&grant));
        });
        let clock = thread::spawn(|| advance(SECOND));
        assert!(world.release(&other));
        writer.join().unwrap();
        behind.join().unwrap();
        clock.join().unwrap();
        world.end();
    });
}

#[test]
fn the_release_of_a_lock_against_its_conversion() {
    check(|world| {
        let ask = |world: &World| world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None);
        let (other, held) = (ask(&world).unwrap(), ask(&world).unwrap());
        let same = held.clone();
        let writer = world.spawn(move |world| match world.convert(&same, LONG, &mut |_| {}) {
            Ok(_) | Err(Refusal::NoSuchLock) => {}
            other => panic!("{other:?}"),
        });
        let releaser = world.spawn(move |world| assert!(world.release(&held)));
        assert!(world.release(&other));
        writer.join().unwrap();
        releaser.join().unwrap();
        world.end();
    });
}

/// The conversion is withdrawn or granted, and the lock is held in both cases.
#[test]
fn a_departure_against_the_conversion() {
    check(|world| {
        let ask = |world: &World| world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None);
        let (other, held) = (ask(&world).unwrap(), ask(&world).unwrap());
        let leaver = world.spawn(move |world| {
            let mut departure = None;
            let mut on_wait = |waits: Departure| {
                departure = Some(thread::spawn(move || waits.leave()));
            };
            match world.convert(&held, LONG, &mut on_wait) {
                Ok(grant) => world.use_and_release(&grant),
                Err(Refusal::Departed) => assert!(world.release(&held)),
                other => panic!("{other:?}"),
            }
            departure.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let behind = world.spawn(|world| {
            let grant = world.ask(Mode::ProtectedRead, LONG, LONG, None).unwrap();
            assert!(world.release(&grant));
        });
        assert!(world.release(&other));
        leaver.join().unwrap();
        behind.join().unwrap();
        world.end();
    });
}

/// The end of the server reaches a conversion that waits, also beside a write that is refused.
#[test]
fn the_end_of_the_server_against_a_conversion() {
    fn race(world: World) {
        let ask = |world: &World| world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None);
        let (other, held) = (ask(&world).unwrap(), ask(&world).unwrap());
        let writer = world.spawn(move |world| match world.convert(&held, LONG, &mut |_| {}) {
            Ok(grant) => assert_eq!(grant.terms.mode, Mode::EXCLUSIVE),
            Err(Refusal::ShuttingDown | Refusal::NotWritten(_)) => {}
            other => panic!("{other:?}"),
        });
        let releaser = world.spawn(move |world| world.release(&other));
        world.table.shut_down();
        writer.join().unwrap();
        releaser.join().unwrap();
    }
    check(race);
    check_with(|store| store.refuse(&[3]), race);
}
