//! The clocks of a host that nobody sets.

use std::time::Duration;

use nix::time::ClockId;

/// The time since the host was started, also while it is suspended.
pub fn now() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// The time that the host has run: what std's `Instant` has inside.
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> Duration {
    // Every Linux has both, and neither is negative, since they begin at zero. Without them no lock
    // would ever expire.
    clock.now().unwrap_or_else(|error| panic!("the host has no {clock}: {error}")).into()
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    /// The wall clock, which somebody may set, has shown more ever since 1970.
    #[test]
    fn time_is_counted_from_the_start_of_the_host() {
        let shown = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = shown.split(' ').next().unwrap().parse().unwrap();
        assert!((now().as_secs_f64() - uptime).abs() < 60.0, "{:?} and {uptime} s", now());
        assert!(monotonic().as_secs_f64() < uptime + 60.0, "{:?} and {uptime} s", monotonic());
    }
}
