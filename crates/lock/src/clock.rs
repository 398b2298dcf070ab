//! The clocks of a host that nobody sets, and a look at the one that somebody does.

use std::time::{Duration, SystemTime};

use humantime::{format_rfc3339_seconds, parse_rfc3339};
use log::warn;
use nix::time::ClockId;

use crate::RELEASED;

/// The time since the host was started, also while it is suspended.
pub fn now() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// The time that the host has run: what std's `Instant` has inside.
pub fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Says so if the wall clock cannot be right.
#[expect(clippy::disallowed_methods, reason = "it is looked at, and decides nothing")]
pub(crate) fn warn_if_behind() {
    let now = SystemTime::now();
    if is_before(now, RELEASED) {
        warn!(
            "the clock shows {}, before this version was released ({RELEASED}). Fencing tokens \
             begin with the clock: without --data-dir or --etcd they may be smaller than those of \
             an earlier run",
            format_rfc3339_seconds(now)
        );
    }
}

/// Whether it was before this day; of a version that is not released, nothing is known.
fn is_before(now: SystemTime, day: &str) -> bool {
    parse_rfc3339(&format!("{day}T00:00:00Z")).is_ok_and(|day| now < day)
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

    #[test]
    fn a_clock_that_shows_a_time_before_the_release_is_wrong() {
        let released = parse_rfc3339("2026-11-25T00:00:00Z").unwrap();
        assert!(!is_before(released, "2026-11-25"));
        assert!(is_before(released - Duration::from_secs(1), "2026-11-25"));
        assert!(is_before(SystemTime::UNIX_EPOCH, "2026-11-25"));
        assert!(!is_before(SystemTime::UNIX_EPOCH, "unreleased"));
    }

    /// The wall clock, which somebody may set, has shown more ever since 1970.
    #[test]
    fn time_is_counted_from_the_start_of_the_host() {
        let shown = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = shown.split(' ').next().unwrap().parse().unwrap();
        assert!((now().as_secs_f64() - uptime).abs() < 60.0, "{:?} and {uptime} s", now());
        assert!(monotonic().as_secs_f64() < uptime + 60.0, "{:?} and {uptime} s", monotonic());
    }
}
