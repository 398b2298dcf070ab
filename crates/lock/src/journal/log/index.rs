//! Where the row of each held lock is in the log.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;

/// A map blocks while it grows. Small ones block for a shorter time.
const SHARDS: usize = 64;

/// The position of a row. Small, because every lock has one in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    /// The lower 16 bits of the segment's number, which are unambiguous: see [`MAX_SEGMENTS`].
    pub(super) segment: u16,
    pub(super) len: u16,
    /// In bytes from the beginning of the segment.
    pub(super) offset: u32,
}

/// The most segments at a time.
pub(super) const MAX_SEGMENTS: usize = 1 << 15;

/// The location of each live row, by fencing token.
pub(super) struct Index {
    shards: Vec<Shard>,
}

type Shard = HashMap<u64, Location, BuildHasherDefault<TokenHasher>>;

/// Keeps consecutive tokens side by side: a start reads them in about that order, and would
/// otherwise spend half its time on cache misses.
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn write_u64(&mut self, token: u64) {
        let nth_of_shard = token / SHARDS as u64;
        // The map uses the lowest bits as the bucket, and the highest seven beside it.
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

    pub(super) fn get(&self, token: u64) -> Option<Location> {
        self.shards[shard(token)].get(&token).copied()
    }

    /// Sets the location of a lock's row, and returns the previous one.
    pub(super) fn insert(&mut self, token: u64, location: Location) -> Option<Location> {
        self.shards[shard(token)].insert(token, location)
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Location> {
        self.shards[shard(token)].remove(&token)
    }
}

fn shard(token: u64) -> usize {
    // Tokens are consecutive, so this spreads them evenly.
    (token % SHARDS as u64) as usize
}
