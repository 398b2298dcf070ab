//! What survives a crash: who holds which lock.
//!
//! A [`Journal`] is a queue of changes. Whoever has its [`Writer`] has all that have queued up
//! written as one batch (group commit), and then finishes each of them. That is the thread of
//! [`run`]; or, as long as changes come one at a time, the thread that has submitted one, which
//! then has to wait for nobody. Requests that wait are not kept: their connections end with the
//! server.

mod clock;
mod log;
#[cfg(all(test, shuttle))]
pub(super) mod memory;
pub(super) mod store;
mod writer;

use std::mem;
use std::sync::Arc;

use super::NotWritten;
use super::nanos::Instant;
use super::sync::{Condvar, Mutex, locked, now, poisoned};
pub use log::FileStore;
use store::{Change, PlaceNote, Store};
use writer::{Trouble, Writer};

/// How many changes are committed together at most.
const MAX_BATCH: usize = 4_096;

/// How many notes of places wait to be written at most.
const MAX_NOTES: usize = 65_536;

/// The changes that are to be written, each with a `T` by which it is finished. A resource has
/// one of them at most.
pub(super) struct Journal<T> {
    queue: Mutex<Queue<T>>,
    /// Signalled when the thread of [`run`] has something to do.
    filled: Condvar,
    /// Signalled when everything is written that was submitted.
    settled: Condvar,
    trouble: Arc<Trouble>,
}

struct Queue<T> {
    submitted: Vec<Submitted<T>>,
    /// What may be written with the next changes.
    notes: Vec<PlaceNote>,
    /// `None` while somebody writes.
    writer: Option<Box<Writer>>,
    /// The latest change was written by itself, and nothing came meanwhile.
    quiet: bool,
    /// Until when the thread of [`run`] sleeps if nobody wakes it.
    sleeps_until: Option<Instant>,
    closed: bool,
    /// What is written is not known: the writer does not come back.
    broken: bool,
}

/// A change, and how it is finished.
pub(super) type Submitted<T> = (Change, T);

/// How changes that were submitted with a `T` are finished.
pub(super) trait Finish<T> {
    /// What there is to tell of a change.
    type News;

    /// Finishes a change of which it is known what became of it. Returns the change that follows
    /// from that on the same resource, if one does.
    fn finish(
        &self,
        ticket: T,
        written: Result<(), NotWritten>,
    ) -> (Option<Submitted<T>>, Self::News);

    /// Tells of it when the whole batch is finished: lifetimes begin at that, and are not to wait
    /// for what others are told.
    fn tell(&self, news: Self::News);
}

/// A change that its own thread writes: see [`Journal::write_own`].
#[must_use]
pub(super) struct Own<T>(Box<Writer>, Submitted<T>);

/// Who may write a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// Only the thread of [`run`].
    Journal,
    /// Also the thread that submits it, which does nothing else until it is written.
    Submitter,
}

impl<T> Journal<T> {
    pub(super) fn new() -> Self {
        let queue = Queue {
            submitted: Vec::new(),
            notes: Vec::new(),
            writer: None,
            quiet: false,
            sleeps_until: None,
            closed: false,
            broken: false,
        };
        Self {
            queue: Mutex::new(queue),
            filled: Condvar::new(),
            settled: Condvar::new(),
            trouble: Arc::default(),
        }
    }

    /// Whether changes can be written, as far as is known.
    pub(super) fn writable(&self) -> Result<(), NotWritten> {
        self.trouble.writable()
    }

    /// Has a change written, after all that were submitted before. `Some`: the caller has to
    /// write it, since changes come one at a time. Where they do not, the thread of [`run`] has
    /// the next batch sooner than whoever would have to wake it.
    pub(super) fn submit(&self, submitted: Submitted<T>, by: By) -> Option<Own<T>> {
        let mut queue = locked(&self.queue);
        if by == By::Submitter
            && queue.quiet
            && queue.submitted.is_empty()
            && let Some(writer) = queue.writer.take()
        {
            return Some(Own(writer, submitted));
        }
        queue.submitted.push(submitted);
        // Whoever writes looks for more.
        let wake = queue.writer.is_some() && queue.submitted.len() == 1;
        drop(queue);
        if wake {
            self.filled.notify_one();
        }
        None
    }

