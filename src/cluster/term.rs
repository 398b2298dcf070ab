//! How long an active server may answer. *Pure* but for [`Term`], which reads the clock, one that
//! also counts while the host is suspended.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use crate::lock::{LockTable, clock};

/// An attempt at etcd that takes longer has failed.
const ATTEMPT: Duration = Duration::from_millis(1500);

/// What follows from `--failover-after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) failover_after: Duration,
}

impl Pace {
    /// How often an active server writes `head` when it has nothing else to write.
    pub(crate) fn heartbeat(self) -> Duration {
        self.failover_after / 5
    }

    /// How often a standby polls it.
    pub(crate) fn poll(self) -> Duration {
        self.failover_after / 10
    }

    /// How long an active server may answer after it has sent an acknowledged `head`.
    pub(crate) fn confidence(self) -> Duration {
        self.failover_after * 4 / 5
    }

    /// How long one attempt at etcd may take: a frozen member must not use up the confidence.
    pub(crate) fn attempt(self) -> Duration {
        ATTEMPT.min(self.failover_after * 3 / 10)
    }

    /// How long a request is held while there is no active server.
    pub(crate) fn hold(self) -> Duration {
        self.failover_after + Duration::from_secs(5)
    }

    /// Whether an active server may answer at `now` that sent its latest acknowledged `head` at
    /// `sent`.
    pub(crate) fn may_answer(self, sent: Duration, now: Duration) -> bool {
        now.saturating_sub(sent) < self.confidence()
    }

    /// How much of the time between two polls counts as silence: in a longer one, etcd may have
    /// been away, and the active server with it.
    pub(crate) fn interval(self) -> Duration {
        self.poll() * 2
    }
}

/// The time for which this server is active. Shared by all its threads.
pub(crate) struct Term {
    pub(crate) pace: Pace,
    /// Names it in etcd.
    pub(crate) id: String,
    /// What standbys prove themselves with.
    pub(crate) secret: String,
    /// When the latest acknowledged `head` was sent, in nanoseconds.
    confirmed: AtomicU64,
    closed: AtomicBool,
    over: AtomicBool,
}

impl Term {
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new(pace: Pace) -> io::Result<Self> {
        let mut secret = [0; 16];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let secret = format!("{:032x}", u128::from_be_bytes(secret));
        let id = Uuid::new_v4().simple().to_string();
        let (closed, over) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { pace, id, secret, confirmed: AtomicU64::new(0), closed, over })
    }

    /// From now on, lists of this server's locks are incomplete.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether the state of the locks may be shown: nobody else can be active, and this server has
    /// all locks.
    pub(crate) fn may_show(&self) -> bool {
        self.may_answer() && !self.closed.load(Ordering::SeqCst)
    }

    /// Whether no other server can have taken over yet.
    pub(crate) fn may_answer(&self) -> bool {
        !self.is_over() && self.pace.may_answer(self.confirmed(), clock::now())
    }

    /// How long ago etcd last confirmed that this server is active.
    pub(crate) fn unconfirmed_for(&self) -> Duration {
        clock::now().saturating_sub(self.confirmed())
    }

    /// Whether this server must not write any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// A `head` that was sent at this time has been acknowledged.
    pub(crate) fn confirm(&self, sent: Duration) {
        let nanos = u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX);
        self.confirmed.store(nanos, Ordering::SeqCst);
    }

    fn confirmed(&self) -> Duration {
        Duration::from_nanos(self.confirmed.load(Ordering::SeqCst))
    }
}

/// A term, and the locks that this server has in it.
pub(crate) struct ActiveTerm {
    pub(crate) table: Arc<LockTable>,
    pub(crate) term: Arc<Term>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { failover_after: Duration::from_secs(10) };

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_server_that_nobody_can_have_replaced_may_answer() {
        for (now, may) in [(100.0, true), (107.9, true), (108.0, false), (99.0, true)] {
            assert_eq!(PACE.may_answer(s(100.0), s(now)), may, "{now}");
        }
        // Also if one clock gains a tenth on the real time, and the other loses one.
        assert!(PACE.confidence().as_secs_f64() / 0.9 < PACE.failover_after.as_secs_f64() / 1.1);
    }

    #[test]
    fn two_attempts_at_a_frozen_member_leave_time_to_answer() {
        for seconds in [1, 2, 5, 60] {
            let pace = Pace { failover_after: Duration::from_secs(seconds) };
            assert!(pace.heartbeat() + pace.attempt() * 2 <= pace.confidence());
        }
    }
}
