//! The lock core: who holds a resource, who waits for it, who is next.
//!
//! This module has the words of the domain and [`LockManager`], the one way in. The core
//! knows nothing of HTTP, JSON, the command line or sockets.

mod journal;
mod mode;
mod reaper;
mod resource;
mod sharded;
mod sync;
mod table;

pub use journal::{Journal, OpenError};
pub use mode::{Limit, Mode};
pub use table::{LockTable, MaxWaiters};

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smol_str::SmolStr;
use uuid::Uuid;

/// Grants locks on named resources, strictly in order of arrival.
///
/// The interface that requests come in by; [`LockTable`] implements it for one host.
pub trait LockManager: Send + Sync {
    /// Acquires a lock on `resource`, waiting up to `request.wait` for it. If the request has to
    /// wait, `on_wait` is called with its claim once it is in line.
    ///
    /// A request with the key of one that holds a lock or is in line is that one, sent again:
    /// it gets that lock, or that place in line.
    fn acquire(
        &self,
        resource: &ResourceName,
        request: LockRequest,
        key: Option<IdempotencyKey>,
        on_wait: &mut dyn FnMut(Claim),
    ) -> Acquired;

    /// Takes a waiting request out of the line because whoever sent it is gone (its caller
    /// gets [`Acquired::Withdrawn`]). With a key, its place is kept for a while. A lock that is
    /// held stays.
    fn withdraw(&self, resource: &ResourceName, claim: Claim);

    /// Says that the caller of [`LockManager::acquire`] could not pass on that it was granted
    /// this lock: releases it, unless another caller was told of it, too. With a key, it is
    /// kept for a while.
    fn abandon(&self, resource: &ResourceName, id: LockId);

    /// The lock or waiting request with this id, unless it is gone.
    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock>;

    /// Releases a lock, or takes a waiting request out of the line (its caller gets
    /// [`Acquired::Deleted`]). Returns whether there was one.
    ///
    /// # Errors
    /// The release could not be written; the lock is still held.
    fn release(&self, resource: &ResourceName, id: LockId) -> Result<bool, NotWritten>;

    /// Lets an active lock expire this long from now, sooner or later than it would have.
    ///
    /// # Errors
    /// The renewal could not be written; the lock expires as before.
    fn renew(
        &self,
        resource: &ResourceName,
        id: LockId,
        lifetime: Duration,
    ) -> Result<Renewal, NotWritten>;

    /// The resources that have locks, in order of their names.
    fn resources(&self) -> Vec<ResourceName>;

    /// The locks of a resource: the active ones first, then the waiting ones, each in order.
    fn locks(&self, resource: &ResourceName) -> Vec<Lock>;

    /// Deletes all locks of a resource, active and waiting. Returns whether there were any.
    ///
    /// # Errors
    /// The deletion could not be written; all are still there.
    fn delete_resource(&self, resource: &ResourceName) -> Result<bool, NotWritten>;

    /// Deletes all locks of all resources.
    ///
    /// # Errors
    /// The deletion could not be written; the locks of some or all resources are still there.
    fn delete_all(&self) -> Result<(), NotWritten>;

    /// How many locks there are.
    fn totals(&self) -> Totals;

    /// Refuses all requests from now on, also those that are waiting.
    fn shut_down(&self);
}

/// Is told of the locks that end, when that is done and written, by whoever ended them.
pub trait Observer: Send + Sync {
    /// A lock that had been held for so long, by the wall clock, is held no more, or renewed.
    fn ended(&self, end: End, held: Duration);
}

/// Whoever does not want to know.
impl Observer for () {
    fn ended(&self, _: End, _: Duration) {}
}

/// How a lock, or one lease on it, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By its URL.
    Released,
    /// Nobody released it in its lifetime.
    Expired,
    /// By an administrator.
    Deleted,
    /// Its client was gone before it heard of the grant.
    Abandoned,
    /// It goes on with another lifetime.
    Renewed,
}

/// How many locks there are at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Resources that have a lock or a waiting request.
    pub resources: usize,
    /// Locks that are held.
    pub active: usize,
    /// Clients that wait.
    pub waiting: usize,
}

/// What became of a request for a lock.
#[derive(Debug, Clone)]
pub enum Acquired {
    /// The caller holds the lock.
    Granted(Lock),
    /// The lock did not come free within `wait`.
    TimedOut,
    /// The request was deleted while it waited.
    Deleted,
    /// The request was withdrawn while it waited.
    Withdrawn,
    /// The request was sent again, with the same key, and waits there.
    Superseded,
    /// The locks in the mode EX that are there, active or waiting, have this limit.
    OtherLimit(Limit),
    /// The key is that of a lock or waiting request of this mode.
    OtherMode(Mode),
    /// The limit of waiting requests is reached, in all or of this resource.
    TooManyWaiters,
    /// The grant could not be written; nothing has changed.
    NotWritten(NotWritten),
    /// The server is shutting down.
    ShuttingDown,
}

/// What one sending of a request has of a place in line. When the request is sent again with
/// the same key, the earlier claims are worth nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    id: LockId,
    attempt: u32,
}

