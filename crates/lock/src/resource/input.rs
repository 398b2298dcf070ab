//! What a resource reacts to: requests, departures, the passing of time.

use std::sync::Arc;
use std::time::Duration;

use super::line::Claim;
use crate::nanos::Instant;
use crate::{Actor, Conversion, IdempotencyKey, LockId, Terms};

/// What a resource reacts to.
#[derive(Debug)]
pub(crate) enum Input<W> {
    /// A request arrives; `W` is its client, if it has to wait.
    Acquire(Box<Arrival>, W),
    /// Ends the lock, or deletes the waiting request, with this id.
    Release(LockId, Arc<Actor>),
    /// The same for the one with this key.
    ReleaseByKey(IdempotencyKey, Arc<Actor>),
    /// Starts the lifetime of a lock over, with this length.
    Renew(LockId, Duration),
    /// A request to convert a lock arrives; `W` is its client, if it has to wait.
    Convert(Box<ConvertRequest>, W),
    /// The client of this claim has gone. With a key, its place is kept for this long.
    Withdraw(Claim, Duration),
    /// The wait of this claim is over.
    TimeOut(Claim),
    /// A response that told of this lock could not be delivered. If it was the only one, the lock
    /// is released; with a key, after this long.
    Abandon(LockId, Duration),
    /// A deadline has passed.
    Expire,
    /// Deletes the locks and requests with numbers before this one.
    Delete(u64, Arc<Actor>),
    /// Ends every wait, since the server ends. The locks stay held.
    Dismiss,
}

impl<W> Input<W> {
    /// Whether it is the request of one client, whose thread does nothing else until it is done.
    /// Not so a deletion, whose thread begins many before it waits for the first.
    pub(crate) fn is_client_request(&self) -> bool {
        matches!(
            self,
            Self::Acquire(..)
                | Self::Release(..)
                | Self::ReleaseByKey(..)
                | Self::Renew(..)
                | Self::Convert(..)
        )
    }
}

/// A request that arrives.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// The id of the lock, unless the key is that of an earlier request.
    pub(crate) id: LockId,
    pub(crate) terms: Terms,
    pub(crate) key: Option<IdempotencyKey>,
    /// Its wait is counted from then.
    pub(crate) arrived_at: Instant,
}

/// A request to convert a lock.
#[derive(Debug, Clone)]
pub(crate) struct ConvertRequest {
    /// The lock.
    pub(crate) id: LockId,
    pub(crate) wanted: Conversion,
    /// Its wait is counted from then.
    pub(crate) arrived_at: Instant,
}
