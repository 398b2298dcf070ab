//! The wall clock. It is shown, and decides nothing, because it can be set to any time.

use std::time::SystemTime;

use humantime::{format_rfc3339_seconds, parse_rfc3339};
use log::warn;

use crate::RELEASED;

/// Logs a warning if the wall clock is certainly wrong.
#[expect(clippy::disallowed_methods, reason = "a warning is all that depends on it")]
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

/// Whether `now` is before this day. False if `day` is not a date: the version is not released.
fn is_before(now: SystemTime, day: &str) -> bool {
    parse_rfc3339(&format!("{day}T00:00:00Z")).is_ok_and(|day| now < day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_shows_a_time_before_the_release_is_wrong() {
        let released = parse_rfc3339("2026-11-25T00:00:00Z").unwrap();
        assert!(!is_before(released, "2026-11-25"));
        assert!(is_before(released - Duration::from_secs(1), "2026-11-25"));
        assert!(is_before(SystemTime::UNIX_EPOCH, "2026-11-25"));
        assert!(!is_before(SystemTime::UNIX_EPOCH, "unreleased"));
    }
}
