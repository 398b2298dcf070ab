//! One mutex for many names, without the queue.

use std::hash::{BuildHasher, RandomState};

use super::ResourceName;
use super::sync::Mutex;

/// Enough that a thread which loses the processor while it holds one keeps few others waiting.
const SHARDS: usize = if cfg!(shuttle) { 1 } else { 64 };

/// A `T` for each share of the names, each with its own mutex.
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
    /// Each name belongs to the shard that it has there.
    pub(super) fn like<U>(other: &Sharded<U>) -> Self {
        Self { hasher: other.hasher.clone(), ..Self::default() }
    }
}

impl<T> Sharded<T> {
    /// The shard that this name belongs to.
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
