//! What survives a crash: who holds which lock.
//!
//! A [`Journal`] is a queue of changes. Whoever has its [`Writer`] has all that have queued up
//! written as one batch (group commit), and then finishes each of them. That is the journal's
//! thread, which is in [`run`]; or, as long as changes come one at a time, the thread that has
//! submitted one, which then has to wait for nobody. Requests that wait are not kept: their
//! connections end with the server.

mod clock;
mod log;
#[cfg(all(test, shuttle))]
pub(super) mod memory;
pub(super) mod store;
mod writer;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use super::NotWritten;
use super::nanos::Instant;
use super::sync::atomic::{AtomicUsize, Ordering};
use super::sync::{Condvar, Mutex, locked, now, poisoned};
pub use log::FileStore;
use store::{Change, PlaceNote, Reachable, Store};
use writer::{Trouble, Writer};

/// How many changes wait to be written, at most, when clients ask for more.
const MAX_QUEUED: usize = 16_384;

/// How many notes of places wait to be written at most.
const MAX_NOTES: usize = 65_536;

/// The changes that are to be written, each with a `T` by which it is finished. A resource has
/// one of them at most.
pub(super) struct Journal<T> {
    queue: Mutex<Queue<T>>,
    /// Signalled when the journal's thread has something to do.
    filled: Condvar,
    /// Signalled when everything is written that was submitted.
    settled: Condvar,
    trouble: Arc<Trouble>,
    /// How many changes were submitted and not handed to the store yet.
    queued: AtomicUsize,
    /// `None`: what is written to is always there.
    reachable: Option<Reachable>,
}

struct Queue<T> {
    submitted: VecDeque<Submitted<T>>,
    /// What may be written with the next changes.
    notes: Vec<PlaceNote>,
    /// `None` while somebody writes.
    writer: Option<Box<Writer>>,
    /// The latest change was written by itself, and nothing came meanwhile.
    quiet: bool,
    /// Until when the journal's thread sleeps if nobody wakes it.
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
    /// Only the journal's thread.
    Journal,
    /// Also the thread that submits it, which does nothing else until it is written.
    Submitter,
}

impl<T> Journal<T> {
    pub(super) fn new(reachable: Option<Reachable>) -> Self {
        let queue = Queue {
            submitted: VecDeque::new(),
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
            queued: AtomicUsize::new(0),
            reachable,
        }
    }

    /// Whether changes can be written, as far as is known.
    pub(super) fn writable(&self) -> Result<(), NotWritten> {
        self.trouble.writable()
    }

    /// Whether a change that a client asks for is taken: it would be written soon, and not too many
    /// wait for that.
    pub(super) fn admits(&self) -> Result<(), NotWritten> {
        if self.reachable.as_ref().is_some_and(|reachable| !reachable()) {
            return Err(NotWritten::Refused("what they are written to does not answer".into()));
        }
        if self.queued.load(Ordering::Relaxed) >= MAX_QUEUED {
            let why = format!("{MAX_QUEUED} changes are waiting to be written");
            return Err(NotWritten::Refused(why.into()));
        }
        Ok(())
    }

    /// Has a change written, after all that were submitted before. `Some`: the caller has to
    /// write it, since changes come one at a time. Where they do not, the journal's thread has
    /// the next batch sooner than whoever would have to wake it.
    pub(super) fn submit(&self, submitted: Submitted<T>, by: By) -> Option<Own<T>> {
        let mut queue = locked(&self.queue);
        if by == By::Submitter
            && queue.quiet
            && queue.submitted.is_empty()
            && let Some(writer) = queue.writer.take_if(|writer| !writer.is_due())
        {
            return Some(Own(writer, submitted));
        }
        queue.submitted.push_back(submitted);
        self.count(&queue);
        // Whoever writes looks for more.
        let wake = queue.writer.is_some() && queue.submitted.len() == 1;
        drop(queue);
        if wake {
            self.filled.notify_one();
        }
        None
    }

