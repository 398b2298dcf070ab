//! The table under a model checker: each race is run under thousands of orders of its threads,
//! random ones and ones with few switches at the worst places (PCT: Burckhardt et al., "A
//! Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010).
//!
//! Time passes when a test says so. A thread that sleeps and is not woken is a deadlock, which
//! the checker reports, with the order that led to it.

use std::env;
use std::sync::Arc;

use super::*;
use crate::lock::sync::advance;
use crate::lock::{Mode, Phase};

/// How many orders are tried of each race, by each of the two schedulers.
const ORDERS: &str = "RDLM_ORDERS";

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1_000_000);

fn check(race: impl Fn() + Send + Sync + 'static) {
    let orders = env::var(ORDERS).map_or(300, |orders| orders.parse().unwrap());
    let race = Arc::new(race);
    let again = Arc::clone(&race);
    shuttle::check_random(move || race(), orders);
    shuttle::check_pct(move || again(), orders, 3);
}

/// A table, and who holds `r` right now as far as the clients know.
#[derive(Clone)]
struct World {
    table: Arc<LockTable>,
    resource: ResourceName,
    exclusive: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        let max_waiters = MaxWaiters { in_all: 100, per_resource: 100 };
        Self {
            table: Arc::new(LockTable::new(max_waiters, 5 * SECOND, None, Arc::new(())).unwrap()),
            resource: "r".parse().unwrap(),
            exclusive: Arc::new(AtomicUsize::new(0)),
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
        on_wait: &mut dyn FnMut(Claim),
    ) -> Acquired {
        let (title, client) = ("t".into(), "c".into());
        let request = LockRequest { title, wait, lifetime, mode, client };
        let key = key.map(|key| key.parse().unwrap());
        self.table.acquire(&self.resource, request, key, on_wait)
    }

    fn hold(&self, lifetime: Duration) -> Lock {
        granted(self.ask(Mode::EXCLUSIVE, Duration::ZERO, lifetime, None))
    }

    /// Holds an exclusive lock that does not expire, for a moment: nobody else may.
    fn use_and_release(&self, grant: &Lock) {
        assert_eq!(self.exclusive.fetch_add(1, Ordering::SeqCst), 0, "two holders");
        thread::yield_now();
        self.exclusive.fetch_sub(1, Ordering::SeqCst);
        assert!(self.release(grant), "a lock was gone before its lifetime");
    }

    fn release(&self, grant: &Lock) -> bool {
        self.table.release(&self.resource, grant.id).unwrap()
    }

    /// Nobody waits, nobody holds, and nothing is left of anybody. Ends the reaper.
    fn end(self) {
        let shared = &self.table.shared;
        assert!(shared.names().is_empty(), "{:?}", self.table.locks(&self.resource));
        assert_eq!(shared.deadlines.len(), 0);
        assert_eq!(self.table.totals(), Totals::default());
    }
}

