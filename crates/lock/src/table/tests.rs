#![allow(clippy::disallowed_methods, reason = "a test looks again until it is so")]

mod expiries;
mod pieces;
mod stores;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use super::*;
use crate::End;
use crate::journal::store::{Change, Restore, StoreError};

const LONG: Duration = Duration::from_secs(600);

/// A wait that is not expected to run out, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn table() -> LockTable {
    table_for(LIMITS)
}

const LIMITS: Limits = Limits { locks: 10_000, waiting: 10_000, waiting_per_resource: 10_000 };

fn table_for(limits: Limits) -> LockTable {
    LockTable::new(limits, Duration::from_secs(5), None, Arc::new(())).unwrap()
}

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn request(wait: Duration, lifetime: Duration) -> Terms {
    Terms { wait, client: "nobody".into(), ..Terms::exclusive("test", lifetime) }
}

impl LockTable {
    fn wait_for(&self, resource: &ResourceName, request: Terms) -> Result<Grant, Refusal> {
        self.acquire(resource, request, None, &mut |_| {}).wait()
    }

    fn hold(&self, resource: &ResourceName, lifetime: Duration) -> Grant {
        self.wait_for(resource, request(Duration::ZERO, lifetime)).unwrap()
    }

    /// Nothing is left of any lock: neither a state nor a deadline.
    fn is_empty(&self) -> bool {
        self.shared.names(None, 10).is_empty()
            && self.shared.deadlines.len() == 0
            && self.totals() == Totals::default()
    }

    /// Returns when `count` requests wait for the resource.
    fn wait_for_line(&self, resource: &ResourceName, count: usize) {
        while self.locks(resource, None, usize::MAX).locks.len() <= count {
            thread::yield_now();
        }
    }
}

/// Is told that the core cannot go on.
struct Listener(Mutex<std::sync::mpsc::Sender<String>>);

impl Observer for Listener {
    fn ended(&self, _: End, _: Duration) {}

    fn failed(&self, why: &str) {
        self.0.lock().unwrap().send(why.into()).unwrap();
    }
}

#[test]
fn a_released_lock_leaves_nothing_behind() {
    let table = table();
    for round in 0..10_000 {
        let resource = name(&format!("r{}", round % 7));
        let lock = table.hold(&resource, Duration::from_secs(3600));
        table.release(&resource, lock.id, Actor::nobody_itself()).wait().unwrap();
    }
    assert!(table.is_empty());
}

#[test]
fn looking_at_a_name_without_locks_creates_nothing() {
    let table = table();
    let resource = name("nothing");
    let id = LockId::random();
    assert!(table.find(&resource, id).is_none());
    assert_eq!(
        table.release(&resource, id, Actor::nobody_itself()).wait(),
        Err(Refusal::NoSuchLock)
    );
    assert!(table.locks(&resource, None, usize::MAX).locks.is_empty());
    assert_eq!(table.delete_resource(&resource, Actor::nobody_itself()), Err(Refusal::NoSuchLock));
    assert!(table.is_empty());
}

#[test]
fn a_lock_expires_by_itself_and_never_early() {
    let table = table();
    let resource = name("r");
    let lifetime = Duration::from_millis(50);
    let began = Instant::now();
    table.hold(&resource, lifetime);
    let next = table.wait_for(&resource, request(PATIENCE, LONG)).unwrap();
    assert!(began.elapsed() >= lifetime, "after {:?}", began.elapsed());
    table.release(&resource, next.id, Actor::nobody_itself()).wait().unwrap();
    assert!(table.is_empty());
}

