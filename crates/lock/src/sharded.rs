//! Data that is divided by resource name, each shard with its own mutex.

use std::hash::{BuildHasher, RandomState};

use super::ResourceName;
use super::sync::Mutex;

/// Enough that a thread which is preempted while it holds a mutex blocks few others.
const SHARDS: usize = if cfg!(shuttle) { 1 } else { 64 };

/// A `T` for each shard.
pub(super) struct Sharded<T> {
    hasher: RandomState,
    shards: [Mutex<T>; SHARDS],
}

impl<T: Default> Default for Sharded<T> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<T: Default> Sharded<T> {
    /// One in which each name has the same shard as in `other`.
    pub(super) fn like<U>(other: &Sharded<U>) -> Self {
        Self { hasher: other.hasher.clone(), ..Self::default() }
    }
}

impl<T> Sharded<T> {
    /// The shard of this name.
    pub(super) fn of(&self, name: &ResourceName) -> &Mutex<T> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }

    pub(super) fn shard(&self, index: usize) -> &Mutex<T> {
        &self.shards[index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        self.shards.iter()
    }
}
