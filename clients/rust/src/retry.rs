//! When to send a request again, and how often.

use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::answer::Failure;

/// How long to keep trying a server that cannot be reached.
pub(super) const TRIES: Duration = Duration::from_secs(2);

/// Tries again for a while if the failure is transient.
pub(super) fn retry<T>(
    within: Duration,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let until = Instant::now() + within;
    let mut pauses = Pauses::new();
    loop {
        let failure = match attempt() {
            Err(failure) if failure.is_passing() => failure,
            result => return result,
        };
        let pause = pauses.next(&failure);
        if Instant::now() + pause > until {
            return Err(failure);
        }
        let _ = after(pause).recv();
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
