//! The clocks of the host that cannot be set.

use std::time::Duration;

use nix::time::ClockId;

/// The time since the host was started, including suspensions.
pub fn now() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// The time since the host was started, without suspensions: the clock of std's `Instant`.
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

fn read(clock: ClockId) -> Duration {
    // Every Linux has both, and they begin at zero. Without them no lock would ever expire.
    clock.now().unwrap_or_else(|error| panic!("the host has no {clock}: {error}")).into()
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;

    /// The wall clock would show the time since 1970.
    #[test]
    fn time_is_counted_from_the_start_of_the_host() {
        let shown = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = shown.split(' ').next().unwrap().parse().unwrap();
        assert!((now().as_secs_f64() - uptime).abs() < 60.0, "{:?} and {uptime} s", now());
        assert!(monotonic().as_secs_f64() < uptime + 60.0, "{:?} and {uptime} s", monotonic());
    }
}
