//! A timer that goes on while the host sleeps, as the lifetime of a lock does. The time-outs of std
//! stand still meanwhile.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Goes off once each time it is set.
#[derive(Debug)]
pub(super) struct Alarm(TimerFd);

impl Alarm {
    /// One that is not set.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC)?))
    }

    /// Sets when it goes off, by [`crate::clock::now`], in place of an earlier setting.
    pub(super) fn set(&self, at: Duration) -> io::Result<()> {
        // Zero would turn it off.
        let at = TimeSpec::from_duration(at.max(Duration::from_nanos(1)));
        Ok(self.0.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    /// Waits until it goes off.
    pub(super) fn wait(&self) -> io::Result<()> {
        loop {
            match self.0.wait() {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }
}
