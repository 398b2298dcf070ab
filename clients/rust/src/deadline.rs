//! By when something is done.

use std::time::{Duration, Instant};

use super::LockOptions;

/// A point in time that everything which serves one purpose shares, however many servers and
/// attempts that takes. By the clock of time-outs, which stands still while the host sleeps; a
/// lifetime is measured by [`crate::clock::now`].
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
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
}

/// How long a server may wait before it answers, over all repetitions of a request.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    limit: Duration,
    until: Deadline,
}

impl Wait {
    /// One that ends so long from now.
    pub fn of(limit: Duration) -> Self {
        Self { limit, until: Deadline::after(limit) }
    }

    /// What is left of it. One without an end is told as such in repetitions, too.
    pub fn left(self) -> Duration {
        if self.limit >= LockOptions::FOR_EVER { self.limit } else { self.until.left() }
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// What is left, for a request, in whole hundredths of a second: others read it.
    pub(super) fn seconds(self) -> f64 {
        (self.left().as_secs_f64() * 100.0).ceil() / 100.0
    }
}