    /// Takes a change back that has not been handed to the store, so that it never will be. The
    /// caller has to finish it.
    pub(super) fn withdraw(&self, is_its: impl Fn(&T) -> bool) -> Option<T> {
        let mut queue = locked(&self.queue);
        // Those that have waited longest come first, and are given up first.
        let at = queue.submitted.iter().position(|(_, ticket)| is_its(ticket))?;
        let withdrawn = queue.submitted.remove(at);
        self.count(&queue);
        let settled = queue.writer.is_some() && queue.submitted.is_empty();
        drop(queue);
        if settled {
            self.settled.notify_one();
        }
        withdrawn.map(|(_, ticket)| ticket)
    }

    fn count(&self, queue: &Queue<T>) {
        self.queued.store(queue.submitted.len(), Ordering::Relaxed);
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
            let has_come = !queue.submitted.is_empty();
            if let Some(writer) = queue.writer.take_if(|writer| has_come || writer.is_due()) {
                let batch = queue.submitted.len().min(writer.max_batch());
                let batch = queue.submitted.drain(..batch).collect();
                self.count(&queue);
                return Some((writer, batch));
            }
            if queue.closed && queue.writer.is_some() {
                return None;
            }
            // Whoever writes wakes this thread if there is anything left to do.
            let due = queue.writer.as_ref().and_then(|writer| writer.due());
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

    /// Lets others write again. What follows is written after what came before it, so that nobody
    /// waits for ever. Returns whether the journal's thread has something to do, or sleeps too
    /// long.
    fn give_back(&self, writer: Box<Writer>, following: Vec<Submitted<T>>) -> bool {
        let (due, latest_batch) = (writer.due(), writer.latest_batch());
        let mut queue = locked(&self.queue);
        queue.submitted.extend(following);
        self.count(&queue);
        queue.writer = Some(writer);
        let settled = queue.submitted.is_empty();
        queue.quiet = settled && latest_batch == 1;
        let sleeps_until = queue.sleeps_until;
        let sooner = due.is_some_and(|due| sleeps_until.is_none_or(|until| due < until));
        let closed = queue.closed;
        drop(queue);
        if settled {
            self.settled.notify_one();
        }
        !settled || closed || sooner
    }

    /// Writes a batch, and finishes it. Returns what follows from it.
    fn write(
        &self,
        writer: &mut Writer,
        submitted: Vec<Submitted<T>>,
        finish: &impl Finish<T>,
    ) -> Result<Vec<Submitted<T>>, Arc<str>> {
        if writer.keeps_places() {
            writer.note(self.take_notes());
        }
        if submitted.is_empty() {
            return Ok(Vec::new());
        }
        let (batch, tickets): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
        let outcomes = writer.write(&batch)?;
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
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;
    use std::time::Duration;

    use store::{OpenError, Restore, StoreError};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A store that says what is asked of it.
    struct Told {
        /// How large a batch is that is to be written.
        batches: Sender<usize>,
        /// When it may be.
        go_on: Receiver<()>,
        checkpoints: Sender<()>,
        commits: usize,
    }

    impl Store for Told {
        fn load(&mut self, _: &dyn Restore) -> Result<u64, OpenError> {
            Ok(0)
        }

        fn commit(&mut self, batch: &[Change], _: Duration) -> Result<(), StoreError> {
            self.commits += 1;
            self.batches.send(batch.len()).unwrap();
            self.go_on.recv_timeout(PATIENCE).unwrap();
            Ok(())
        }

        fn repeat(&mut self, _: &[Change], _: Duration) -> Result<(), StoreError> {
            Ok(())
        }

        fn checkpoint(&mut self) -> Result<(), StoreError> {
            let _ = self.checkpoints.send(());
            Ok(())
        }

        fn next_checkpoint(&self) -> Option<Duration> {
            (self.commits > 1).then_some(Duration::from_millis(10))
        }
    }

    struct Nothing;

    impl Finish<()> for Nothing {
        type News = ();

        fn finish(&self, (): (), _: Result<(), NotWritten>) -> (Option<Submitted<()>>, ()) {
            (None, ())
        }

        fn tell(&self, (): ()) {}
    }

    /// A journal whose thread runs, and what its store says and hears.
    struct Running {
        journal: Arc<Journal<()>>,
        batches: Receiver<usize>,
        go_on: Sender<()>,
        checkpoints: Receiver<()>,
        ended: Receiver<()>,
    }

    impl Running {
        fn new() -> Self {
            let ((batch, batches), (go_on, going)) = (channel(), channel());
            let ((checkpoint, checkpoints), (end, ended)) = (channel(), channel());
            let store = Told { batches: batch, go_on: going, checkpoints: checkpoint, commits: 0 };
            let journal = Arc::new(Journal::new(None));
            let run_by = Arc::clone(&journal);
            thread::spawn(move || {
                run(&run_by, Box::new(store), &Nothing).unwrap();
                end.send(()).unwrap();
            });
            Self { journal, batches, go_on, checkpoints, ended }
        }

        fn submit(&self, by: By) -> Option<Own<()>> {
            let resource = "r".parse().unwrap();
            let change = Change { resource, removed: vec![1], added: Vec::new() };
            self.journal.submit((change, ()), by)
        }

        /// Has one written by the journal's thread, so that the next may be by another.
        fn write_one(&self) {
            assert!(self.submit(By::Journal).is_none());
            self.go_on.send(()).unwrap();
            self.journal.settle();
            assert_eq!(self.batches.recv_timeout(PATIENCE).unwrap(), 1);
        }

        /// Has one more written by a thread of its own, and returns while it is being written.
        fn write_own(&self) -> thread::JoinHandle<()> {
            self.write_one();
            let (journal, own) = (Arc::clone(&self.journal), self.submit(By::Submitter).unwrap());
            let writer = thread::spawn(move || journal.write_own(own, &Nothing).unwrap());
            assert_eq!(self.batches.recv_timeout(PATIENCE).unwrap(), 1);
            writer
        }
    }

    #[test]
    fn places_that_are_too_many_are_forgotten() {
        let journal = Journal::<()>::new(None);
        let resource: crate::ResourceName = "r".parse().unwrap();
        let notes = |count: u64| (0..count).map(|n| PlaceNote::Left(resource.clone(), n));
        journal.note(notes(MAX_NOTES as u64 - 1));
        journal.note(notes(10));
        assert_eq!(journal.take_notes().len(), MAX_NOTES);
        journal.note(notes(1));
        assert_eq!(journal.take_notes().len(), 1, "there is room again");
    }

    #[test]
    fn changes_that_wait_to_be_written_are_limited() {
        let journal = Journal::<usize>::new(None);
        let change = || {
            let resource = "r".parse().unwrap();
            Change { resource, removed: vec![1], added: Vec::new() }
        };
        for number in 0..MAX_QUEUED {
            assert_eq!(journal.admits(), Ok(()));
            assert!(journal.submit((change(), number), By::Submitter).is_none());
        }
        assert!(matches!(journal.admits(), Err(NotWritten::Refused(_))));
        assert_eq!(journal.withdraw(|number| *number == 7), Some(7));
        assert_eq!(journal.withdraw(|number| *number == 7), None);
        assert_eq!(journal.admits(), Ok(()), "there is room again");
    }

    #[test]
    fn what_comes_while_a_thread_writes_its_own_is_one_batch_of_the_journal_s() {
        let running = Running::new();
        let own = running.write_own();
        assert!(running.submit(By::Submitter).is_none());
        assert!(running.submit(By::Submitter).is_none());
        running.go_on.send(()).unwrap();
        own.join().unwrap();
        assert_eq!(running.batches.recv_timeout(PATIENCE).unwrap(), 2);
        running.go_on.send(()).unwrap();
        running.journal.settle();
        assert!(running.submit(By::Submitter).is_none(), "there were two of late");
    }

    #[test]
    fn a_checkpoint_is_made_also_when_all_is_written_by_others() {
        // The journal's thread sleeps, or is about to, when the other begins to write.
        for _ in 0..20 {
            let running = Running::new();
            let own = running.write_own();
            running.go_on.send(()).unwrap();
            own.join().unwrap();
            assert!(running.checkpoints.recv_timeout(PATIENCE).is_ok());
        }
    }

    #[test]
    fn a_journal_that_is_closed_ends_when_it_is_written_what_was_submitted() {
        let running = Running::new();
        let own = running.write_own();
        running.journal.close();
        assert!(running.ended.try_recv().is_err());
        running.go_on.send(()).unwrap();
        own.join().unwrap();
        assert!(running.ended.recv_timeout(PATIENCE).is_ok());
    }
}
