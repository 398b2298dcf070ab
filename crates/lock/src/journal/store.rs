//! What a journal writes to: a file, or whatever else keeps what it is given.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::nanos::Instant;
use crate::resource::{Holder, Plan};
use crate::{Grant, IdempotencyKey, LockId, ResourceName, Terms};

/// Keeps the locks that are held. One thread calls it at a time.
pub trait Store: Send {
    /// Hands the locks that are still held to `restore`, and returns the largest fencing token
    /// that was ever written. Called once, before everything else.
    ///
    /// # Errors
    /// What is there cannot be used, and is left as it is.
    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError>;

    /// Returns the places in line that were kept, after the locks. They are kept for a while.
    ///
    /// # Errors
    /// See [`Store::load`].
    fn load_places(&mut self) -> Result<Vec<KeptPlace>, OpenError> {
        Ok(Vec::new())
    }

    /// Whether [`Store::note`] is of use.
    fn keeps_places(&self) -> bool {
        false
    }

    /// Takes note of places in line that have come or gone, in order, to be written when there is
    /// an opportunity: nobody waits for that.
    fn note(&mut self, _: Vec<PlaceNote>) {}

    /// How much longer than its lifetime a lock lives after a restart: its holder counts from the
    /// answer, which is sent when the lock is written.
    fn grace(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Writes these changes, in order, all of them or none. After a restart, a lock that is
    /// granted or renewed by them lives `grace` longer than its lifetime, counted from now.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError>;

    /// Writes a batch again that took longer than its grace. It has been written: whatever
    /// goes wrong here undoes nothing.
    ///
    /// # Errors
    /// After a restart, its locks may live shorter than their holders think, if they hear of
    /// them now.
    fn repeat(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError>;

    /// Does some of what has to be done now and then, so little that nobody waits for it.
    ///
    /// # Errors
    /// See [`StoreError`]; what is kept is as it was.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Writes something that says nothing, to see whether a change would be written for which
    /// room is needed.
    ///
    /// # Errors
    /// See [`StoreError`].
    fn probe(&mut self) -> Result<(), StoreError> {
        self.commit(&[], Duration::ZERO)
    }

    /// How many changes a batch has at most. Those that are not in it yet can be withdrawn.
    fn max_batch(&self) -> usize {
        4_096
    }

    /// How long a client waits for its change. One that has not been handed to [`Store::commit`]
    /// by then is withdrawn; of one that has been, the client is told that nobody knows. `None`:
    /// however long it takes.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// `None`: changes can always be written, as far as is known before it is tried.
    fn reachable(&self) -> Option<Reachable> {
        None
    }

    /// Called last, when all that was to be written is.
    fn close(&mut self) {}

    /// How long after the latest call [`Store::checkpoint`] wants the next one; `None`: not
    /// before the next commit.
    fn next_checkpoint(&self) -> Option<Duration> {
        None
    }
}

/// Tells any thread, without waiting for anything, whether changes can be written for now. If not,
/// clients that ask for some are refused at once.
pub type Reachable = Arc<dyn Fn() -> bool + Send + Sync>;

/// Takes locks over from a store.
pub trait Restore: Sync {
    /// Takes one over. Several threads may call it, in any order of the locks.
    fn restore(&self, lock: Restored);

    /// All that there are were taken over. Called once, last.
    ///
    /// # Errors
    /// One cannot be held beside others.
    fn complete(&self) -> Result<(), Misfit>;
}

/// A lock that has been held since before the restart.
#[derive(Debug, Clone)]
pub struct Restored {
    /// On which resource.
    pub resource: ResourceName,
    /// The lock.
    pub held: Held,
}

/// A lock that cannot be held beside others that were restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// On which resource.
    pub resource: ResourceName,
    /// Its fencing token.
    pub token: u64,
}

/// Some locks on a resource are held no more, others are from now on. A lock that is renewed
/// or converted is one of both.
#[derive(Debug, Clone)]
pub struct Change {
    /// The resource.
    pub resource: ResourceName,
    /// The fencing tokens of those that are held no more.
    pub ended: Vec<u64>,
    /// Those that are held from now on.
    pub held: Vec<Held>,
}

/// What is kept of a lock that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// The lock.
    pub grant: Grant,
    /// The key that it was asked for with.
    pub key: Option<IdempotencyKey>,
    /// How long it lives from now on; `None`: until it is released.
    pub remaining: Option<Duration>,
}

/// The place in line of a request with a key, which is the client's again when it asks again.
#[derive(Debug, Clone)]
pub struct KeptPlace {
    /// The id of the lock, once it is granted.
    pub id: LockId,
    /// In which line.
    pub resource: ResourceName,
    /// What was asked for.
    pub terms: Terms,
    /// The key that it was asked for with.
    pub key: IdempotencyKey,
    /// Smaller than that of every request that came later.
    pub arrival: u64,
    /// When it joined the line, for display.
    pub since: SystemTime,
}

/// A place in line has come or gone.
#[derive(Debug, Clone)]
pub enum PlaceNote {
    /// Of a request with a key.
    Joined(Box<KeptPlace>),
    /// The one of this arrival.
    Left(ResourceName, u64),
}

impl Change {
    /// `None` if the plan is not about locks that are held.
    pub(crate) fn of(plan: &Plan, resource: &ResourceName, now: Instant) -> Option<Self> {
        let held: Vec<_> = plan.holders().map(|holder| Held::of(holder, now)).collect();
        let ended: Vec<_> = plan.ended_tokens().collect();
        let nothing = ended.is_empty() && held.is_empty();
        (!nothing).then(|| Self { resource: resource.clone(), ended, held })
    }

    /// Whether no more is held after it than before.
    pub(crate) fn makes_room(&self) -> bool {
        self.held.len() <= self.ended.len()
    }
}

impl Held {
    fn of(holder: &Holder, now: Instant) -> Self {
        let (grant, key) = (holder.grant(), holder.key().cloned());
        Self { grant, key, remaining: holder.remaining(now) }
    }
}

/// Why a batch was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// Nothing of it was written, and nothing will be found after a restart.
    Refused(Arc<str>),
    /// It may or may not be found after a restart: nothing may be answered any more.
    Unknown(Arc<str>),
    /// The store has been fenced: it takes no further writes from this process. Whether this
    /// batch was written is unknown; nothing after it will be.
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

/// Why the locks of an earlier run cannot be had.
#[derive(Debug)]
pub enum OpenError {
    /// The directory or the file cannot be used.
    Unusable(PathBuf, io::Error),
    /// Another server uses the directory.
    InUse(PathBuf),
    /// The file is damaged, or not one of this server's.
    Damaged(PathBuf, Arc<str>),
    /// The file is one of an earlier version, which kept locks in another way.
    Outdated(PathBuf),
    /// A newer version has written the file, with something that this one does not know.
    Newer(PathBuf),
    /// What keeps the locks cannot be read, or has been taken over by another server.
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
