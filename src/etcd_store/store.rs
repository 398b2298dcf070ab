//! The store in etcd: each commit is one or more transactions of the chain.

use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, after, select};
use log::warn;

use super::batch::{MAX_ROWS, Op, Transaction, fill, transactions};
use super::chain::{Backend, Chain, Fenced};
use super::loading::{Loaded, LoadedLock, Loading};
use super::records::{PlaceRow, bytes};
use crate::lock::{
    Change, Conflict, KeptPlace, Latency, OpenError, PlaceNote, PlaceStore, Properties, Remote,
    Restore, RestoredLock, Store, StoreError,
};
use crate::metrics::ClusterMetrics;

/// How much longer than its lifetime a lock lives after a failover. A commit that takes longer is
/// repeated.
const GRACE: Duration = Duration::from_millis(200);

/// The locks in etcd, while this server is active.
pub(super) struct EtcdStore {
    chain: Chain,
    metrics: Arc<ClusterMetrics>,
    /// Signalled when another server has taken over.
    fenced: Sender<()>,
    /// The rows that are read ahead of the take-over.
    loading: Option<Loading>,
    /// Places in line that were restored.
    restored: Vec<KeptPlace>,
    /// Rows of places in line that are not written yet, by their keys.
    unwritten: BTreeMap<String, Op>,
}

impl EtcdStore {
    /// `ahead` reads at the revision that `chain` has taken over from.
    pub(super) fn new(
        chain: Chain,
        ahead: Option<Loading>,
        metrics: Arc<ClusterMetrics>,
        fenced: Sender<()>,
    ) -> Self {
        let (restored, unwritten) = (Vec::new(), BTreeMap::new());
        Self { chain, metrics, fenced, loading: ahead, restored, unwritten }
    }

    fn heartbeat(&mut self) -> Result<(), Fenced> {
        self.write(vec![Transaction::default()])
    }

    fn write(&mut self, mut transactions: Vec<Transaction>) -> Result<(), Fenced> {
        // Full batches leave no room for places in line, one after the other.
        if self.unwritten.len() > MAX_ROWS {
            transactions.push(Transaction::default());
        }
        fill(&mut transactions, &mut self.unwritten);
        let mut transactions = transactions.iter();
        transactions.try_for_each(|made| self.chain.write(made.last_token, &made.ops))
    }

    fn fenced(&self) -> StoreError {
        // Fails if the receiver knows already.
        let _ = self.fenced.send(());
        StoreError::Fenced
    }

    /// The next rows. Writes `head` meanwhile, so that no other server takes over.
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

    /// Logs that the places at these keys are not restored. Their clients lose them.
    fn skip(&self, keys: &[String]) {
        let Some(first) = keys.first() else { return };
        self.metrics.bad_rows("place", keys.len());
        warn!(
            "places in line that are passed over, because they are not of this version of rdlm: \
             {}, the first at {first}",
            keys.len()
        );
    }

    /// Drops places whose id or Idempotency-Key another place has.
    fn skip_repeated(&mut self) {
        let (mut ids, mut keys, mut repeated) = (HashSet::new(), HashSet::new(), Vec::new());
        self.restored.retain(|place| {
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
        // If `head` was lost, the clock restarts at zero, and so do the lifetimes.
        let longest =
            held.grant.terms.lifetime.duration().map(|lifetime| lifetime.saturating_add(GRACE));
        let remaining = end.map(|end| end.saturating_sub(now));
        held.remaining = remaining.map(|time| time.min(longest.unwrap_or(time)));
        restore.restore(RestoredLock { resource, held });
    }
}

impl Store for EtcdStore {
    fn properties(&self) -> Properties {
        let term = Arc::clone(&self.chain.term);
        // That another server has taken over is known without etcd.
        let reachable = Arc::new(move || term.is_over() || term.may_answer());
        let remote = Remote { patience: self.chain.pace.failover_after, reachable };
        Properties { grace: GRACE, max_batch: MAX_ROWS, latency: Latency::Unbounded(remote) }
    }

    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
        let (Backend { etcd, keys, .. }, revision) = (&self.chain.backend, self.chain.revision());
        let start = || Loading::start(Arc::clone(etcd), keys, revision, revision);
        let loading = match self.loading.take() {
            Some(ahead) => ahead,
            None => start().map_err(OpenError::Thread)?,
        };
        // A lock has a larger one only if `head` was lost.
        let mut last_token = self.chain.last_token();
        loop {
            match self.next(&loading)? {
                Loaded::Locks(locks) => {
                    self.chain.note_answer();
                    let tokens = locks.iter().map(|lock| lock.held.grant.fencing_token);
                    last_token = tokens.fold(last_token, u64::max);
                    locks.into_iter().for_each(|lock| self.restore(lock, restore));
                }
                Loaded::Places(places) => self.restored.extend(places),
                Loaded::Skipped(keys) => self.skip(&keys),
                Loaded::Failing(failure) => self.chain.note_failure(Some(failure)),
                Loaded::Foreign(key) => return Err(self.foreign(&key)),
                Loaded::All => {
                    self.skip_repeated();
                    let lock = |it: Conflict| self.chain.backend.keys.lock(&it.resource, it.token);
                    restore.complete().map_err(|conflict| self.foreign(&lock(conflict)))?;
                    return Ok(last_token);
                }
            }
        }
    }

    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let began = crate::lock::clock::now();
        let clock = self.chain.clock.at(began);
        let transactions = transactions(batch, &self.chain.backend.keys, clock, grace);
        self.write(transactions).map_err(|Fenced| self.fenced())?;
        self.metrics.commit(crate::lock::clock::now().saturating_sub(began));
        Ok(())
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

    fn places(&mut self) -> Option<&mut dyn PlaceStore> {
        Some(self)
    }

    fn close(&mut self) {
        if !self.chain.term.is_over() && self.chain.step_down().is_err() {
            warn!("the other servers wait, because etcd was not told that this one is leaving");
        }
    }
}

impl PlaceStore for EtcdStore {
    fn load(&mut self) -> Vec<KeptPlace> {
        mem::take(&mut self.restored)
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
                    // Replaces the note that it has joined, which may be written already.
                    (key.clone(), Op::Delete(key))
                }
            };
            self.unwritten.insert(key, op);
        }
    }
}

fn lost() -> OpenError {
    OpenError::Lost("another server has taken over".into())
}

#[cfg(test)]
mod tests;
