//! What survives a crash: who holds which lock.
//!
//! A [`Journal`] is a queue and a thread. The thread takes all changes that have queued up,
//! commits them as one transaction (group commit), and then tells each of who submitted them
//! what became of it. Requests that wait are not kept: their connections end with the server.

mod backend;
mod boot;
mod row;
mod store;

use std::fmt;
use std::io;
use std::iter;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{error, info};

use super::resource::Holder;
use super::table::poisoned;
use super::{IdempotencyKey, Lock, NotWritten, ResourceName};
use boot::BootClock;
use store::Store;

/// How many changes may be in the queue. More than requests can be in flight, so that who
/// submits one does not wait here, but with its receipt.
const QUEUE: usize = 16_384;

/// How many changes are committed together at most.
const MAX_BATCH: usize = 4_096;

/// How much longer than its lifetime a lock lives after a restart: its holder counts from the
/// answer, which is sent when the lock is on disk.
const COMMIT_GRACE: Duration = Duration::from_secs(1);

/// How often the remaining lifetimes are brought up to date on disk.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// The locks that are held, in a file. One server at a time has it.
pub struct Journal {
    /// `None` only while it is dropped.
    queue: Option<Sender<Submitted>>,
    writer: Option<JoinHandle<()>>,
    restored: Vec<Restored>,
    last_token: u64,
}

impl Journal {
    /// Opens the journal in a directory, and makes both if they are missing. Starts the
    /// writer thread. A lock that was held when an earlier server ended has `restart_grace`
    /// from now at least, once.
    ///
    /// # Errors
    /// See [`OpenError`]; a file that was there is as it was.
    pub fn open(dir: &Path, restart_grace: Duration) -> Result<Self, OpenError> {
        let (store, restored) = Store::open(dir, restart_grace, BootClock::of_this_boot())?;
        let last_token = store.last_token();
        let (queue, submitted) = bounded(QUEUE);
        let writer = thread::Builder::new()
            .name("journal".into())
            .spawn(move || Writer { store, failing: false }.run(&submitted))
            .map_err(|error| OpenError::Unusable(dir.into(), error))?;
        Ok(Self { queue: Some(queue), writer: Some(writer), restored, last_token })
    }

    /// How many locks are still held from before the restart.
    pub fn restored(&self) -> usize {
        self.restored.len()
    }

    /// Those locks.
    pub(super) fn take_restored(&mut self) -> Vec<Restored> {
        std::mem::take(&mut self.restored)
    }

    /// The largest fencing token that was ever written, when the journal was opened.
    pub(super) fn last_token(&self) -> u64 {
        self.last_token
    }

    /// Has a change written, after all that have been submitted before.
    pub(super) fn submit(&self, change: Change) -> Receipt {
        let outcome = Arc::new(OnceLock::new());
        let receipt = Receipt(Arc::clone(&outcome));
        let submitted = Submitted { change, outcome, submitter: thread::current() };
        if let Some(queue) = &self.queue {
            // If the writer is gone, what was submitted is dropped, and the receipt tells that.
            let _ = queue.send(submitted);
        }
        receipt
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has told everybody by its receipts.
            let _ = writer.join();
        }
    }
}

/// A lock that is held since before the restart.
#[derive(Debug, Clone)]
pub(super) struct Restored {
    pub(super) resource: ResourceName,
    pub(super) lock: Lock,
    pub(super) key: Option<IdempotencyKey>,
    /// How long it lives from now on.
    pub(super) remaining: Duration,
}

/// Some locks on a resource are held no more, others are from now on. A lock that is renewed is
/// one of both.
#[derive(Debug, Clone)]
pub(super) struct Change {
    resource: ResourceName,
    ended: Vec<Held>,
    held: Vec<Held>,
}

/// What is kept of a lock that is held.
#[derive(Debug, Clone)]
struct Held {
    lock: Lock,
    key: Option<IdempotencyKey>,
}

impl Change {
    /// `None` if nothing has changed.
    pub(super) fn new<'a>(
        resource: &ResourceName,
        ended: impl Iterator<Item = &'a Holder>,
        held: impl Iterator<Item = &'a Holder>,
    ) -> Option<Self> {
        let (ended, held): (Vec<_>, Vec<_>) =
            (ended.map(Held::from).collect(), held.map(Held::from).collect());
        let nothing = ended.is_empty() && held.is_empty();
        (!nothing).then(|| Self { resource: resource.clone(), ended, held })
    }

    /// What undoes this one.
    fn inverse(&self) -> Self {
        let Self { resource, ended, held } = self.clone();
        Self { resource, ended: held, held: ended }
    }
}

