//! Where in the log each lock that is held has its row.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;

/// A map that has to grow stands still meanwhile. Many small ones stand still for less.
const SHARDS: usize = 64;

/// The row of a lock. Small, for there is one of each lock in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The lower half of its segment's number: there are never so many at a time that it is
    /// ambiguous ([`MAX_SEGMENTS`]).
    pub(super) segment: u16,
    pub(super) len: u16,
    /// In bytes from the beginning of the segment.
    pub(super) offset: u32,
}

/// How many segments there may be at a time.
pub(super) const MAX_SEGMENTS: usize = 1 << 15;

/// The place of each row that is true, by fencing token.
pub(super) struct Index {
    shards: Vec<Shard>,
}

type Shard = HashMap<u64, Place, BuildHasherDefault<TokenHasher>>;

/// Keeps tokens that were granted one after the other side by side: a start goes through them in
/// about that order, and would spend half its time on memory that is not in the cache.
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write_u64(&mut self, token: u64) {
        let nth_of_shard = token / SHARDS as u64;
        // The map takes the bucket from the lowest bits, and seven more from the highest ones.
        self.0 = nth_of_shard ^ (nth_of_shard << 57);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Index {
    pub(super) fn new() -> Self {
        Self { shards: iter::repeat_with(Shard::default).take(SHARDS).collect() }
    }

    /// How many locks are held.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    pub(super) fn get(&self, token: u64) -> Option<Place> {
        self.shards[shard(token)].get(&token).copied()
    }

    /// Notes the place of a row, and returns that of the row that is not true any more.
    pub(super) fn insert(&mut self, token: u64, place: Place) -> Option<Place> {
        self.shards[shard(token)].insert(token, place)
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Place> {
        self.shards[shard(token)].remove(&token)
    }
}

fn shard(token: u64) -> usize {
    // Tokens are consecutive, so this spreads them evenly.
    (token % SHARDS as u64) as usize
}
