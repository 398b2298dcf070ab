//! The clock for lifetimes: it cannot be set, and goes on while the host is suspended.

use std::time::Duration;

use nix::time::ClockId;

/// The time since the host was started.
pub(crate) fn now() -> Duration {
    let clock = ClockId::CLOCK_BOOTTIME;
    // Every Linux has it, and it begins at zero.
    clock.now().unwrap_or_else(|error| panic!("the host has no {clock}: {error}")).into()
}