    /// Writes a change and finishes it.
    ///
    /// # Errors
    /// It is not known whether it was written. It is not finished, and nothing is written any
    /// more: call [`Journal::break_off`].
    pub(super) fn write_own(
        &self,
        Own(mut writer, submitted): Own<T>,
        finish: &impl Finish<T>,
    ) -> Result<(), Arc<str>> {
        let following = self.write(&mut writer, vec![submitted], finish)?;
        if self.give_back(writer, following) {
            self.filled.notify_one();
        }
        Ok(())
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
        while !queue.broken && (queue.writer.is_none() || !queue.submitted.is_empty()) {
            queue = self.settled.wait(queue).unwrap_or_else(|_| poisoned());
        }
    }

    /// Ends [`run`] when all that was submitted is finished.
    pub(super) fn close(&self) {
        locked(&self.queue).closed = true;
        self.filled.notify_one();
    }

    /// Ends [`run`] at once: whoever had the writer does not give it back.
    pub(super) fn break_off(&self) {
        locked(&self.queue).broken = true;
        self.filled.notify_one();
        self.settled.notify_one();
    }

    /// Sleeps until there is something to write or to do, and nobody else writes; `None` when the
    /// queue is empty and closed, or broken.
    fn take(&self) -> Option<(Box<Writer>, Vec<Submitted<T>>)> {
        let mut queue = locked(&self.queue);
        loop {
            if queue.broken {
                return None;
            }
            let due = queue.writer.as_ref().and_then(|writer| writer.due());
            let has_work = !queue.submitted.is_empty() || due.is_some_and(|due| due <= now());
            if has_work && let Some(writer) = queue.writer.take() {
                return Some((writer, mem::take(&mut queue.submitted)));
            }
            if queue.closed && queue.writer.is_some() {
                return None;
            }
            // Whoever writes wakes this thread if there is anything left to do.
            queue.sleeps_until = due;
            queue = match due {
                None => self.filled.wait(queue).unwrap_or_else(|_| poisoned()),
                Some(due) => {
                    let left = due.saturating_duration_since(now());
                    self.filled.wait_timeout(queue, left).unwrap_or_else(|_| poisoned()).0
                }
            };
        }
    }

    /// Lets others write again, what follows before all. Returns whether the thread of [`run`] has
    /// something to do, or sleeps too long.
    fn give_back(&self, writer: Box<Writer>, following: Vec<Submitted<T>>) -> bool {
        let (due, latest_batch) = (writer.due(), writer.latest_batch());
        let mut queue = locked(&self.queue);
        queue.submitted.extend(following);
        queue.writer = Some(writer);
        let settled = queue.submitted.is_empty();
        queue.quiet = settled && latest_batch <= 1;
        let sleeps_until = queue.sleeps_until;
        let sooner = due.is_some_and(|due| sleeps_until.is_none_or(|until| due < until));
        let closed = queue.closed;
        drop(queue);
        if settled {
            self.settled.notify_one();
        }
        !settled || closed || sooner
    }

    /// Writes what was submitted, and finishes it. Returns what follows from it.
    fn write(
        &self,
        writer: &mut Writer,
        mut submitted: Vec<Submitted<T>>,
        finish: &impl Finish<T>,
    ) -> Result<Vec<Submitted<T>>, Arc<str>> {
        if writer.keeps_places() {
            writer.note(self.take_notes());
        }
        let mut following = Vec::new();
        while !submitted.is_empty() {
            let rest = submitted.split_off(submitted.len().min(MAX_BATCH));
            let (batch, tickets): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
            let outcomes = writer.write(&batch)?;
            let finished = tickets.into_iter().zip(outcomes);
            let (next, news): (Vec<_>, Vec<_>) =
                finished.map(|(ticket, written)| finish.finish(ticket, written)).unzip();
            following.extend(next.into_iter().flatten());
            news.into_iter().for_each(|news| finish.tell(news));
            submitted = rest;
        }
        Ok(following)
    }
}

/// The body of the thread that writes. Returns when the journal is closed.
///
/// # Errors
/// It is not known whether the latest changes were written. They are not finished.
pub(super) fn run<T>(
    journal: &Journal<T>,
    store: Box<dyn Store>,
    finish: &impl Finish<T>,
) -> Result<(), Arc<str>> {
    let writer = Writer::new(store, Arc::clone(&journal.trouble));
    journal.give_back(Box::new(writer), Vec::new());
    while let Some((mut writer, submitted)) = journal.take() {
        let following = journal.write(&mut writer, submitted, finish)?;
        writer.do_what_is_due()?;
        journal.give_back(writer, following);
    }
    let writer = locked(&journal.queue).writer.take();
    writer.into_iter().for_each(|writer| writer.close());
    Ok(())
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
