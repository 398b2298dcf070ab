//! How long a lock is certainly held, and the end of that. It is told by a thread that does nothing
//! else, so that no look-up, connection or server that hangs can delay it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::alarm::Alarm;
use super::{Error, Lost};
use crate::clock;

/// The time for which a lock is held: from when the last renewal that succeeded was sent, for the
/// lifetime that its answer told.
pub(super) struct Lease {
    resource: String,
    on_loss: Option<Sender<Lost>>,
    state: Mutex<State>,
    /// Set to the end of the lease, or to now when it has ended before.
    expiry: Alarm,
    /// The same for when the lock is to be renewed.
    renewal: Alarm,
}

struct State {
    hold: Hold,
    lifetime: Duration,
    /// Why the last renewal failed.
    failure: String,
}

/// Once it is not held any more, it never is again.
#[derive(Debug, Clone, PartialEq)]
enum Hold {
    /// Until then, by [`clock::now`], if no renewal succeeds.
    Until(Duration),
    /// Released, or left to its lifetime.
    Over,
    /// Lost, and why.
    Lost(String),
}

impl Lease {
    /// Begins with a lock that was certainly held at `held`.
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

    /// The body of the thread that tells of the end.
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

    /// Waits until it is time for the next renewal; says whether the lock is still held then.
    pub(super) fn wait_until(&self, due: Duration) -> bool {
        let is_set = {
            // Under the mutex: or the end could come between, and not be noticed.
            let state = self.state();
            matches!(state.hold, Hold::Until(_)) && self.renewal.set(due).is_ok()
        };
        is_set && self.renewal.wait().is_ok() && !self.left().is_zero()
    }

    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        match self.state().hold {
            Hold::Until(until) => until.saturating_sub(clock::now()),
            Hold::Over | Hold::Lost(_) => Duration::ZERO,
        }
    }

    /// A renewal that was sent at `sent` has succeeded. One whose answer comes too late changes
    /// nothing: the lock was said to be lost.
    pub(super) fn renewed(&self, sent: Duration, lifetime: Duration) {
        let mut state = self.state();
        let Hold::Until(until) = state.hold else { return };
        let renewed = sent.saturating_add(lifetime);
        if clock::now() < until && self.expiry.set(renewed).is_ok() {
            (state.hold, state.lifetime) = (Hold::Until(renewed), lifetime);
        }
    }

    /// A renewal has failed, which may pass.
    pub(super) fn failed(&self, why: String) {
        self.state().failure = why;
    }

    /// The server says that the lock is gone.
    pub(super) fn lose(&self, why: &str) {
        self.end(self.state(), Hold::Lost(why.into()));
    }

    /// The lock is given up. Returns what was left of it.
    pub(super) fn give_up(&self) -> Duration {
        let left = self.left();
        self.end(self.state(), Hold::Over);
        left
    }

    /// That it is lost, if it is.
    pub(super) fn lost(&self) -> Option<Lost> {
        let state = self.state();
        let why = match &state.hold {
            Hold::Until(until) if *until <= clock::now() => state.no_renewal(),
            Hold::Lost(why) => why.clone(),
            Hold::Until(_) | Hold::Over => return None,
        };
        Some(Lost { resource: self.resource.clone(), why })
    }

    /// Ends it, unless it has ended, and tells of a loss.
    fn end(&self, mut state: MutexGuard<'_, State>, how: Hold) {
        if !matches!(state.hold, Hold::Until(_)) {
            return;
        }
        state.hold = how.clone();
        // Both threads look, and end.
        let _ = self.expiry.set(Duration::ZERO);
        let _ = self.renewal.set(Duration::ZERO);
        drop(state);
        if let (Hold::Lost(why), Some(on_loss)) = (how, &self.on_loss) {
            // Nobody has to listen.
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
