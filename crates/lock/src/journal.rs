//! The journal: makes changes durable before they are applied.
//!
//! Changes queue up, and the thread that has the [`Committer`] commits all of them as one batch with
//! one sync. That is the journal's thread, in [`run`]. The reaper and the deletion of all locks
//! submit many changes before they wait for the first, so these share commits, too. While changes
//! come one at a time, the thread that submits one commits it itself, which saves a switch of
//! threads, until something has queued up meanwhile.
//!
//! A write can fail in two ways. *Refused*: the change has not happened. *Unknown*: nothing may be
//! answered any more, and the process ends. A batch that took so long that its lifetimes would end
//! early after a restart is written once more; if that fails, the outcome is unknown. If there is no
//! space for a batch, those of its changes that free space are tried alone.
//!
//! Requests that wait are not kept, except in a store that keeps places: their connections end with
//! the server.

mod clock;
mod committer;
#[cfg(any(test, feature = "contract"))]
pub(super) mod contract;
mod log;
#[cfg(test)]
pub(super) mod memory;
mod queue;
pub(super) mod store;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;

use std::mem;
use std::sync::Arc;

use super::NotWritten;
use super::nanos::Instant;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Condvar, Mutex, locked, now, poisoned};
use crate::ResourceName;
use committer::{Committer, LastRefusal, Written};
pub use log::FileStore;
use queue::Queue;
use store::{Change, PlaceNote, Remote, Store};

/// With more changes in the queue than this, clients are refused.
const MAX_QUEUED: usize = 16_384;

/// The most notes of places in memory.
const MAX_NOTES: usize = 65_536;

/// A queue of changes, at most one for each resource. Each has a ticket `T`, which identifies the
/// resource whose change has been written.
pub(super) struct Journal<T> {
    state: Mutex<State<T>>,
    /// Signalled when the journal's thread has work.
    work: Condvar,
    /// Signalled when everything submitted has been written.
    settled: Condvar,
    last_refusal: Arc<LastRefusal>,
    /// The length of the queue.
    queued: AtomicUsize,
    /// `None`: the store is on a local disk.
    remote: Option<Remote>,
}

struct State<T> {
    queue: Queue<T>,
    /// To be written along with the next changes.
    notes: Vec<PlaceNote>,
    /// `None` while a thread writes.
    committer: Option<Box<Committer>>,
    /// The latest batch was a single change, and none came meanwhile.
    quiet: bool,
    /// Until when the journal's thread sleeps unless it is woken.
    sleeps_until: Option<Instant>,
    closed: bool,
    /// It is unknown what has been written. The committer does not come back.
    broken: bool,
}

/// A change and its ticket.
pub(super) type Submitted<T> = (Change, T);

/// Completes changes with a ticket `T`.
pub(super) trait Finish<T> {
    /// What others have to be told about a change.
    type News;

    /// Completes a change whose outcome is known. Returns the next change of the same resource, if
    /// there is one.
    fn finish(&self, ticket: T, written: Written) -> (Option<Submitted<T>>, Self::News);

    /// Called when the whole batch is finished: lifetimes begin with that, and must not be delayed
    /// by wake-ups.
    fn tell(&self, news: Self::News);
}

/// A change that the submitting thread has to write: see [`Journal::write_own`].
#[must_use]
pub(super) struct OwnChange<T>(Box<Committer>, Submitted<T>);

/// Who may write a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Only the journal's thread.
    Journal,
    /// Also the thread that submits it, which is blocked until it is written.
    Submitter,
}

impl<T> Journal<T> {
    pub(super) fn new(remote: Option<Remote>) -> Self {
        let state = State {
            queue: Queue::new(),
            notes: Vec::new(),
            committer: None,
            quiet: false,
            sleeps_until: None,
            closed: false,
            broken: false,
        };
        Self {
            state: Mutex::new(state),
            work: Condvar::new(),
            settled: Condvar::new(),
            last_refusal: Arc::default(),
            queued: AtomicUsize::new(0),
            remote,
        }
    }

    /// Whether changes can be written, as far as is known.
    pub(super) fn writable(&self) -> Written {
        self.last_refusal.writable()
    }

    /// Whether a client's change is accepted: it can be expected to be written soon.
    pub(super) fn admits(&self) -> Written {
        if self.remote.as_ref().is_some_and(|remote| !(remote.reachable)()) {
            return Err(NotWritten::Refused("what they are written to does not answer".into()));
        }
        if self.queued.load(Ordering::Relaxed) >= MAX_QUEUED {
            let why = format!("{MAX_QUEUED} changes are waiting to be written");
            return Err(NotWritten::Refused(why.into()));
        }
        Ok(())
    }

    /// Submits a change, to be written after all earlier ones. `Some`: the caller has to write it,
    /// because changes come one at a time. If they do not, the journal's thread takes the next
    /// batch sooner than a waiting thread could be woken.
    pub(super) fn submit(&self, submitted: Submitted<T>, by: By) -> Option<OwnChange<T>> {
        let mut state = locked(&self.state);
        if by == By::Submitter
            && state.quiet
            && state.queue.is_empty()
            && let Some(committer) = state.committer.take_if(|committer| !committer.is_due())
        {
            return Some(OwnChange(committer, submitted));
        }
        state.queue.push(submitted);
        self.count(&state);
        // A thread that is writing looks at the queue again by itself.
        let wake = state.committer.is_some() && state.queue.len() == 1;
        drop(state);
        if wake {
            self.work.notify_one();
        }
        None
    }

