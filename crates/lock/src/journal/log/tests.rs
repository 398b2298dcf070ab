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

/// Starts with damaged files: either all is there, or it is refused and left as it is.
fn starts(host: &Host, files: &Files, path: &PathBuf, bytes: &[u8], what: &str) -> bool {
    host.put(files, Some((path, bytes)));
    match host.start() {
        Ok((_, restored)) => {
            assert_eq!(tokens(&restored), (21..=30).collect::<Vec<_>>(), "{what}");
            true
        }
        Err(OpenError::Damaged(named, why)) => {
            assert_eq!(&named, path, "{what}: {why}");
            let mut expected = files.clone();
            expected.insert(path.clone(), bytes.to_vec());
            assert!(host.files() == expected, "{what}: refused, yet changed");
            false
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// The segments among these files, with where the last record of each ends.
fn segments(files: &Files) -> Vec<(&PathBuf, &Vec<u8>, usize)> {
    let logs = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap();
    logs.map(|(path, bytes)| (path, bytes, end(bytes))).collect()
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    for locks in [some_locks, some_locks_in_segments] {
        let host = Host::new();
        locks(&host);
        let files = host.files();
        let step = if env::var(EXHAUSTIVE).is_ok() { 1 } else { 9_973 };
        for (path, bytes, end) in segments(&files) {
            assert!(starts(&host, &files, path, bytes, "whole"));
            let of_interest = [0, 1, 40, BEGIN, end / 2, end, end + 1, bytes.len() - 1];
            for length in (0..bytes.len()).step_by(step).chain(of_interest) {
                let what = format!("{} cut off at {length}", path.display());
                assert!(!starts(&host, &files, path, &bytes[..length], &what), "{what}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_harmless_or_refused() {
    let exhaustive = env::var(EXHAUSTIVE).is_ok();
    for (locks, step) in [(some_locks as fn(&Host), 37), (some_locks_in_segments, 2_999)] {
        let host = Host::new();
        locks(&host);
        let files = host.files();
        for (path, bytes, end) in segments(&files) {
            let (mut refused, mut bytes) = (0, bytes.clone());
            let step = if exhaustive { 1 } else { step };
            // The head byte by byte, and the beginning and the end of the records; what is
            // between in steps.
            let ends = (0..60).step_by(if exhaustive { 1 } else { 3 }).chain(end - 30..end + 3);
            let all = ends.chain((BEGIN..end).step_by(step)).chain([end + 500, bytes.len() - 1]);
            for at in all.collect::<Vec<_>>() {
                let bit = 1 << (at % 8);
                bytes[at] ^= bit;
                let what = format!("bit {bit} of byte {at} of {} flipped", path.display());
                refused += usize::from(!starts(&host, &files, path, &bytes, &what));
                bytes[at] ^= bit;
            }
            assert!(refused > 20, "only {refused} noticed");
        }
    }
}

#[test]
fn a_write_that_was_cut_off_has_not_happened() {
    let host = Host::new();
    some_locks(&host);
    let before = host.files();
    let end = segments(&before)[0].2;
    let (mut store, _) = host.start().unwrap();
    let batch: Vec<_> = (100..140).map(|token| long(token, seconds(60))).collect();
    store.commit(&batch, GRACE).unwrap();
    drop(store);
    let after = host.files();
    let (path, written, written_end) = segments(&after)[0];
    // Its end is missing, or a page before that; there is no acknowledgement.
    let pages = (end / 4096 + 1..written_end / 4096).map(|page| page * 4096..page * 4096 + 4096);
    let cut = (end + 200..written_end - 16).step_by(1_973).map(|from| from..written_end - 16);
    for missing in cut.chain(pages.step_by(5)) {
        let mut torn = written.clone();
        torn[missing.clone()].fill(0);
        torn[written_end - 20..=written_end].fill(0);
        assert!(starts(&host, &before, path, &torn, &format!("without {missing:?}")));
        let (mut store, _) = host.start().unwrap();
        store.commit(&[grant("next", 300)], GRACE).unwrap();
        drop(store);
        assert_eq!(tokens(&host.start().unwrap().1).last(), Some(&300));
    }
}

#[test]
fn a_segment_that_is_missing_is_noticed() {
    let host = Host::new();
    some_locks_in_segments(&host);
    let files = host.files();
    let paths: Vec<_> = segments(&files).into_iter().map(|(path, ..)| path).collect();
    assert!(paths.len() >= 2, "{paths:?}");
    for path in paths {
        host.put(&files, None);
        fs::remove_file(path).unwrap();
        let mut expected = files.clone();
        expected.remove(path);
        let error = host.start().map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Damaged(..)), "{error}");
        assert!(host.files() == expected, "refused, yet changed");
    }
}

#[test]
fn a_next_segment_that_was_not_used_yet_is_no_damage() {
    let host = Host::new();
    some_locks(&host);
    let (before, last) = (host.files(), host.segment(1));
    let (mut store, _) = host.start().unwrap();
    let batch: Vec<_> = (100..160).map(|token| long(token, seconds(60))).collect();
    store.commit(&batch, GRACE).unwrap();
    drop(store);
    let next = fs::read(host.segment(2)).unwrap();
    let mut files = before.clone();
    files.insert(host.segment(2), next.clone());
    // It was used, yet the record that says so is missing.
    assert!(!starts(&host, &files, &last, &before[&last], "it has records"));
    files.get_mut(&host.segment(2)).unwrap()[BEGIN..].fill(0);
    assert!(starts(&host, &files, &last, &before[&last], "it has none"));
    assert!(!fs::exists(host.segment(2)).unwrap());
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

#[test]
fn locks_that_cannot_be_held_together_are_damage() {
    let host = Host::new();
    some_locks(&host);
    let files = host.files();
    let mut store = FileStore::open(&host.dir(), RESTART_GRACE).unwrap();
    let conflict = Conflict { resource: "r21".parse().unwrap(), token: 21 };
    let locks = Locks { conflict: Some(conflict), ..Locks::default() };
    let error = store.load(&locks).unwrap_err();
    assert!(error.to_string().contains("locks on r21 that cannot be held together"), "{error}");
    assert!(host.files() == files, "refused, yet changed");
}

#[test]
fn a_lifetime_goes_on_while_no_server_runs_and_stands_still_while_no_host_does() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(600))], GRACE).unwrap();
    host.passes(seconds(100));
    store.checkpoint().unwrap();
    host.passes(seconds(50));
    drop(store);
    let remaining = || host.start().unwrap().1[0].held.remaining;
    assert_eq!(remaining(), Some(seconds(451)));
    host.passes(seconds(50));
    assert_eq!(remaining(), Some(seconds(401)));
    host.passes(seconds(50));
    host.reboots();
    assert_eq!(remaining(), Some(seconds(401)), "as when the journal was last written");
    host.passes(seconds(1));
    assert_eq!(remaining(), Some(seconds(400)));
}

/// A conversion begins no lifetime: it is written with what is left of it.
#[test]
fn a_lock_that_is_written_again_in_the_middle_of_its_lifetime_has_what_was_left() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(600))], GRACE).unwrap();
    host.passes(seconds(500));
    let mut converted = long(1, seconds(600));
    (converted.removed, converted.added[0].remaining) = (vec![1], Some(seconds(100)));
    converted.added[0].grant.terms.mode = Mode::ProtectedRead;
    store.commit(&[converted], GRACE).unwrap();
    drop(store);
    let (_, restored) = host.start().unwrap();
    assert_eq!(restored[0].held.remaining, Some(seconds(101)));
    let grant = &restored[0].held.grant;
    assert_eq!(
        (grant.terms.mode, grant.terms.lifetime),
        (Mode::ProtectedRead, seconds(600).into())
    );
}

