//! The interface of the core: what can be asked of it, and what it tells.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Conversion, Events, Grant, IdempotencyKey, Lock, LockId, LockRequest, Mode, NotWritten,
    Pending, Refusal, ResourceName,
};

/// Grants locks on named resources, strictly in order of arrival.
///
/// Whatever is refused with [`Refusal::NotWritten`] has changed nothing.
pub trait LockManager: Send + Sync {
    /// Acquires a lock on `resource`, waiting up to `request.wait` for it. If the request has to
    /// wait, `on_wait` is called once it is in line, with the means to end the wait early.
    ///
    /// A request with the key of one that holds a lock or is in line is that one, sent again:
    /// it gets that lock, or that place in line.
    ///
    /// # Errors
    /// The lock was not granted.
    fn acquire(
        &self,
        resource: &ResourceName,
        request: LockRequest,
        key: Option<IdempotencyKey>,
        on_wait: &mut dyn FnMut(Departure),
    ) -> Pending<Result<Grant, Refusal>>;

    /// Says that the caller of [`LockManager::acquire`] could not pass on that it was granted
    /// this lock: has it released, unless another caller was told of it, too. With a key, it is
    /// kept for a while. It may be written later.
    fn abandon(&self, resource: &ResourceName, id: LockId);

    /// The lock or waiting request with this id, unless it is gone.
    fn find(&self, resource: &ResourceName, id: LockId) -> Option<Lock>;

    /// Releases a lock, or takes a waiting request out of the line (its caller gets
    /// [`Refusal::Deleted`]).
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`], or it could not be written and is still held.
    fn release(&self, resource: &ResourceName, id: LockId) -> Pending<Result<(), Refusal>>;

    /// The same for what the request with this key has.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`] if it has nothing, or it could not be written and is still held.
    fn release_by_key(
        &self,
        resource: &ResourceName,
        key: &IdempotencyKey,
    ) -> Pending<Result<(), Refusal>>;

    /// Who holds a resource, the first of them, and the key of its request, if it has one.
    fn holder(&self, resource: &ResourceName) -> Option<(Grant, Option<IdempotencyKey>)>;

    /// Lets a lock expire this long from now, sooner or later than it would have.
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
    /// the new one fits beside the other locks, which is waited for up to `conversion.wait`,
    /// before everybody in line. If it has to wait, `on_wait` is called with the means to end the
    /// wait early.
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

    /// At most `limit` resources that have locks, in order of their names, from behind `after`.
    fn resources(&self, after: Option<&ResourceName>, limit: usize) -> Vec<ResourceName>;

    /// The locks of a resource: those that are held first, then those that wait, each in order;
    /// at most `limit` of those behind `after`.
    fn locks(&self, resource: &ResourceName, after: Option<Cursor>, limit: usize) -> Page;

    /// Deletes all locks of a resource, held and waited for.
    ///
    /// # Errors
    /// [`Refusal::NoSuchLock`] if there are none, or it could not be written and all are still
    /// there.
    fn delete_resource(&self, resource: &ResourceName) -> Result<(), Refusal>;

    /// Deletes all locks of all resources.
    ///
    /// # Errors
    /// It could not be written; the locks of some or all resources are still there.
    fn delete_all(&self) -> Result<(), Refusal>;

    /// What happens to locks, for whoever wants to follow it.
    fn events(&self) -> &Arc<Events>;

    /// How many locks there are.
    fn totals(&self) -> Totals;

    /// How long what lasts longest has lasted. Looks at every lock, like a list of all.
    fn ages(&self) -> Ages;

    /// Whether changes can be written, as far as is known.
    ///
    /// # Errors
    /// The latest could not.
    fn writable(&self) -> Result<(), NotWritten>;

    /// Refuses all requests from now on, including those that wait.
    fn shut_down(&self);

    /// Waits until everything is written that was decided before. For one thread, at the end.
    fn settle(&self);
}

/// Some of the locks of a resource, as they are at one moment.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Those that are held first, then those that wait, each in order.
    pub locks: Vec<Lock>,
    /// The modes that the locks on this page wait for.
    pub converting: HashMap<LockId, Mode>,
    /// How many wait on this resource, for a lock or for another mode, with the places that are
    /// kept, on this page or not.
    pub waiting: usize,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<Cursor>,
}

/// How far pages of the locks of a resource have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// Up to the holder with this fencing token.
    Held(u64),
    /// All holders, and those in line up to this arrival.
    Waiting(u64),
}

/// Ends one wait because its client has gone: the request leaves the line, and with a key its
/// place is kept for a while. A lock that was granted meanwhile stays.
pub struct Departure(Box<dyn FnOnce() + Send>);

impl Departure {
    /// `leave` is what ends the wait.
    pub fn new(leave: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(leave))
    }

    /// Ends the wait. Never waits for anything but a mutex.
    pub fn leave(self) {
        (self.0)();
    }
}

/// Is told of the locks that end, when that is done and written, by whoever ended them.
pub trait Observer: Send + Sync {
    /// A lock that had been held for so long, by the wall clock, is held no more, or renewed.
    fn ended(&self, end: End, held: Duration);

    /// The core cannot go on: a thread panicked in the middle of a change, or it is not known
    /// what was written. The process has to end; until then, nothing more is answered.
    fn failed(&self, why: &str);
}

/// For whoever does not want to know.
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
    /// Places in line that are kept for clients that have gone.
    pub kept: usize,
}

/// How long what lasts longest has lasted; zero where there is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ages {
    /// Of the clients that wait.
    pub longest_wait: Duration,
    /// Of the locks that are held.
    pub longest_hold: Duration,
}
