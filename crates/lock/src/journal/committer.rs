//! Commits batches, and judges what the store answers: which changes were made, whether a lifetime
//! would end too early, whether clients have to be refused for now.

use std::sync::Arc;
use std::time::Duration;

use ::log::{error, info};

use super::store::{Change, PlaceStore, Properties, Store, StoreError};
use crate::NotWritten;
use crate::nanos::Instant;
use crate::sync::{Mutex, locked, now, now_also_suspended};

/// How soon a refused write is tried again without a request.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a change.
pub(super) type Written = Result<(), NotWritten>;

/// Why the latest change that needed space was refused; `None`: it was written.
#[derive(Default)]
pub(super) struct LastRefusal(Mutex<Option<NotWritten>>);

/// The right to write to the store, and the store.
pub(super) struct Committer {
    store: Box<dyn Store>,
    properties: Properties,
    last_refusal: Arc<LastRefusal>,
    /// Writes are refused, and this has been logged.
    failing: bool,
    /// Another server owns the store: nothing is written any more.
    fenced: bool,
    latest_batch: usize,
    latest_try: Instant,
    latest_checkpoint: Instant,
    /// Measures commits. It counts while the host is suspended, as do the lifetimes on disk.
    clock: fn() -> Instant,
}

impl LastRefusal {
    /// Whether changes can be written, as far as is known.
    pub(super) fn writable(&self) -> Written {
        locked(&self.0).clone().map_or(Ok(()), Err)
    }
}

impl Committer {
    pub(super) fn new(store: Box<dyn Store>, last_refusal: Arc<LastRefusal>) -> Self {
        let now = now();
        Self {
            properties: store.properties(),
            store,
            last_refusal,
            failing: false,
            fenced: false,
            latest_batch: 0,
            latest_try: now,
            latest_checkpoint: now,
            clock: now_also_suspended,
        }
    }

    /// How many changes the latest batch had.
    pub(super) fn latest_batch(&self) -> usize {
        self.latest_batch
    }

    /// The most changes in one batch.
    pub(super) fn max_batch(&self) -> usize {
        self.properties.max_batch
    }

    /// See [`Store::places`].
    pub(super) fn places(&mut self) -> Option<&mut dyn PlaceStore> {
        self.store.places()
    }

    /// Writes a batch, and returns what became of each change. If there is no space for all of
    /// them, those that free space are written alone.
    ///
    /// # Errors
    /// The outcome is unknown.
    pub(super) fn write(&mut self, batch: &[Change]) -> Result<Vec<Written>, Arc<str>> {
        self.latest_batch = batch.len();
        if self.fenced {
            return Ok(vec![Err(NotWritten::Fenced); batch.len()]);
        }
        let all = self.commit(batch)?;
        // A change that frees space says nothing about the others.
        if all.is_err() || !batch.iter().all(Change::frees_space) {
            self.note_outcome(&all);
        }
        if !matches!(all, Err(NotWritten::Refused(_))) {
            return Ok(vec![all; batch.len()]);
        }
        let freeing: Vec<_> = batch.iter().filter(|c| c.frees_space()).cloned().collect();
        if freeing.is_empty() || freeing.len() == batch.len() {
            return Ok(vec![all; batch.len()]);
        }
        let freed = self.commit(&freeing)?;
        let outcome = |change: &Change| if change.frees_space() { &freed } else { &all };
        Ok(batch.iter().map(|change| outcome(change).clone()).collect())
    }

