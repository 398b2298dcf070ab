//! The clocks of a host that nobody sets.

use std::time::Duration;

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
    // Every Linux has both, and neither is negative, since they begin at zero. Without them no lock
    // would ever expire.
    clock.now().unwrap_or_else(|error| panic!("the host has no {clock}: {error}")).into()
}
