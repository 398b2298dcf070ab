//! Why a request was refused: one type for the core, the metrics and the errors of the API.

use std::fmt;
use std::sync::Arc;

use super::{Actor, Limit, Mode};

/// Why a request was refused. As text, a sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The lock was not granted within `wait`.
    TimedOut,
    /// The request was deleted while it waited.
    Deleted(Arc<Actor>),
    /// The client departed while it waited.
    Departed,
    /// The request was sent again with the same key, and that delivery waits instead.
    Superseded,
    /// The other locks in the mode EX, held or waited for, have this limit.
    OtherLimit(Limit),
    /// The key belongs to a lock or a waiting request of this mode.
    OtherMode(Mode),
    /// The limit on waiting requests is reached, in all or for this resource.
    TooManyWaiting,
    /// The limit on locks is reached.
    TooManyLocks,
    /// The change could not be written, and was not made.
    NotWritten(NotWritten),
    /// The server is shutting down.
    ShuttingDown,
    /// There is no lock or request with this id.
    NoSuchLock,
    /// The request still waits; its lifetime begins with the grant.
    StillWaiting,
    /// The lock waits for another mode already.
    Converting,
    /// An earlier conversion waits for this lock, which would have to wait behind it.
    Deadlock,
    /// The lock is a semaphore, or would become one.
    NotConvertible,
}

impl Refusal {
    /// The kind of refusal, without its details.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::TimedOut => Reason::TimedOut,
            Self::Deleted(_) => Reason::Deleted,
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

/// The variants, the list of all and the names in one place, so that none can be missed.
macro_rules! reasons {
    ($($variant:ident $name:literal,)*) => {
        /// Why a request was refused, for programs.
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
            Self::Deleted(_) => f.write_str("the request was deleted while it waited for the lock"),
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

/// Why a change could not be written to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWritten {
    /// The store refused it, and nothing has changed.
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
