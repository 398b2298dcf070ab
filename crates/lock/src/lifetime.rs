//! How long a lock lives.

use std::time::Duration;

/// How long a lock lives without a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// So long.
    For(Duration),
    /// Until it is released. For protocols that know no renewal, where an expiry would let two
    /// work at a time.
    Endless,
}

impl Lifetime {
    /// `None`: it has no end.
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
