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
use store::{Change, PlaceNote, Store, StoreError};

/// How many changes are committed together at most.
const MAX_BATCH: usize = 4_096;

/// How soon it is tried again to write when that was refused and nobody asks.
const RETRY: Duration = Duration::from_secs(1);

/// How many notes of places wait to be written at most.
const MAX_NOTES: usize = 65_536;

/// The changes that are to be written, each with a `T` by which it is finished. A resource has
/// one of them at most.
pub(super) struct Journal<T> {
    queue: Mutex<Queue<T>>,
    /// Signalled when something has come into an empty queue, or it was closed.
    filled: Condvar,
    /// Signalled when everything is written that was submitted.
    settled: Condvar,
    /// Why the latest change that needs room was refused.
    trouble: Mutex<Option<NotWritten>>,
}

struct Queue<T> {
    submitted: Vec<Submitted<T>>,
    /// What may be written with the next changes.
    notes: Vec<PlaceNote>,
    /// What was taken out is not written yet.
    writing: bool,
    closed: bool,
}

/// A change, and how it is finished.
pub(super) type Submitted<T> = (Change, T);

impl<T> Journal<T> {
    pub(super) fn new() -> Self {
        let (submitted, notes) = (Vec::new(), Vec::new());
        let queue = Queue { submitted, notes, writing: false, closed: false };
        Self {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            settled: Condvar::new(),
            trouble: Mutex::new(None),
        }
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

    /// Has these noted with what is written next. If they are too many, they are forgotten: a
    /// client whose place is not known asks anew.
    pub(super) fn note(&self, notes: impl Iterator<Item = PlaceNote>) {
        let mut queue = locked(&self.queue);
        let room = MAX_NOTES.saturating_sub(queue.notes.len());
        queue.notes.extend(notes.take(room));
    }

    fn take_notes(&self) -> Vec<PlaceNote> {
        mem::take(&mut locked(&self.queue).notes)
    }

    /// Waits until everything is written that was submitted, with what follows from it. For one
    /// thread.
    pub(super) fn settle(&self) {
        let mut queue = locked(&self.queue);
        while queue.writing || !queue.submitted.is_empty() {
            queue = self.settled.wait(queue).unwrap_or_else(|_| poisoned());
        }
    }

    /// Ends [`run`] when all that was submitted is finished.
    pub(super) fn close(&self) {
        locked(&self.queue).closed = true;
        self.filled.notify_one();
    }

    /// Sleeps until something is submitted, which it takes, or until `deadline`; `None` when
    /// the queue is empty and closed. `writing`: what was taken before is not written yet.
    fn take(&self, deadline: Option<Instant>, writing: bool) -> Option<Vec<Submitted<T>>> {
        let mut queue = locked(&self.queue);
        queue.writing = writing;
        if !writing && queue.submitted.is_empty() {
            self.settled.notify_one();
        }
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
        queue.writing |= !queue.submitted.is_empty();
        Some(mem::take(&mut queue.submitted))
    }
}

/// The body of the thread that writes. `finish` is called for each change when it is known what
/// became of it, and returns the change that follows from that on the same resource, if one
/// does; and what there is to tell of it, which `tell` does when the whole batch is finished:
/// lifetimes begin at that, and are not to wait for what others are told. Returns when the
/// journal is closed.
///
/// # Errors
/// It is not known whether the latest changes were written. They are not finished.
pub(super) fn run<T, N>(
    journal: &Journal<T>,
    store: Box<dyn Store>,
    finish: impl Fn(T, Result<(), NotWritten>) -> (Option<Submitted<T>>, N),
    tell: impl Fn(N),
) -> Result<(), Arc<str>> {
    let mut writer = Writer { store, trouble: &journal.trouble, failing: false, deposed: false };
    let mut following: Vec<Submitted<T>> = Vec::new();
    let mut latest_checkpoint = now();
    let mut latest_try = latest_checkpoint;
    loop {
        let next_checkpoint = writer.next_checkpoint().map(|after| latest_checkpoint + after);
        // What follows from the latest batch does not wait for more to come.
        let next_probe = writer.failing.then(|| latest_try + RETRY);
        let deadline = next_checkpoint.into_iter().chain(next_probe).min();
        let deadline = if following.is_empty() { deadline } else { Some(now()) };
        let taken = journal.take(deadline, !following.is_empty());
        if taken.is_none() && following.is_empty() {
            writer.store.close();
            return Ok(());
        }
        if writer.store.keeps_places() {
            writer.store.note(journal.take_notes());
        }
        let mut submitted = mem::take(&mut following);
        submitted.extend(taken.into_iter().flatten());
        while !submitted.is_empty() {
            let rest = submitted.split_off(submitted.len().min(MAX_BATCH));
            let (batch, tickets): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
            let outcomes = writer.write(&batch)?;
            latest_try = now();
            let finished = tickets.into_iter().zip(outcomes);
            let (next, news): (Vec<_>, Vec<_>) =
                finished.map(|(ticket, written)| finish(ticket, written)).unzip();
            following.extend(next.into_iter().flatten());
            news.into_iter().for_each(&tell);
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
    /// Another server has taken over: nothing is written any more.
    deposed: bool,
}

impl Writer<'_> {
    /// Writes a batch and returns what became of each change. If the store has no room for all
    /// of them, those that make room are written by themselves.
    fn write(&mut self, batch: &[Change]) -> Result<Vec<Result<(), NotWritten>>, Arc<str>> {
        if self.deposed {
            return Ok(vec![Err(NotWritten::Deposed); batch.len()]);
        }
        let all = self.commit(batch)?;
        // That there is room for what needs none says nothing of the rest.
        if all.is_err() || !batch.iter().all(Change::makes_room) {
            self.tell(&all);
        }
        let freeing: Vec<_> = batch.iter().filter(|c| c.makes_room()).cloned().collect();
        let refused = matches!(all, Err(NotWritten::Refused(_)));
        if !refused || freeing.is_empty() || freeing.len() == batch.len() {
            return Ok(vec![all; batch.len()]);
        }
        let freed = self.commit(&freeing)?;
        let outcome = |change: &Change| if change.makes_room() { &freed } else { &all };
        Ok(batch.iter().map(|change| outcome(change).clone()).collect())
    }

    /// Commits; and once more if that took so long that a lifetime, which begins for the holder
    /// with the answer, would end early after a restart. If that fails, nobody may hear of it.
    fn commit(&mut self, batch: &[Change]) -> Result<Result<(), NotWritten>, Arc<str>> {
        let mut grace = self.store.grace();
        let mut began = now();
        let written = refusal(self.store.commit(batch, grace))?;
        let begins_lifetimes = batch.iter().any(|change| !change.held.is_empty());
        if written.is_ok() && begins_lifetimes {
            while now().saturating_duration_since(began) > grace {
                grace = now().saturating_duration_since(began).saturating_mul(4);
                began = now();
                match self.store.repeat(batch, grace) {
                    Ok(()) => {}
                    Err(StoreError::Deposed) => return Ok(Err(NotWritten::Unknown)),
                    Err(why) => {
                        let why = format!("a write took too long and could not be repeated: {why}");
                        return Err(why.into());
                    }
                }
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

    fn next_checkpoint(&self) -> Option<Duration> {
        self.store.next_checkpoint().filter(|_| !self.deposed)
    }

    /// Takes note of how writing goes: one line in the log for each time that it begins or ceases
    /// to fail.
    fn tell(&mut self, written: &Result<(), NotWritten>) {
        match written {
            Err(NotWritten::Refused(why)) if !self.failing => {
                error!("locks cannot be changed for now: {why}");
            }
            // Whoever keeps it says so.
            Err(NotWritten::Unknown | NotWritten::Deposed) => self.deposed = true,
            Ok(()) if self.failing => info!("locks can be changed again"),
            _ => {}
        }
        if self.failing || written.is_err() {
            *locked(self.trouble) = written.clone().err();
        }
        self.failing = matches!(written, Err(NotWritten::Refused(_)));
    }
}

/// Tells a change that was refused from one of which nothing is known.
fn refusal(written: Result<(), StoreError>) -> Result<Result<(), NotWritten>, Arc<str>> {
    match written {
        Ok(()) => Ok(Ok(())),
        Err(StoreError::Refused(why)) => Ok(Err(NotWritten::Refused(why))),
        Err(StoreError::Deposed) => Ok(Err(NotWritten::Unknown)),
        Err(StoreError::Unknown(why)) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_that_are_too_many_are_forgotten() {
        let journal = Journal::<()>::new();
        let resource: crate::lock::ResourceName = "r".parse().unwrap();
        let notes = |count: u64| (0..count).map(|n| PlaceNote::Left(resource.clone(), n));
        journal.note(notes(MAX_NOTES as u64 - 1));
        journal.note(notes(10));
        assert_eq!(journal.take_notes().len(), MAX_NOTES);
        journal.note(notes(1));
        assert_eq!(journal.take_notes().len(), 1, "there is room again");
    }
}
