//! The store behind the journal: the trait, what it is given, and how it fails.
//!
//! To write another store: implement [`Store`] in a file of its own, give `store_contract` (with
//! the feature `contract`) a function that opens it, and choose it where the server starts: an
//! option of the command line, and the place that opens a store.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::nanos::Instant;
use crate::resource::{Holder, Plan};
use crate::{Grant, IdempotencyKey, LockId, ResourceName, Terms};

/// Keeps held locks beyond the end of the process. One thread at a time calls it.
pub trait Store: Send {
    /// What the journal has to know about this store. Called once, before [`Store::load`].
    fn properties(&self) -> Properties {
        Properties::default()
    }

    /// Hands every lock that is still held to `restore`, and returns the largest fencing token
    /// ever written. Called once, before anything is written.
    ///
    /// # Errors
    /// The contents cannot be used, and were not modified.
    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError>;

    /// Makes the changes durable, in order, at most one for each resource. After a restart, a lock
    /// that they add lives for what remains of its lifetime, counted from now, and for `grace`. An
    /// empty batch changes nothing, and fails if a change that needs space would.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: none of the changes was made. Otherwise a restart may find the
    /// first few of them, or all. It never finds two locks that exclude each other.
    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError>;

    /// Commits the latest batch once more, because that took longer than its grace.
    ///
    /// # Errors
    /// The batch stays committed, but after a restart, its locks may end too early.
    fn repeat(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        self.commit(batch, grace)
    }

    /// Does periodic work, briefly. Changes no lock.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// How long after one checkpoint the next is due; `None`: not before the next commit.
    fn next_checkpoint(&self) -> Option<Duration> {
        None
    }

    /// `Some` if the store also keeps places in line.
    fn places(&mut self) -> Option<&mut dyn PlaceStore> {
        None
    }

    /// Called last, after the final commit.
    fn close(&mut self) {}
}

/// Keeps the places in line of requests with a key. None of this has to be durable: a client
/// whose place is lost goes to the end of the line.
pub trait PlaceStore {
    /// Returns the places that were kept. Called once, after [`Store::load`].
    fn load(&mut self) -> Vec<KeptPlace>;

    /// Notes places that were taken or given up, in order. They are written along with later
    /// commits.
    fn note(&mut self, notes: Vec<PlaceNote>);
}

/// What the journal has to know about a store.
#[derive(Clone)]
pub struct Properties {
    /// How much longer than its lifetime a lock lives after a restart: the holder counts from the
    /// answer, which is sent after the write. A commit that takes longer is repeated.
    pub grace: Duration,
    /// The most changes in one batch. Only changes that are not in a batch yet can be withdrawn.
    pub max_batch: usize,
    /// How long a commit can take.
    pub latency: Latency,
}

impl Default for Properties {
    fn default() -> Self {
        Self { grace: Duration::from_secs(1), max_batch: 4_096, latency: Latency::Bounded }
    }
}

/// How long a commit can take.
#[derive(Clone)]
pub enum Latency {
    /// It succeeds or fails soon, as on a local disk. So any thread may wait for it.
    Bounded,
    /// As long as something else cannot be reached.
    Unbounded(Remote),
}

/// What a store writes to over a network.
#[derive(Clone)]
pub struct Remote {
    /// How long a client waits for its change. Then a change that was not handed to
    /// [`Store::commit`] is withdrawn, and of any other the client learns that its outcome is
    /// unknown.
    pub patience: Duration,
    /// Tells any thread, without blocking, whether changes can be written for now. If not, clients
    /// are refused at once.
    pub reachable: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Latency {
    /// The remote that a commit may have to wait for.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        match self {
            Self::Bounded => None,
            Self::Unbounded(remote) => Some(remote),
        }
    }
}

/// Receives the locks of a store at the start.
pub trait Restore: Sync {
    /// Receives one lock. Several threads may call this, with the locks in any order.
    fn restore(&self, lock: RestoredLock);

    /// Called once, after all locks.
    ///
    /// # Errors
    /// Two of them exclude each other.
    fn complete(&self) -> Result<(), Conflict>;
}

/// A lock that was held before the restart.
#[derive(Debug, Clone)]
pub struct RestoredLock {
    /// The resource.
    pub resource: ResourceName,
    /// The lock.
    pub held: HeldLock,
}

