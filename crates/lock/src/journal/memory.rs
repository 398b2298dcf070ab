//! A store in memory, for tests, which fails when it is told to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::store::{
    Change, HeldLock, Latency, OpenError, Properties, Remote, Restore, RestoredLock, Store,
    StoreError,
};
use crate::ResourceName;
use crate::resource::can_be_held_together;
use crate::sync::{Condvar, Mutex, locked, poisoned};

/// All copies are one store.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Shared>);

#[derive(Default)]
struct Shared {
    contents: Mutex<Contents>,
    stuck: Condvar,
    unstuck: Condvar,
}

#[derive(Default)]
struct Contents {
    rows: BTreeMap<(ResourceName, u64), HeldLock>,
    /// How many commits there have been.
    commits: usize,
    refused: Vec<usize>,
    stuck: Option<usize>,
    is_stuck: bool,
    lost: Option<usize>,
    last_token: u64,
    patience: Option<Duration>,
}

#[cfg_attr(not(shuttle), expect(dead_code, reason = "the races use it"))]
impl Memory {
    /// A remote one, for whose commits clients wait this long.
    pub(crate) fn with_patience(patience: Duration) -> Self {
        let memory = Self::default();
        locked(&memory.0.contents).patience = Some(patience);
        memory
    }

    /// Refuses the commits with these numbers, which begin at 1.
    pub(crate) fn refuse(&self, commits: &[usize]) {
        locked(&self.0.contents).refused = commits.to_vec();
    }

    /// Blocks the commit with this number until [`Memory::unstick`].
    pub(crate) fn stick(&self, commit: usize) {
        locked(&self.0.contents).stuck = Some(commit);
    }

    /// Returns once that commit is blocked.
    pub(crate) fn wait_until_stuck(&self) {
        let mut contents = locked(&self.0.contents);
        while !contents.is_stuck {
            contents = self.0.stuck.wait(contents).unwrap_or_else(|_| poisoned());
        }
        drop(contents);
        // For the next thread that waits.
        self.0.stuck.notify_one();
    }

    pub(crate) fn unstick(&self) {
        locked(&self.0.contents).stuck = None;
        self.0.unstuck.notify_one();
    }

    /// Makes the commit with this number, but reports an unknown outcome.
    pub(crate) fn lose_answer(&self, commit: usize) {
        locked(&self.0.contents).lost = Some(commit);
    }

    /// How many locks are held.
    pub(crate) fn len(&self) -> usize {
        locked(&self.0.contents).rows.len()
    }
}

impl Store for Memory {
    fn properties(&self) -> Properties {
        let remote = |patience| Remote { patience, reachable: Arc::new(|| true) };
        let patience = locked(&self.0.contents).patience;
        let latency = patience.map_or(Latency::Bounded, |it| Latency::Unbounded(remote(it)));
        Properties { latency, ..Properties::default() }
    }

    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
        let contents = locked(&self.0.contents);
        for ((resource, _), held) in &contents.rows {
            let (resource, held) = (resource.clone(), held.clone());
            restore.restore(RestoredLock { resource, held });
        }
        assert_eq!(restore.complete(), Ok(()));
        Ok(contents.last_token)
    }

    fn commit(&mut self, batch: &[Change], _: Duration) -> Result<(), StoreError> {
        let mut contents = locked(&self.0.contents);
        contents.commits += 1;
        let number = contents.commits;
        while contents.stuck == Some(number) {
            contents.is_stuck = true;
            self.0.stuck.notify_one();
            contents = self.0.unstuck.wait(contents).unwrap_or_else(|_| poisoned());
        }
        if contents.refused.contains(&number) {
            return Err(StoreError::Refused("the disk is full".into()));
        }
        for change in batch {
            for token in &change.removed {
                let row = contents.rows.remove(&(change.resource.clone(), *token));
                assert!(row.is_some(), "a lock ended that was not held");
            }
            for held in &change.added {
                let key = (change.resource.clone(), held.grant.fencing_token);
                contents.last_token = contents.last_token.max(key.1);
                let row = contents.rows.insert(key, held.clone());
                assert!(row.is_none(), "a lock was granted twice");
            }
            let rows = contents.rows.iter().filter(|((name, _), _)| *name == change.resource);
            assert!(
                can_be_held_together(rows.map(|(_, held)| held.grant.terms.mode)),
                "two holders"
            );
        }
        if contents.lost == Some(number) {
            return Err(StoreError::Unknown("the answer was lost".into()));
        }
        Ok(())
    }

    fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    #[test]
    fn a_store_in_memory_keeps_the_contract_of_a_store() {
        let memory = Memory::default();
        crate::journal::contract::store_contract(|| Box::new(memory.clone()));
    }
}
