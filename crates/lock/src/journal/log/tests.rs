mod damage;
mod lifetimes;
mod model;
mod newer;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use tempfile::TempDir;

use super::segment::{BEGIN, SEGMENT_BYTES};
use super::*;
use crate::journal::contract::store_contract;
use crate::journal::store::{Conflict, HeldLock, Restore, RestoredLock};
use crate::{Grant, LockId, Mode, Terms};

const GRACE: Duration = Duration::from_secs(1);
const RESTART_GRACE: Duration = Duration::from_secs(5);

/// Every length and every byte, instead of some: for `make torture`.
const EXHAUSTIVE: &str = "RDLM_EXHAUSTIVE";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A place for a data directory, on a host whose clock the test sets.
struct Host {
    temp: TempDir,
    clock: Arc<Mutex<Uptime>>,
}

/// Takes locks over.
#[derive(Default)]
struct Locks {
    restored: Mutex<Vec<RestoredLock>>,
    conflict: Option<Conflict>,
}

impl Restore for Locks {
    fn restore(&self, lock: RestoredLock) {
        self.restored.lock().unwrap().push(lock);
    }

    fn complete(&self) -> Result<(), Conflict> {
        self.conflict.clone().map_or(Ok(()), Err)
    }
}

/// The files of a directory.
type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Host {
    fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let clock = Arc::new(Mutex::new(Uptime { boot: 1, uptime: seconds(1_000) }));
        Self { temp, clock }
    }

    fn dir(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    fn passes(&self, time: Duration) {
        self.clock.lock().unwrap().uptime += time;
    }

    fn reboots(&self) {
        let mut clock = self.clock.lock().unwrap();
        *clock = Uptime { boot: clock.boot + 1, uptime: seconds(3) };
    }

    fn start(&self) -> Result<(FileStore, Vec<RestoredLock>), OpenError> {
        self.start_with(RESTART_GRACE)
    }

    fn start_with(
        &self,
        restart_grace: Duration,
    ) -> Result<(FileStore, Vec<RestoredLock>), OpenError> {
        let clock = Arc::clone(&self.clock);
        let host = Box::new(move || *clock.lock().unwrap());
        let mut store = FileStore::with_clock(&self.dir(), restart_grace, host)?;
        let locks = Locks::default();
        store.load(&locks)?;
        let mut restored = locks.restored.into_inner().unwrap();
        restored.sort_by_key(|lock| lock.held.grant.fencing_token);
        Ok((store, restored))
    }

    fn files(&self) -> Files {
        let entries = fs::read_dir(self.dir()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Puts the directory in this state; with `but`, one file differs.
    fn put(&self, files: &Files, but: Option<(&PathBuf, &[u8])>) {
        let _ = fs::remove_dir_all(self.dir());
        fs::create_dir(self.dir()).unwrap();
        for (path, bytes) in files {
            fs::write(path, bytes).unwrap();
        }
        if let Some((path, bytes)) = but {
            fs::write(path, bytes).unwrap();
        }
    }

    fn segment(&self, number: u64) -> PathBuf {
        self.dir().join(format!("{number:08}.log"))
    }
}

fn grant(resource: &str, fencing_token: u64) -> Change {
    let grant = Grant {
        id: LockId::random(),
        terms: Terms::exclusive(resource, seconds(3600)),
        since: UNIX_EPOCH,
        expires: None,
        fencing_token,
    };
    let held =
        HeldLock { grant, key: Some("a-key".parse().unwrap()), remaining: Some(seconds(3600)) };
    Change { resource: resource.parse().unwrap(), removed: vec![], added: vec![held] }
}

/// A lock with a long title, and a lifetime.
fn long(fencing_token: u64, lifetime: Duration) -> Change {
    let mut change = grant(&format!("r{fencing_token}"), fencing_token);
    change.added[0].grant.terms.title = "x".repeat(1_000).into();
    change.added[0].grant.terms.lifetime = lifetime.into();
    change.added[0].remaining = Some(lifetime);
    change
}

fn release(of: &Change) -> Change {
    let removed = of.added.iter().map(|held| held.grant.fencing_token).collect();
    Change { resource: of.resource.clone(), removed, added: vec![] }
}

fn tokens(restored: &[RestoredLock]) -> Vec<u64> {
    restored.iter().map(|lock| lock.held.grant.fencing_token).collect()
}

/// Ten locks are held, the last token is 30. As a crash leaves it.
fn some_locks(host: &Host) {
    let (mut store, _) = host.start().unwrap();
    let grants: Vec<_> = (1..=30).map(|n| grant(&format!("r{n}"), n)).collect();
    for some in grants.chunks(3) {
        store.commit(some, GRACE).unwrap();
    }
    let releases: Vec<_> = grants[..20].iter().map(release).collect();
    for some in releases.chunks(5) {
        store.commit(some, GRACE).unwrap();
    }
}

/// The same over three segments.
fn some_locks_in_segments(host: &Host) {
    let (mut store, _) = host.start().unwrap();
    let kept: Vec<_> = (21..=30).map(|n| grant(&format!("r{n}"), n)).collect();
    for some in kept.chunks(5) {
        store.commit(some, GRACE).unwrap();
        for begin in [1_000, 1_030] {
            let others: Vec<_> = (begin..begin + 30).map(|n| long(n, seconds(60))).collect();
            store.commit(&others, GRACE).unwrap();
            store.commit(&others.iter().map(release).collect::<Vec<_>>(), GRACE).unwrap();
        }
    }
}

#[test]
fn what_was_committed_is_there_after_the_next_start() {
    let host = Host::new();
    let (mut store, restored) = host.start().unwrap();
    assert!(restored.is_empty() && store.next_checkpoint().is_none());
    let grants = [grant("a", 5), grant("b", 7)];
    store.commit(&grants, GRACE).unwrap();
    // A release and the grant that it causes are one change, and so is a renewal.
    let next = grant("a", 9);
    let hand_over = Change { removed: vec![5], ..next };
    let renewal = Change { removed: vec![7], ..grant("b", 7) };
    store.commit(&[hand_over, renewal], GRACE).unwrap();
    store.commit(&[release(&grants[1])], GRACE).unwrap();
    drop(store);
    let (_, restored) = host.start().unwrap();
    assert_eq!(tokens(&restored), [9]);
}

#[test]
fn the_log_keeps_the_contract_of_a_store() {
    let host = Host::new();
    store_contract(|| Box::new(FileStore::open(&host.dir(), RESTART_GRACE).unwrap()));
}

#[test]
fn the_largest_token_is_kept_also_of_locks_that_are_released() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[grant("a", 5)], GRACE).unwrap();
    store.commit(&[release(&grant("a", 5))], GRACE).unwrap();
    drop(store);
    let mut store = FileStore::open(&host.dir(), RESTART_GRACE).unwrap();
    assert_eq!(store.load(&Locks::default()).unwrap(), 5);
}