/// A restored lock that excludes another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The resource.
    pub resource: ResourceName,
    /// Its fencing token.
    pub token: u64,
}

/// Locks on one resource that end, and others that begin. A lock that is renewed or converted is
/// both removed and added.
#[derive(Debug, Clone)]
pub struct Change {
    /// The resource.
    pub resource: ResourceName,
    /// The fencing tokens of the locks that end.
    pub removed: Vec<u64>,
    /// The locks that are held from now on.
    pub added: Vec<HeldLock>,
}

/// A held lock.
#[derive(Debug, Clone)]
pub struct HeldLock {
    /// The lock.
    pub grant: Grant,
    /// The key of its request.
    pub key: Option<IdempotencyKey>,
    /// How long it lives from now on; `None`: until it is released.
    pub remaining: Option<Duration>,
}

/// The place in line of a request with a key. A client that repeats the request gets it back.
#[derive(Debug, Clone)]
pub struct KeptPlace {
    /// The id of the lock, once it is granted.
    pub id: LockId,
    /// The resource.
    pub resource: ResourceName,
    /// What was asked for.
    pub terms: Terms,
    /// The key of the request.
    pub key: IdempotencyKey,
    /// Smaller than that of every later request.
    pub arrival: u64,
    /// When it joined the line, for display.
    pub since: SystemTime,
}

/// A change of the line.
#[derive(Debug, Clone)]
pub enum PlaceNote {
    /// A request with a key has joined.
    Joined(Box<KeptPlace>),
    /// The request with this arrival has left.
    Left(ResourceName, u64),
}

impl Change {
    /// `None` if the plan changes no held lock.
    pub(crate) fn of(plan: &Plan, resource: &ResourceName, now: Instant) -> Option<Self> {
        let added: Vec<_> = plan.holders().map(|holder| HeldLock::of(holder, now)).collect();
        let removed: Vec<_> = plan.ended_tokens().collect();
        let nothing = removed.is_empty() && added.is_empty();
        (!nothing).then(|| Self { resource: resource.clone(), removed, added })
    }

    /// Whether there are no more locks afterwards than before.
    pub(crate) fn frees_space(&self) -> bool {
        self.added.len() <= self.removed.len()
    }
}

impl HeldLock {
    fn of(holder: &Holder, now: Instant) -> Self {
        let (grant, key) = (holder.grant(), holder.key().cloned());
        Self { grant, key, remaining: holder.remaining(now) }
    }
}

/// Why a batch was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// No change was made, and a restart will find none.
    Refused(Arc<str>),
    /// A restart may find the batch or not: nothing may be answered any more.
    Unknown(Arc<str>),
    /// Another server owns the store now. It may have found this batch, and will find no later
    /// one.
    Fenced,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Unknown(why) => f.write_str(why),
            Self::Fenced => f.write_str("another server has taken over"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Why the locks of an earlier run cannot be restored.
#[derive(Debug)]
pub enum OpenError {
    /// The operating system refuses the directory or the file.
    Unusable(PathBuf, io::Error),
    /// Another server uses the directory.
    InUse(PathBuf),
    /// The file is damaged, or rdlm has not written it.
    Damaged(PathBuf, Arc<str>),
    /// The file is in the format of a version before 1.0.
    Outdated(PathBuf),
    /// A newer version has written the file, in a format that this one cannot read.
    Newer(PathBuf),
    /// A remote store cannot be used, or another server has taken it over.
    Lost(Arc<str>),
    /// A thread could not be started.
    Thread(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(path, error) => write!(f, "cannot use {}: {error}", path.display()),
            Self::InUse(dir) => write!(f, "{} is in use by another server", dir.display()),
            Self::Damaged(path, why) => write!(
                f,
                "{} is damaged or not a journal of rdlm: {why}; it is left as it is. \
                 docs/durability.md says what to do",
                path.display()
            ),
            Self::Outdated(path) => write!(
                f,
                "{} is of an earlier version of rdlm and cannot be read by this one: wait until no \
                 lock is held that it has, at most for the longest lifetime in use, and move it \
                 away",
                path.display()
            ),
            Self::Newer(path) => write!(
                f,
                "{} was written by a newer rdlm than this one ({}): start that version again; the \
                 file is left as it is",
                path.display(),
                env!("CARGO_PKG_VERSION")
            ),
            Self::Lost(why) => f.write_str(why),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}
