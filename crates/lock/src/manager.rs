//! The interface of the lock core.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Actor, Conversion, Events, Grant, IdempotencyKey, Lock, LockId, Mode, NotWritten, Pending,
    Refusal, ResourceName, Terms,
};

/// Grants locks on named resources, strictly in order of arrival.
///
/// Whatever is refused with [`NotWritten::Refused`] or [`NotWritten::Fenced`] has changed nothing.
pub trait LockManager: Send + Sync {
    /// Acquires a lock on `resource`, waiting up to `terms.wait` for it. If the request has to
    /// wait, `on_wait` is called once it is in line, with the means to end the wait early.
    ///
    /// A request with the key of one that holds a lock or waits in line counts as a repetition of
    /// that one, and gets its lock or its place.
    ///
    /// # Errors
    /// The lock was not granted.
    fn acquire(
        &self,
        resource: &ResourceName,
        terms: Terms,
        key: Option<IdempotencyKey>,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Pending<Result<Grant, Refusal>>;

    /// Reports that the response with this grant could not be delivered. The lock is released,
    /// unless another response told of it, too; with a key, only after a while. This may be written
    /// later.
    fn abandon(&self, resource: &ResourceName, id: LockId);

    /// The lock or waiting request with this id, unless it is gone.
    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock>;

    /// Releases a lock, or deletes a waiting request, whose caller gets [`Refusal::Deleted`].
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`], or it could not be written and is still held.
    fn release(
        &self,
        resource: &ResourceName,
        id: LockId,
        by: Actor,
    ) -> Pending<Result<(), Refusal>>;

    /// The same for the lock or waiting request with this key.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`], or it could not be written and is still held.
    fn release_by_key(
        &self,
        resource: &ResourceName,
        key: &IdempotencyKey,
        by: Actor,
    ) -> Pending<Result<(), Refusal>>;

    /// The first `limit` locks that are held on a resource, each with the key of its request.
    fn holders(
        &self,
        resource: &ResourceName,
        limit: usize,
    ) -> Vec<(Grant, Option<IdempotencyKey>)>;

    /// Starts the lifetime of a lock over, with this length.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`], [`Refusal::StillWaiting`], or it could not be written and
    /// expires as before.
    fn renew(
        &self,
        resource: &ResourceName,
        id: LockId,
        lifetime: Duration,
    ) -> Pending<Result<Grant, Refusal>>;

    /// Converts a lock to another mode. It stays the same lock, and is held in its old mode until
    /// the new one fits beside the other locks. It waits for that ahead of the line, up to
    /// `conversion.wait`. If it has to wait, `on_wait` is called with the means to end the wait
    /// early.
    ///
    /// # Errors
    /// The lock is held as before, unless it is gone.
    fn convert(
        &self,
        resource: &ResourceName,
        id: LockId,
        conversion: Conversion,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Result<Grant, Refusal>;

    /// At most `limit` resources that have locks, in order of their names, after `after`.
    fn resources(&self, after: Option<&ResourceName>, limit: usize) -> Vec<ResourceName>;

    /// The locks of a resource: first those that are held, then those that wait, each in order; at
    /// most `limit` after the cursor.
    fn locks(&self, resource: &ResourceName, after: Option<Cursor>, limit: usize) -> Page;

    /// Deletes all locks of a resource, held and waited for.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`] if there are none, or it could not be written and all are still
    /// there.
    fn delete_resource(&self, resource: &ResourceName, by: Actor) -> Result<(), Refusal>;

    /// Deletes all locks of all resources.
    ///
    /// # Errors
    /// It could not be written; the locks of some or all resources are still there.
    fn delete_all(&self, by: Actor) -> Result<(), Refusal>;

    /// The event stream.
    fn events(&self) -> &Arc<Events>;

    /// How many locks there are.
    fn totals(&self) -> Totals;

    /// The longest hold and wait at this moment. Reads every lock.
    fn ages(&self) -> Ages;

    /// Whether changes can be written, as far as is known.
    ///
    /// # Errors
    /// The latest change could not be written.
    fn writable(&self) -> Result<(), NotWritten>;

    /// Refuses all requests from now on, including those that wait.
    fn shut_down(&self);

    /// Waits until everything is written that was decided before. Only one thread may call it.
    fn settle(&self);
}

/// Some of the locks of a resource, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// First those that are held, then those that wait, each in order.
    pub locks: Vec<Lock>,
    /// The modes that the locks on this page wait for.
    pub converting: HashMap<LockId, Mode>,
    /// How many requests wait on this resource, for a lock or for another mode, including kept
    /// places, on this page or not.
    pub waiting: usize,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

/// How far a client has paged through the locks of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Up to the holder with this fencing token.
    Held(u64),
    /// All holders, and those in line up to this arrival.
    Waiting(u64),
}

/// Ends one wait because its client has departed. The request leaves the line; with a key, its
/// place is kept for a while. A lock that was granted meanwhile stays.
pub struct Departure(Box<dyn FnOnce() + Send>);

impl Departure {
    /// `leave` is what ends the wait.
    pub fn new(leave: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(leave))
    }

    /// Ends the wait. Blocks on nothing but a mutex.
    pub fn leave(self) {
        (self.0)();
    }
}

/// Is told of the locks that have ended, once that is written, on the thread that ended them.
pub trait Observer: Send + Sync {
    /// A lock has ended or was renewed, after it was held this long by the wall clock.
    fn ended(&self, end: End, held: Duration);

    /// The core cannot go on, because a thread panicked in the middle of a change, or because it is
    /// not known what was written. The process has to end; until then, no request is answered.
    fn failed(&self, why: &str);
}

/// A no-op observer.
impl Observer for () {
    fn ended(&self, _: End, _: Duration) {}

    fn failed(&self, _: &str) {}
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
    /// Its client was gone before it learned of the grant.
    Abandoned,
    /// Its lifetime was started over.
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
    /// Places in line that are kept for departed clients.
    pub kept: usize,
}

/// The longest times at a moment; zero if there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ages {
    /// Of the clients that wait.
    pub longest_wait: Duration,
    /// Of the locks that are held.
    pub longest_hold: Duration,
}
