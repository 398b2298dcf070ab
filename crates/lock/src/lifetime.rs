//! How long a lock lives.

use std::time::Duration;

/// How long a lock lives without a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// This long.
    For(Duration),
    /// Until it is released. For protocols without renewals, where an expiry would let two clients
    /// work at a time.
    Endless,
}

impl Lifetime {
    /// `None`: without an end.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::For(duration) => Some(duration),
            Self::Endless => None,
        }
    }
}

impl From<Duration> for Lifetime {
    fn from(duration: Duration) -> Self {
        Self::For(duration)
    }
}