fn granted(acquired: Acquired) -> Lock {
    match acquired {
        Acquired::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn a_grant_against_the_end_of_the_wait() {
    check(|| {
        let world = World::new();
        let held = world.hold(LONG);
        let waiter = world.spawn(|world| match world.ask(Mode::EXCLUSIVE, SECOND, LONG, None) {
            Acquired::Granted(grant) => world.use_and_release(&grant),
            Acquired::TimedOut => {}
            other => panic!("{other:?}"),
        });
        let clock = thread::spawn(|| advance(SECOND));
        assert!(world.release(&held));
        waiter.join().unwrap();
        clock.join().unwrap();
        world.end();
    });
}

#[test]
fn a_release_against_the_expiry() {
    check(|| {
        let world = World::new();
        let held = world.hold(SECOND);
        let waiter = world.spawn(|world| {
            let grant = granted(world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
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
    check(|| {
        let world = World::new();
        let other = World { resource: "other".parse().unwrap(), ..world.clone() };
        let later = other.hold(100 * SECOND);
        world.hold(SECOND);
        let waiter = world.spawn(|world| {
            let grant = granted(world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
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
    check(|| {
        let world = World::new();
        let held = world.hold(SECOND);
        let clock = thread::spawn(|| advance(2 * SECOND));
        let renewed = world.table.renew(&world.resource, held.id, 10 * SECOND).unwrap();
        let renewed = matches!(renewed, Renewal::Renewed(_));
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
    check(|| {
        let world = World::new();
        let held = world.hold(LONG);
        let deleter = world.spawn(|world| {
            let waiting = world.table.locks(&world.resource);
            let waiting = waiting.iter().find(|lock| matches!(lock.phase, Phase::Waiting { .. }));
            waiting.is_some_and(|lock| world.table.release(&world.resource, lock.id).unwrap())
        });
        let waiter = world.spawn(|world| world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
        assert!(world.release(&held));
        let deleted = deleter.join().unwrap();
        match waiter.join().unwrap() {
            // Deleted as the holder that it had become by then, perhaps.
            Acquired::Granted(grant) => assert_eq!(world.release(&grant), !deleted),
            Acquired::Deleted => assert!(deleted),
            other => panic!("{other:?}"),
        }
        world.end();
    });
}

#[test]
fn the_deletion_of_all_against_newcomers() {
    check(|| {
        let world = World::new();
        world.hold(LONG);
        let comers = [(), ()].map(|()| {
            world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, None) {
                Acquired::Granted(grant) => world.release(&grant),
                Acquired::Deleted => true,
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
    check(|| {
        let world = World::new();
        let held = world.hold(LONG);
        let leaver = world.spawn(|world| {
            let mut departure = None;
            let mut on_wait = |claim| {
                departure = Some(world.spawn(move |world| {
                    world.table.withdraw(&world.resource, claim);
                }));
            };
            match world.ask_as(Mode::EXCLUSIVE, LONG, LONG, None, &mut on_wait) {
                Acquired::Granted(grant) => world.table.abandon(&world.resource, grant.id),
                Acquired::Withdrawn => {}
                other => panic!("{other:?}"),
            }
            departure.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let behind = world.spawn(|world| {
            let grant = granted(world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
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
    check(|| {
        let world = World::new();
        let comers = [(), (), ()].map(|()| {
            world.spawn(|world| {
                let grant = granted(world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
                world.use_and_release(&grant);
            })
        });
        comers.into_iter().for_each(|comer| comer.join().unwrap());
        world.end();
    });
}

#[test]
fn readers_behind_a_writer_whose_wait_runs_out() {
    check(|| {
        let world = World::new();
        let reader = granted(world.ask(Mode::ProtectedRead, Duration::ZERO, LONG, None));
        let writer = world.spawn(|world| {
            let mut clock = None;
            let mut on_wait = |_| clock = Some(thread::spawn(|| advance(SECOND)));
            let acquired = world.ask_as(Mode::EXCLUSIVE, SECOND, LONG, None, &mut on_wait);
            if let Some(clock) = clock {
                clock.join().unwrap();
                assert!(matches!(acquired, Acquired::TimedOut), "{acquired:?}");
            }
        });
        // No release makes room for them: they have their turn when the writer gives up.
        let readers = [(), ()].map(|()| {
            world.spawn(|world| {
                let grant = granted(world.ask(Mode::ProtectedRead, LONG, LONG, None));
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
    check(|| {
        let world = World::new();
        let held = world.hold(LONG);
        let lost = world.spawn(|world| {
            let mut departure = None;
            let mut on_wait = |claim| {
                departure = Some(world.spawn(move |world| {
                    world.table.withdraw(&world.resource, claim);
                }));
            };
            match world.ask_as(Mode::EXCLUSIVE, LONG, LONG, Some("k"), &mut on_wait) {
                Acquired::Granted(grant) => world.table.abandon(&world.resource, grant.id),
                Acquired::Withdrawn | Acquired::Superseded => {}
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
            Acquired::Granted(grant) => {
                advance(10 * SECOND);
                assert!(world.release(&grant));
            }
            // The other one came later, and is gone: its place or lock is given up.
            Acquired::Superseded => {
                advance(10 * SECOND);
                let next = granted(world.ask(Mode::EXCLUSIVE, LONG, LONG, None));
                assert!(world.release(&next));
            }
            other => panic!("{other:?}"),
        }
        world.end();
    });
}

#[test]
fn the_same_key_at_the_same_moment() {
    check(|| {
        let world = World::new();
        let askers = [(), (), ()].map(|()| {
            world.spawn(|world| match world.ask(Mode::EXCLUSIVE, LONG, LONG, Some("k")) {
                Acquired::Granted(grant) => Some(grant),
                Acquired::Superseded => None,
                other => panic!("{other:?}"),
            })
        });
        let grants = askers.map(|asker| asker.join().unwrap());
        let grants: Vec<_> = grants.into_iter().flatten().collect();
        assert!(grants.windows(2).all(|pair| pair[0].id == pair[1].id));
        assert_eq!(world.table.locks(&world.resource).len(), 1);
        assert!(world.release(&grants[0]));
        world.end();
    });
}

#[test]
fn the_end_of_the_server_against_a_request() {
    check(|| {
        let world = World::new();
        let held = world.hold(LONG);
        let comer = world.spawn(|world| {
            let acquired = world.ask(Mode::EXCLUSIVE, LONG, LONG, None);
            assert!(matches!(acquired, Acquired::ShuttingDown), "{acquired:?}");
        });
        world.table.shut_down();
        comer.join().unwrap();
        assert!(world.release(&held));
        world.end();
    });
}
