//! Races in which the store refuses, is stuck or fails.

use super::*;

#[test]
fn a_refused_write_against_a_newcomer() {
    check_with(
        |store| store.refuse(&[1]),
        |world| {
            let comers = [(), ()].map(|()| {
                world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
                    Ok(grant) => world.use_and_release(&grant),
                    Err(Refusal::NotWritten(_)) => {}
                    other => panic!("{other:?}"),
                })
            });
            comers.into_iter().for_each(|comer| comer.join().unwrap());
            world.end();
        },
    );
}

/// The end of an expired lock cannot be written at first; the waiting request is granted when it can.
#[test]
fn a_refused_write_against_an_expiry() {
    check_with(
        |store| store.refuse(&[2, 3]),
        |world| {
            world.hold(SECOND);
            let waiter = world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
                Ok(grant) => world.use_and_release(&grant),
                // It came when the lock had expired, and was to have it at once.
                Err(Refusal::NotWritten(_)) => {}
                other => panic!("{other:?}"),
            });
            let told = Arc::new(AtomicBool::new(false));
            let clock = thread::spawn({
                let (world, told) = (world.clone(), Arc::clone(&told));
                // The reaper tries again until it can be written.
                move || {
                    while !told.load(Ordering::SeqCst)
                        || !world.table.shared.names(None, 1).is_empty()
                    {
                        advance(2 * SECOND);
                        thread::yield_now();
                    }
                }
            });
            waiter.join().unwrap();
            told.store(true, Ordering::SeqCst);
            clock.join().unwrap();
            world.end();
        },
    );
}

/// A writer leaves, and the grant to the reader behind it cannot be written at first.
#[test]
fn a_refused_write_against_a_departure() {
    check_with(
        |store| store.refuse(&[2]),
        |world| {
            let first = world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None).unwrap();
            let writer = world.spawn(|world| {
                let mut departure = None;
                let mut on_wait = |waits: Departure| {
                    departure = Some(thread::spawn(move || waits.leave()));
                };
                let acquired = world.ask_as(Mode::EXCLUSIVE, LONG, LONG, None, &mut on_wait);
                assert!(matches!(acquired, Err(Refusal::Departed)), "{acquired:?}");
                departure.into_iter().for_each(|thread| thread.join().unwrap());
            });
            let reader =
                world.spawn(|world| match world.ask(Mode::ProtectedRead, LONG, LONG, None) {
                    Ok(grant) => assert!(world.release(&grant)),
                    Err(Refusal::NotWritten(_)) => {}
                    other => panic!("{other:?}"),
                });
            let clock = thread::spawn(|| (0..3).for_each(|_| advance(2 * SECOND)));
            writer.join().unwrap();
            reader.join().unwrap();
            clock.join().unwrap();
            while !world.release(&first) {
                advance(2 * SECOND);
            }
            world.end();
        },
    );
}

/// While a write is stuck, looks go on, and a wait that runs out or is left is over.
#[test]
fn a_stuck_write_blocks_no_read_no_time_out_and_no_departure() {
    check_with(
        |store| store.stick(2),
        |world| {
            let held = world.hold(LONG);
            let store = world.store.clone().unwrap();
            let told = Arc::new(AtomicUsize::new(0));
            let (first, second) = (Arc::clone(&told), Arc::clone(&told));
            let late = world.spawn(move |world| {
                let acquired = world.ask(Mode::EXCLUSIVE, SECOND, LONG, None);
                assert!(matches!(acquired, Err(Refusal::TimedOut)), "{acquired:?}");
                first.fetch_add(1, Ordering::SeqCst);
            });
            let stuck = store.clone();
            let gone = world.spawn(move |world| {
                let mut departure = None;
                let mut on_wait = |waits: Departure| {
                    let stuck = stuck.clone();
                    departure = Some(thread::spawn(move || {
                        stuck.wait_until_stuck();
                        waits.leave();
                    }));
                };
                let acquired = world.ask_as(Mode::EXCLUSIVE, LONG, LONG, None, &mut on_wait);
                assert!(matches!(acquired, Err(Refusal::Departed)), "{acquired:?}");
                departure.into_iter().for_each(|thread| thread.join().unwrap());
                second.fetch_add(1, Ordering::SeqCst);
            });
            while world.table.totals().waiting < 2 {
                thread::yield_now();
            }
            // A renewal concerns no waiting request.
            let renewal = world.spawn(move |world| {
                world.table.renew(&world.resource, held.id, LONG).wait().unwrap()
            });
            store.wait_until_stuck();
            while told.load(Ordering::SeqCst) < 2 {
                advance(2 * SECOND);
                thread::yield_now();
            }
            assert_eq!(world.table.locks(&world.resource, None, usize::MAX).locks.len(), 1);
            store.unstick();
            late.join().unwrap();
            gone.join().unwrap();
            let renewed = renewal.join().unwrap();
            assert!(world.release(&renewed));
            world.end();
        },
    );
}

#[test]
fn the_end_of_the_server_against_a_plan_that_is_being_written() {
    fn race(world: World) {
        let held = world.hold(LONG);
        let comer = world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
            Ok(grant) => assert!(world.release(&grant)),
            Err(Refusal::ShuttingDown | Refusal::NotWritten(_)) => {}
            other => panic!("{other:?}"),
        });
        let releaser = world.spawn(move |world| world.release(&held).then_some(()).ok_or(held));
        world.table.shut_down();
        comer.join().unwrap();
        if let Err(held) = releaser.join().unwrap() {
            assert!(world.release(&held), "its release was refused, so it is still held");
        }
        world.end();
    }
    check(race);
    check_with(|store| store.refuse(&[2]), race);
}

