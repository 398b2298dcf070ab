//! Deadlines, and waits that several attempts share.

use std::time::{Duration, Instant};

use super::LockOptions;

/// A point in time that all attempts at all servers share. By the clock of time-outs, which stands
/// still while the host sleeps; lifetimes are measured by another.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The end of `limit` from now.
    pub fn after(limit: Duration) -> Self {
        // Any clock can represent that.
        Self(Instant::now() + limit.min(LockOptions::FOR_EVER))
    }

    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// The earlier of this deadline and the end of `limit` from now.
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
    /// A wait that ends `limit` from now.
    pub fn of(limit: Duration) -> Self {
        Self { limit, until: Deadline::after(limit) }
    }

    /// What is left. A wait without an end stays one in repetitions.
    pub fn left(self) -> Duration {
        if self.limit >= LockOptions::FOR_EVER { self.limit } else { self.until.left() }
    }

    pub(super) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// What is left, in seconds, rounded up to hundredths: the status page shows it.
    pub(super) fn seconds(self) -> f64 {
        (self.left().as_secs_f64() * 100.0).ceil() / 100.0
    }
}
