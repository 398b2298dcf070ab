//! What survives a crash: who holds which lock.
//!
//! A [`Journal`] is a queue. [`run`] is the thread that takes all changes which have queued up,
//! has them written to a [`Store`] as one batch (group commit), and then finishes each of them.
//! Requests that wait are not kept: their connections end with the server.

mod clock;
mod log;
#[cfg(all(test, shuttle))]
pub(super) mod memory;
pub(super) mod store;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::log::{error, info};

use super::NotWritten;
use super::sync::{Condvar, Mutex, locked, now, poisoned};
pub use log::FileStore;
use store::{Change, Store, StoreError};

/// How many changes are committed together at most.
const MAX_BATCH: usize = 4_096;

/// How much longer than its lifetime a lock lives after a restart: its holder counts from the
/// answer, which is sent when the lock is written.
const COMMIT_GRACE: Duration = Duration::from_secs(1);

/// How soon it is tried again to write when that was refused and nobody asks.
const RETRY: Duration = Duration::from_secs(1);

/// The changes that are to be written, each with a `T` by which it is finished. A resource has
/// one of them at most, so their number is bounded by that of the requests in flight.
pub(super) struct Journal<T> {
    queue: Mutex<Queue<T>>,
    /// Signalled when something has come into an empty queue, or it was closed.
    filled: Condvar,
    /// Why the latest change that needs room was refused.
    trouble: Mutex<Option<NotWritten>>,
}

struct Queue<T> {
    submitted: Vec<Submitted<T>>,
    closed: bool,
}

/// A change, and how it is finished.
pub(super) type Submitted<T> = (Change, T);

impl<T> Journal<T> {
    pub(super) fn new() -> Self {
        let queue = Queue { submitted: Vec::new(), closed: false };
        Self { queue: Mutex::new(queue), filled: Condvar::new(), trouble: Mutex::new(None) }
    }

    /// Whether changes can be written, as far as is known.
    pub(super) fn writable(&self) -> Result<(), NotWritten> {
        locked(&self.trouble).clone().map_or(Ok(()), Err)
    }

    /// Has a change written, after all that were submitted before.
    pub(super) fn submit(&self, submitted: Submitted<T>) {
        let mut queue = locked(&self.queue);
        queue.submitted.push(submitted);
        let first = queue.submitted.len() == 1;
        drop(queue);
        if first {
            self.filled.notify_one();
        }
    }

    /// Ends [`run`] when all that was submitted is finished.
    pub(super) fn close(&self) {
        locked(&self.queue).closed = true;
        self.filled.notify_one();
    }

    /// Sleeps until something is submitted, which it takes, or until `deadline`; `None` when
    /// the queue is empty and closed.
    fn take(&self, deadline: Option<Instant>) -> Option<Vec<Submitted<T>>> {
        let mut queue = locked(&self.queue);
        while queue.submitted.is_empty() {
            if queue.closed {
                return None;
            }
            queue = match deadline {
                None => self.filled.wait(queue).unwrap_or_else(|_| poisoned()),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(now());
                    if left.is_zero() {
                        break;
                    }
                    self.filled.wait_timeout(queue, left).unwrap_or_else(|_| poisoned()).0
                }
            };
        }
        Some(mem::take(&mut queue.submitted))
    }
}

