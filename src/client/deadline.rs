//! By when something is done.

use std::time::{Duration, Instant};

use super::LockOptions;

/// A point in time that everything which serves one purpose shares, however many servers and
/// attempts that takes. By the clock of time-outs, which stands still while the host sleeps; a
/// lifetime is measured by [`crate::clock::now`].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        // No wait is longer, and any clock can show that.
        Self(Instant::now() + limit.min(LockOptions::FOR_EVER))
    }

    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// This one, or the end of `limit` from now if that is earlier.
    pub(super) fn at_most(self, limit: Duration) -> Self {
        Self(self.0.min(Instant::now() + limit))
    }

    /// This one, or the other if that is later.
    pub(super) fn or_later(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }
}
