//! Why a request was not done: one type for the core, the metrics and the errors of the API.

use std::fmt;
use std::sync::Arc;

use super::{Limit, Mode};

/// Why a request was not done. As text, a sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The lock did not come free within `wait`.
    TimedOut,
    /// The request was deleted while it waited.
    Deleted,
    /// Whoever waited has gone.
    Departed,
    /// The request was sent again, with the same key, and waits there.
    Superseded,
    /// The locks in the mode EX that are there, held or waited for, have this limit.
    OtherLimit(Limit),
    /// The key is that of a lock or a waiting request of this mode.
    OtherMode(Mode),
    /// As many requests wait as may, in all or for this resource.
    TooManyWaiting,
    /// As many locks are held as may be.
    TooManyLocks,
    /// The change could not be written, and was not made.
    NotWritten(NotWritten),
    /// The server is shutting down.
    ShuttingDown,
    /// There is no lock or request with this id.
    NoSuchLock,
    /// The request still waits: its lifetime begins with the grant.
    StillWaiting,
    /// The lock waits for another mode already.
    Converting,
    /// An earlier conversion waits for this lock, which would wait behind it.
    Deadlock,
    /// A semaphore, or a lock that is to be one, has no other mode.
    NotConvertible,
}

impl Refusal {
    /// Why, without what differs from case to case.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TimedOut => Reason::TimedOut,
            Self::Deleted => Reason::Deleted,
            Self::Departed => Reason::Departed,
            Self::Superseded => Reason::Superseded,
            Self::OtherLimit(_) | Self::OtherMode(_) => Reason::Mismatch,
            Self::TooManyWaiting => Reason::TooManyWaiting,
            Self::TooManyLocks => Reason::TooManyLocks,
            Self::NotWritten(NotWritten::Refused(_)) => Reason::NotWritten,
            Self::NotWritten(NotWritten::Unknown) => Reason::OutcomeUnknown,
            Self::NotWritten(NotWritten::Fenced) => Reason::NotActive,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::NoSuchLock => Reason::NoSuchLock,
            Self::StillWaiting => Reason::StillWaiting,
            Self::Converting => Reason::Converting,
            Self::Deadlock => Reason::Deadlock,
            Self::NotConvertible => Reason::NotConvertible,
        }
    }

    /// A short name, for programs.
    pub const fn name(&self) -> &'static str {
        self.reason().name()
    }
}

/// One list, so that whatever goes through all of them misses none.
macro_rules! reasons {
    ($($variant:ident $name:literal,)*) => {
        /// Why a request was not done, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "Refusal and NotWritten say what they are")]
        pub enum Reason {
            $($variant,)*
        }

        impl Reason {
            /// All of them, in their order.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// A short name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    TimedOut "timed_out",
    Deleted "deleted",
    Departed "departed",
    Superseded "superseded",
    Mismatch "mismatch",
    TooManyWaiting "too_many_waiting",
    TooManyLocks "too_many_locks",
    NotWritten "not_written",
    OutcomeUnknown "outcome_unknown",
    NotActive "not_active",
    ShuttingDown "shutting_down",
    NoSuchLock "no_such_lock",
    StillWaiting "still_waiting",
    Converting "converting",
    Deadlock "deadlock",
    NotConvertible "not_convertible",
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("the lock was not granted within the wait"),
            Self::Deleted => f.write_str("the request was deleted while it waited for the lock"),
            Self::Departed => f.write_str(
                "the client closed the connection, or its sending side, while it waited",
            ),
            Self::Superseded => f.write_str("superseded"),
            Self::OtherLimit(theirs) => write!(
                f,
                "the locks on this resource have the limit {theirs}: ask for the same, or wait \
                 until there are none"
            ),
            Self::OtherMode(theirs) => write!(
                f,
                "this Idempotency-Key belongs to a request on this resource for {theirs}: repeat \
                 that one, or take another key"
            ),
            Self::TooManyWaiting => {
                f.write_str("too many requests are waiting for locks; try again later")
            }
            Self::TooManyLocks => f.write_str(
                "as many locks are held as this server allows (--max-locks); try again later",
            ),
            Self::NotWritten(NotWritten::Refused(why)) => {
                write!(f, "locks cannot be changed for now, and nothing has changed: {why}")
            }
            Self::NotWritten(why) => why.fmt(f),
            Self::ShuttingDown => f.write_str("the server is shutting down"),
            Self::NoSuchLock => f.write_str(
                "there is no such lock: it was released, deleted or has expired, or it never was",
            ),
            Self::StillWaiting => f.write_str(
                "the request still waits for the lock; its lifetime begins with the grant",
            ),
            Self::Converting => f.write_str("this lock waits for another mode already"),
            Self::Deadlock => f.write_str(
                "deadlock: an earlier conversion on this resource waits for this lock, which would \
                 wait behind it; release this lock, or convert it to a mode that fits",
            ),
            Self::NotConvertible => f.write_str(
                "a semaphore has no other mode: only locks with a limit of 1 are converted, and \
                 only to such",
            ),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a change could not be written to where locks survive a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWritten {
    /// It was refused, and nothing has changed.
    Refused(Arc<str>),
    /// The store was fenced while it wrote the change, which may have been written or not.
    Unknown,
    /// The store had been fenced before, so the change was not written.
    Fenced,
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => f.write_str(why),
            Self::Unknown => f.write_str(
                "it is not known whether this was done: look, or send it again with its \
                 Idempotency-Key",
            ),
            Self::Fenced => {
                f.write_str("this server is not the active one any more, and nothing was done")
            }
        }
    }
}

impl std::error::Error for NotWritten {}
