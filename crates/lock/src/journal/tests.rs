use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use super::store::{OpenError, Restore, StoreError};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A store that reports what it is asked for.
struct Told {
    /// The length of each batch.
    batches: Sender<usize>,
    /// A commit waits for one of these.
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

/// A journal with its thread, and the other ends of its store's channels.
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

    fn submit(&self, by: By) -> Option<OwnChange<()>> {
        let resource = "r".parse().unwrap();
        let change = Change { resource, removed: vec![1], added: Vec::new() };
        self.journal.submit((change, ()), by)
    }

    /// Has a change written by the journal's thread, so that another thread may write the next.
    fn write_one(&self) {
        assert!(self.submit(By::Journal).is_none());
        self.go_on.send(()).unwrap();
        self.journal.settle();
        assert_eq!(self.batches.recv_timeout(PATIENCE).unwrap(), 1);
    }

    /// Has another one written by its own thread, and returns while that writes.
    fn write_own(&self) -> thread::JoinHandle<()> {
        self.write_one();
        let (journal, own) = (Arc::clone(&self.journal), self.submit(By::Submitter).unwrap());
        let writer = thread::spawn(move || journal.write_own(own, &Nothing).unwrap());
        assert_eq!(self.batches.recv_timeout(PATIENCE).unwrap(), 1);
        writer
    }
}

#[test]
fn notes_of_places_are_limited() {
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
fn the_queue_is_limited() {
    let journal = Journal::<usize>::new(None);
    let resource = |number: usize| format!("r{number}").parse().unwrap();
    for number in 0..MAX_QUEUED {
        assert_eq!(journal.admits(), Ok(()));
        let change = Change { resource: resource(number), removed: vec![1], added: Vec::new() };
        assert!(journal.submit((change, number), By::Submitter).is_none());
    }
    assert!(matches!(journal.admits(), Err(NotWritten::Refused(_))));
    assert_eq!(journal.withdraw(&resource(7)), Some(7));
    assert_eq!(journal.withdraw(&resource(7)), None);
    assert_eq!(journal.admits(), Ok(()), "there is room again");
}

#[test]
fn changes_that_arrive_during_a_write_are_one_batch() {
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
fn checkpoints_are_made_although_other_threads_write() {
    // The journal's thread sleeps, or is about to, when the other thread begins to write.
    for _ in 0..20 {
        let running = Running::new();
        let own = running.write_own();
        running.go_on.send(()).unwrap();
        own.join().unwrap();
        assert!(running.checkpoints.recv_timeout(PATIENCE).is_ok());
    }
}

#[test]
fn a_closed_journal_ends_after_everything_submitted_is_written() {
    let running = Running::new();
    let own = running.write_own();
    running.journal.close();
    assert!(running.ended.try_recv().is_err());
    running.go_on.send(()).unwrap();
    own.join().unwrap();
    assert!(running.ended.recv_timeout(PATIENCE).is_ok());
}