#[test]
fn an_earlier_deadline_wakes_the_reaper() {
    let table = table();
    // The reaper has been awake before.
    let past = name("past");
    table.hold(&past, Duration::from_millis(1));
    let next = table.wait_for(&past, request(PATIENCE, LONG)).unwrap();
    table.release(&past, next.id, Actor::nobody_itself()).wait().unwrap();

    let (later, sooner) = (name("later"), name("sooner"));
    let lock = table.hold(&later, LONG);
    table.hold(&sooner, Duration::from_millis(20));
    // Only the reaper can grant this one.
    let next = table.wait_for(&sooner, request(PATIENCE, LONG)).unwrap();
    table.release(&sooner, next.id, Actor::nobody_itself()).wait().unwrap();
    table.release(&later, lock.id, Actor::nobody_itself()).wait().unwrap();
    assert!(table.is_empty());
}

#[test]
fn a_wait_that_runs_out_ends_in_time_and_leaves_the_line() {
    let table = table();
    let resource = name("r");
    let lock = table.hold(&resource, LONG);
    let wait = Duration::from_millis(30);
    let began = Instant::now();
    let effects = table.wait_for(&resource, request(wait, LONG));
    assert!(matches!(effects, Err(Refusal::TimedOut)), "{effects:?}");
    assert!(began.elapsed() >= wait);
    assert_eq!(table.locks(&resource, None, usize::MAX).locks.len(), 1);
    table.release(&resource, lock.id, Actor::nobody_itself()).wait().unwrap();
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
                let lock = table.wait_for(resource, request(PATIENCE, LONG)).unwrap();
                order.lock().unwrap().push(place);
                table.release(resource, lock.id, Actor::nobody_itself()).wait().unwrap();
            });
            table.wait_for_line(resource, place + 1);
        }
        table.release(&resource, first.id, Actor::nobody_itself()).wait().unwrap();
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
                    let effects = table.wait_for(resource, request(wait, LONG));
                    if let Ok(lock) = effects {
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                        holders.fetch_sub(1, Ordering::SeqCst);
                        table.release(resource, lock.id, Actor::nobody_itself()).wait().unwrap();
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
        let effects = thread::scope(|scope| {
            let waiter = scope.spawn(|| table.wait_for(&resource, request(wait, LONG)));
            let released = Instant::now() + wait;
            while Instant::now() < released {
                std::hint::spin_loop();
            }
            table.release(&resource, lock.id, Actor::nobody_itself()).wait().unwrap();
            waiter.join().unwrap()
        });
        match effects {
            Ok(lock) => table.release(&resource, lock.id, Actor::nobody_itself()).wait().unwrap(),
            Err(Refusal::TimedOut) => {}
            other => panic!("{other:?}"),
        }
        assert!(table.is_empty(), "a client was granted a lock and does not know it");
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
        table.delete_all(Actor::nobody_itself()).unwrap();
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Err(Refusal::Deleted(_))));
        }
    });
    assert!(table.is_empty());
}

#[test]
fn shutting_down_refuses_waiting_and_new_requests() {
    let table = table();
    let resource = name("r");
    table.hold(&resource, LONG);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| table.wait_for(&resource, request(PATIENCE, LONG)));
        table.wait_for_line(&resource, 1);
        table.shut_down();
        assert!(matches!(waiter.join().unwrap(), Err(Refusal::ShuttingDown)));
    });
    for resource in [resource, name("free")] {
        let effects = table.wait_for(&resource, request(PATIENCE, LONG));
        assert!(matches!(effects, Err(Refusal::ShuttingDown)), "{effects:?}");
    }
    assert_eq!(table.resources(None, 10), [name("r")]);
}

#[test]
fn the_number_of_waiting_requests_is_limited() {
    for (waiting, waiting_per_resource, full) in [(1, 2, "other"), (2, 1, "r")] {
        let table = table_for(Limits { waiting, waiting_per_resource, ..LIMITS });
        let (resource, full) = (name("r"), name(full));
        let locks = ["r", "other"].map(name).map(|name| (table.hold(&name, LONG), name));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| table.wait_for(&resource, request(PATIENCE, LONG)));
            table.wait_for_line(&resource, 1);
            let effects = table.wait_for(&full, request(PATIENCE, LONG));
            assert!(matches!(effects, Err(Refusal::TooManyWaiting)), "{effects:?}");
            for (lock, name) in &locks {
                table.release(name, lock.id, Actor::nobody_itself()).wait().unwrap();
            }
            let next = waiter.join().unwrap().unwrap();
            table.release(&resource, next.id, Actor::nobody_itself()).wait().unwrap();
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
    while !table.locks(&over, None, usize::MAX).locks.is_empty() {
        thread::yield_now();
    }
    assert_eq!(table.resources(None, 10), ["a", "b", "c"].map(name));
    assert_eq!(table.resources(Some(&name("a")), 1), [name("b")]);
    assert_eq!(table.resources(Some(&name("c")), 10), []);
}