/// The body of the thread that writes. `finish` is called for each change when it is known what
/// became of it, and returns the change that follows from that on the same resource, if one
/// does. Returns when the journal is closed.
///
/// # Errors
/// It is not known whether the latest changes were written. They are not finished.
pub(super) fn run<T>(
    journal: &Journal<T>,
    store: Box<dyn Store>,
    finish: impl Fn(T, Result<(), NotWritten>) -> Option<Submitted<T>>,
) -> Result<(), Arc<str>> {
    let mut writer = Writer { store, trouble: &journal.trouble, failing: false };
    let mut following: Vec<Submitted<T>> = Vec::new();
    let mut latest_checkpoint = now();
    let mut latest_try = latest_checkpoint;
    loop {
        let next_checkpoint = writer.store.next_checkpoint().map(|after| latest_checkpoint + after);
        // What follows from the latest batch does not wait for more to come.
        let next_probe = writer.failing.then(|| latest_try + RETRY);
        let deadline = next_checkpoint.into_iter().chain(next_probe).min();
        let deadline = if following.is_empty() { deadline } else { Some(now()) };
        let taken = journal.take(deadline);
        if taken.is_none() && following.is_empty() {
            return Ok(());
        }
        let mut submitted = mem::take(&mut following);
        submitted.extend(taken.into_iter().flatten());
        while !submitted.is_empty() {
            let rest = submitted.split_off(submitted.len().min(MAX_BATCH));
            let (batch, tickets): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
            let outcomes = writer.write(&batch)?;
            latest_try = now();
            let finished = tickets.into_iter().zip(outcomes);
            following.extend(finished.filter_map(|(ticket, written)| finish(ticket, written)));
            submitted = rest;
        }
        if writer.failing && latest_try + RETRY <= now() {
            writer.probe()?;
            latest_try = now();
        }
        if next_checkpoint.is_some_and(|next| next <= now()) {
            writer.checkpoint()?;
            latest_checkpoint = now();
        }
    }
}

struct Writer<'j> {
    store: Box<dyn Store>,
    trouble: &'j Mutex<Option<NotWritten>>,
    /// There is trouble, and the log says so.
    failing: bool,
}

impl Writer<'_> {
    /// Writes a batch and returns what became of each change. If the store has no room for all
    /// of them, those that make room are written by themselves.
    fn write(&mut self, batch: &[Change]) -> Result<Vec<Result<(), NotWritten>>, Arc<str>> {
        let all = self.commit(batch)?;
        // That there is room for what needs none says nothing of the rest.
        if all.is_err() || !batch.iter().all(Change::makes_room) {
            self.tell(&all);
        }
        let freeing: Vec<_> = batch.iter().filter(|c| c.makes_room()).cloned().collect();
        if all.is_ok() || freeing.is_empty() || freeing.len() == batch.len() {
            return Ok(vec![all; batch.len()]);
        }
        let freed = self.commit(&freeing)?;
        let outcome = |change: &Change| if change.makes_room() { &freed } else { &all };
        Ok(batch.iter().map(|change| outcome(change).clone()).collect())
    }

    /// Commits; and once more if that took so long that a lifetime, which begins for the holder
    /// with the answer, would end early after a restart. If that fails, nobody may hear of it.
    fn commit(&mut self, batch: &[Change]) -> Result<Result<(), NotWritten>, Arc<str>> {
        let mut grace = COMMIT_GRACE;
        let mut began = now();
        let written = refusal(self.store.commit(batch, grace))?;
        let begins_lifetimes = batch.iter().any(|change| !change.held.is_empty());
        if written.is_ok() && begins_lifetimes {
            while now().saturating_duration_since(began) > grace {
                grace = now().saturating_duration_since(began).saturating_mul(4);
                began = now();
                self.store.repeat(batch, grace).map_err(|why| {
                    format!("a write took too long and could not be repeated: {why}")
                })?;
            }
        }
        Ok(written)
    }

    fn checkpoint(&mut self) -> Result<(), Arc<str>> {
        if let Err(why) = refusal(self.store.checkpoint())? {
            self.tell(&Err(why));
        }
        Ok(())
    }

    fn probe(&mut self) -> Result<(), Arc<str>> {
        let written = refusal(self.store.probe())?;
        self.tell(&written);
        Ok(())
    }

    /// One line in the log for each time that writing begins or ceases to fail.
    fn tell(&mut self, written: &Result<(), NotWritten>) {
        match written {
            Err(why) if !self.failing => error!("locks cannot be changed for now: {why}"),
            Ok(()) if self.failing => info!("locks can be changed again"),
            _ => {}
        }
        if self.failing || written.is_err() {
            *locked(self.trouble) = written.clone().err();
        }
        self.failing = written.is_err();
    }
}

/// Tells a change that was refused from one of which nothing is known.
fn refusal(written: Result<(), StoreError>) -> Result<Result<(), NotWritten>, Arc<str>> {
    match written {
        Ok(()) => Ok(Ok(())),
        Err(StoreError::Refused(why)) => Ok(Err(NotWritten(why))),
        Err(StoreError::Unknown(why)) => Err(why),
    }
}
