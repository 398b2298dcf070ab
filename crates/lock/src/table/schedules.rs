//! The table under a model checker: each race is run under thousands of orders of its threads,
//! random ones and ones with few switches at the worst places (PCT: Burckhardt et al., "A
//! Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010).
//!
//! Time passes when a test says so. A thread that sleeps and is not woken is a deadlock, which
//! the checker reports, with the order that led to it.

mod conversions;
mod stores;

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

/// Whatever the store does, no client has a lock that is not in it, and every client has a result.
fn check_with(script: fn(&Memory), race: fn(World)) {
    explore(move || {
        let store = Memory::default();
        script(&store);
        race(World::new(Some(store)));
    });
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

/// Is told that the core cannot go on.
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

    /// Holds an exclusive lock that does not expire, for a moment, and checks that nobody else does.
    fn use_and_release(&self, grant: &Grant) {
        assert_eq!(self.exclusive.fetch_add(1, Ordering::SeqCst), 0, "two holders");
        thread::yield_now();
        self.exclusive.fetch_sub(1, Ordering::SeqCst);
        assert!(self.release(grant), "a lock was gone before its lifetime");
    }

    fn release(&self, grant: &Grant) -> bool {
        self.table.release(&self.resource, grant.id, Actor::nobody_itself()).wait().is_ok()
    }

    /// Checks that there are no locks, no requests and no slots left. Ends the table.
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
/// handed over or its callers give up.
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

/// Each of them gets a result, and no change is left unfinished.
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
            waiting.is_some_and(|lock| {
                world
                    .table
                    .release(&world.resource, lock.id(), Actor::nobody_itself())
                    .wait()
                    .is_ok()
            })
        });
        let waiter = world.spawn(|world| world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
        assert!(world.release(&held));
        let deleted = deleter.join().unwrap();
        match waiter.join().unwrap() {
            // Deleted as the holder that it had become by then, perhaps.
            Ok(grant) => assert_eq!(world.release(&grant), !deleted),
            Err(Refusal::Deleted(_)) => assert!(deleted),
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
                Err(Refusal::Deleted(_)) => true,
                other => panic!("{other:?}"),
            })
        });
        world.table.delete_all(Actor::nobody_itself()).unwrap();
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

/// Two deliveries of one request: the response to one of them is lost, in either order.
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
