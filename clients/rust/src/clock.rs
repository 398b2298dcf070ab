//! The clock by which a lock is held: it also counts while the host is suspended, and nobody sets it.

use std::time::Duration;

use nix::time::ClockId;

/// The time since the host was started.
pub(crate) fn now() -> Duration {
    let clock = ClockId::CLOCK_BOOTTIME;
    // Every Linux has it, and it is not negative, since it begins at zero.
    clock.now().unwrap_or_else(|error| panic!("the host has no {clock}: {error}")).into()
}
