//! Increasing numbers: fencing tokens, and the order of arrival in a line.

use std::time::{SystemTime, UNIX_EPOCH};

use super::sync::atomic::{AtomicU64, Ordering};

/// Half of 2^53: even if the clock is far ahead, there is room to count.
const MAX_FIRST: u64 = 1 << 52;

/// Each number is larger than all before, in this run and in earlier ones. Some are never used.
#[derive(Debug)]
pub(super) struct Numbers(AtomicU64);

impl Numbers {
    /// Continues after `last`, the largest number in the store, and after the clock in
    /// microseconds: with one or two numbers for each request, no earlier run can have counted
    /// further since its own start.
    pub(super) fn after(last: u64, now: SystemTime) -> Self {
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Self(AtomicU64::new(clock.clamp(1, MAX_FIRST).max(last.saturating_add(1))))
    }

    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}