#[test]
fn pages_of_names_make_up_the_whole_list() {
    let table = table();
    let mut names: Vec<_> = (0..1_000).map(|n| name(&format!("r{n}"))).collect();
    names.iter().for_each(|name| drop(table.hold(name, LONG)));
    names.sort_unstable();
    for limit in [1, 7, 1_000, usize::MAX] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = table.resources(after.as_ref(), limit);
            let Some(last) = page.last() else { break };
            assert!(page.len() <= limit);
            after = Some(last.clone());
            listed.extend(page);
        }
        assert_eq!(listed, names, "in pages of {limit}");
    }
}

#[test]
fn the_number_of_locks_is_limited() {
    let table = table_for(Limits { locks: 2, ..LIMITS });
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let held = table.hold(&a, LONG);
    table.hold(&b, LONG);
    let at_once = || table.wait_for(&c, request(Duration::ZERO, LONG));
    assert_eq!(at_once().unwrap_err(), Refusal::TooManyLocks);
    // The limit does not stop a waiting request, which takes over the lock of another.
    thread::scope(|scope| {
        let waiter = scope.spawn(|| table.wait_for(&a, request(PATIENCE, LONG)));
        table.wait_for_line(&a, 1);
        table.release(&a, held.id, Actor::nobody_itself()).wait().unwrap();
        let next = waiter.join().unwrap().unwrap();
        assert_eq!(at_once().unwrap_err(), Refusal::TooManyLocks);
        table.release(&a, next.id, Actor::nobody_itself()).wait().unwrap();
    });
    at_once().unwrap();
}

/// A handler that panics while its request waits leaves no request in line without a thread, and
/// the core goes on.
#[test]
fn a_panic_while_waiting_leaves_the_line() {
    let (sender, failures) = std::sync::mpsc::channel();
    let observer = Arc::new(Listener(Mutex::new(sender)));
    let table = LockTable::new(LIMITS, PATIENCE, None, observer).unwrap();
    let resource = name("r");
    let lock = table.hold(&resource, LONG);
    let panics = AssertUnwindSafe(|| {
        let mut on_wait = |_| panic!("in the handler");
        table.acquire(&resource, request(PATIENCE, LONG), None, &mut on_wait).wait()
    });
    assert!(panic::catch_unwind(panics).is_err());
    assert_eq!(table.locks(&resource, None, usize::MAX).locks.len(), 1);
    assert_eq!(failures.try_recv().ok(), None, "it was not the core that panicked");
    table.release(&resource, lock.id, Actor::nobody_itself()).wait().unwrap();
    assert!(table.is_empty());
}

/// The core panics while a request waits: its thread panics, too, and the process is not aborted
/// before it can end by itself.
#[test]
fn a_panic_of_the_core_does_not_abort_the_process() {
    let table = table();
    let resource = name("r");
    table.hold(&resource, LONG);
    thread::scope(|scope| {
        let wait = request(Duration::from_millis(300), LONG);
        let waiter = scope.spawn(|| table.wait_for(&resource, wait));
        table.wait_for_line(&resource, 1);
        let slot = table.shared.slot(&resource).unwrap();
        let core = scope.spawn(move || {
            let _inner = slot.lock();
            panic!("in the core");
        });
        assert!(core.join().is_err());
        assert!(waiter.join().is_err());
    });
}
