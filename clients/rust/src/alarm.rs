//! A timer that goes on while the host sleeps, as the lifetime of a lock does. A time-out of std
//! would begin to count again where it was.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::{Errno, read};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Rings once for each time that it is set.
#[derive(Debug)]
pub(super) struct Alarm(OwnedFd);

impl Alarm {
    /// It does not ring before it is set.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?))
    }

    /// Rings at this time, by [`crate::clock::now`], and not when it was to before.
    pub(super) fn set(&self, at: Duration) -> io::Result<()> {
        // Zero would be never.
        let at = at.max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: at.try_into().map_err(io::Error::other)?,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Waits until it rings.
    pub(super) fn wait(&self) -> io::Result<()> {
        let mut count = [0; 8];
        loop {
            match read(&self.0, &mut count) {
                Err(Errno::INTR) => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }
}
