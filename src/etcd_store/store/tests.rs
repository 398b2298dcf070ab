//! The store against a real etcd.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, bounded, unbounded};

use super::super::chain::{Predecessor, StoredHead};
use super::super::etcd::{self, wire};
use super::super::history::History;
use super::super::records::{Head, Keys};
use super::*;
use crate::cluster::Options;
use crate::cluster::term::{Pace, Term};
use crate::lock::{clock, store_contract};
use crate::metrics::Metrics;

#[path = "../../../tests/cluster/etcd.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
#[expect(clippy::disallowed_methods, reason = "it waits for another process")]
mod process;

const FAILOVER_AFTER: Duration = Duration::from_secs(10);

/// Takes over whatever is in this etcd, as a server does that sees the active one fall silent.
fn take_over(etcd: &process::Etcd, leaving: &Receiver<Infallible>) -> EtcdStore {
    let options = Options::of_member(etcd.endpoints(), FAILOVER_AFTER);
    let client = Arc::new(etcd::Etcd::new(&options).unwrap());
    let (keys, pace) = (Keys::new(&options.prefix), Pace { failover_after: FAILOVER_AFTER });
    let found = client.txn(&wire::look(&[&keys.head()]), FAILOVER_AFTER).unwrap().found().next();
    let head = found.unwrap().map(|found| StoredHead {
        revision: found.mod_revision,
        head: Head::read(&found.value).unwrap(),
        value: found.value,
    });
    let history = Arc::new(History::new(None));
    let shown = head.as_ref().map(|stored| stored.head.version(stored.revision));
    history.show(None, shown.as_ref()).unwrap();
    let backend = Backend { etcd: client, keys, history, leaving: leaving.clone() };
    let predecessor = Predecessor { head, first_seen: clock::now() };
    let term = Term::new(pace).unwrap();
    let chain = Chain::take_over(backend, term, "http://127.0.0.1:1", predecessor, bounded(0).0);
    let metrics = Metrics::with_cluster_if(true).1.unwrap();
    EtcdStore::new(chain.unwrap(), None, metrics, unbounded().0)
}

#[test]
fn etcd_keeps_the_contract_of_a_store() {
    let Some(etcd) = process::Etcd::start(1) else {
        println!("skipped: etcd is not installed");
        return;
    };
    let (_stays, leaving) = bounded(0);
    store_contract(|| Box::new(take_over(&etcd, &leaving)));
}

/// What it writes would be lost.
#[test]
fn a_store_that_was_taken_over_writes_nothing_more() {
    let Some(etcd) = process::Etcd::start(1) else {
        println!("skipped: etcd is not installed");
        return;
    };
    let (_stays, leaving) = bounded(0);
    let mut first = take_over(&etcd, &leaving);
    let mut second = take_over(&etcd, &leaving);
    assert_eq!(first.commit(&[], Duration::ZERO), Err(StoreError::Fenced));
    second.commit(&[], Duration::ZERO).unwrap();
    assert_eq!(first.commit(&[], Duration::ZERO), Err(StoreError::Fenced));
}
