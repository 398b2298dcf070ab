//! Expiries that cannot be written.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::super::*;
use crate::journal::store::{Change, Restore, StoreError};

const PATIENCE: Duration = Duration::from_secs(60);

/// A store that refuses or not, and reports each commit.
struct Refusing {
    refuses: Arc<AtomicBool>,
    commits: Sender<Commit>,
}

struct Commit {
    /// None: a probe whether the store still refuses.
    changes: usize,
    is_refused: bool,
}

impl Store for Refusing {
    fn load(&mut self, _: &dyn Restore) -> Result<u64, OpenError> {
        Ok(0)
    }

    fn commit(&mut self, batch: &[Change], _: Duration) -> Result<(), StoreError> {
        let is_refused = self.refuses.load(Ordering::SeqCst);
        let _ = self.commits.send(Commit { changes: batch.len(), is_refused });
        match is_refused {
            true => Err(StoreError::Refused("the disk is full".into())),
            false => Ok(()),
        }
    }

    fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
        Ok(())
    }
}

fn refusing() -> (LockTable, Arc<AtomicBool>, Receiver<Commit>) {
    let refuses = Arc::<AtomicBool>::default();
    let (sender, commits) = unbounded();
    let store = Box::new(Refusing { refuses: Arc::clone(&refuses), commits: sender });
    let limits = Limits { locks: 10_000, waiting: 10, waiting_per_resource: 10 };
    let table = LockTable::new(limits, Duration::ZERO, Some(store), Arc::new(())).unwrap();
    (table, refuses, commits)
}

/// Waits until so many changes were committed, or refused.
fn wait_for_changes(commits: &Receiver<Commit>, count: usize, is_refused: bool) {
    let mut changes = 0;
    while changes < count {
        let commit = commits.recv_timeout(PATIENCE).unwrap();
        if commit.is_refused == is_refused {
            changes += commit.changes;
        }
    }
    assert_eq!(changes, count);
}

#[test]
fn what_cannot_be_written_is_tried_once_and_again_when_it_can_be() {
    const COUNT: usize = 1_000;
    let (table, refuses, commits) = refusing();
    let acquire = |resource: &str, lifetime: u64| {
        let terms = Terms::exclusive("test", Duration::from_secs(lifetime));
        table.acquire(&resource.parse().unwrap(), terms, None, &mut |_| {}).wait().unwrap();
    };
    (0..COUNT).for_each(|number| acquire(&format!("r{number}"), 5));
    refuses.store(true, Ordering::SeqCst);
    assert_eq!(table.totals().active, COUNT, "none has expired before");
    wait_for_changes(&commits, COUNT, true);
    // The journal probes each second whether it can write again.
    for _ in 0..3 {
        let probe = commits.recv_timeout(PATIENCE).unwrap();
        assert_eq!(probe.changes, 0, "each was tried once");
    }
    refuses.store(false, Ordering::SeqCst);
    wait_for_changes(&commits, COUNT, false);
    // The expiries have been applied when a later change has been.
    acquire("later", 60);
    assert_eq!(table.totals().active, 1);
}
