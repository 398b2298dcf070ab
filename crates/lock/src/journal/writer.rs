//! Writing to the store: what became of each change of a batch, and what has to be done now and
//! then.

use std::sync::Arc;
use std::time::Duration;

use ::log::{error, info};

use super::store::{Change, PlaceNote, Store, StoreError};
use crate::NotWritten;
use crate::nanos::Instant;
use crate::sync::{Mutex, locked, now, now_also_suspended};

/// How soon it is tried again to write when that was refused and nobody asks.
const RETRY: Duration = Duration::from_secs(1);

/// Why the latest change that needs room was refused.
#[derive(Default)]
pub(super) struct Trouble(Mutex<Option<NotWritten>>);

/// Whoever has it writes.
pub(super) struct Writer {
    store: Box<dyn Store>,
    trouble: Arc<Trouble>,
    /// There is trouble, and the log says so.
    failing: bool,
    /// Another server has taken over: nothing is written any more.
    fenced: bool,
    latest_batch: usize,
    latest_try: Instant,
    latest_checkpoint: Instant,
    /// By which commits are measured. The ends of lifetimes that are written go by the same: a host
    /// that is suspended during a commit has taken long for it.
    clock: fn() -> Instant,
}

impl Trouble {
    /// Whether changes can be written, as far as is known.
    pub(super) fn writable(&self) -> Result<(), NotWritten> {
        locked(&self.0).clone().map_or(Ok(()), Err)
    }
}

impl Writer {
    pub(super) fn new(store: Box<dyn Store>, trouble: Arc<Trouble>) -> Self {
        let now = now();
        Self {
            store,
            trouble,
            failing: false,
            fenced: false,
            latest_batch: 0,
            latest_try: now,
            latest_checkpoint: now,
            clock: now_also_suspended,
        }
    }

    /// How many changes there were in the latest batch.
    pub(super) fn latest_batch(&self) -> usize {
        self.latest_batch
    }

    /// See [`Store::max_batch`].
    pub(super) fn max_batch(&self) -> usize {
        self.store.max_batch()
    }

    /// Whether [`Writer::note`] is of use.
    pub(super) fn keeps_places(&self) -> bool {
        self.store.keeps_places()
    }

    /// See [`Store::note`].
    pub(super) fn note(&mut self, notes: Vec<PlaceNote>) {
        self.store.note(notes);
    }

    /// Writes a batch and returns what became of each change. If the store has no room for all
    /// of them, those that make room are written by themselves.
    ///
    /// # Errors
    /// It is not known whether they were written.
    pub(super) fn write(
        &mut self,
        batch: &[Change],
    ) -> Result<Vec<Result<(), NotWritten>>, Arc<str>> {
        self.latest_batch = batch.len();
        if self.fenced {
            return Ok(vec![Err(NotWritten::Fenced); batch.len()]);
        }
        let all = self.commit(batch)?;
        // That there is room for what needs none says nothing of the rest.
        if all.is_err() || !batch.iter().all(Change::makes_room) {
            self.tell(&all);
        }
        if !matches!(all, Err(NotWritten::Refused(_))) {
            return Ok(vec![all; batch.len()]);
        }
        let freeing: Vec<_> = batch.iter().filter(|c| c.makes_room()).cloned().collect();
        if freeing.is_empty() || freeing.len() == batch.len() {
            return Ok(vec![all; batch.len()]);
        }
        let freed = self.commit(&freeing)?;
        let outcome = |change: &Change| if change.makes_room() { &freed } else { &all };
        Ok(batch.iter().map(|change| outcome(change).clone()).collect())
    }

    /// When something has to be done that nobody asks for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.checkpoint_due().into_iter().chain(self.probe_due()).min()
    }

    /// Whether it is time for that.
    pub(super) fn is_due(&self) -> bool {
        has_come(self.due())
    }

    /// Does what is due.
    ///
    /// # Errors
    /// It is not known what is written.
    pub(super) fn do_what_is_due(&mut self) -> Result<(), Arc<str>> {
        if has_come(self.probe_due()) {
            let written = refusal(self.store.probe())?;
            self.tell(&written);
            self.latest_try = now();
        }
        if has_come(self.checkpoint_due()) {
            if let Err(why) = refusal(self.store.checkpoint())? {
                self.tell(&Err(why));
            }
            self.latest_checkpoint = now();
        }
        Ok(())
    }

    fn probe_due(&self) -> Option<Instant> {
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

    /// Commits; and once more if that took so long that a lifetime, which begins for the holder
    /// with the answer, would end early after a restart. If that fails, nobody may hear of it.
    fn commit(&mut self, batch: &[Change]) -> Result<Result<(), NotWritten>, Arc<str>> {
        let mut grace = self.store.grace();
        let now_by_clock = self.clock;
        let mut began = now_by_clock();
        let written = refusal(self.store.commit(batch, grace))?;
        self.latest_try = now();
        let begins_lifetimes = batch.iter().any(|change| !change.held.is_empty());
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

    /// Takes note of how writing goes: one line in the log for each time that it begins or ceases
    /// to fail.
    fn tell(&mut self, written: &Result<(), NotWritten>) {
        match written {
            Err(NotWritten::Refused(why)) if !self.failing => {
                error!("locks cannot be changed for now: {why}");
            }
            // Whoever keeps it says so.
            Err(NotWritten::Unknown | NotWritten::Fenced) => self.fenced = true,
            Ok(()) if self.failing => info!("locks can be changed again"),
            _ => {}
        }
        if self.failing || written.is_err() {
            *locked(&self.trouble.0) = written.clone().err();
        }
        self.failing = matches!(written, Err(NotWritten::Refused(_)));
    }
}

fn has_come(time: Option<Instant>) -> bool {
    time.is_some_and(|time| time <= now())
}

/// Tells a change that was refused from one of which nothing is known.
fn refusal(written: Result<(), StoreError>) -> Result<Result<(), NotWritten>, Arc<str>> {
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
    use crate::journal::store::{Held, OpenError, Restore};
    use crate::{Grant, LockId, Terms};

    thread_local! {
        /// What the clock shows that also counts while the host is suspended.
        static UPTIME: Cell<Duration> = const { Cell::new(Duration::from_secs(1000)) };
    }

    fn sleep_through(time: Duration) {
        UPTIME.set(UPTIME.get() + time);
    }

    /// A store on a host that is suspended during the first commit; it tells the graces.
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
        let held = vec![Held { grant, key: None, remaining: Some(Duration::from_secs(60)) }];
        Change { resource: "r".parse().unwrap(), ended: Vec::new(), held }
    }

    /// Its holder counts from the answer, which comes after the host has woken up.
    #[test]
    fn a_lock_that_was_granted_while_the_host_slept_is_written_again_with_its_whole_lifetime() {
        for (asleep, repeated) in [(Duration::ZERO, false), (Duration::from_secs(3600), true)] {
            let graces = Arc::<Mutex<Vec<Duration>>>::default();
            let store = Box::new(Suspended { graces: Arc::clone(&graces), asleep });
            let mut writer = Writer::new(store, Arc::default());
            writer.clock = || Instant::since_start(UPTIME.get());
            assert_eq!(writer.write(&[grant()]), Ok(vec![Ok(())]));
            let graces = locked(&graces);
            assert_eq!(graces.len(), if repeated { 2 } else { 1 }, "{graces:?}");
        }
    }
}
