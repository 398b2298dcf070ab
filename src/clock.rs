//! The clocks of a host that nobody sets.

use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::time::ClockId;

/// The time since the host was started, also while it is suspended.
pub(crate) fn now() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// The time that the host has run: what std's `Instant` has inside.
pub(crate) fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> Duration {
    // Every Linux has both. Neither is negative, since they begin at zero.
    clock.now().unwrap_or(TimeSpec::new(0, 0)).into()
}
