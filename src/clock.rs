//! The clocks of a host that nobody sets.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since the host was started, also while it is suspended.
pub(crate) fn now() -> Duration {
    read(ClockId::Boottime)
}

/// The time that the host has run: std's `Instant`, as a number.
pub(crate) fn monotonic() -> Duration {
    read(ClockId::Monotonic)
}

fn read(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // Neither is negative, since both clocks begin at zero.
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}
