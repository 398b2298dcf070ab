//! What a client asks for, and what it gets: a lock that is held, or a request that waits.

use std::fmt;
use std::time::{Duration, SystemTime};

use smol_str::SmolStr;

use super::{Lifetime, LockId, Mode};

/// The client that has asked for a lock, for display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requester {
    /// The address that the request came from.
    pub address: SmolStr,
    /// The user, if the client has logged in as one.
    pub user: Option<SmolStr>,
}

impl From<&str> for Requester {
    fn from(address: &str) -> Self {
        Self { address: address.into(), user: None }
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user:?} at {}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// The client that ends a lock, its own or another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The client.
    pub requester: Requester,
    /// The protocol of its request.
    pub door: &'static str,
    /// Why, if it has said so.
    pub reason: Option<SmolStr>,
}

/// `deploy of 10.0.0.7 (terraform), because "the node is gone"`
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.requester, self.door)?;
        self.reason.as_ref().map_or(Ok(()), |reason| write!(f, ", because {reason:?}"))
    }
}

impl Actor {
    #[cfg(test)]
    pub(crate) fn nobody_itself() -> Self {
        Self { requester: "nobody".into(), door: "test", reason: None }
    }

    #[cfg(test)]
    pub(crate) fn nobody() -> std::sync::Arc<Self> {
        Self::nobody_itself().into()
    }

    /// Whether the lock of this client is its own: of the same user or, where there are none, of the
    /// same address.
    pub(crate) fn is(&self, holder: &Requester) -> bool {
        match (&self.requester.user, &holder.user) {
            (None, None) => self.requester.address == holder.address,
            (own, theirs) => own == theirs,
        }
    }
}

/// What a client asks for. One value, from the request to the disk and back. A renewal changes the
/// lifetime of a held lock, a conversion its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What the client calls itself or its work.
    pub title: SmolStr,
    /// The client, as the server knows it.
    pub client: Requester,
    /// Which other locks may be held beside it.
    pub mode: Mode,
    /// How long to wait at most, counted from the arrival of the request; zero: not at all.
    pub wait: Duration,
    /// How long the lock lives, counted from the grant or from the latest renewal.
    pub lifetime: Lifetime,
    /// Other locks on the resource may have another limit, which they keep: for a semaphore whose
    /// size is a setting that may change.
    pub other_limits: bool,
}

/// How to convert a lock that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conversion {
    /// The new mode.
    pub mode: Mode,
    /// How long to wait for it at most, counted from the arrival of the request; zero: not at all.
    pub wait: Duration,
    /// A lifetime that starts over with the new mode; `None`: it ends as before.
    pub lifetime: Option<Duration>,
}

/// A lock that is held. The times are wall clock and only for display.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Unique among all locks, also of the past.
    pub id: LockId,
    /// What was asked for, with the current mode and lifetime.
    pub terms: Terms,
    /// When it was granted.
    pub since: SystemTime,
    /// When its lifetime ends, if it does.
    pub expires: Option<SystemTime>,
    /// Larger than that of every earlier grant of this server; under 2^53, so that every JSON
    /// reader can hold it. Storage that refuses smaller tokens than it has seen is safe from
    /// holders that have stalled.
    pub fencing_token: u64,
}

/// A request that waits. The times are wall clock and only for display.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The id of the lock, once it is granted.
    pub id: LockId,
    /// What was asked for.
    pub terms: Terms,
    /// When it joined the line.
    pub since: SystemTime,
    /// When its wait ends or, if its client has departed, its place is given up.
    pub expires: SystemTime,
}

/// What a URL names: a lock that is held, or a request that waits for one.
#[derive(Debug, Clone)]
pub enum Lock {
    /// It is held.
    Held(Grant),
    /// It is in line.
    Waiting(Waiting),
}

impl Lock {
    /// Its unique id.
    pub fn id(&self) -> LockId {
        match self {
            Self::Held(grant) => grant.id,
            Self::Waiting(waiting) => waiting.id,
        }
    }

    /// What was asked for.
    pub fn terms(&self) -> &Terms {
        match self {
            Self::Held(grant) => &grant.terms,
            Self::Waiting(waiting) => &waiting.terms,
        }
    }
}

impl Terms {
    /// An exclusive lock that is not waited for, for a client that is not named.
    pub fn exclusive(title: impl Into<SmolStr>, lifetime: impl Into<Lifetime>) -> Self {
        Self {
            title: title.into(),
            client: "".into(),
            mode: Mode::EXCLUSIVE,
            wait: Duration::ZERO,
            lifetime: lifetime.into(),
            other_limits: false,
        }
    }
}
