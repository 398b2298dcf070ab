//! When to send a request again, and how often.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::Error;
use super::answer::Failure;
use super::deadline::Deadline;

/// How long to keep trying a server that cannot be reached.
pub(super) const TRIES: Duration = Duration::from_secs(2);

/// Tries again for a while if the failure is transient, and not after `by`.
pub(super) fn retry<T>(
    by: Deadline,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let by = by.at_most(TRIES);
    let mut pauses = Pauses::new();
    loop {
        let failure = match attempt() {
            Err(failure) if failure.is_passing() => failure,
            result => return result,
        };
        let pause = pauses.next(&failure);
        if pause > by.left() {
            return Err(failure);
        }
        let _ = after(pause).recv();
    }
}

/// The latest failure of a request that is being repeated, for those who watch it.
#[derive(Clone, Default)]
pub struct LastFailure(Arc<Mutex<Option<(Instant, Failure)>>>);

impl LastFailure {
    pub(super) fn is(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), failure));
    }

    /// The failure as a sentence, unless it is a minute old.
    pub fn recent(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (_, failure) = last.filter(|(at, _)| at.elapsed() < Duration::from_secs(60))?;
        Some(Error::from(failure).to_string())
    }
}

/// The pauses between attempts: 0.1 s, doubled each time, up to 2 s.
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    /// The pause after this failure.
    pub(super) fn next(&mut self, failure: &Failure) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(2));
        match failure {
            Failure::Later { retry_after: Some(asked_for), .. }
            | Failure::Proxy { retry_after: Some(asked_for), .. } => pause.max(*asked_for),
            _ => pause,
        }
    }
}