#[test]
fn a_deletion_of_all_whose_writes_are_refused_has_not_happened() {
    check_with(
        |store| store.refuse(&[2]),
        |world| {
            let held = world.hold(LONG);
            let deleter = world.spawn(|world| world.table.delete_all(Actor::nobody_itself()));
            let deleted = deleter.join().unwrap();
            assert!(matches!(deleted, Err(Refusal::NotWritten(_))), "{deleted:?}");
            assert!(world.release(&held));
            world.end();
        },
    );
}

#[test]
fn the_deletion_of_all_against_a_stuck_write_and_a_newcomer() {
    check_with(
        |store| store.stick(3),
        |world| {
            let other = World { resource: "other".parse().unwrap(), ..world.clone() };
            world.hold(LONG);
            other.hold(LONG);
            let deleter = world.spawn(|world| world.table.delete_all(Actor::nobody_itself()));
            let comer = other.spawn(|other| match other.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
                Ok(grant) => assert!(other.release(&grant)),
                Err(Refusal::Deleted(_)) => {}
                refused => panic!("{refused:?}"),
            });
            let store = world.store.clone().unwrap();
            store.wait_until_stuck();
            store.unstick();
            assert_eq!(deleter.join().unwrap(), Ok(()));
            comer.join().unwrap();
            world.end();
        },
    );
}

/// The outcome of the write is unknown: no client gets a result, but the operator is told.
#[test]
fn a_lost_answer_of_the_store() {
    check_with(
        |store| store.lose_answer(2),
        |world| {
            let held = world.hold(LONG);
            let shared = &world.table.shared;
            let slot = shared.slot(&world.resource).unwrap();
            let waiter = Arc::<Waiter>::default();
            let terms = world.request(Mode::EXCLUSIVE, LONG, LONG);
            let arrival = Arrival { id: LockId::random(), terms, key: None, arrived_at: now() };
            let begin = |input| shared.begin(&slot, input).unwrap_or_else(|_| panic!());
            assert!(matches!(
                begin(Input::Acquire(Box::new(arrival), Arc::clone(&waiter))),
                Progress::Done(Reply::InLine(..))
            ));
            // The threads of both would sleep until the process ends.
            let Progress::Writing(releaser) = begin(Input::Release(held.id, Actor::nobody()))
            else {
                panic!()
            };
            while !world.failed.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(waiter.result().is_none() && releaser.result().is_none());
            assert_eq!(
                world.table.locks(&world.resource, None, usize::MAX).locks.len(),
                2,
                "nothing is seen of it"
            );
        },
    );
}

/// A table that is opened again has the locks of the store.
#[test]
fn what_is_held_is_what_the_store_has() {
    check(|world| {
        let mode = Mode::ProtectedRead;
        let comers = [true, false, true].map(|keep| {
            world.spawn(move |world| {
                let grant = world.ask(mode, Duration::ZERO, LONG, None).unwrap();
                assert!(keep || world.release(&grant));
                keep.then_some(grant.id)
            })
        });
        let kept = comers.into_iter().filter_map(|comer| comer.join().unwrap());
        let mut kept: Vec<_> = kept.collect();
        kept.sort_unstable();
        let held = |world: &World| {
            let locks = world.table.locks(&world.resource, None, usize::MAX).locks.into_iter();
            let mut ids: Vec<_> = locks.map(|lock| lock.id()).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(held(&world), kept);
        if let Some(store) = world.store.clone() {
            assert_eq!(held(&World::new(Some(store))), kept);
        }
    });
}

/// A request that joins the line does not wait for the plan that is written with it.
#[test]
fn joining_the_line_does_not_wait_for_a_write() {
    check_with(
        |store| store.stick(3),
        |world| {
            let ask =
                |lifetime| world.ask(Mode::ProtectedRead, Duration::ZERO, lifetime, None).unwrap();
            let (_due, held) = (ask(SECOND), ask(LONG));
            let store = world.store.clone().unwrap();
            let told = Arc::new(AtomicBool::new(false));
            let tells = Arc::clone(&told);
            advance(2 * SECOND);
            let late = world.spawn(move |world| {
                let acquired = world.ask(Mode::EXCLUSIVE, SECOND, LONG, None);
                assert!(matches!(acquired, Err(Refusal::TimedOut)), "{acquired:?}");
                tells.store(true, Ordering::SeqCst);
            });
            store.wait_until_stuck();
            let mut rounds = 0;
            while !told.load(Ordering::SeqCst) {
                advance(2 * SECOND);
                thread::yield_now();
                rounds += 1;
                assert!(rounds < 2000, "it waits for the disk");
            }
            store.unstick();
            late.join().unwrap();
            assert!(world.release(&held));
            world.end();
        },
    );
}

/// The end of the server waits for the write, whichever thread writes.
#[test]
fn the_end_of_the_server_against_a_release_that_is_being_written() {
    check(|world| {
        let held = world.hold(LONG);
        let releases = world.spawn(move |world| assert!(world.release(&held)));
        world.table.settle();
        releases.join().unwrap();
        world.table.settle();
        assert!(world.table.shared.names(None, 1).is_empty());
        world.end();
    });
}
