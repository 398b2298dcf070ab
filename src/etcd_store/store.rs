//! etcd as what the journal writes to.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, after, select};
use log::warn;

use super::batch::{MAX_ROWS, Op, Transaction, fill, transactions};
use super::chain::{Backend, Chain, Fenced};
use super::loading::{Loaded, LoadedLock, Loading};
use super::records::{PlaceRow, bytes};
use crate::lock::{
    Change, KeptPlace, Misfit, OpenError, PlaceNote, Reachable, Restore, Restored, Store,
    StoreError,
};
use crate::metrics::ClusterMetrics;

/// How much longer than its lifetime a lock lives after a failover; a commit that takes longer
/// is written again.
const GRACE: Duration = Duration::from_millis(200);

/// The locks in etcd, as long as this server is the active one.
pub(super) struct EtcdStore {
    chain: Chain,
    metrics: Arc<ClusterMetrics>,
    /// Hears when another server has taken over.
    fenced: Sender<()>,
    /// What was read before this server took over, or is still being read.
    loading: Option<Loading>,
    /// Places in line that were there before.
    kept: Vec<KeptPlace>,
    /// Places in line that have come or gone, and are not written yet.
    places: BTreeMap<String, Op>,
}

impl EtcdStore {
    /// `ahead` has been reading at the revision that `chain` has taken over from.
    pub(super) fn new(
        chain: Chain,
        ahead: Option<Loading>,
        metrics: Arc<ClusterMetrics>,
        fenced: Sender<()>,
    ) -> Self {
        let (kept, places) = (Vec::new(), BTreeMap::new());
        Self { chain, metrics, fenced, loading: ahead, kept, places }
    }

    fn heartbeat(&mut self) -> Result<(), Fenced> {
        self.write(vec![Transaction::default()])
    }

    fn write(&mut self, mut transactions: Vec<Transaction>) -> Result<(), Fenced> {
        fill(&mut transactions, &mut self.places);
        let mut transactions = transactions.iter();
        transactions.try_for_each(|made| self.chain.write(made.last_token, &made.ops))
    }

    fn fenced(&self) -> StoreError {
        // Whoever heard it already does not listen any more.
        let _ = self.fenced.send(());
        StoreError::Fenced
    }

    /// What has been read next. It may take longer than other servers wait for a sign of life.
    fn next(&mut self, loading: &Loading) -> Result<Loaded, OpenError> {
        loop {
            let idle = self.chain.idle();
            let heartbeat = self.chain.pace.heartbeat();
            if idle >= heartbeat {
                self.heartbeat().map_err(|Fenced| lost())?;
                // It has changed no row.
                loading.stays_until(self.chain.revision());
                continue;
            }
            select! {
                recv(loading.loaded) -> loaded => return loaded.map_err(|_| lost()),
                recv(self.chain.backend.leaving) -> _ => return Err(lost()),
                recv(after(heartbeat - idle)) -> _ => {}
            }
        }
    }

    /// Places in line at these keys are not taken over: their clients start over.
    fn skip(&self, keys: &[String]) {
        let Some(first) = keys.first() else { return };
        self.metrics.bad_rows("place", keys.len());
        warn!(
            "places in line that are passed over, because they are not of this version of rdlm: \
             {}, the first at {first}",
            keys.len()
        );
    }

    /// Passes over places of an id or a key that has one already.
    fn skip_repeated(&mut self) {
        let (mut ids, mut keys, mut repeated) = (HashSet::new(), HashSet::new(), Vec::new());
        self.kept.retain(|place| {
            let resource = &place.resource;
            let is_new = ids.insert(place.id) && keys.insert((resource.clone(), place.key.clone()));
            if !is_new {
                repeated.push(self.chain.backend.keys.place(resource, place.arrival));
            }
            is_new
        });
        self.skip(&repeated);
    }

    fn foreign(&self, key: &str) -> OpenError {
        self.metrics.bad_rows("lock", 1);
        OpenError::Lost(format!("the value of {key} in etcd is not one of this rdlm").into())
    }

