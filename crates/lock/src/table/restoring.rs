//! Loading the locks of an earlier run into the table.
//!
//! They arrive in any order, from several threads, and are collected first. Then they are sorted: a
//! tree that is built from sorted items takes a fraction of the time, and its nodes are full.

use std::mem;
use std::sync::Arc;

use super::Shared;
use super::slot::Slot;
use super::waiter::Resource;
use crate::ResourceName;
use crate::journal::store::{Conflict, HeldLock, Restore, RestoredLock};
use crate::nanos::Instant;
use crate::parallel::share;
use crate::resource::Tally;
use crate::sharded::Sharded;
use crate::sync::locked;

/// The locks that have arrived, sharded like the table.
pub(super) struct Restoring<'a> {
    shared: &'a Shared,
    locks: Sharded<Vec<Found>>,
}

/// The slot of a resource with one lock, to be merged with others of the same resource.
struct Found {
    /// A copy of the slot's, so that the sort stays in the cache.
    resource: ResourceName,
    token: u64,
    due: Option<Instant>,
    slot: Arc<Slot>,
    fit: Fit,
}

/// Whether the locks on one resource can be held together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// There is only one.
    One,
    /// This has to be checked.
    Several,
    /// One arrived twice.
    Twice,
}

impl<'a> Restoring<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, locks: Sharded::like(&shared.resources) }
    }

    /// Moves the locks of one shard into the table, where that shard is empty.
    fn enter(&self, shard: usize) -> Result<(), Conflict> {
        let mut locks = mem::take(&mut *locked(self.locks.shard(shard)));
        let held = locks.len();
        locks.sort_unstable_by(|one, other| {
            (&one.resource, one.token).cmp(&(&other.resource, other.token))
        });
        locks.dedup_by(|next, first| {
            let is_same = next.resource == first.resource;
            if is_same {
                first.absorb(next);
            }
            is_same
        });
        if let Some(conflict) = locks.iter().find(|lock| !lock.fits()) {
            return Err(Conflict { resource: conflict.resource.clone(), token: conflict.token });
        }
        let Shared { resources, deadlines, counts, .. } = self.shared;
        let due = locks.iter().filter_map(|lock| Some((lock.due?, Arc::clone(&lock.slot))));
        deadlines.fill(shard, due);
        counts.change(Tally::default(), Tally { held, ..Tally::default() });
        let slots = locks.into_iter().map(|lock| lock.slot);
        *locked(resources.shard(shard)) = slots.collect();
        Ok(())
    }
}

impl Restore for Restoring<'_> {
    fn restore(&self, lock: RestoredLock) {
        let RestoredLock { resource, held: HeldLock { grant, key, remaining } } = lock;
        let token = grant.fencing_token;
        let restored = Resource::restored(grant, key, remaining, self.shared.now());
        let due = restored.next_due();
        let slot = Arc::new(Slot::new(resource.clone(), restored));
        locked(self.locks.of(&resource)).push(Found { resource, token, due, slot, fit: Fit::One });
    }

    fn complete(&self) -> Result<(), Conflict> {
        share(0..self.locks.iter().count(), || |shard| self.enter(shard))
    }
}

impl Found {
    /// Adds another lock on the same resource.
    fn absorb(&mut self, other: &Self) {
        let other = mem::replace(&mut other.slot.lock().resource, Resource::new());
        let mut inner = self.slot.lock();
        let is_new = inner.resource.absorb(&other);
        self.due = inner.resource.next_due();
        self.fit = if is_new && self.fit != Fit::Twice { Fit::Several } else { Fit::Twice };
    }

