//! What a lock excludes: the modes of the VMS distributed lock manager, and semaphores.

use std::fmt;

/// The mode of a lock, which decides which other locks can be held beside it
/// ("Lock modes" of the lock management services, VSI OpenVMS Programming Concepts Manual).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// NL: excludes nothing, and is excluded by nothing.
    Null,
    /// CR: reads while others may write.
    ConcurrentRead,
    /// CW: writes while others may write.
    ConcurrentWrite,
    /// PR: reads while nobody writes. Elsewhere called a shared lock.
    ProtectedRead,
    /// PW: writes alone, while others may read in CR.
    ProtectedWrite,
    /// EX: excludes all but NL.
    Exclusive {
        /// How many may hold the resource in this mode at a time: a semaphore, if over one.
        limit: Limit,
    },
}

impl Mode {
    /// EX with one holder at a time.
    pub const EXCLUSIVE: Self = Self::Exclusive { limit: Limit::ONE };

    /// In the order of the table of modes: each excludes at least what those before it exclude.
    pub const ALL: [Self; 6] = [
        Self::Null,
        Self::ConcurrentRead,
        Self::ConcurrentWrite,
        Self::ProtectedRead,
        Self::ProtectedWrite,
        Self::EXCLUSIVE,
    ];

    /// Its two letters in VMS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "NL",
            Self::ConcurrentRead => "CR",
            Self::ConcurrentWrite => "CW",
            Self::ProtectedRead => "PR",
            Self::ProtectedWrite => "PW",
            Self::Exclusive { .. } => "EX",
        }
    }

    /// The mode of this name; EX with a limit of one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// How many may hold it at a time; only EX has a limit.
    pub fn limit(self) -> Option<Limit> {
        match self {
            Self::Exclusive { limit } => Some(limit),
            _ => None,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.limit() {
            Some(limit) => write!(f, " with the limit {limit}"),
            None => Ok(()),
        }
    }
}

/// How many may hold a semaphore at a time: 1 to [`Limit::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Little-endian. Three bytes, so that a [`Mode`], which every lock has, takes four.
    bytes: [u8; 3],
}

impl Limit {
    /// A lock with one holder.
    pub const ONE: Self = Self { bytes: [1, 0, 0] };

    /// The largest limit.
    pub const MAX: u32 = 1_000_000;

    /// `None` if it is 0 or over the largest.
    pub fn new(limit: u32) -> Option<Self> {
        let [a, b, c, _] = limit.to_le_bytes();
        (1..=Self::MAX).contains(&limit).then_some(Self { bytes: [a, b, c] })
    }

    /// The number.
    pub fn get(self) -> u32 {
        let [a, b, c] = self.bytes;
        u32::from_le_bytes([a, b, c, 0])
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_found_by_its_name() {
        for mode in Mode::ALL {
            assert_eq!(Mode::named(mode.name()), Some(mode));
        }
        for other in ["", "ex", "XX", "exclusive"] {
            assert_eq!(Mode::named(other), None);
        }
    }

    #[test]
    fn a_limit_is_1_to_a_million() {
        assert_eq!(Limit::new(1), Some(Limit::ONE));
        assert_eq!(Limit::new(1_000_000).map(Limit::get), Some(1_000_000));
        assert_eq!(Limit::new(0), None);
        assert_eq!(Limit::new(1_000_001), None);
    }
}