    /// When the next retry or checkpoint is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.checkpoint_due().into_iter().chain(self.retry_due()).min()
    }

    pub(super) fn is_due(&self) -> bool {
        is_past(self.due())
    }

    /// Retries or makes a checkpoint, if that is due.
    ///
    /// # Errors
    /// It is unknown what the store contains.
    pub(super) fn do_what_is_due(&mut self) -> Result<(), Arc<str>> {
        if is_past(self.retry_due()) {
            let written = refusal(self.store.commit(&[], Duration::ZERO))?;
            self.note_outcome(&written);
            self.latest_try = now();
        }
        if is_past(self.checkpoint_due()) {
            if let Err(why) = refusal(self.store.checkpoint())? {
                self.note_outcome(&Err(why));
            }
            self.latest_checkpoint = now();
        }
        Ok(())
    }

    fn retry_due(&self) -> Option<Instant> {
        self.failing.then(|| self.latest_try + RETRY)
    }

    fn checkpoint_due(&self) -> Option<Instant> {
        let after = self.store.next_checkpoint().filter(|_| !self.fenced);
        after.map(|after| self.latest_checkpoint + after)
    }

    /// See [`Store::close`].
    pub(super) fn close(mut self) {
        self.store.close();
    }

    /// Commits. Repeats that as long as it takes longer than its grace: a lifetime begins for its
    /// holder with the answer, and would end too early after a restart. If repeating fails, nothing
    /// may be answered.
    fn commit(&mut self, batch: &[Change]) -> Result<Written, Arc<str>> {
        let mut grace = self.properties.grace;
        let now_by_clock = self.clock;
        let mut began = now_by_clock();
        let written = refusal(self.store.commit(batch, grace))?;
        self.latest_try = now();
        let begins_lifetimes = batch.iter().any(|change| !change.added.is_empty());
        if written.is_ok() && begins_lifetimes {
            while now_by_clock().saturating_duration_since(began) > grace {
                grace = now_by_clock().saturating_duration_since(began).saturating_mul(4);
                began = now_by_clock();
                match self.store.repeat(batch, grace) {
                    Ok(()) => {}
                    Err(StoreError::Fenced) => return Ok(Err(NotWritten::Unknown)),
                    Err(why) => {
                        let why = format!("a write took too long and could not be repeated: {why}");
                        return Err(why.into());
                    }
                }
            }
        }
        Ok(written)
    }

    /// Notes whether writes succeed, and logs when that changes.
    fn note_outcome(&mut self, written: &Written) {
        match written {
            Err(NotWritten::Refused(why)) if !self.failing => {
                error!("locks cannot be changed for now: {why}");
            }
            // The store has logged it.
            Err(NotWritten::Unknown | NotWritten::Fenced) => self.fenced = true,
            Ok(()) if self.failing => info!("locks can be changed again"),
            _ => {}
        }
        if self.failing || written.is_err() {
            *locked(&self.last_refusal.0) = written.clone().err();
        }
        self.failing = matches!(written, Err(NotWritten::Refused(_)));
    }
}

fn is_past(time: Option<Instant>) -> bool {
    time.is_some_and(|time| time <= now())
}

/// Separates a change that was not made from an unknown outcome.
fn refusal(written: Result<(), StoreError>) -> Result<Written, Arc<str>> {
    match written {
        Ok(()) => Ok(Ok(())),
        Err(StoreError::Refused(why)) => Ok(Err(NotWritten::Refused(why))),
        Err(StoreError::Fenced) => Ok(Err(NotWritten::Unknown)),
        Err(StoreError::Unknown(why)) => Err(why),
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::journal::store::{HeldLock, OpenError, Restore};
    use crate::{Grant, LockId, Terms};

    thread_local! {
        /// What the clock shows that counts while the host is suspended.
        static UPTIME: Cell<Duration> = const { Cell::new(Duration::from_secs(1000)) };
    }

    fn sleep_through(time: Duration) {
        UPTIME.set(UPTIME.get() + time);
    }

    /// A store on a host that is suspended during the first commit. It records the graces.
    struct Suspended {
        graces: Arc<Mutex<Vec<Duration>>>,
        asleep: Duration,
    }

    impl Store for Suspended {
        fn load(&mut self, _: &dyn Restore) -> Result<u64, OpenError> {
            Ok(0)
        }

        fn commit(&mut self, _: &[Change], grace: Duration) -> Result<(), StoreError> {
            locked(&self.graces).push(grace);
            sleep_through(self.asleep);
            Ok(())
        }

        fn repeat(&mut self, _: &[Change], grace: Duration) -> Result<(), StoreError> {
            locked(&self.graces).push(grace);
            Ok(())
        }
    }

    fn grant() -> Change {
        let grant = Grant {
            id: LockId::random(),
            terms: Terms::exclusive("a lock", Duration::from_secs(60)),
            since: std::time::UNIX_EPOCH,
            expires: None,
            fencing_token: 1,
        };
        let added = vec![HeldLock { grant, key: None, remaining: Some(Duration::from_secs(60)) }];
        Change { resource: "r".parse().unwrap(), removed: Vec::new(), added }
    }

    /// Its holder counts from the answer, which is sent after the host has resumed.
    #[test]
    fn a_lock_that_was_granted_while_the_host_slept_is_written_again_with_its_whole_lifetime() {
        for (asleep, repeated) in [(Duration::ZERO, false), (Duration::from_secs(3600), true)] {
            let graces = Arc::<Mutex<Vec<Duration>>>::default();
            let store = Box::new(Suspended { graces: Arc::clone(&graces), asleep });
            let mut committer = Committer::new(store, Arc::default());
            committer.clock = || Instant::since_start(UPTIME.get());
            assert_eq!(committer.write(&[grant()]), Ok(vec![Ok(())]));
            let graces = locked(&graces);
            assert_eq!(graces.len(), if repeated { 2 } else { 1 }, "{graces:?}");
        }
    }
}