impl From<&Holder> for Held {
    fn from(holder: &Holder) -> Self {
        Self { lock: holder.lock.clone(), key: holder.key().cloned() }
    }
}

/// Tells the thread that submitted a change whether it is on disk.
///
/// The thread parks until then. A channel would let it spin before it sleeps, and here dozens
/// of threads wait for one.
#[must_use]
pub(super) struct Receipt(Arc<Outcome>);

type Outcome = OnceLock<Result<(), NotWritten>>;

impl Receipt {
    /// Sleeps until the change is on disk. Only for the thread that has submitted it.
    ///
    /// # Errors
    /// It is not, and will not be.
    pub(super) fn wait(self) -> Result<(), NotWritten> {
        loop {
            match self.0.get() {
                Some(outcome) => return outcome.clone(),
                None => thread::park(),
            }
        }
    }
}

struct Submitted {
    change: Change,
    outcome: Arc<Outcome>,
    submitter: Thread,
}

impl Submitted {
    fn tell(&self, outcome: Result<(), NotWritten>) {
        // Only the first word counts.
        if self.outcome.set(outcome).is_ok() {
            self.submitter.unpark();
        }
    }
}

impl Drop for Submitted {
    /// Nobody is left without a word, also if the writer panics.
    fn drop(&mut self) {
        self.tell(Err(NotWritten("the journal has ended".into())));
    }
}

/// The thread that writes.
struct Writer {
    store: Store,
    /// The last commit failed, and the log says so.
    failing: bool,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Submitted>) {
        let mut checkpoint = Instant::now() + CHECKPOINT;
        loop {
            match self.next(queue, checkpoint) {
                Ok(first) => {
                    let more = queue.try_iter().take(MAX_BATCH - 1);
                    self.commit(iter::once(first).chain(more).collect());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= checkpoint {
                let written = self.store.checkpoint();
                self.tell(&written.map_err(|error| NotWritten(error.to_string().into())));
                checkpoint = Instant::now() + CHECKPOINT;
            }
        }
    }

    /// The next change, or that it is time for a checkpoint, which an empty journal needs not.
    fn next(
        &self,
        queue: &Receiver<Submitted>,
        checkpoint: Instant,
    ) -> Result<Submitted, RecvTimeoutError> {
        if self.store.is_empty() {
            return queue.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        queue.recv_deadline(checkpoint)
    }

    fn commit(&mut self, batch: Vec<Submitted>) {
        let changes = batch.iter().map(|submitted| &submitted.change);
        // What a panic leaves on disk is not known, so nobody may hear that nothing changed.
        let commit = AssertUnwindSafe(|| self.commit_in_time(changes));
        let written = panic::catch_unwind(commit).unwrap_or_else(|_| poisoned());
        let written = written.map_err(|error| NotWritten(error.to_string().into()));
        self.tell(&written);
        batch.iter().for_each(|submitted| submitted.tell(written.clone()));
    }

    /// Commits, and once more if that took so long that a lifetime, which begins for the holder
    /// with the answer, would end early after a restart.
    fn commit_in_time<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change> + Clone,
    ) -> Result<(), redb::Error> {
        let mut grace = COMMIT_GRACE;
        let mut began = Instant::now();
        self.store.commit(changes.clone(), grace)?;
        while began.elapsed() > grace {
            grace = began.elapsed() * 4;
            began = Instant::now();
            if self.store.commit(changes.clone(), grace).is_err() {
                // They are on disk since the first time; the next commit meets the error again.
                self.store.stand_by_failed_commit();
                break;
            }
        }
        Ok(())
    }

    /// One line in the log for each time that writing begins or ceases to fail.
    fn tell(&mut self, written: &Result<(), NotWritten>) {
        match written {
            Err(error) if !self.failing => error!("locks cannot be changed for now: {error}"),
            Ok(()) if self.failing => info!("locks can be changed again"),
            _ => {}
        }
        self.failing = written.is_err();
    }
}

/// Why a journal cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The directory or the file cannot be used.
    Unusable(PathBuf, io::Error),
    /// Another server uses the directory.
    InUse(PathBuf),
    /// The file is damaged, or not one of this server's.
    Damaged(PathBuf, Arc<str>),
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
        }
    }
}

impl std::error::Error for OpenError {}