    /// Whether its locks can be held together.
    fn fits(&self) -> bool {
        match self.fit {
            Fit::One => true,
            Fit::Several => self.slot.lock().resource.fits_together(),
            Fit::Twice => false,
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::journal::store::{Change, OpenError, Store, StoreError};
    use crate::table::{Limits, LockTable};
    use crate::{End, Grant, Limit, Lock, LockId, LockManager, Mode, Observer, Terms};

    const LONG: Duration = Duration::from_secs(600);

    /// A store in which these locks are held.
    struct Kept(Vec<RestoredLock>);

    impl Store for Kept {
        fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
            thread::scope(|scope| {
                for locks in self.0.chunks(1 + self.0.len() / 3) {
                    scope.spawn(|| locks.iter().cloned().for_each(|lock| restore.restore(lock)));
                }
            });
            let lost = |conflict: Conflict| OpenError::Lost(conflict.resource.as_str().into());
            restore.complete().map_err(lost)?;
            Ok(self.0.iter().map(|lock| lock.held.grant.fencing_token).max().unwrap_or(0))
        }

        fn commit(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
            Ok(())
        }

        fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn lock(resource: &str, token: u64, mode: Mode, remaining: Option<Duration>) -> RestoredLock {
        let grant = Grant {
            id: LockId::random(),
            terms: Terms { mode, ..Terms::exclusive("test", LONG) },
            since: UNIX_EPOCH,
            expires: None,
            fencing_token: token,
        };
        let resource = resource.parse().unwrap();
        RestoredLock { resource, held: HeldLock { grant, key: None, remaining } }
    }

    /// Sends how locks end.
    struct Ends(mpsc::Sender<End>);

    impl Observer for Ends {
        fn ended(&self, end: End, _: Duration) {
            self.0.send(end).unwrap();
        }

        fn failed(&self, why: &str) {
            panic!("{why}");
        }
    }

    fn restored(locks: Vec<RestoredLock>) -> Result<LockTable, OpenError> {
        restored_with(locks, Arc::new(()))
    }

    fn restored_with(
        locks: Vec<RestoredLock>,
        observer: Arc<dyn Observer>,
    ) -> Result<LockTable, OpenError> {
        let limits = Limits { locks: 10_000, waiting: 10_000, waiting_per_resource: 10_000 };
        LockTable::new(limits, LONG, Some(Box::new(Kept(locks))), observer)
    }

    fn tokens(table: &LockTable, resource: &ResourceName) -> Vec<u64> {
        let locks = table.locks(resource, None, usize::MAX).locks;
        let token = |lock: &Lock| match lock {
            Lock::Held(grant) => grant.fencing_token,
            Lock::Waiting(_) => panic!("{lock:?}"),
        };
        locks.iter().map(token).collect()
    }

    #[test]
    fn all_locks_are_held_again_whatever_the_order_of_their_arrival() {
        let shared = |token| lock("shared", token, Mode::ConcurrentRead, Some(LONG));
        let own = |token| lock(&format!("r{token}"), token, Mode::EXCLUSIVE, Some(LONG));
        let locks = [7, 5, 9].map(shared).into_iter().chain((100..1_100).map(own)).rev().collect();
        let table = restored(locks).unwrap();
        assert_eq!(tokens(&table, &"shared".parse().unwrap()), [5, 7, 9]);
        assert_eq!(tokens(&table, &"r500".parse().unwrap()), [500]);
        let totals = table.totals();
        assert_eq!((totals.resources, totals.active), (1_001, 1_003));
        assert_eq!(table.resources(None, 2_000).len(), 1_001);
        assert_eq!(table.shared.deadlines.len(), 1_001, "one for each resource");
        table.delete_all(crate::Actor::nobody_itself()).unwrap();
        assert_eq!((table.totals().active, table.shared.deadlines.len()), (0, 0));
    }

    #[test]
    fn the_first_of_several_locks_to_end_does_so_in_time() {
        let shared = |token, remaining| lock("shared", token, Mode::ConcurrentRead, remaining);
        let soon = Some(Duration::from_millis(20));
        let (sender, ends) = mpsc::channel();
        let locks = vec![shared(1, Some(LONG)), shared(2, soon), shared(3, None)];
        let table = restored_with(locks, Arc::new(Ends(sender))).unwrap();
        assert_eq!(ends.recv_timeout(LONG), Ok(End::Expired));
        assert_eq!(tokens(&table, &"shared".parse().unwrap()), [1, 3]);
    }

    #[test]
    fn locks_that_cannot_be_held_together_are_refused() {
        let of_two = Mode::Exclusive { limit: Limit::new(2).unwrap() };
        for (mode, together) in [(Mode::ProtectedWrite, 1), (Mode::EXCLUSIVE, 1), (of_two, 2)] {
            let held = |count| (0..count).map(|token| lock("a", token, mode, None));
            let other = lock("b", 9, mode, None);
            assert!(restored(held(together).chain([other.clone()]).collect()).is_ok());
            let locks = held(together + 1).chain([other]).collect();
            assert_eq!(restored(locks).map(drop).unwrap_err().to_string(), "a", "{mode}");
        }
    }

    #[test]
    fn a_lock_that_is_stored_twice_is_refused() {
        let one = lock("a", 1, Mode::ConcurrentRead, None);
        let mut again = one.clone();
        again.held.grant.fencing_token = 2;
        assert_eq!(restored(vec![one, again]).map(drop).unwrap_err().to_string(), "a");
    }
}
