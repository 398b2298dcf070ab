//! What ends together, however much it is, is ended piece by piece, and others come between.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::gate::Gate;
use super::super::*;
use crate::Mode;
use crate::journal::store::{Change, Restore, StoreError};
use crate::resource::PIECE;

const PATIENCE: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(3600);

/// What a commit is about: the resource of each change, and how many locks end by it and begin.
type Batch = Vec<(String, usize, usize)>;

/// A store that tells of each commit, and then waits until it may make it.
struct Told {
    batches: Sender<Batch>,
    go_on: Receiver<()>,
}

impl Store for Told {
    fn load(&mut self, _: &dyn Restore) -> Result<u64, OpenError> {
        Ok(0)
    }

    fn commit(&mut self, batch: &[Change], _: Duration) -> Result<(), StoreError> {
        let told = |change: &Change| {
            (change.resource.to_string(), change.removed.len(), change.added.len())
        };
        let _ = self.batches.send(batch.iter().map(told).collect());
        let _ = self.go_on.recv();
        Ok(())
    }

    fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A table whose store does nothing before it is told to.
struct Stopped {
    table: LockTable,
    batches: Receiver<Batch>,
    go_on: Sender<()>,
}

impl Stopped {
    fn new() -> Self {
        let ((told, batches), (go_on, may)) = (unbounded(), unbounded());
        let store = Box::new(Told { batches: told, go_on: may });
        let limits = Limits { locks: 10_000, waiting: 10, waiting_per_resource: 10 };
        let table = LockTable::new(limits, Duration::ZERO, Some(store), Arc::new(())).unwrap();
        Self { table, batches, go_on }
    }

    /// The next commit, which waits.
    fn next(&self) -> Batch {
        self.batches.recv_timeout(PATIENCE).unwrap()
    }

    fn go_on(&self) {
        self.go_on.send(()).unwrap();
    }

    fn ask(
        &self,
        resource: &str,
        mode: Mode,
        lifetime: Duration,
    ) -> Pending<Result<Grant, Refusal>> {
        let terms = Terms { mode, wait: PATIENCE, ..Terms::exclusive("test", lifetime) };
        let mut on_wait = |_| panic!("it waits in line");
        self.table.acquire(&resource.parse().unwrap(), terms, None, &mut on_wait)
    }

    /// Holds so many locks beside each other.
    fn hold(&self, resource: &str, count: usize, lifetime: Duration) {
        for _ in 0..count {
            self.go_on();
            self.ask(resource, Mode::ProtectedRead, lifetime).wait().unwrap();
            self.next();
        }
    }

    /// Returns when an input is queued behind the commit of this resource.
    fn wait_for_queue(&self, resource: &str) {
        let slot = self.table.shared.slot(&resource.parse().unwrap()).unwrap();
        let waits = || match &slot.lock().gate {
            Gate::Closed(writing) => !writing.queue.is_empty(),
            Gate::Open | Gate::Retired => false,
        };
        while !waits() {
            thread::yield_now();
        }
    }

    /// The rest of the commits, up to the first that satisfies this.
    fn commits_until(&self, is_last: impl Fn(&Batch) -> bool) -> Vec<Batch> {
        let mut commits = Vec::new();
        loop {
            self.go_on();
            commits.push(self.next());
            if commits.last().is_some_and(&is_last) {
                return commits;
            }
        }
    }
}

#[test]
fn others_have_their_turn_between_the_pieces_of_a_deletion() {
    let stopped = Stopped::new();
    stopped.hold("big", 2 * PIECE + 1, LONG);
    thread::scope(|scope| {
        let deleter = scope.spawn(|| {
            stopped.table.delete_resource(&"big".parse().unwrap(), Actor::nobody_itself())
        });
        assert_eq!(stopped.next(), [("big".into(), PIECE, 0)]);
        // Their changes are submitted when this returns.
        let other = stopped.ask("other", Mode::EXCLUSIVE, LONG);
        let newcomer = scope.spawn(|| stopped.ask("big", Mode::Null, LONG).wait());
        stopped.wait_for_queue("big");
        let commits = stopped.commits_until(|batch| batch.contains(&("big".into(), 1, 0)));
        stopped.go_on();
        stopped.go_on();
        assert!(commits[0].contains(&("other".into(), 0, 1)), "{commits:?}");
        assert!(commits.iter().flatten().all(|(_, ended, _)| *ended <= PIECE), "{commits:?}");
        assert_eq!(deleter.join().unwrap(), Ok(()));
        other.wait().unwrap();
        newcomer.join().unwrap().unwrap();
    });
    let left = stopped.table.locks(&"big".parse().unwrap(), None, usize::MAX).locks;
    assert_eq!(left.len(), 1, "who comes later is not deleted");
}

#[test]
fn a_request_that_arrives_when_more_than_a_piece_has_expired_does_not_wait_in_line() {
    let stopped = Stopped::new();
    let resource = "big".parse().unwrap();
    let count = PIECE + 100;
    stopped.hold("big", count, Duration::from_secs(5));
    // The first expires, which is not written before all have.
    let first = stopped.next();
    while !stopped.table.locks(&resource, None, usize::MAX).locks.is_empty() {
        thread::yield_now();
    }
    let mut commits = thread::scope(|scope| {
        let comer = scope.spawn(|| stopped.ask("big", Mode::EXCLUSIVE, LONG).wait());
        stopped.wait_for_queue("big");
        let commits = stopped.commits_until(|batch| batch.iter().any(|(_, _, held)| *held > 0));
        stopped.go_on();
        comer.join().unwrap().unwrap();
        commits
    });
    commits.push(first);
    assert!(commits.iter().flatten().all(|(_, ended, _)| *ended <= PIECE), "{commits:?}");
    let ended = commits.iter().flatten().map(|(_, ended, _)| ended);
    assert_eq!(ended.sum::<usize>(), count, "{commits:?}");
}
