//! The journal's clock, by which lifetimes end, and what a restart does to them. Pure.
//!
//! The clock goes on while a server runs, and while none runs as long as the host is not
//! restarted. Over a restart of the host it stands still: a lock has left what it had left when
//! the journal was last written. So it is never ahead of the clocks of those who hold locks.

use std::time::Duration;

use super::record::{NO_END, Stamp};

/// What the host's clock shows: the boot, and how long ago it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uptime {
    pub(super) boot: u128,
    pub(super) uptime: Duration,
}

/// The journal's clock while a server runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What it showed when it was started.
    started: Duration,
    /// What the host's showed then.
    at: Uptime,
}

impl Clock {
    /// Goes on from the latest record.
    pub(super) fn resumed(latest: &Stamp, at: Uptime) -> Self {
        let same_boot = latest.boot == at.boot;
        let passed =
            if same_boot { at.uptime.saturating_sub(latest.uptime) } else { Duration::ZERO };
        Self { started: latest.clock.saturating_add(passed), at }
    }

    /// What it shows when the host's clock shows this.
    pub(super) fn read(&self, uptime: Duration) -> Duration {
        self.started.saturating_add(uptime.saturating_sub(self.at.uptime))
    }

    /// The boot of the host.
    pub(super) fn boot(&self) -> u128 {
        self.at.boot
    }
}

/// A restart of the server that let locks live longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restart {
    /// The record that tells of it.
    pub(super) record: u64,
    /// What the journal's clock showed.
    pub(super) clock: Duration,
    /// What each lock had left at least.
    pub(super) grace: Duration,
}

/// The restarts that the log tells of, in order.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    restarts: Vec<Restart>,
    longest_grace: Duration,
}

/// What the restarts since have made of a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// When it ends, by the journal's clock.
    pub(super) end: Duration,
    /// It was let live longer.
    pub(super) graced: bool,
}

impl Lifetime {
    /// What is left of it; `None`: it has no end.
    pub(super) fn remaining(&self, now: Duration) -> Option<Duration> {
        (self.end != NO_END).then(|| self.end.saturating_sub(now))
    }
}

impl Restarts {
    pub(super) fn push(&mut self, restart: Restart) {
        self.restarts.push(restart);
        self.longest_grace = self.longest_grace.max(restart.grace);
    }

    /// What is true now of a lifetime that was written in this record.
    pub(super) fn lifetime(&self, record: u64, written: Lifetime) -> Lifetime {
        if written.graced {
            return written;
        }
        // Of the many restarts that there may have been, few are looked at.
        let later = self.restarts.partition_point(|restart| restart.record <= record);
        let near =
            |restart: &Restart| restart.clock.saturating_add(self.longest_grace) <= written.end;
        let from = later.max(self.restarts.partition_point(near));
        let end = |restart: &Restart| restart.clock.saturating_add(restart.grace);
        match self.restarts[from..].iter().map(end).find(|end| *end > written.end) {
            Some(end) => Lifetime { end, graced: true },
            None => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn stamp(clock: u64, boot: u128, uptime: u64) -> Stamp {
        Stamp { clock: seconds(clock), boot, uptime: seconds(uptime), ..Stamp::default() }
    }

    #[test]
    fn the_clock_goes_on_while_the_host_is_up_and_stands_still_while_it_is_not() {
        let at = |boot, uptime| Uptime { boot, uptime: seconds(uptime) };
        let clock = Clock::resumed(&stamp(100, 1, 1_000), at(1, 1_030));
        assert_eq!(clock.read(seconds(1_030)), seconds(130));
        assert_eq!(clock.read(seconds(1_050)), seconds(150));
        for uptime in [10, 5_000] {
            let clock = Clock::resumed(&stamp(100, 1, 1_000), at(2, uptime));
            assert_eq!(clock.read(seconds(uptime)), seconds(100));
            assert_eq!(clock.read(seconds(uptime + 7)), seconds(107));
        }
        // A clock of the host's that goes back, which it must not, makes no lock shorter.
        let clock = Clock::resumed(&stamp(100, 1, 1_000), at(1, 900));
        assert_eq!(clock.read(seconds(800)), seconds(100));
    }

    #[test]
    fn a_lock_gets_the_grace_once_however_often_the_server_restarts() {
        let mut restarts = Restarts::default();
        let written = Lifetime { end: seconds(600), graced: false };
        for (record, clock) in [(10, 100), (20, 500)] {
            restarts.push(Restart { record, clock: seconds(clock), grace: seconds(5) });
        }
        assert_eq!(restarts.lifetime(5, written), written, "it has more than the grace left");
        restarts.push(Restart { record: 30, clock: seconds(598), grace: seconds(5) });
        restarts.push(Restart { record: 40, clock: seconds(601), grace: seconds(50) });
        let graced = Lifetime { end: seconds(603), graced: true };
        assert_eq!(restarts.lifetime(5, written), graced);
        assert_eq!(restarts.lifetime(29, written), graced);
        let next = Lifetime { end: seconds(651), graced: true };
        assert_eq!(restarts.lifetime(30, written), next, "it was renewed since");
        assert_eq!(restarts.lifetime(40, written), written);
        assert_eq!(restarts.lifetime(5, graced), graced);
    }

    #[test]
    fn a_lock_that_had_expired_without_a_grace_does_not_come_back() {
        let mut restarts = Restarts::default();
        restarts.push(Restart { record: 10, clock: seconds(700), grace: Duration::ZERO });
        restarts.push(Restart { record: 20, clock: seconds(701), grace: seconds(50) });
        let written = Lifetime { end: seconds(600), graced: false };
        assert_eq!(restarts.lifetime(5, written), Lifetime { end: seconds(700), graced: true });
    }
}
