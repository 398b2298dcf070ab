//! How long a lock is certainly held. A thread that does nothing else reports the end, so that no
//! look-up, connection or server that hangs can delay the report.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::alarm::Alarm;
use super::{Error, Lost};
use crate::clock;

/// The time for which a lock is certainly held: from when the last successful renewal was sent, for
/// the lifetime in its response.
pub(super) struct Lease {
    resource: String,
    on_loss: Option<Sender<Lost>>,
    state: Mutex<State>,
    /// Set to the end of the lease, and to zero if it ends early.
    expiry: Alarm,
    /// The same for the next renewal.
    renewal: Alarm,
}

struct State {
    hold: Hold,
    lifetime: Duration,
    /// Why the last renewal failed.
    failure: String,
}

/// A lock that is not held any more never is again.
#[derive(Debug, Clone, PartialEq)]
enum Hold {
    /// Until then, by [`clock::now`], unless a renewal succeeds.
    Until(Duration),
    /// Released, or left to its lifetime.
    Over,
    /// Lost, and why.
    Lost(String),
}

impl Lease {
    /// The lease of a lock that was certainly held at `held`.
    pub(super) fn begin(
        resource: &str,
        held: Duration,
        lifetime: Duration,
        on_loss: Option<Sender<Lost>>,
    ) -> Result<Arc<Self>, Error> {
        let until = held.saturating_add(lifetime);
        let failure = String::from("the server was not asked yet");
        let begin = || {
            let lease = Arc::new(Self {
                resource: resource.into(),
                on_loss,
                state: Mutex::new(State { hold: Hold::Until(until), lifetime, failure }),
                expiry: Alarm::new()?,
                renewal: Alarm::new()?,
            });
            lease.expiry.set(until)?;
            let watched = Arc::clone(&lease);
            thread::Builder::new().name("lease".into()).spawn(move || watched.watch())?;
            Ok(lease)
        };
        begin().map_err(|error: std::io::Error| {
            Error::System(format!("cannot watch the lifetime of the lock: {error}"))
        })
    }

    /// The body of the thread that reports the end.
    fn watch(&self) {
        loop {
            let rung = self.expiry.wait();
            let state = self.state();
            let why = match (rung, &state.hold) {
                (Err(error), Hold::Until(_)) => format!("its time cannot be measured: {error}"),
                (Ok(()), Hold::Until(until)) if clock::now() < *until => continue,
                (Ok(()), Hold::Until(_)) => state.no_renewal(),
                (_, Hold::Over | Hold::Lost(_)) => return,
            };
            self.end(state, Hold::Lost(why));
        }
    }

    /// Waits until the next renewal is due. Returns whether the lock is held then.
    pub(super) fn wait_until(&self, due: Duration) -> bool {
        let is_set = {
            // Under the mutex, so that setting the alarm cannot undo the one that `end` sets.
            let state = self.state();
            matches!(state.hold, Hold::Until(_)) && self.renewal.set(due).is_ok()
        };
        is_set && self.renewal.wait().is_ok() && !self.left().is_zero()
    }

    /// What is left.
    pub(super) fn left(&self) -> Duration {
        match self.state().hold {
            Hold::Until(until) => until.saturating_sub(clock::now()),
            Hold::Over | Hold::Lost(_) => Duration::ZERO,
        }
    }

    /// A renewal sent at `sent` succeeded. After the end of the lease, that changes nothing: the
    /// loss was reported.
    pub(super) fn renewed(&self, sent: Duration, lifetime: Duration) {
        let mut state = self.state();
        let Hold::Until(until) = state.hold else { return };
        let renewed = sent.saturating_add(lifetime);
        if clock::now() < until && self.expiry.set(renewed).is_ok() {
            (state.hold, state.lifetime) = (Hold::Until(renewed), lifetime);
        }
    }

    /// A renewal failed; the next may succeed.
    pub(super) fn failed(&self, why: String) {
        self.state().failure = why;
    }

    /// The server says that the lock is gone.
    pub(super) fn lose(&self, why: &str) {
        self.end(self.state(), Hold::Lost(why.into()));
    }

    /// Ends the lease without a loss. Returns what was left.
    pub(super) fn give_up(&self) -> Duration {
        let left = self.left();
        self.end(self.state(), Hold::Over);
        left
    }

    /// The loss, if the lock is lost.
    pub(super) fn lost(&self) -> Option<Lost> {
        let state = self.state();
        let why = match &state.hold {
            Hold::Until(until) if *until <= clock::now() => state.no_renewal(),
            Hold::Lost(why) => why.clone(),
            Hold::Until(_) | Hold::Over => return None,
        };
        Some(Lost { resource: self.resource.clone(), why })
    }

    /// Ends the lease, unless it has ended, and reports a loss.
    fn end(&self, mut state: MutexGuard<'_, State>, how: Hold) {
        if !matches!(state.hold, Hold::Until(_)) {
            return;
        }
        state.hold = how.clone();
        // Wakes both threads, which then end.
        let _ = self.expiry.set(Duration::ZERO);
        let _ = self.renewal.set(Duration::ZERO);
        drop(state);
        if let (Hold::Lost(why), Some(on_loss)) = (how, &self.on_loss) {
            // Fails if the receiver was dropped.
            let _ = on_loss.try_send(Lost { resource: self.resource.clone(), why });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn no_renewal(&self) -> String {
        let seconds = self.lifetime.as_secs_f64();
        format!("no renewal got through for {seconds} s: {}", self.failure)
    }
}
