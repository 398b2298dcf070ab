//! etcd as what the journal writes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, after, select};
use log::warn;

use super::batch::{Op, Transaction, fill, transactions};
use super::chain::{Chain, Lost};
use super::loading::{Loaded, Loading, StoredLock};
use super::records::{PlaceRow, bytes};
use crate::lock::{
    Change, KeptPlace, Misfit, OpenError, PlaceNote, Restore, Restored, Store, StoreError,
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
    deposed: Sender<()>,
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
        deposed: Sender<()>,
    ) -> Self {
        let (kept, places) = (Vec::new(), BTreeMap::new());
        Self { chain, metrics, deposed, loading: ahead, kept, places }
    }

    fn beat(&mut self) -> Result<(), Lost> {
        self.write(vec![Transaction::default()])
    }

    fn write(&mut self, mut transactions: Vec<Transaction>) -> Result<(), Lost> {
        fill(&mut transactions, &mut self.places);
        let mut transactions = transactions.iter();
        transactions.try_for_each(|made| self.chain.write(made.last_token, &made.ops))
    }

    fn deposed(&self) -> StoreError {
        // Whoever heard it already does not listen any more.
        let _ = self.deposed.send(());
        StoreError::Deposed
    }

    /// What has been read next. It may take longer than other servers wait for a sign of life.
    fn next(&mut self, loading: &Loading) -> Result<Loaded, OpenError> {
        loop {
            let idle = self.chain.idle();
            let beat = self.chain.pace.beat();
            if idle >= beat {
                self.beat().map_err(|Lost| lost())?;
                // It has changed no row.
                loading.stays_until(self.chain.revision());
                continue;
            }
            select! {
                recv(loading.loaded) -> loaded => return loaded.map_err(|_| lost()),
                recv(self.chain.leaving()) -> _ => return Err(lost()),
                recv(after(beat - idle)) -> _ => {}
            }
        }
    }

    fn restore(&self, lock: StoredLock, restore: &dyn Restore) {
        let StoredLock { resource, mut held, end } = lock;
        let now = self.chain.clock.at(crate::lock::clock::now());
        held.remaining = end.map(|end| end.saturating_sub(now));
        restore.restore(Restored { resource, held });
    }
}

impl Store for EtcdStore {
    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
        let (Chain { etcd, keys, .. }, revision) = (&self.chain, self.chain.revision());
        let start = || Loading::start(Arc::clone(etcd), keys, revision, revision);
        let loading = match self.loading.take() {
            Some(ahead) => ahead,
            None => start().map_err(OpenError::Thread)?,
        };
        loop {
            match self.next(&loading)? {
                Loaded::Locks(locks) => {
                    self.chain.note_answer();
                    locks.into_iter().for_each(|lock| self.restore(lock, restore));
                }
                Loaded::Places(places) => self.kept.extend(places),
                Loaded::Failing(failure) => self.chain.note_failure(Some(failure)),
                Loaded::Foreign(key) => return Err(foreign(&String::from_utf8_lossy(&key))),
                Loaded::All => {
                    let lock = |it: Misfit| self.chain.keys.lock(&it.resource, it.token);
                    restore.complete().map_err(|misfit| foreign(&lock(misfit)))?;
                    return Ok(self.chain.last_token());
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
                    let key = self.chain.keys.place(&place.resource, place.arrival);
                    (key.clone(), Op::Put(key, bytes(&PlaceRow::new(&place))))
                }
                PlaceNote::Left(resource, arrival) => {
                    let key = self.chain.keys.place(&resource, arrival);
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

    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let began = crate::lock::clock::now();
        let clock = self.chain.clock.at(began);
        let transactions = transactions(batch, &self.chain.keys, clock, grace);
        self.write(transactions).map_err(|Lost| self.deposed())?;
        self.metrics.commit(crate::lock::clock::now().saturating_sub(began));
        Ok(())
    }

    fn repeat(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        self.commit(batch, grace)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        if self.chain.idle() < self.chain.pace.beat() / 2 {
            return Ok(());
        }
        self.beat().map_err(|Lost| self.deposed())
    }

    fn next_checkpoint(&self) -> Option<Duration> {
        Some(self.chain.pace.beat())
    }

    fn close(&mut self) {
        if !self.chain.tenure.is_over() && self.chain.step_down().is_err() {
            warn!("the other servers wait, because etcd was not told that this one is leaving");
        }
    }
}

fn lost() -> OpenError {
    OpenError::Lost("another server has taken over".into())
}

fn foreign(key: &str) -> OpenError {
    OpenError::Lost(format!("the value of {key} in etcd is not one of this rdlm").into())
}
