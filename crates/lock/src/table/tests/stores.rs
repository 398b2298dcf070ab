//! Tables with a store that fails, refuses or is slow.

use super::*;

type Outcome = fn(&[Change]) -> Result<(), StoreError>;

/// A store in which something goes wrong, or is looked at.
struct Broken<F>(F);

impl<F: FnMut(&[Change]) -> Result<(), StoreError> + Send> Store for Broken<F> {
    fn load(&mut self, _: &dyn Restore) -> Result<u64, OpenError> {
        Ok(0)
    }

    fn commit(&mut self, batch: &[Change], _: Duration) -> Result<(), StoreError> {
        (self.0)(batch)
    }

    fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
        Err(StoreError::Refused("the disk is full".into()))
    }
}

#[test]
fn a_write_with_an_unknown_outcome_is_reported_to_the_operator_alone() {
    let outcomes: [(Outcome, _); 2] = [
        (|_| Err(StoreError::Unknown("a sync failed".into())), "a sync failed"),
        (|_| panic!("in the store"), "a thread panicked while it wrote the locks"),
    ];
    for (effects, why) in outcomes {
        let (sender, failures) = std::sync::mpsc::channel();
        let observer = Arc::new(Listener(Mutex::new(sender)));
        let store: Box<dyn Store> = Box::new(Broken(effects));
        let table = LockTable::new(LIMITS, PATIENCE, Some(store), observer).unwrap();
        let table = Arc::new(table);
        let asker = std::thread::spawn({
            let table = Arc::clone(&table);
            move || table.wait_for(&name("r"), request(Duration::ZERO, LONG))
        });
        assert_eq!(failures.recv_timeout(PATIENCE).unwrap(), why);
        assert!(!asker.is_finished());
        assert!(table.locks(&name("r"), None, usize::MAX).locks.is_empty(), "nothing is granted");
    }
}

/// The store refuses the end of a lock for as long as the server runs: it ends all the same.
#[test]
fn an_expiry_that_is_refused_does_not_hold_up_the_end() {
    static COMMITS: AtomicU32 = AtomicU32::new(0);
    let effects = |_: &[Change]| match COMMITS.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(()),
        _ => Err(StoreError::Refused("the disk is full".into())),
    };
    let table = LockTable::new(LIMITS, PATIENCE, Some(Box::new(Broken(effects))), Arc::new(()));
    let table = table.unwrap();
    table.hold(&name("r"), Duration::from_millis(1));
    while COMMITS.load(Ordering::SeqCst) < 2 {
        thread::yield_now();
    }
    let (sender, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        drop(table);
        sender.send(()).unwrap();
    });
    assert!(ended.recv_timeout(PATIENCE).is_ok());
}

/// A commit took so long that the lock would end early after a restart, and cannot be repeated.
#[test]
fn a_grant_that_would_end_early_after_a_restart_is_not_answered() {
    let (sender, failures) = std::sync::mpsc::channel();
    let observer = Arc::new(Listener(Mutex::new(sender)));
    let slow = |_: &[Change]| {
        thread::sleep(Duration::from_millis(1_100));
        Ok(())
    };
    let table = LockTable::new(LIMITS, PATIENCE, Some(Box::new(Broken(slow))), observer).unwrap();
    let table = Arc::new(table);
    let asker = std::thread::spawn({
        let table = Arc::clone(&table);
        move || table.wait_for(&name("r"), request(Duration::ZERO, LONG))
    });
    let why = failures.recv_timeout(PATIENCE).unwrap();
    assert!(why.ends_with("could not be repeated: the disk is full"), "{why}");
    assert!(!asker.is_finished());
    assert!(table.locks(&name("r"), None, usize::MAX).locks.is_empty(), "nothing is granted");
}

#[test]
fn an_expiry_that_is_refused_holds_up_no_other() {
    let stuck = |batch: &[Change]| {
        let is_stuck = |c: &Change| c.resource.as_str() == "stuck" && !c.removed.is_empty();
        match batch.iter().all(is_stuck) {
            true => Err(StoreError::Refused("the disk is full".into())),
            false => Ok(()),
        }
    };
    let table =
        LockTable::new(LIMITS, PATIENCE, Some(Box::new(Broken(stuck))), Arc::new(())).unwrap();
    let short = Duration::from_millis(10);
    table.wait_for(&name("stuck"), request(Duration::ZERO, short)).unwrap();
    let begun = Instant::now();
    for _ in 0..8 {
        table.wait_for(&name("free"), request(PATIENCE, short)).unwrap();
    }
    // It is tried again every second.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

/// And whatever else is written is written by the journal's.
#[test]
fn a_change_that_comes_alone_is_written_by_its_own_thread() {
    let (sender, writers) = std::sync::mpsc::channel();
    let store = Broken(move |_: &[Change]| {
        sender.send(std::thread::current().name().map(String::from)).unwrap();
        Ok(())
    });
    let table = LockTable::new(LIMITS, PATIENCE, Some(Box::new(store)), Arc::new(())).unwrap();
    let (journal, own) = (Some("journal".into()), std::thread::current().name().map(String::from));
    let written_by = |writer: &Option<String>, what| {
        assert_eq!(writers.recv_timeout(PATIENCE).unwrap(), *writer, "{what}");
        table.settle();
    };
    let (a, b) = (name("a"), name("b"));
    let held = table.hold(&a, LONG);
    written_by(&journal, "the first change");
    let short = table.hold(&b, Duration::from_millis(10));
    written_by(&own, "a grant");
    written_by(&journal, "an expiry");
    assert!(table.find(&b, short.id).is_none());
    table.renew(&a, held.id, LONG).wait().unwrap();
    written_by(&own, "a renewal");
    table.release(&a, held.id, Actor::nobody_itself()).wait().unwrap();
    written_by(&own, "a release");
    let undelivered = table.hold(&a, LONG);
    written_by(&own, "a grant");
    table.abandon(&a, undelivered.id);
    written_by(&journal, "the end of a lock whose client has gone");
    table.hold(&a, LONG);
    written_by(&own, "a grant");
    table.delete_resource(&a, Actor::nobody_itself()).unwrap();
    written_by(&journal, "a deletion");
}
