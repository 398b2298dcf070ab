//! The table under a model checker: each race is run under thousands of orders of its threads,
//! random ones and ones with few switches at the worst places (PCT: Burckhardt et al., "A
//! Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010).
//!
//! Time passes when a test says so. A thread that sleeps and is not woken is a deadlock, which
//! the checker reports, with the order that led to it.

use std::env;
use std::sync::Arc;

use super::*;
use crate::journal::memory::Memory;
use crate::sync::advance;
use crate::sync::atomic::AtomicUsize;
use crate::{End, Mode};

/// How many orders are tried of each race, by each of the two schedulers.
const ORDERS: &str = "RDLM_ORDERS";

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1_000_000);

/// Runs a race in a world whose locks are in memory alone, and in one with a journal.
fn check(race: fn(World)) {
    explore(move || race(World::new(None)));
    explore(move || race(World::new(Some(Memory::default()))));
}

fn explore(race: impl Fn() + Send + Sync + 'static) {
    let orders = env::var(ORDERS).map_or(300, |orders| orders.parse().unwrap());
    let race = Arc::new(race);
    let again = Arc::clone(&race);
    shuttle::check_random(move || race(), orders);
    shuttle::check_pct(move || again(), orders, 3);
}

const LIMITS: Limits = Limits { locks: 100, waiting: 100, waiting_per_resource: 100 };

/// A table, and who holds `r` right now as far as the clients know.
#[derive(Clone)]
struct World {
    table: Arc<LockTable>,
    store: Option<Memory>,
    resource: ResourceName,
    exclusive: Arc<AtomicUsize>,
    failed: Arc<AtomicBool>,
}

/// Hears that the core cannot go on.
struct Listener(Arc<AtomicBool>);

impl Observer for Listener {
    fn ended(&self, _: End, _: Duration) {}

    fn failed(&self, _: &str) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl World {
    fn new(store: Option<Memory>) -> Self {
        let failed = Arc::new(AtomicBool::new(false));
        let boxed = store.clone().map(|store| Box::new(store) as Box<dyn Store>);
        let observer = Arc::new(Listener(Arc::clone(&failed)));
        Self {
            table: Arc::new(LockTable::new(LIMITS, 5 * SECOND, boxed, observer).unwrap()),
            store,
            resource: "r".parse().unwrap(),
            exclusive: Arc::new(AtomicUsize::new(0)),
            failed,
        }
    }

    /// Runs `act` on a thread of its own.
    fn spawn<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let world = self.clone();
        thread::spawn(move || act(&world))
    }

    fn ask(&self, mode: Mode, wait: Duration, lifetime: Duration, key: Option<&str>) -> Acquired {
        self.ask_as(mode, wait, lifetime, key, &mut |_| {})
    }

