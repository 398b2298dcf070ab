//! The database: opened with care, written in transactions.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    Table, TableDefinition,
};

use super::backend::{HEAD_BYTES, JournalFile, read_head};
use super::boot::BootClock;
use super::row::{Columns, LOCKS, Row};
use super::{CHECKPOINT, COMMIT_GRACE, Change, OpenError, ResourceName, Restored};
use crate::lock::resource::can_be_held_together;

const FILE: &str = "locks.redb";
/// A file that is being made. It gets its name when it is whole.
const NEW_FILE: &str = "locks.redb.new";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// How many transactions there have been.
const COMMITS: &str = "commits";
const LAST_TOKEN: &str = "last_token";

/// Enough for the pages of some 100,000 locks.
const CACHE_BYTES: usize = 32 << 20;

/// The locks on disk.
pub(super) struct Store {
    file: JournalFile,
    clock: BootClock,
    state: State,
    commits: u64,
    last_token: u64,
    locks: u64,
    _dir: DirLock,
}

enum State {
    Open(Database),
    /// After a failed write, which may be on disk all the same.
    Failed {
        doubtful: Vec<Change>,
    },
}

impl Store {
    /// Opens the file, or makes it, and returns which locks are still held.
    pub(super) fn open(
        dir: &Path,
        restart_grace: Duration,
        clock: BootClock,
    ) -> Result<(Self, Vec<Restored>), OpenError> {
        let locked_dir = lock_dir(dir)?;
        let path = dir.join(FILE);
        if !fs::exists(&path).map_err(|error| OpenError::Unusable(path.clone(), error))? {
            create(dir).map_err(|error| OpenError::Unusable(path.clone(), error))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| OpenError::Unusable(path.clone(), error))?;
        let file = JournalFile { file: Arc::new(file), path: path.clone() };

        let contents = inspect(&path)?;
        let failed =
            |error: redb::Error| OpenError::Unusable(path.clone(), io::Error::other(error));
        let database = open_database(file.clone()).map_err(failed)?;
        let mut store = Self {
            file,
            clock,
            state: State::Open(database),
            commits: contents.commits,
            last_token: contents.last_token,
            locks: 0,
            _dir: locked_dir,
        };
        let restored = store.revive(contents.rows, restart_grace).map_err(failed)?;
        Ok((store, restored))
    }

    /// The largest fencing token that was ever written.
    pub(super) fn last_token(&self) -> u64 {
        self.last_token
    }

    pub(super) fn is_empty(&self) -> bool {
        self.locks == 0
    }