#[cfg(test)]
impl Claim {
    pub(crate) fn first(id: LockId) -> Self {
        Self { id, attempt: 0 }
    }
}

/// What became of a renewal.
#[derive(Debug, Clone)]
pub enum Renewal {
    /// The lock, with its new lifetime.
    Renewed(Lock),
    /// It still waits; its lifetime begins with its grant.
    StillWaiting,
    /// There is no such lock any more.
    Gone,
}

/// A change could not be written to where locks survive a crash, and was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotWritten(Arc<str>);

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotWritten {}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct LockRequest {
    /// Who asks, in the client's words.
    pub title: SmolStr,
    /// How long it waits at most; zero: not at all.
    pub wait: Duration,
    /// How long the lock lives, counted from the grant.
    pub lifetime: Duration,
    /// Which other locks may be held beside it.
    pub mode: Mode,
    /// The address that the request came from, for display.
    pub client: SmolStr,
}

/// A lock as it stands at one moment, active or waiting.
#[derive(Debug, Clone)]
pub struct Lock {
    /// Unique among all locks ever.
    pub id: LockId,
    /// What was asked for.
    pub request: LockRequest,
    /// Whether it is held, and since when.
    pub phase: Phase,
}

impl Lock {
    /// The fencing token of an active lock; 0 while it waits.
    pub fn fencing_token(&self) -> u64 {
        match self.phase {
            Phase::Active { fencing_token, .. } => fencing_token,
            Phase::Waiting { .. } => 0,
        }
    }
}

/// Where a lock is in its life. The times are wall clock and only for display.
#[derive(Debug, Clone, Copy)]
pub enum Phase {
    /// In line.
    Waiting {
        /// Since then.
        since: SystemTime,
        /// Until then at most.
        expires: SystemTime,
    },
    /// Held.
    Active {
        /// Since then.
        since: SystemTime,
        /// Until then, unless it is released.
        expires: SystemTime,
        /// Larger than that of every earlier grant of this server; under 2^53, so that every
        /// JSON reader can hold it. Storage that refuses a smaller one than it has seen is
        /// safe from holders that have stalled.
        fencing_token: u64,
    },
}

/// The name of a resource: 1 to [`ResourceName::MAX_LEN`] of `A-Z a-z 0-9 . _ : ~ @ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(SmolStr);

impl ResourceName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = InvalidResourceName;

    fn from_str(name: &str) -> Result<Self, InvalidResourceName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:~@-".contains(&byte);
        if (1..=Self::MAX_LEN).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidResourceName)
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a [`ResourceName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidResourceName;

impl fmt::Display for InvalidResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = ResourceName::MAX_LEN;
        write!(f, "a resource name is 1 to {max} of A-Z a-z 0-9 . _ : ~ @ -")
    }
}

impl std::error::Error for InvalidResourceName {}

/// What tells that a request is an earlier one, sent again: 1 to [`IdempotencyKey::MAX_LEN`]
/// visible ASCII characters of the client's choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(key: &str) -> Result<Self, InvalidIdempotencyKey> {
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        if (1..=Self::MAX_LEN).contains(&key.len()) && visible {
            Ok(Self(key.into()))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

/// The text is not an [`IdempotencyKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidIdempotencyKey;

impl fmt::Display for InvalidIdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = IdempotencyKey::MAX_LEN;
        write!(f, "an Idempotency-Key is 1 to {max} visible ASCII characters")
    }
}

impl std::error::Error for InvalidIdempotencyKey {}

/// The unique name of one lock: a random UUID (version 4, RFC 9562), written as 32
/// lower-case hex digits. Who knows it can release the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(Uuid);

impl LockId {
    pub(crate) fn to_u128(self) -> u128 {
        self.0.as_u128()
    }

    pub(crate) fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for LockId {
    type Err = InvalidLockId;

    fn from_str(text: &str) -> Result<Self, InvalidLockId> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(hex) {
            return Err(InvalidLockId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidLockId)
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The text is not a [`LockId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLockId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_name_is_1_to_255_of_the_allowed_characters() {
        let longest = "x".repeat(255);
        for name in ["a", "Z9", "nightly-job", "a.b_c:d~e@f-g", "..", &longest] {
            assert_eq!(name.parse::<ResourceName>().unwrap().as_str(), name);
        }
        let too_long = "x".repeat(256);
        for name in ["", "a b", "a/b", "a%20b", "é", "a\0", "a\n", "a+b", &too_long] {
            assert_eq!(name.parse::<ResourceName>(), Err(InvalidResourceName), "{name:?}");
        }
    }

    #[test]
    fn a_lock_id_is_32_lower_case_hex_digits() {
        let id = LockId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "aa4e181e17374148a21b30d9dcb941f",
            "aa4e181e17374148a21b30d9dcb941f90",
            "AA4E181E17374148A21B30D9DCB941F9",
            "aa4e181e-1737-4148-a21b-30d9dcb941f9",
            "ga4e181e17374148a21b30d9dcb941f9",
        ] {
            assert_eq!(text.parse::<LockId>(), Err(InvalidLockId), "{text:?}");
        }
    }
}