    fn ask_as(
        &self,
        mode: Mode,
        wait: Duration,
        lifetime: Duration,
        key: Option<&str>,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Acquired {
        let request = self.request(mode, wait, lifetime);
        let key = key.map(|key| key.parse().unwrap());
        self.table.acquire(&self.resource, request, key, on_wait).wait()
    }

    fn request(&self, mode: Mode, wait: Duration, lifetime: Duration) -> Terms {
        Terms { wait, mode, client: "c".into(), ..Terms::exclusive("t", lifetime) }
    }

    fn hold(&self, lifetime: Duration) -> Grant {
        self.ask(Mode::EXCLUSIVE, Duration::ZERO, lifetime, None).unwrap()
    }

    /// Asks for the mode EX for a lock that is held.
    fn convert(
        &self,
        held: &Grant,
        wait: Duration,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Acquired {
        let wanted = Conversion { mode: Mode::EXCLUSIVE, wait, lifetime: None };
        self.table.convert(&self.resource, held.id, wanted, on_wait)
    }

    /// Holds an exclusive lock that does not expire, for a moment: nobody else may.
    fn use_and_release(&self, grant: &Grant) {
        assert_eq!(self.exclusive.fetch_add(1, Ordering::SeqCst), 0, "two holders");
        thread::yield_now();
        self.exclusive.fetch_sub(1, Ordering::SeqCst);
        assert!(self.release(grant), "a lock was gone before its lifetime");
    }

    fn release(&self, grant: &Grant) -> bool {
        self.table.release(&self.resource, grant.id).wait().is_ok()
    }

    /// Nobody waits, nobody holds, and nothing is left of anybody. Ends the reaper.
    fn end(self) {
        let shared = &self.table.shared;
        // What follows from the last change may still be under way on the journal's thread.
        while self.store.is_some() && !shared.names(None, 1).is_empty() {
            thread::yield_now();
        }
        assert!(
            shared.names(None, 1).is_empty(),
            "{:?}",
            self.table.locks(&self.resource, None, usize::MAX).locks
        );
        assert_eq!(shared.deadlines.len(), 0);
        assert_eq!(self.table.totals(), Totals::default());
        assert_eq!(self.store.map_or(0, |store| store.len()), 0, "left in the store");
    }
}

type Acquired = Result<Grant, Refusal>;

#[test]
fn a_grant_against_the_end_of_the_wait() {
    check(|world| {
        let held = world.hold(LONG);
        let waiter = world.spawn(|world| match world.ask(Mode::EXCLUSIVE, SECOND, LONG, None) {
            Ok(grant) => world.use_and_release(&grant),
            Err(Refusal::TimedOut) => {}
            other => panic!("{other:?}"),
        });
        let clock = thread::spawn(|| advance(SECOND));
        assert!(world.release(&held));
        waiter.join().unwrap();
        clock.join().unwrap();
        world.end();
    });
}

/// While the store is at one change, another one waits, with a request behind it, until it is
/// handed over or nobody has patience any more.
#[test]
fn a_withdrawal_against_the_store() {
    explore(|| {
        let store = Memory::with_patience(SECOND);
        store.stick(1);
        let world = World::new(Some(store.clone()));
        let other = World { resource: "other".parse().unwrap(), ..world.clone() };
        let ask = |world: &World| world.ask(Mode::EXCLUSIVE, Duration::ZERO, LONG, None);
        let sent = world.spawn(move |world| ask(world));
        store.wait_until_stuck();
        let unsent = other.spawn(move |world| ask(world));
        let behind = other.spawn(move |world| ask(world));
        let clock = thread::spawn(|| advance(2 * SECOND));
        let unsticks = thread::spawn(move || store.unstick());
        clock.join().unwrap();
        unsticks.join().unwrap();
        for (world, asked) in [(&world, sent), (&other, unsent), (&other, behind)] {
            match asked.join().unwrap() {
                Ok(grant) => assert!(world.release(&grant)),
                // It is given up when that is known.
                Err(Refusal::NotWritten(NotWritten::Unknown)) => {}
                Err(Refusal::NotWritten(NotWritten::Refused(_)) | Refusal::TimedOut) => {}
                other => panic!("{other:?}"),
            }
        }
        world.end();
    });
}

/// Each of them is told something, and no change is left that nobody finishes.
#[test]
fn a_withdrawal_against_the_end_of_the_server() {
    explore(|| {
        let store = Memory::with_patience(SECOND);
        store.stick(1);
        let world = World::new(Some(store.clone()));
        let other = World { resource: "other".parse().unwrap(), ..world.clone() };
        let ask = |world: &World| world.ask(Mode::EXCLUSIVE, LONG, LONG, None);
        let sent = world.spawn(move |world| ask(world));
        store.wait_until_stuck();
        let unsent = other.spawn(move |world| ask(world));
        let end = world.spawn(|world| world.table.shut_down());
        let clock = thread::spawn(|| advance(2 * SECOND));
        let unsticks = thread::spawn(move || store.unstick());
        [end, clock, unsticks].into_iter().for_each(|thread| thread.join().unwrap());
        for (world, asked) in [(&world, sent), (&other, unsent)] {
            match asked.join().unwrap() {
                Ok(grant) => assert!(world.release(&grant)),
                Err(Refusal::NotWritten(_) | Refusal::ShuttingDown) => {}
                other => panic!("{other:?}"),
            }
        }
        world.end();
    });
}

#[test]
fn a_release_against_the_expiry() {
    check(|world| {
        let held = world.hold(SECOND);
        let waiter = world.spawn(|world| {
            let grant = world.ask(Mode::EXCLUSIVE, LONG, LONG, None).unwrap();
            world.use_and_release(&grant);
        });
        let clock = thread::spawn(|| advance(2 * SECOND));
        world.release(&held);
        waiter.join().unwrap();
        clock.join().unwrap();
        world.end();
    });
}

/// The reaper has to be woken for a deadline that is earlier than the one it sleeps for.
#[test]
fn an_expiry_that_only_the_reaper_sees() {
    check(|world| {
        let other = World { resource: "other".parse().unwrap(), ..world.clone() };
        let later = other.hold(100 * SECOND);
        world.hold(SECOND);
        let waiter = world.spawn(|world| {
            let grant = world.ask(Mode::EXCLUSIVE, LONG, LONG, None).unwrap();
            world.use_and_release(&grant);
        });
        advance(2 * SECOND);
        waiter.join().unwrap();
        assert!(other.release(&later));
        world.end();
    });
}

#[test]
fn a_renewal_against_the_expiry() {
    check(|world| {
        let held = world.hold(SECOND);
        let clock = thread::spawn(|| advance(2 * SECOND));
        let renewed = world.table.renew(&world.resource, held.id, 10 * SECOND).wait().is_ok();
        clock.join().unwrap();
        // It lives or it is gone, and stays so.
        let found = world.table.find(&world.resource, held.id).is_some();
        assert_eq!(found, renewed);
        assert_eq!(world.release(&held), renewed);
        let next = world.hold(LONG);
        assert!(world.release(&next));
        world.end();
    });
}

#[test]
fn a_deletion_against_the_grant() {
    check(|world| {
        let held = world.hold(LONG);
        let deleter = world.spawn(|world| {
            let waiting = world.table.locks(&world.resource, None, usize::MAX).locks;
            let waiting = waiting.iter().find(|lock| matches!(lock, Lock::Waiting(_)));
            waiting
                .is_some_and(|lock| world.table.release(&world.resource, lock.id()).wait().is_ok())
        });
        let waiter = world.spawn(|world| world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
        assert!(world.release(&held));
        let deleted = deleter.join().unwrap();
        match waiter.join().unwrap() {
            // Deleted as the holder that it had become by then, perhaps.
            Ok(grant) => assert_eq!(world.release(&grant), !deleted),
            Err(Refusal::Deleted) => assert!(deleted),
            other => panic!("{other:?}"),
        }
        world.end();
    });
}

#[test]
fn the_deletion_of_all_against_newcomers() {
    check(|world| {
        world.hold(LONG);
        let comers = [(), ()].map(|()| {
            world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
                Ok(grant) => world.release(&grant),
                Err(Refusal::Deleted) => true,
                other => panic!("{other:?}"),
            })
        });
        world.table.delete_all().unwrap();
        for comer in comers {
            // Who came after the deletion had its turn.
            comer.join().unwrap();
        }
        world.end();
    });
}

#[test]
fn a_departure_against_the_grant() {
    check(|world| {
        let held = world.hold(LONG);
        let leaver = world.spawn(|world| {
            let mut departure = None;
            let mut on_wait = |waits: Departure| {
                departure = Some(thread::spawn(move || waits.leave()));
            };
            match world.ask_as(Mode::EXCLUSIVE, LONG, LONG, None, &mut on_wait) {
                Ok(grant) => world.table.abandon(&world.resource, grant.id),
                Err(Refusal::Departed) => {}
                other => panic!("{other:?}"),
            }
            departure.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let behind = world.spawn(|world| {
            let grant = world.ask(Mode::EXCLUSIVE, LONG, LONG, None).unwrap();
            world.use_and_release(&grant);
        });
        assert!(world.release(&held));
        leaver.join().unwrap();
        behind.join().unwrap();
        world.end();
    });
}

/// Of two that hold together and each want to hold alone, one hears of the deadlock.
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

/// Whoever leaves loses the conversion or has it, and the lock in both cases.
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

#[test]
fn the_removal_of_a_resource_against_entering_it() {
    check(|world| {
        let comers = [(), (), ()].map(|()| {
            world.spawn(|world| {
                let grant = world.ask(Mode::EXCLUSIVE, LONG, LONG, None).unwrap();
                world.use_and_release(&grant);
            })
        });
        comers.into_iter().for_each(|comer| comer.join().unwrap());
        world.end();
    });
}

#[test]
fn readers_behind_a_writer_whose_wait_runs_out() {
    check(|world| {
        let reader = world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None).unwrap();
        let writer = world.spawn(|world| {
            let mut clock = None;
            let mut on_wait = |_| clock = Some(thread::spawn(|| advance(SECOND)));
            let acquired = world.ask_as(Mode::EXCLUSIVE, SECOND, LONG, None, &mut on_wait);
            if let Some(clock) = clock {
                clock.join().unwrap();
                assert!(matches!(acquired, Err(Refusal::TimedOut)), "{acquired:?}");
            }
        });
        // No release makes room for them: they have their turn when the writer gives up.
        let readers = [(), ()].map(|()| {
            world.spawn(|world| {
                let grant = world.ask(Mode::ProtectedRead, LONG, LONG, None).unwrap();
                assert!(world.release(&grant));
            })
        });
        writer.join().unwrap();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(world.release(&reader));
        world.end();
    });
}

/// Two sendings of one request: the answer of one is lost, whichever comes first.
#[test]
fn a_retry_against_the_grant_and_the_departure() {
    check(|world| {
        let held = world.hold(LONG);
        let lost = world.spawn(|world| {
            let mut departure = None;
            let mut on_wait = |waits: Departure| {
                departure = Some(thread::spawn(move || waits.leave()));
            };
            match world.ask_as(Mode::EXCLUSIVE, LONG, LONG, Some("k"), &mut on_wait) {
                Ok(grant) => world.table.abandon(&world.resource, grant.id),
                Err(Refusal::Departed) | Err(Refusal::Superseded) => {}
                other => panic!("{other:?}"),
            }
            departure.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let releaser = world.spawn(move |world| assert!(world.release(&held)));
        let acquired = world.ask(Mode::EXCLUSIVE, LONG, LONG, Some("k"));
        lost.join().unwrap();
        releaser.join().unwrap();
        match acquired {
            // Whatever became of the other sending, this one holds the lock until it releases it.
            Ok(grant) => {
                advance(10 * SECOND);
                assert!(world.release(&grant));
            }
            // The other one came later, and is gone: its place or lock is given up.
            Err(Refusal::Superseded) => {
                advance(10 * SECOND);
                let next = world.ask(Mode::EXCLUSIVE, LONG, LONG, None).unwrap();
                assert!(world.release(&next));
            }
            other => panic!("{other:?}"),
        }
        world.end();
    });
}

#[test]
fn the_same_key_at_the_same_moment() {
    check(|world| {
        let askers = [(), (), ()].map(|()| {
            world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, Some("k")) {
                Ok(grant) => Some(grant),
                Err(Refusal::Superseded) => None,
                other => panic!("{other:?}"),
            })
        });
        let grants = askers.map(|asker| asker.join().unwrap());
        let grants: Vec<_> = grants.into_iter().flatten().collect();
        assert!(grants.windows(2).all(|pair| pair[0].id == pair[1].id));
        assert_eq!(world.table.locks(&world.resource, None, usize::MAX).locks.len(), 1);
        assert!(world.release(&grants[0]));
        world.end();
    });
}

#[test]
fn the_end_of_the_server_against_a_request() {
    check(|world| {
        let held = world.hold(LONG);
        let comer = world.spawn(|world| {
            let acquired = world.ask(Mode::EXCLUSIVE, LONG, LONG, None);
            assert!(matches!(acquired, Err(Refusal::ShuttingDown)), "{acquired:?}");
        });
        world.table.shut_down();
        comer.join().unwrap();
        assert!(world.release(&held));
        world.end();
    });
}

/// Whatever the store does, nobody has a lock that it has not, and everybody has an answer.
fn check_with(script: fn(&Memory), race: fn(World)) {
    explore(move || {
        let store = Memory::default();
        script(&store);
        race(World::new(Some(store)));
    });
}

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

/// The end of an expired lock cannot be written at first; whoever waits has it when it can.
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
            let heard = Arc::new(AtomicBool::new(false));
            let clock = thread::spawn({
                let (world, heard) = (world.clone(), Arc::clone(&heard));
                // The reaper tries again until it can be written.
                move || {
                    while !heard.load(Ordering::SeqCst)
                        || !world.table.shared.names(None, 1).is_empty()
                    {
                        advance(2 * SECOND);
                        thread::yield_now();
                    }
                }
            });
            waiter.join().unwrap();
            heard.store(true, Ordering::SeqCst);
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
fn a_stuck_write_holds_up_no_look_no_time_out_and_no_departure() {
    check_with(
        |store| store.stick(2),
        |world| {
            let held = world.hold(LONG);
            let store = world.store.clone().unwrap();
            let heard = Arc::new(AtomicUsize::new(0));
            let (first, second) = (Arc::clone(&heard), Arc::clone(&heard));
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
            // A renewal concerns nobody who waits.
            let renewal = world.spawn(move |world| {
                world.table.renew(&world.resource, held.id, LONG).wait().unwrap()
            });
            store.wait_until_stuck();
            while heard.load(Ordering::SeqCst) < 2 {
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
            let deleter = world.spawn(|world| world.table.delete_all());
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
            let deleter = world.spawn(|world| world.table.delete_all());
            let comer = other.spawn(|other| match other.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
                Ok(grant) => assert!(other.release(&grant)),
                Err(Refusal::Deleted) => {}
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

/// It is not known what became of the write: nobody hears anything, but the operator does.
#[test]
fn a_lost_answer_of_the_store() {
    check_with(
        |store| store.lose_answer(2),
        |world| {
            let held = world.hold(LONG);
            let shared = &world.table.shared;
            let slot = shared.slot(&world.resource).unwrap();
            let waiter = Arc::<Sleeper>::default();
            let terms = world.request(Mode::EXCLUSIVE, LONG, LONG);
            let asked = Asked { id: LockId::random(), terms, key: None, came: now() };
            let begin = |event| shared.begin(&slot, event).unwrap_or_else(|_| panic!());
            assert!(matches!(
                begin(Event::Acquire(Box::new(asked), Arc::clone(&waiter))),
                Begun::Done(Reply::InLine(..))
            ));
            // The threads of both would sleep until the process ends.
            let Begun::Writing(asker) = begin(Event::Release(held.id)) else { panic!() };
            while !world.failed.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(waiter.word().is_none() && asker.word().is_none());
            assert_eq!(
                world.table.locks(&world.resource, None, usize::MAX).locks.len(),
                2,
                "nothing is seen of it"
            );
        },
    );
}

/// A table that is opened anew has what the store has.
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

/// Whoever joins the line does not wait for what its coming has written.
#[test]
fn who_joins_the_line_does_not_wait_for_the_end_of_another_lock_to_be_written() {
    check_with(
        |store| store.stick(3),
        |world| {
            let ask =
                |lifetime| world.ask(Mode::ProtectedRead, Duration::ZERO, lifetime, None).unwrap();
            let (_due, held) = (ask(SECOND), ask(LONG));
            let store = world.store.clone().unwrap();
            let heard = Arc::new(AtomicBool::new(false));
            let hears = Arc::clone(&heard);
            advance(2 * SECOND);
            let late = world.spawn(move |world| {
                let acquired = world.ask(Mode::EXCLUSIVE, SECOND, LONG, None);
                assert!(matches!(acquired, Err(Refusal::TimedOut)), "{acquired:?}");
                hears.store(true, Ordering::SeqCst);
            });
            store.wait_until_stuck();
            let mut rounds = 0;
            while !heard.load(Ordering::SeqCst) {
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

/// Whoever writes, the end of the server waits for it, and hears of its end.
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
