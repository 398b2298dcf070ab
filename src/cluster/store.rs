//! etcd as what the journal writes to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use log::warn;
use serde::de::DeserializeOwned;

use super::batch::{Op, Transaction, fill, transactions};
use super::chain::{Chain, Lost};
use super::etcd::{Failure, wire};
use super::records::{PlaceRow, Row, bytes, range_end};
use super::tenure::ClusterClock;
use crate::lock::{Change, KeptPlace, OpenError, PlaceNote, Restore, Restored, Store, StoreError};
use crate::metrics::ClusterMetrics;

/// How many rows are read at a time, and how few if that takes too long.
const PAGE: usize = 1000;
const SMALL_PAGE: usize = 50;

/// How much longer than its lifetime a lock lives after a failover; a commit that takes longer
/// is written again.
const GRACE: Duration = Duration::from_millis(200);

/// The locks in etcd, as long as this server is the active one.
pub(super) struct EtcdStore {
    chain: Chain,
    metrics: Arc<ClusterMetrics>,
    /// Hears when another server has taken over.
    deposed: Sender<()>,
    /// Places in line that have come or gone, and are not written yet.
    places: BTreeMap<String, Op>,
}

/// Some rows with their keys, and whether there are more behind them.
struct Page<T> {
    rows: Vec<(Vec<u8>, T)>,
    more: bool,
}

impl EtcdStore {
    pub(super) fn new(chain: Chain, metrics: Arc<ClusterMetrics>, deposed: Sender<()>) -> Self {
        Self { chain, metrics, deposed, places: BTreeMap::new() }
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

    /// The rows from `from` on, at most [`PAGE`] of them.
    fn page<T: DeserializeOwned>(&mut self, from: &[u8], end: &[u8]) -> Result<Page<T>, OpenError> {
        let (mut attempts, mut rows) = (0, PAGE);
        let found = loop {
            self.beat_if_due().map_err(|Lost| lost())?;
            let body = wire::range(from, end, self.chain.revision(), rows);
            let failure = match self.chain.etcd.range(&body, self.chain.pace.attempt()) {
                Ok(found) => break found,
                Err(failure) => failure,
            };
            if failure.is_compacted() {
                self.beat().map_err(|Lost| lost())?;
            }
            if failure == Failure::Timeout {
                rows = (rows / 2).max(SMALL_PAGE);
            }
            attempts += 1;
            if attempts % self.chain.etcd.members() == 0 {
                self.chain.note_failure(Some(failure));
                self.chain.pause();
            }
            if self.chain.is_leaving() {
                return Err(lost());
            }
        };
        self.chain.note_answer();
        let more = found.more;
        let row = |found: wire::KeyValue| match serde_json::from_slice(&found.value) {
            Ok(row) => Ok((found.key, row)),
            Err(_) => Err(foreign(&found.key)),
        };
        Ok(Page { rows: found.kvs.into_iter().map(row).collect::<Result<_, _>>()?, more })
    }

    /// Hands each row below `prefix` to `take`, with its key.
    fn each<T: DeserializeOwned>(
        &mut self,
        prefix: &str,
        mut take: impl FnMut(&ClusterClock, &[u8], T) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let (mut from, end) = (prefix.as_bytes().to_vec(), range_end(prefix));
        loop {
            let Page { rows, more } = self.page(&from, &end)?;
            let last = rows.last().map(|(key, _)| key.clone());
            rows.into_iter().try_for_each(|(key, row)| take(&self.chain.clock, &key, row))?;
            match last {
                // The next page begins behind the last key.
                Some(last) if more => from = [&last[..], b"\0"].concat(),
                _ => return Ok(()),
            }
        }
    }

    /// Loading may take longer than other servers wait for a sign of life.
    fn beat_if_due(&mut self) -> Result<(), Lost> {
        if self.chain.idle() >= self.chain.pace.beat() { self.beat() } else { Ok(()) }
    }
}

impl Store for EtcdStore {
    fn load(&mut self, restore: &mut Restore<'_>) -> Result<u64, OpenError> {
        let locks = self.chain.keys.locks();
        self.each(&locks, |clock, key, row: Row| {
            let now = clock.at(crate::clock::now());
            let remaining = row.end.map(|end| end.saturating_sub(now));
            let (resource, held) = row.lock(remaining).ok_or_else(|| foreign(key))?;
            restore(Restored { resource, held }).map_err(|_| foreign(key))
        })?;
        Ok(self.chain.last_token())
    }

    fn load_places(&mut self) -> Result<Vec<KeptPlace>, OpenError> {
        let mut places = Vec::new();
        let prefix = self.chain.keys.places();
        self.each(&prefix, |_, key, row: PlaceRow| {
            places.push(row.place().ok_or_else(|| foreign(key))?);
            Ok(())
        })?;
        Ok(places)
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
        let began = crate::clock::now();
        let clock = self.chain.clock.at(began);
        let transactions = transactions(batch, &self.chain.keys, clock, grace);
        self.write(transactions).map_err(|Lost| self.deposed())?;
        self.metrics.commit(crate::clock::now().saturating_sub(began));
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

fn foreign(key: &[u8]) -> OpenError {
    let key = String::from_utf8_lossy(key).into_owned();
    OpenError::Lost(format!("the value of {key} in etcd is not one of this rdlm").into())
}