    /// Writes these changes, in this order, as one transaction. After a restart, locks that are
    /// granted by them live `grace` longer than their lifetime from now.
    ///
    /// # Errors
    /// None of them is made.
    pub(super) fn commit<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change> + Clone,
        grace: Duration,
    ) -> Result<(), redb::Error> {
        self.reopen()?;
        let State::Open(database) = &self.state else { return Ok(()) };
        let granted =
            changes.clone().flat_map(|change| &change.held).map(|held| held.lock.fencing_token());
        let last_token = granted.fold(self.last_token, u64::max);
        let clock = self.clock;
        let written = transact(database, self.commits + 1, last_token, |locks| {
            changes.clone().try_for_each(|change| apply(locks, change, clock, grace))
        });
        match written {
            Ok(locks) => {
                self.last_token = last_token;
                self.acknowledge(locks);
                Ok(())
            }
            Err(error) => {
                self.state = State::Failed { doubtful: changes.cloned().collect() };
                // At once, if it can be: a crash before would make true what is refused now. If
                // not, the next commit tries again.
                let _ = self.reopen();
                Err(error)
            }
        }
    }

    /// After a commit that failed and only repeated an earlier one: whether or not it is on
    /// disk, nothing is to be taken back.
    pub(super) fn stand_by_failed_commit(&mut self) {
        if let State::Failed { doubtful } = &mut self.state {
            doubtful.clear();
        }
    }

    /// Brings the remaining lifetimes up to date, so that a host that restarts in a loop does
    /// not hold a lock for ever.
    ///
    /// # Errors
    /// They are as they were.
    pub(super) fn checkpoint(&mut self) -> Result<(), redb::Error> {
        self.reopen()?;
        let State::Open(database) = &self.state else { return Ok(()) };
        let now = self.clock.now();
        let mut rows = read(database)?.rows;
        rows.retain_mut(|(_, row)| match row.checkpointed(now, CHECKPOINT) {
            Some(checkpointed) => {
                *row = checkpointed;
                true
            }
            None => false,
        });
        self.write_rows(&rows, &[])
    }

    /// Lets the locks of an earlier run live on, or takes out those that have expired.
    fn revive(
        &mut self,
        rows: Vec<(ResourceName, Row)>,
        restart_grace: Duration,
    ) -> Result<Vec<Restored>, redb::Error> {
        let (boot, now) = (self.clock.boot(), self.clock.now());
        let (mut restored, mut changed, mut expired) = (Vec::new(), Vec::new(), Vec::new());
        self.locks = rows.len() as u64;
        for (resource, row) in rows {
            let Some(revived) = row.revived(boot, now, restart_grace) else {
                expired.push((resource, row));
                continue;
            };
            let (held, remaining) = (revived.held.clone(), revived.remaining);
            let (lock, key) = (held.lock, held.key);
            restored.push(Restored { resource: resource.clone(), lock, key, remaining });
            if row.needs_writing(&revived) {
                changed.push((resource, revived));
            }
        }
        self.write_rows(&changed, &expired)?;
        Ok(restored)
    }

    fn write_rows(
        &mut self,
        changed: &[(ResourceName, Row)],
        gone: &[(ResourceName, Row)],
    ) -> Result<(), redb::Error> {
        let State::Open(database) = &self.state else { return Ok(()) };
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let written = transact(database, self.commits + 1, self.last_token, |locks| {
            for (resource, row) in gone {
                locks.remove((resource.as_str(), row.fencing_token()))?;
            }
            for (resource, row) in changed {
                locks.insert((resource.as_str(), row.fencing_token()), row.to_columns())?;
            }
            Ok(())
        });
        match written {
            Ok(locks) => {
                self.acknowledge(locks);
                Ok(())
            }
            Err(error) => {
                // These rows say the same as the earlier ones, only later.
                self.state = State::Failed { doubtful: Vec::new() };
                Err(error)
            }
        }
    }

    /// Notes that the transaction is on disk.
    fn acknowledge(&mut self, locks: u64) {
        self.commits += 1;
        self.locks = locks;
        // If it fails, damage to this commit may go unnoticed until the next one.
        let _ = self.file.write_head(self.commits);
    }

    /// After a failed write: opens the database anew and takes back what is on disk of it.
    fn reopen(&mut self) -> Result<(), redb::Error> {
        let State::Failed { doubtful } = &mut self.state else { return Ok(()) };
        let database = open_database(self.file.clone())?;
        let found = read(&database)?;
        let doubtful = std::mem::take(doubtful);
        self.state = State::Open(database);
        let failed_commit = self.commits + 1;
        self.commits = found.commits;
        self.last_token = found.last_token;
        self.locks = found.rows.len() as u64;
        if found.commits != failed_commit {
            return Ok(());
        }
        let undo: Vec<_> = doubtful.iter().rev().map(Change::inverse).collect();
        let undone = self.commit(undo.iter(), COMMIT_GRACE);
        if undone.is_err() {
            // What is doubtful is still the same.
            self.commits = failed_commit - 1;
            self.state = State::Failed { doubtful };
        }
        undone
    }
}

/// A directory that no second server may use meanwhile.
struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        // A process that is just being started may hold the descriptor for a moment longer.
        let _ = self.0.unlock();
    }
}

/// What is in a database.
struct Contents {
    rows: Vec<(ResourceName, Row)>,
    commits: u64,
    last_token: u64,
}