/// Many megabytes go through a log in which some locks are held all the while.
#[test]
fn room_is_used_again_and_nothing_is_lost_by_that() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    let held: Vec<_> = (1..=100).map(|token| long(token, seconds(100_000))).collect();
    store.commit(&held, GRACE).unwrap();
    let mut largest: usize = 0;
    for round in 0..60 {
        let begin = 10_000 + 40 * round;
        let others: Vec<_> = (begin..begin + 40).map(|token| long(token, seconds(60))).collect();
        store.commit(&others, GRACE).unwrap();
        host.passes(seconds(1));
        // Among them one whose row may be written again by the same record.
        let ended = others.iter().chain(&held[round as usize..=round as usize]);
        store.commit(&ended.map(release).collect::<Vec<_>>(), GRACE).unwrap();
        if round % 7 == 0 {
            drop(store);
            store = host.start().unwrap().0;
        }
        largest = largest.max(host.files().values().map(Vec::len).sum());
    }
    // Twice what is held and four segments are enough, and two are in reserve.
    let bound = 3 * 100 * 1_100 + 8 * SEGMENT_BYTES as usize;
    assert!(largest < bound, "{largest} bytes");
    drop(store);
    assert!(!fs::exists(host.segment(1)).unwrap());
    let (_, restored) = host.start().unwrap();
    assert_eq!(tokens(&restored), (61..=100).collect::<Vec<_>>());
    let left = seconds(100_000 - 60) + GRACE;
    assert!(
        restored.iter().all(|lock| lock.held.remaining == Some(left)),
        "as if they had not moved"
    );
}

#[test]
fn a_batch_that_is_larger_than_a_segment_is_written() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    let batch: Vec<_> = (1..=300).map(|token| long(token, seconds(60))).collect();
    store.commit(&batch, GRACE).unwrap();
    store.commit(&[grant("next", 4_000)], GRACE).unwrap();
    drop(store);
    assert_eq!(host.start().unwrap().1.len(), 301);
}
