use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::*;
use crate::lock::Mode;

const LONG: Duration = Duration::from_secs(600);

/// A wait that is not expected to run out, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn table() -> LockTable {
    table_for(MaxWaiters { in_all: 10_000, per_resource: 10_000 })
}

fn table_for(max_waiters: MaxWaiters) -> LockTable {
    LockTable::new(max_waiters, Duration::from_secs(5), None, Arc::new(())).unwrap()
}

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn request(wait: Duration, lifetime: Duration) -> LockRequest {
    let (title, client) = ("test".into(), "nobody".into());
    LockRequest { title, wait, lifetime, mode: Mode::EXCLUSIVE, client }
}

impl LockTable {
    fn wait_for(&self, resource: &ResourceName, request: LockRequest) -> Acquired {
        self.acquire(resource, request, None, &mut |_| {})
    }

    fn hold(&self, resource: &ResourceName, lifetime: Duration) -> Lock {
        granted(self.wait_for(resource, request(Duration::ZERO, lifetime)))
    }

    /// Nothing is left of any lock: neither a state nor a deadline.
    fn is_empty(&self) -> bool {
        self.shared.names().is_empty()
            && self.shared.deadlines.len() == 0
            && self.totals() == Totals::default()
    }

    /// Returns when `count` requests wait for the resource.
    fn wait_for_line(&self, resource: &ResourceName, count: usize) {
        while self.locks(resource).len() <= count {
            thread::yield_now();
        }
    }
}

fn granted(outcome: Acquired) -> Lock {
    match outcome {
        Acquired::Granted(lock) => lock,
        other => panic!("not granted: {other:?}"),
    }
}

#[test]
fn a_released_lock_leaves_nothing_behind() {
    let table = table();
    for round in 0..10_000 {
        let resource = name(&format!("r{}", round % 7));
        let lock = table.hold(&resource, Duration::from_secs(3600));
        assert!(table.release(&resource, lock.id).unwrap());
    }
    assert!(table.is_empty());
}

#[test]
fn looking_at_a_name_without_locks_creates_nothing() {
    let table = table();
    let resource = name("nothing");
    let id = LockId::random();
    assert!(table.find(&resource, id).is_none());
    assert!(!table.release(&resource, id).unwrap());
    assert!(table.locks(&resource).is_empty());
    assert!(!table.delete_resource(&resource).unwrap());
    assert!(table.is_empty());
}

#[test]
fn a_lock_expires_by_itself_and_never_early() {
    let table = table();
    let resource = name("r");
    let lifetime = Duration::from_millis(50);
    let began = Instant::now();
    table.hold(&resource, lifetime);
    let next = granted(table.wait_for(&resource, request(PATIENCE, LONG)));
    assert!(began.elapsed() >= lifetime, "after {:?}", began.elapsed());
    assert!(table.release(&resource, next.id).unwrap());
    assert!(table.is_empty());
}

#[test]
fn an_earlier_deadline_wakes_the_reaper() {
    let table = table();
    // The reaper has been awake before.
    let past = name("past");
    table.hold(&past, Duration::from_millis(1));
    let next = granted(table.wait_for(&past, request(PATIENCE, LONG)));
    assert!(table.release(&past, next.id).unwrap());

    let (later, sooner) = (name("later"), name("sooner"));
    let lock = table.hold(&later, LONG);
    table.hold(&sooner, Duration::from_millis(20));
    // Only the reaper can grant this one.
    let next = granted(table.wait_for(&sooner, request(PATIENCE, LONG)));
    assert!(table.release(&sooner, next.id).unwrap());
    assert!(table.release(&later, lock.id).unwrap());
    assert!(table.is_empty());
}

#[test]
fn a_wait_that_runs_out_ends_in_time_and_leaves_the_line() {
    let table = table();
    let resource = name("r");
    let lock = table.hold(&resource, LONG);
    let wait = Duration::from_millis(30);
    let began = Instant::now();
    let outcome = table.wait_for(&resource, request(wait, LONG));
    assert!(matches!(outcome, Acquired::TimedOut), "{outcome:?}");
    assert!(began.elapsed() >= wait);
    assert_eq!(table.locks(&resource).len(), 1);
    assert!(table.release(&resource, lock.id).unwrap());
    assert!(table.is_empty());
}

#[test]
fn waiters_are_granted_in_order_of_arrival() {
    let table = table();
    let resource = name("r");
    let first = table.hold(&resource, LONG);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for place in 0..50 {
            let (table, resource, order) = (&table, &resource, &order);
            scope.spawn(move || {
                let lock = granted(table.wait_for(resource, request(PATIENCE, LONG)));
                order.lock().unwrap().push(place);
                assert!(table.release(resource, lock.id).unwrap());
            });
            table.wait_for_line(resource, place + 1);
        }
        assert!(table.release(&resource, first.id).unwrap());
    });
    assert_eq!(order.into_inner().unwrap(), (0..50).collect::<Vec<_>>());
    assert!(table.is_empty());
}