/// Opens the directory, makes it if it is missing, and locks it.
fn lock_dir(dir: &Path) -> Result<DirLock, OpenError> {
    let unusable = |error| OpenError::Unusable(dir.into(), error);
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let opened = File::open(dir).map_err(unusable)?;
    match opened.try_lock() {
        Ok(()) => Ok(DirLock(opened)),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(dir.into())),
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Makes an empty database. A crash meanwhile leaves no file of the right name.
fn create(dir: &Path) -> io::Result<()> {
    let new = dir.join(NEW_FILE);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let file = JournalFile { file: Arc::new(file), path: new.clone() };
    file.write_head(0)?;
    let database = open_database(file).map_err(io::Error::other)?;
    transact(&database, 0, 0, |_| Ok(())).map_err(io::Error::other)?;
    drop(database);
    fs::rename(&new, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

fn open_database(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    let mut builder = Builder::new();
    Ok(builder.set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

/// Checks a copy of the file in memory, because opening the file itself may change it.
fn inspect(path: &Path) -> Result<Contents, OpenError> {
    let damaged = |why: &str| OpenError::Damaged(path.into(), why.into());
    let bytes = fs::read(path).map_err(|error| OpenError::Unusable(path.into(), error))?;
    let acknowledged = read_head(&bytes).ok_or_else(|| damaged("its head is not one of rdlm's"))?;
    let bytes = bytes.get(HEAD_BYTES as usize..).filter(|bytes| !bytes.is_empty());
    let bytes = bytes.ok_or_else(|| damaged("it is cut off"))?;
    let check = || -> Result<(bool, Contents), redb::Error> {
        let copy = InMemoryBackend::new();
        copy.set_len(bytes.len() as u64)?;
        copy.write(0, bytes)?;
        let mut database = open_database(copy)?;
        let intact = database.check_integrity()?;
        Ok((intact, read(&database)?))
    };
    match without_panic(check) {
        Some(Ok((true, contents))) if contents.commits < acknowledged => {
            Err(damaged("the last changes are missing"))
        }
        Some(Ok((true, contents))) => Ok(contents),
        Some(Ok((false, _))) => Err(damaged("its checksums are wrong")),
        Some(Err(error)) => Err(damaged(&error.to_string())),
        None => Err(damaged("its pages make no sense")),
    }
}

/// The database panics on some damage: turns that into `None`, without a message.
fn without_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Mutex<()> = Mutex::new(());
    let _one_at_a_time = HOOK.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(panic::AssertUnwindSafe(run));
    panic::set_hook(hook);
    result.ok()
}

fn read(database: &Database) -> Result<Contents, redb::Error> {
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |key: &str| -> Result<u64, redb::Error> {
        let value = meta.get(key)?.map(|value| value.value());
        value.ok_or_else(|| redb::Error::Corrupted(format!("it does not tell its {key}")))
    };
    let locks = transaction.open_table(LOCKS)?;
    let mut rows: Vec<(ResourceName, Row)> = Vec::new();
    for entry in locks.iter()? {
        let (key, columns) = entry?;
        let (name, token) = key.value();
        let name: ResourceName = name.parse().map_err(|_| {
            redb::Error::Corrupted(format!("it has a lock on {name:?}, which is no resource name"))
        })?;
        let row = Row::from_columns(token, columns.value());
        let row = row.ok_or_else(|| {
            redb::Error::Corrupted(format!("it has a lock on {name} that makes no sense"))
        })?;
        rows.push((name, row));
    }
    check_together(&rows)?;
    Ok(Contents { rows, commits: number(COMMITS)?, last_token: number(LAST_TOKEN)? })
}

/// Whether all locks of each resource can be held together. The rows are in order of the names.
fn check_together(rows: &[(ResourceName, Row)]) -> Result<(), redb::Error> {
    for of_one in rows.chunk_by(|(one, _), (other, _)| one == other) {
        let modes = of_one.iter().map(|(_, row)| row.held.lock.request.mode);
        if !can_be_held_together(modes) {
            let name = &of_one[0].0;
            let why = format!("it has locks on {name} that cannot be held together");
            return Err(redb::Error::Corrupted(why));
        }
    }
    Ok(())
}

/// Runs `write` as the transaction of this number and returns how many locks there are then.
fn transact(
    database: &Database,
    number: u64,
    last_token: u64,
    write: impl FnOnce(&mut LocksTable<'_>) -> Result<(), redb::Error>,
) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let mut table = transaction.open_table(LOCKS)?;
    write(&mut table)?;
    let locks = table.len()?;
    drop(table);
    let mut meta = transaction.open_table(META)?;
    meta.insert(COMMITS, number)?;
    meta.insert(LAST_TOKEN, last_token)?;
    drop(meta);
    transaction.commit()?;
    Ok(locks)
}

type LocksTable<'a> = Table<'a, (&'static str, u64), Columns<'static>>;

fn apply(
    locks: &mut LocksTable<'_>,
    change: &Change,
    clock: BootClock,
    grace: Duration,
) -> Result<(), redb::Error> {
    let resource = change.resource.as_str();
    for ended in &change.ended {
        locks.remove((resource, ended.lock.fencing_token()))?;
    }
    for held in &change.held {
        locks.insert(
            (resource, held.lock.fencing_token()),
            Row::new(held, clock, grace).to_columns(),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::lock::journal::Held;
    use crate::lock::{Lock, LockId, LockRequest, Mode, Phase};

    const GRACE: Duration = Duration::from_secs(5);

    /// Every length and every byte, instead of some: for `make torture`.
    const EXHAUSTIVE: &str = "RDLM_EXHAUSTIVE";

    /// A directory that is removed with the test.
    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            Self(env::temp_dir().join(format!("rdlm-store-{}-{count}", std::process::id())))
        }

        fn open(&self) -> Result<(Store, Vec<Restored>), OpenError> {
            Store::open(&self.0, GRACE, BootClock::of_this_boot())
        }

        fn file(&self) -> std::path::PathBuf {
            self.0.join(FILE)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn grant(resource: &str, fencing_token: u64) -> Change {
        grant_in(Mode::EXCLUSIVE, resource, fencing_token)
    }

    fn grant_in(mode: Mode, resource: &str, fencing_token: u64) -> Change {
        let request = LockRequest {
            title: resource.into(),
            wait: Duration::ZERO,
            lifetime: Duration::from_secs(3600),
            mode,
            client: "a client".into(),
        };
        let phase = Phase::Active { since: UNIX_EPOCH, expires: UNIX_EPOCH, fencing_token };
        let lock = Lock { id: LockId::random(), request, phase };
        let held = Held { lock, key: Some("a-key".parse().unwrap()) };
        Change { resource: resource.parse().unwrap(), ended: vec![], held: vec![held] }
    }

    fn names(restored: &[Restored]) -> Vec<&str> {
        restored.iter().map(|restored| restored.resource.as_str()).collect()
    }

    /// The bytes of a file with some locks, as a crash leaves it and as an orderly end does.
    fn files(dir: &Dir) -> [Vec<u8>; 2] {
        let (mut store, _) = dir.open().unwrap();
        let grants: Vec<_> = (1..=30).map(|n| grant(&format!("r{n}"), n)).collect();
        for some in grants.chunks(3) {
            store.commit(some.iter(), GRACE).unwrap();
        }
        let releases: Vec<_> = grants[..20].iter().map(Change::inverse).collect();
        for some in releases.chunks(5) {
            store.commit(some.iter(), GRACE).unwrap();
        }
        let after_a_crash = fs::read(dir.file()).unwrap();
        drop(store);
        [after_a_crash, fs::read(dir.file()).unwrap()]
    }

    /// Opens a damaged file: either all is there, or it is refused and left as it is.
    fn open_damaged(dir: &Dir, bytes: &[u8], what: &str) -> bool {
        fs::write(dir.file(), bytes).unwrap();
        match dir.open() {
            Ok((store, restored)) => {
                let mut expected: Vec<_> = (21..=30).map(|n| format!("r{n}")).collect();
                expected.sort_unstable();
                assert_eq!(names(&restored), expected, "{what}");
                assert_eq!(store.last_token(), 30, "{what}");
                true
            }
            Err(OpenError::Damaged(..)) => {
                assert!(fs::read(dir.file()).unwrap() == bytes, "{what}: refused, yet changed");
                false
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let dir = Dir::new();
        let step = if env::var(EXHAUSTIVE).is_ok() { 1 } else { 509 };
        for file in files(&dir) {
            for length in (0..file.len()).step_by(step) {
                open_damaged(&dir, &file[..length], &format!("cut off at {length}"));
            }
            assert!(open_damaged(&dir, &file, "whole"));
            assert!(!open_damaged(&dir, &file[..file.len() / 2], "half"));
        }
    }

    #[test]
    fn a_flipped_bit_is_harmless_or_refused() {
        let dir = Dir::new();
        let exhaustive = env::var(EXHAUSTIVE).is_ok();
        for mut file in files(&dir) {
            let (mut refused, step) = (0, if exhaustive { 1 } else { 97 });
            // The heads byte by byte, the pages in steps.
            let heads = (0..40).chain(HEAD_BYTES as usize..HEAD_BYTES as usize + 320);
            for at in heads.chain((4096 + 320..file.len()).step_by(step)) {
                let bit = 1 << (at % 8);
                file[at] ^= bit;
                let what = format!("bit {bit} of byte {at} flipped");
                refused += usize::from(!open_damaged(&dir, &file, &what));
                file[at] ^= bit;
            }
            assert!(refused > 32, "only {refused} noticed");
        }
    }

    #[test]
    fn what_was_committed_is_there_after_the_next_start() {
        let dir = Dir::new();
        let (mut store, restored) = dir.open().unwrap();
        assert!(restored.is_empty() && store.is_empty());
        let grants = [grant("a", 5), grant("b", 7)];
        store.commit(grants.iter(), GRACE).unwrap();
        // A release and the grant that it causes are one change.
        let next = grant("a", 9);
        let hand_over = Change { ended: grants[0].held.clone(), ..next };
        store.commit([hand_over, grants[1].inverse()].iter(), GRACE).unwrap();
        drop(store);
        let (store, restored) = dir.open().unwrap();
        assert_eq!((names(&restored), store.last_token()), (vec!["a"], 9));
    }

    #[test]
    fn locks_that_cannot_be_held_together_are_damage() {
        for (other, together) in [(Mode::ProtectedRead, true), (Mode::EXCLUSIVE, false)] {
            let dir = Dir::new();
            let (mut store, _) = dir.open().unwrap();
            let grants = [grant_in(Mode::ProtectedRead, "a", 5), grant_in(other, "a", 6)];
            store.commit(grants.iter(), GRACE).unwrap();
            drop(store);
            match dir.open() {
                Ok((_, restored)) => assert!(together && names(&restored) == ["a", "a"]),
                Err(error) => {
                    assert!(!together);
                    assert!(
                        error.to_string().contains("locks on a that cannot be held"),
                        "{error}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_doubtful_commit_is_taken_back() {
        let dir = Dir::new();
        let (mut store, _) = dir.open().unwrap();
        let kept = grant("kept", 1);
        store.commit([&kept].into_iter(), GRACE).unwrap();
        // As if an error had come when all was written.
        let doubtful = vec![grant("doubtful", 2), kept.inverse()];
        store.commit(doubtful.iter(), GRACE).unwrap();
        store.commits -= 1;
        store.state = State::Failed { doubtful };
        store.commit([&grant("next", 3)].into_iter(), GRACE).unwrap();
        drop(store);
        assert_eq!(names(&dir.open().unwrap().1), ["kept", "next"]);
    }

    #[test]
    fn a_repeated_commit_that_fails_takes_nothing_back() {
        let dir = Dir::new();
        let (mut store, _) = dir.open().unwrap();
        let acknowledged = vec![grant("acknowledged", 1)];
        store.commit(acknowledged.iter(), GRACE).unwrap();
        // Again, with an error when all was written.
        store.commit(acknowledged.iter(), GRACE).unwrap();
        store.commits -= 1;
        store.state = State::Failed { doubtful: acknowledged };
        store.stand_by_failed_commit();
        store.commit([&grant("next", 3)].into_iter(), GRACE).unwrap();
        drop(store);
        assert_eq!(names(&dir.open().unwrap().1), ["acknowledged", "next"]);
    }
}