#[test]
fn a_lock_gets_the_grace_once() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(10)), long(2, seconds(1_000))], GRACE).unwrap();
    drop(store);
    host.passes(seconds(500));
    let (store, restored) = host.start().unwrap();
    assert_eq!(restored[0].held.remaining, Some(RESTART_GRACE));
    assert_eq!(restored[1].held.remaining, Some(seconds(501)));
    drop(store);
    host.passes(seconds(2));
    assert_eq!(host.start().unwrap().1[0].held.remaining, Some(seconds(3)));
    host.passes(seconds(3));
    assert_eq!(tokens(&host.start_with(seconds(100)).unwrap().1), [2]);
    assert_eq!(tokens(&host.start_with(seconds(100)).unwrap().1), [2]);
}

#[test]
fn a_lock_that_ended_at_a_restart_without_a_grace_does_not_come_back() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    store.commit(&[long(1, seconds(10))], GRACE).unwrap();
    drop(store);
    host.passes(seconds(50));
    assert!(host.start_with(Duration::ZERO).unwrap().1.is_empty());
    assert!(host.start_with(seconds(500)).unwrap().1.is_empty());
}

#[test]
fn a_repeat_has_the_longer_grace() {
    let host = Host::new();
    let (mut store, _) = host.start().unwrap();
    let batch = [long(1, seconds(600))];
    store.commit(&batch, GRACE).unwrap();
    store.repeat(&batch, seconds(8)).unwrap();
    drop(store);
    assert_eq!(host.start().unwrap().1[0].held.remaining, Some(seconds(608)));
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

#[derive(Debug, Clone)]
enum Step {
    Hold { lifetime: u64, long: bool },
    Release(prop::sample::Index),
    Renew(prop::sample::Index, u64),
    Pass(u64),
    Restart,
    Reboot,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (1..200u64, any::<bool>()).prop_map(|(lifetime, long)| Step::Hold { lifetime, long }),
        3 => index().prop_map(Step::Release),
        2 => (index(), 1..200u64).prop_map(|(of, lifetime)| Step::Renew(of, lifetime)),
        2 => (1..20u64).prop_map(Step::Pass),
        1 => Just(Step::Restart),
        1 => Just(Step::Reboot),
        1 => Just(Step::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        env::var("PROPTEST_CASES").map_or(24, |cases| cases.parse().unwrap_or(24))
    ))]

    /// Whatever happens, after a restart the locks are those that a map has, and live as long.
    #[test]
    fn a_log_does_what_a_map_does(steps in prop::collection::vec(step(), 1..60)) {
        let host = Host::new();
        let (mut store, _) = host.start().unwrap();
        let (mut now, mut written, mut token) = (0, 0, 0);
        // Token to end and whether it had the grace, by a clock that stands still while the
        // host is down.
        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        let nth = |model: &BTreeMap<u64, _>, index: prop::sample::Index| {
            (!model.is_empty()).then(|| *model.keys().nth(index.index(model.len())).unwrap())
        };
        for step in steps {
            match step {
                Step::Hold { lifetime, long: is_long } => {
                    token += 1;
                    let mut batch = vec![long(token, seconds(lifetime))];
                    model.insert(token, (now + lifetime + 1, false));
                    for _ in 0..if is_long { 20 } else { 0 } {
                        token += 1;
                        batch.push(long(token, seconds(lifetime)));
                        model.insert(token, (now + lifetime + 1, false));
                    }
                    store.commit(&batch, GRACE).unwrap();
                    written = now;
                }
                Step::Release(index) => if let Some(token) = nth(&model, index) {
                    model.remove(&token);
                    store.commit(&[release(&grant(&format!("r{token}"), token))], GRACE).unwrap();
                    written = now;
                },
                Step::Renew(index, lifetime) => if let Some(token) = nth(&model, index) {
                    model.insert(token, (now + lifetime + 1, false));
                    let renewal = Change { removed: vec![token], ..long(token, seconds(lifetime)) };
                    store.commit(&[renewal], GRACE).unwrap();
                    written = now;
                },
                Step::Pass(time) => {
                    now += time;
                    host.passes(seconds(time));
                }
                Step::Checkpoint => {
                    store.checkpoint().unwrap();
                    if now - written >= 30 && !model.is_empty() {
                        written = now;
                    }
                }
                Step::Restart | Step::Reboot => {
                    drop(store);
                    if matches!(step, Step::Reboot) {
                        host.reboots();
                        now = written;
                    }
                    let (started, restored) = host.start().unwrap();
                    (store, written) = (started, now);
                    for (end, graced) in model.values_mut() {
                        if !*graced && *end < now + 5 {
                            (*end, *graced) = (now + 5, true);
                        }
                    }
                    model.retain(|_, (end, _)| *end > now);
                    let found: Vec<_> = restored
                        .iter()
                        .map(|lock| (lock.held.grant.fencing_token, lock.held.remaining))
                        .collect();
                    let expected = model.iter().map(|(t, (end, _))| (*t, Some(seconds(*end - now))));
                    prop_assert_eq!(found, expected.collect::<Vec<_>>());
                }
            }
        }
    }
}