    fn restore(&self, lock: LoadedLock, restore: &dyn Restore) {
        let LoadedLock { resource, mut held, end } = lock;
        let now = self.chain.clock.at(crate::lock::clock::now());
        // Without a `head`, the clock begins again: then the lifetime does, too.
        let longest =
            held.grant.terms.lifetime.duration().map(|lifetime| lifetime.saturating_add(GRACE));
        let remaining = end.map(|end| end.saturating_sub(now));
        held.remaining = remaining.map(|time| time.min(longest.unwrap_or(time)));
        restore.restore(Restored { resource, held });
    }
}

impl Store for EtcdStore {
    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
        let (Backend { etcd, keys, .. }, revision) = (&self.chain.backend, self.chain.revision());
        let start = || Loading::start(Arc::clone(etcd), keys, revision, revision);
        let loading = match self.loading.take() {
            Some(ahead) => ahead,
            None => start().map_err(OpenError::Thread)?,
        };
        // Larger only in an etcd that has lost its `head`.
        let mut last_token = self.chain.last_token();
        loop {
            match self.next(&loading)? {
                Loaded::Locks(locks) => {
                    self.chain.note_answer();
                    let tokens = locks.iter().map(|lock| lock.held.grant.fencing_token);
                    last_token = tokens.fold(last_token, u64::max);
                    locks.into_iter().for_each(|lock| self.restore(lock, restore));
                }
                Loaded::Places(places) => self.kept.extend(places),
                Loaded::Skipped(keys) => self.skip(&keys),
                Loaded::Failing(failure) => self.chain.note_failure(Some(failure)),
                Loaded::Foreign(key) => return Err(self.foreign(&key)),
                Loaded::All => {
                    self.skip_repeated();
                    let lock = |it: Misfit| self.chain.backend.keys.lock(&it.resource, it.token);
                    restore.complete().map_err(|misfit| self.foreign(&lock(misfit)))?;
                    return Ok(last_token);
                }
            }
        }
    }

    fn load_places(&mut self) -> Result<Vec<KeptPlace>, OpenError> {
        Ok(std::mem::take(&mut self.kept))
    }

    fn keeps_places(&self) -> bool {
        true
    }

    fn note(&mut self, notes: Vec<PlaceNote>) {
        for note in notes {
            let (key, op) = match note {
                PlaceNote::Joined(place) => {
                    let key = self.chain.backend.keys.place(&place.resource, place.arrival);
                    (key.clone(), Op::Put(key, bytes(&PlaceRow::new(&place))))
                }
                PlaceNote::Left(resource, arrival) => {
                    let key = self.chain.backend.keys.place(&resource, arrival);
                    // One that has come and gone meanwhile was never written, or will be gone.
                    (key.clone(), Op::Delete(key))
                }
            };
            self.places.insert(key, op);
        }
    }

    fn grace(&self) -> Duration {
        GRACE
    }

    fn patience(&self) -> Option<Duration> {
        Some(self.chain.pace.failover_after)
    }

    /// Of about one transaction.
    fn max_batch(&self) -> usize {
        MAX_ROWS
    }

    fn reachable(&self) -> Option<Reachable> {
        let term = Arc::clone(&self.chain.term);
        // That another server has taken over is known without it.
        Some(Arc::new(move || term.is_over() || term.may_answer()))
    }

    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let began = crate::lock::clock::now();
        let clock = self.chain.clock.at(began);
        let transactions = transactions(batch, &self.chain.backend.keys, clock, grace);
        self.write(transactions).map_err(|Fenced| self.fenced())?;
        self.metrics.commit(crate::lock::clock::now().saturating_sub(began));
        Ok(())
    }

    fn repeat(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        self.commit(batch, grace)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        if self.chain.idle() < self.chain.pace.heartbeat() / 2 {
            return Ok(());
        }
        self.heartbeat().map_err(|Fenced| self.fenced())
    }

    fn next_checkpoint(&self) -> Option<Duration> {
        Some(self.chain.pace.heartbeat())
    }

    fn close(&mut self) {
        if !self.chain.term.is_over() && self.chain.step_down().is_err() {
            warn!("the other servers wait, because etcd was not told that this one is leaving");
        }
    }
}

fn lost() -> OpenError {
    OpenError::Lost("another server has taken over".into())
}
