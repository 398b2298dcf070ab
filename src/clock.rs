//! Time that goes on while the host is suspended, as it does for the server.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since the host was started.
pub(super) fn now() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // Neither is negative, since the clock begins at zero.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or_default())
}
