//! Times in eight bytes, where those of std take sixteen: every held lock has several.
//!
//! They count nanoseconds, up to five centuries, and saturate there.

use std::num::NonZeroU64;
use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(NonZeroU64);

/// A moment on the wall clock, since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WallTime(u64);

/// A duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(u64);

impl Instant {
    /// This long after the start of the clock, which was before that of this program.
    pub(super) fn since_start(time: Duration) -> Self {
        Self(NonZeroU64::MIN.saturating_add(Span::from(time).0))
    }

    pub(super) fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(Span::from(time).0))
    }
}

impl From<SystemTime> for WallTime {
    fn from(time: SystemTime) -> Self {
        Self(Span::from(time.duration_since(UNIX_EPOCH).unwrap_or_default()).0)
    }
}

impl From<WallTime> for SystemTime {
    fn from(WallTime(nanos): WallTime) -> Self {
        UNIX_EPOCH + Duration::from_nanos(nanos)
    }
}

impl From<Duration> for Span {
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl From<Span> for Duration {
    fn from(Span(nanos): Span) -> Self {
        Self::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_packing_and_saturate() {
        let time = Duration::new(1_000_000_000, 123_456_789);
        assert_eq!(Duration::from(Span::from(time)), time);
        assert_eq!(SystemTime::from(WallTime::from(UNIX_EPOCH + time)), UNIX_EPOCH + time);
        let instant = Instant::since_start(time);
        assert_eq!((instant + time).saturating_duration_since(instant), time);
        assert_eq!(instant.saturating_duration_since(instant + time), Duration::ZERO);
        assert!(instant + Duration::MAX > instant + time);
        assert!(Duration::from(Span::from(Duration::MAX)) > time);
        assert_eq!(WallTime::from(UNIX_EPOCH - time), WallTime::from(UNIX_EPOCH));
    }
}
