//! The journal's clock, which ends lifetimes, and how a restart prolongs them. Pure.
//!
//! The clock continues while no server runs, but stops while the host is down, as no clock measures
//! that time. Then a lock has left what it had left at the last record. So the journal's clock is
//! never ahead of the clocks of the holders.

use std::time::Duration;

/// A time of the host's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uptime {
    pub(super) boot: u128,
    pub(super) uptime: Duration,
}

/// The journal's clock while a server runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What it showed at the start.
    started: Duration,
    /// What the host's clock showed then.
    at: Uptime,
}

impl Clock {
    /// Continues from `clock`, which was read at `then`.
    pub(super) fn resumed(clock: Duration, then: Uptime, at: Uptime) -> Self {
        let same_boot = then.boot == at.boot;
        let passed = if same_boot { at.uptime.saturating_sub(then.uptime) } else { Duration::ZERO };
        Self { started: clock.saturating_add(passed), at }
    }

    /// Converts a time of the host's clock.
    pub(super) fn read(&self, uptime: Duration) -> Duration {
        self.started.saturating_add(uptime.saturating_sub(self.at.uptime))
    }

    /// The boot of the host.
    pub(super) fn boot(&self) -> u128 {
        self.at.boot
    }
}

/// A restart of the server, which prolongs lifetimes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restart {
    /// Its record.
    pub(super) record: u64,
    /// What the journal's clock showed.
    pub(super) clock: Duration,
    /// The least that a lock had left afterwards.
    pub(super) grace: Duration,
}

/// The restarts in the log, in order.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    restarts: Vec<Restart>,
    longest_grace: Duration,
}

/// The end of a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expiry {
    /// By the journal's clock; `None`: never.
    pub(super) end: Option<Duration>,
    /// A restart has prolonged it.
    pub(super) graced: bool,
}

impl Expiry {
    /// What is left of the lifetime; `None`: it is endless.
    pub(super) fn remaining(&self, now: Duration) -> Option<Duration> {
        self.end.map(|end| end.saturating_sub(now))
    }
}

impl Restarts {
    pub(super) fn push(&mut self, restart: Restart) {
        self.restarts.push(restart);
        self.longest_grace = self.longest_grace.max(restart.grace);
    }

    /// The current expiry of a lock whose row is in this record.
    pub(super) fn expiry(&self, record: u64, written: Expiry) -> Expiry {
        let Some(end) = written.end.filter(|_| !written.graced) else { return written };
        // Skips most of what may be many restarts.
        let later = self.restarts.partition_point(|restart| restart.record <= record);
        let near = |restart: &Restart| restart.clock.saturating_add(self.longest_grace) <= end;
        let from = later.max(self.restarts.partition_point(near));
        let at_least = |restart: &Restart| restart.clock.saturating_add(restart.grace);
        match self.restarts[from..].iter().map(at_least).find(|later| *later > end) {
            Some(later) => Expiry { end: Some(later), graced: true },
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

    #[test]
    fn the_clock_goes_on_while_the_host_is_up_and_stands_still_while_it_is_not() {
        let at = |boot, uptime| Uptime { boot, uptime: seconds(uptime) };
        let clock = Clock::resumed(seconds(100), at(1, 1_000), at(1, 1_030));
        assert_eq!(clock.read(seconds(1_030)), seconds(130));
        assert_eq!(clock.read(seconds(1_050)), seconds(150));
        for uptime in [10, 5_000] {
            let clock = Clock::resumed(seconds(100), at(1, 1_000), at(2, uptime));
            assert_eq!(clock.read(seconds(uptime)), seconds(100));
            assert_eq!(clock.read(seconds(uptime + 7)), seconds(107));
        }
        // If the host's clock went back, which it must not, no lock would end early.
        let clock = Clock::resumed(seconds(100), at(1, 1_000), at(1, 900));
        assert_eq!(clock.read(seconds(800)), seconds(100));
    }

    #[test]
    fn a_lock_gets_the_grace_once_however_often_the_server_restarts() {
        let mut restarts = Restarts::default();
        let written = Expiry { end: Some(seconds(600)), graced: false };
        for (record, clock) in [(10, 100), (20, 500)] {
            restarts.push(Restart { record, clock: seconds(clock), grace: seconds(5) });
        }
        assert_eq!(restarts.expiry(5, written), written, "it has more than the grace left");
        restarts.push(Restart { record: 30, clock: seconds(598), grace: seconds(5) });
        restarts.push(Restart { record: 40, clock: seconds(601), grace: seconds(50) });
        let graced = Expiry { end: Some(seconds(603)), graced: true };
        assert_eq!(restarts.expiry(5, written), graced);
        assert_eq!(restarts.expiry(29, written), graced);
        let next = Expiry { end: Some(seconds(651)), graced: true };
        assert_eq!(restarts.expiry(30, written), next, "it was renewed since");
        assert_eq!(restarts.expiry(40, written), written);
        assert_eq!(restarts.expiry(5, graced), graced);
    }

    #[test]
    fn a_lock_that_had_expired_without_a_grace_does_not_come_back() {
        let mut restarts = Restarts::default();
        restarts.push(Restart { record: 10, clock: seconds(700), grace: Duration::ZERO });
        restarts.push(Restart { record: 20, clock: seconds(701), grace: seconds(50) });
        let written = Expiry { end: Some(seconds(600)), graced: false };
        assert_eq!(restarts.expiry(5, written), Expiry { end: Some(seconds(700)), graced: true });
    }
}