    /// Takes back the change of a resource, unless it was handed to the store: it will not be
    /// written. The caller has to finish it.
    pub(super) fn withdraw(&self, resource: &ResourceName) -> Option<T> {
        let mut state = locked(&self.state);
        let ticket = state.queue.withdraw(resource)?;
        self.count(&state);
        let settled = state.committer.is_some() && state.queue.is_empty();
        drop(state);
        if settled {
            self.settled.notify_one();
        }
        Some(ticket)
    }

    fn count(&self, state: &State<T>) {
        self.queued.store(state.queue.len(), Ordering::Relaxed);
    }

    /// Writes a change and finishes it.
    ///
    /// # Errors
    /// It is unknown whether it was written. It is not finished, and nothing may be written any
    /// more: call [`Journal::break_off`].
    pub(super) fn write_own(
        &self,
        OwnChange(mut committer, submitted): OwnChange<T>,
        finish: &impl Finish<T>,
    ) -> Result<(), Arc<str>> {
        let following = self.write(&mut committer, vec![submitted], finish)?;
        if self.give_back(committer, following) {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Has these written along with the next changes. Beyond the limit they are dropped, and the
    /// clients lose their places.
    pub(super) fn note(&self, notes: impl Iterator<Item = PlaceNote>) {
        let mut state = locked(&self.state);
        let room = MAX_NOTES.saturating_sub(state.notes.len());
        state.notes.extend(notes.take(room));
    }

    fn take_notes(&self) -> Vec<PlaceNote> {
        mem::take(&mut locked(&self.state).notes)
    }

    /// Blocks until everything submitted has been written, and what follows from it. Only one
    /// thread may call this at a time.
    pub(super) fn settle(&self) {
        let mut state = locked(&self.state);
        while !state.broken && (state.committer.is_none() || !state.queue.is_empty()) {
            state = self.settled.wait(state).unwrap_or_else(|_| poisoned());
        }
    }

    /// Ends [`run`] when everything submitted is finished.
    pub(super) fn close(&self) {
        locked(&self.state).closed = true;
        self.work.notify_one();
    }

    /// Ends [`run`] at once. The committer is not given back.
    pub(super) fn break_off(&self) {
        locked(&self.state).broken = true;
        self.work.notify_one();
        self.settled.notify_one();
    }

    /// Sleeps until there is a batch to write or something is due, and no other thread writes.
    /// `None`: the queue is empty and closed, or broken.
    fn take(&self) -> Option<(Box<Committer>, Vec<Submitted<T>>)> {
        let mut state = locked(&self.state);
        loop {
            if state.broken {
                return None;
            }
            let has_changes = !state.queue.is_empty();
            let ready = |committer: &mut Box<Committer>| has_changes || committer.is_due();
            if let Some(committer) = state.committer.take_if(ready) {
                let batch = state.queue.take(committer.max_batch());
                self.count(&state);
                return Some((committer, batch));
            }
            if state.closed && state.committer.is_some() {
                return None;
            }
            // A thread that is writing wakes this one if it leaves work.
            let due = state.committer.as_ref().and_then(|committer| committer.due());
            state.sleeps_until = due;
            state = match due {
                None => self.work.wait(state).unwrap_or_else(|_| poisoned()),
                Some(due) => {
                    let left = due.saturating_duration_since(now());
                    self.work.wait_timeout(state, left).unwrap_or_else(|_| poisoned()).0
                }
            };
        }
    }

    /// Lets other threads write again. Changes that follow from the batch go to the end of the
    /// queue, so that no resource starves. Returns whether the journal's thread has to be woken.
    fn give_back(&self, committer: Box<Committer>, following: Vec<Submitted<T>>) -> bool {
        let (due, latest_batch) = (committer.due(), committer.latest_batch());
        let mut state = locked(&self.state);
        following.into_iter().for_each(|submitted| state.queue.push(submitted));
        self.count(&state);
        state.committer = Some(committer);
        let settled = state.queue.is_empty();
        state.quiet = settled && latest_batch == 1;
        let sleeps_until = state.sleeps_until;
        let sooner = due.is_some_and(|due| sleeps_until.is_none_or(|until| due < until));
        let closed = state.closed;
        drop(state);
        if settled {
            self.settled.notify_one();
        }
        !settled || closed || sooner
    }

    /// Writes and finishes a batch. Returns the changes that follow from it.
    fn write(
        &self,
        committer: &mut Committer,
        submitted: Vec<Submitted<T>>,
        finish: &impl Finish<T>,
    ) -> Result<Vec<Submitted<T>>, Arc<str>> {
        if let Some(places) = committer.places() {
            places.note(self.take_notes());
        }
        if submitted.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, tickets): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
        let outcomes = committer.write(&batch)?;
        let finished = tickets.into_iter().zip(outcomes);
        let (next, news): (Vec<_>, Vec<_>) =
            finished.map(|(ticket, written)| finish.finish(ticket, written)).unzip();
        news.into_iter().for_each(|news| finish.tell(news));
        Ok(next.into_iter().flatten().collect())
    }
}

/// The body of the journal's thread. Returns when the journal is closed.
///
/// # Errors
/// It is unknown whether the latest changes were written. They are not finished.
pub(super) fn run<T>(
    journal: &Journal<T>,
    store: Box<dyn Store>,
    finish: &impl Finish<T>,
) -> Result<(), Arc<str>> {
    let committer = Committer::new(store, Arc::clone(&journal.last_refusal));
    journal.give_back(Box::new(committer), Vec::new());
    while let Some((mut committer, submitted)) = journal.take() {
        let following = journal.write(&mut committer, submitted, finish)?;
        committer.do_what_is_due()?;
        journal.give_back(committer, following);
    }
    let committer = locked(&journal.state).committer.take();
    committer.into_iter().for_each(|committer| committer.close());
    Ok(())
}