/// Acquiring, waiting, timing out, expiring, deleting and entering an emptied resource,
/// all at once.
#[test]
fn there_are_never_two_holders() {
    let table = table();
    let resources: Vec<_> = (0..3).map(|n| (name(&format!("r{n}")), AtomicU32::new(0))).collect();
    thread::scope(|scope| {
        for seed in 0..16_u64 {
            let (table, resources) = (&table, &resources);
            scope.spawn(move || {
                for round in 0..2_000 {
                    let (resource, holders) = &resources[(seed + round) as usize % 3];
                    let wait = Duration::from_micros((seed * 7 + round * 13) % 300);
                    let outcome = table.wait_for(resource, request(wait, LONG));
                    if let Acquired::Granted(lock) = outcome {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                        holders.fetch_sub(1, Ordering::SeqCst);
                        assert!(table.release(resource, lock.id).unwrap());
                    }
                }
            });
        }
    });
    assert!(table.is_empty());
}

#[test]
fn a_grant_that_races_the_end_of_the_wait_is_not_lost() {
    let table = table();
    let resource = name("r");
    for round in 0..500 {
        let lock = table.hold(&resource, LONG);
        let wait = Duration::from_micros(50 + round % 100);
        let outcome = thread::scope(|scope| {
            let waiter = scope.spawn(|| table.wait_for(&resource, request(wait, LONG)));
            let released = Instant::now() + wait;
            while Instant::now() < released {
                std::hint::spin_loop();
            }
            assert!(table.release(&resource, lock.id).unwrap());
            waiter.join().unwrap()
        });
        match outcome {
            Acquired::Granted(lock) => {
                assert!(table.release(&resource, lock.id).unwrap())
            }
            Acquired::TimedOut => {}
            other => panic!("{other:?}"),
        }
        assert!(table.is_empty(), "somebody was granted a lock and does not know it");
    }
}

#[test]
fn deleting_tells_every_waiter() {
    let table = table();
    let resource = name("r");
    table.hold(&resource, LONG);
    thread::scope(|scope| {
        let waiters: Vec<_> = (0..5)
            .map(|_| scope.spawn(|| table.wait_for(&resource, request(PATIENCE, LONG))))
            .collect();
        table.wait_for_line(&resource, 5);
        table.delete_all().unwrap();
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Acquired::Deleted));
        }
    });
    assert!(table.is_empty());
}

#[test]
fn shutting_down_refuses_who_waits_and_who_comes() {
    let table = table();
    let resource = name("r");
    table.hold(&resource, LONG);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| table.wait_for(&resource, request(PATIENCE, LONG)));
        table.wait_for_line(&resource, 1);
        table.shut_down();
        assert!(matches!(waiter.join().unwrap(), Acquired::ShuttingDown));
    });
    for resource in [resource, name("free")] {
        let outcome = table.wait_for(&resource, request(PATIENCE, LONG));
        assert!(matches!(outcome, Acquired::ShuttingDown), "{outcome:?}");
    }
    assert_eq!(table.resources(), [name("r")]);
}

#[test]
fn only_so_many_may_wait() {
    for (in_all, per_resource, full) in [(1, 2, "other"), (2, 1, "r")] {
        let table = table_for(MaxWaiters { in_all, per_resource });
        let (resource, full) = (name("r"), name(full));
        let locks = ["r", "other"].map(name).map(|name| (table.hold(&name, LONG), name));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| table.wait_for(&resource, request(PATIENCE, LONG)));
            table.wait_for_line(&resource, 1);
            let outcome = table.wait_for(&full, request(PATIENCE, LONG));
            assert!(matches!(outcome, Acquired::TooManyWaiters), "{outcome:?}");
            for (lock, name) in &locks {
                assert!(table.release(name, lock.id).unwrap());
            }
            let next = granted(waiter.join().unwrap());
            assert!(table.release(&resource, next.id).unwrap());
        });
        assert!(table.is_empty(), "the place of a waiter is given back");
    }
}

#[test]
fn resources_are_listed_by_name_and_only_with_locks() {
    let table = table();
    for text in ["c", "a", "b"] {
        table.hold(&name(text), LONG);
    }
    let over = name("over");
    table.hold(&over, Duration::from_nanos(1));
    while !table.locks(&over).is_empty() {
        thread::yield_now();
    }
    assert_eq!(table.resources(), ["a", "b", "c"].map(name));
}

/// Run by the test below, in a process of its own.
#[test]
#[ignore = "ends the process"]
fn panics_in_the_middle_of_a_change() {
    let table = table();
    let resource = name("r");
    table.hold(&resource, LONG);
    let panics = || table.shared.change(&resource, |_, _, _| panic!("half of a change"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    let id = LockId::random();
    table.find(&resource, id);
}

#[test]
fn a_poisoned_core_ends_the_process() {
    let this_test = "lock::table::tests::panics_in_the_middle_of_a_change";
    let ended = Command::new(env::current_exe().unwrap())
        .args(["--exact", this_test, "--ignored"])
        .output()
        .unwrap();
    let sigabrt = Some(6);
    assert_eq!(ended.status.signal(), sigabrt, "{ended:?}");
}
