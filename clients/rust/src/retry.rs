//! When to ask again, and how often.

use std::time::{Duration, Instant};

use crossbeam_channel::after;

use super::transport::Failure;

/// How long a request is sent again to a server that is not there.
pub(super) const TRIES: Duration = Duration::from_secs(2);

/// Tries again for a while, as long as the failure may pass.
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
        // A channel that is ready after the pause.
        let _ = after(pause).recv();
    }
}

/// The pauses between tries: from 0.1 s, each twice as long as the one before, to 2 s.
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    /// The pause before the next try, after this failure.
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
