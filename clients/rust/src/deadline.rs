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
        Self(Instant::now() + limit.min(LockOptions::LONGEST))
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
    /// `None`: as long as it takes.
    until: Option<Deadline>,
    /// The longest wait that the server accepts at a time.
    slice: Duration,
}

impl Wait {
    /// A wait that ends `limit` from now; without a limit, it has no end.
    pub fn of(limit: Option<Duration>) -> Self {
        Self { until: limit.map(Deadline::after), slice: LockOptions::LONGEST }
    }

    /// What is left; `None`: it has no end.
    pub fn left(self) -> Option<Duration> {
        self.until.map(Deadline::left)
    }

    pub(super) fn is_over(self) -> bool {
        self.until.is_some_and(Deadline::is_over)
    }

    /// Waits in slices from now on, if there is no end that was asked for. Returns whether that is
    /// so.
    pub(super) fn slice(&mut self, longest: Duration) -> bool {
        let is_less = self.until.is_none() && longest < self.slice;
        if is_less {
            self.slice = longest;
        }
        is_less
    }

    /// How long to wait for the response, if it is due `answer` after the wait. The next slice is
    /// sent before one ends, so that the request keeps its place in line.
    pub(super) fn response_within(self, answer: Duration) -> Duration {
        const OVERLAP: Duration = Duration::from_secs(5);
        const SHORTEST: Duration = Duration::from_secs(2);
        match self.left() {
            Some(left) => answer.saturating_add(left),
            None if self.slice == LockOptions::LONGEST => self.slice,
            None => self.slice.saturating_sub(OVERLAP.min(self.slice / 2)).max(SHORTEST),
        }
    }

    /// Whether a response that did not come within this time means only that a slice has ended.
    pub(super) fn slice_is_over(self, took: Duration) -> bool {
        let is_sliced = self.until.is_none() && self.slice < LockOptions::LONGEST;
        is_sliced && took >= self.response_within(Duration::ZERO)
    }

    /// What the server is asked to wait, in seconds, rounded up to hundredths: the status page
    /// shows it.
    pub(super) fn seconds(self) -> f64 {
        let seconds = self.left().unwrap_or(self.slice).as_secs_f64();
        ((seconds * 100.0).ceil() / 100.0).min(self.slice.as_secs_f64())
    }
}
