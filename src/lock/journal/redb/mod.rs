//! The locks in a redb database: opened with care, written in transactions.

mod backend;
mod reserve;
mod row;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redb::backends::InMemoryBackend;
use redb::{
    AccessGuard, Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    StorageBackend, Table, TableDefinition,
};

use super::clock::BootClock;
use super::store::{Change, Misfit, OpenError, Restore, Restored, Store, StoreError};
use crate::lock::ResourceName;
use backend::{HEAD_BYTES, JournalFile, read_head};
use reserve::Reserve;
use row::{Columns, LOCKS, Row};

/// How often the remaining lifetimes are brought up to date on disk.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// How many of them are looked at between two commits.
const ROWS_AT_A_TIME: usize = 1_000;

const FILE: &str = "locks.redb";
/// A file that is being made. It gets its name when it is whole.
const NEW_FILE: &str = "locks.redb.new";

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// How many transactions there have been.
const COMMITS: &str = "commits";
const LAST_TOKEN: &str = "last_token";

/// Enough for the pages of some 100,000 locks.
const CACHE_BYTES: usize = 32 << 20;

/// The locks in a directory on disk.
pub struct FileStore {
    file: JournalFile,
    reserve: Reserve,
    clock: BootClock,
    restart_grace: Duration,
    database: Option<Database>,
    commits: u64,
    last_token: u64,
    locks: u64,
    /// Where the checkpoint under way goes on.
    checkpointed: Option<(ResourceName, u64)>,
    _dir: DirLock,
}

impl FileStore {
    /// Takes a directory for this server, and makes it if it is missing. A lock that was held
    /// when an earlier server ended gets `restart_grace` at least, once.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, restart_grace: Duration) -> Result<Self, OpenError> {
        let locked_dir = lock_dir(dir)?;
        let path = dir.join(FILE);
        if !fs::exists(&path).map_err(|error| OpenError::Unusable(path.clone(), error))? {
            create(dir).map_err(|error| OpenError::Unusable(path.clone(), error))?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| OpenError::Unusable(path.clone(), error))?;
        let reserve = Reserve::open(dir).map_err(|error| OpenError::Unusable(dir.into(), error))?;
        Ok(Self {
            file: JournalFile::new(file, path),
            reserve,
            clock: BootClock::of_this_boot(),
            restart_grace,
            database: None,
            commits: 0,
            last_token: 0,
            locks: 0,
            checkpointed: None,
            _dir: locked_dir,
        })
    }

    /// Lets the locks of an earlier run live on, or takes out those that have expired.
    fn revive(
        &mut self,
        rows: Vec<(ResourceName, Row)>,
        restore: &mut Restore<'_>,
    ) -> Result<(), OpenError> {
        let (boot, now) = (self.clock.boot(), self.clock.now());
        let (mut changed, mut expired) = (Vec::new(), Vec::new());
        self.locks = rows.len() as u64;
        for (resource, row) in rows {
            let Some(revived) = row.revived(boot, now, self.restart_grace) else {
                expired.push((resource, row));
                continue;
            };
            let (held, remaining) = (revived.held.clone(), revived.remaining);
            let restored = Restored { resource: resource.clone(), held, remaining };
            restore(restored).map_err(|Misfit| {
                let why = format!("it has locks on {resource} that cannot be held together");
                OpenError::Damaged(self.file.path().clone(), why.into())
            })?;
            if row.needs_writing(&revived) {
                changed.push((resource, revived));
            }
        }
        self.write_rows(&changed, &expired).map_err(|error| self.unusable(error))
    }

    fn unusable(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OpenError {
        OpenError::Unusable(self.file.path().clone(), io::Error::other(error))
    }

    /// Writes rows anew, and takes others out.
    fn write_rows(
        &mut self,
        changed: &[(ResourceName, Row)],
        gone: &[(ResourceName, Row)],
    ) -> Result<(), StoreError> {
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.transact(self.last_token, |locks| {
            for (resource, row) in gone {
                locks.remove((resource.as_str(), row.fencing_token()))?;
            }
            for (resource, row) in changed {
                locks.insert((resource.as_str(), row.fencing_token()), row.to_columns())?;
            }
            Ok(())
        })
    }

    /// Writes a batch as one transaction.
    fn write(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let granted = batch.iter().flat_map(|change| &change.held);
        let granted = granted.map(|held| held.grant.fencing_token);
        let last_token = granted.fold(self.last_token, u64::max);
        let clock = self.clock;
        self.transact(last_token, |locks| {
            batch.iter().try_for_each(|change| apply(locks, change, clock, grace))
        })
    }

    /// Runs `write` as the next transaction. If it fails, the database is opened anew: whether
    /// the transaction is there decides what became of it.
    fn transact(
        &mut self,
        last_token: u64,
        write: impl FnOnce(&mut LocksTable<'_>) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let number = self.commits + 1;
        let written = match self.database() {
            Ok(database) => transact(database, number, last_token, write),
            Err(error) => return Err(StoreError::Refused(error.to_string().into())),
        };
        match written {
            Ok(locks) => self.locks = locks,
            Err(error) => {
                self.database = None;
                let why: Arc<str> = match self.file.sync_has_failed() {
                    true => format!("cannot sync {}: {error}", self.file.path().display()).into(),
                    false => error.to_string().into(),
                };
                let unknown = || StoreError::Unknown(Arc::clone(&why));
                if self.file.sync_has_failed() {
                    return Err(unknown());
                }
                // Opening writes, too, so it may fail for the same reason.
                let found = match self.database().and_then(counts) {
                    Ok(found) => found,
                    Err(_) => self.look().map_err(|_| unknown())?,
                };
                if found.commits != number {
                    return Err(StoreError::Refused(why));
                }
                self.locks = found.locks;
            }
        }
        (self.commits, self.last_token) = (number, last_token);
        // If it fails, damage to this commit may go unnoticed until the next one.
        let _ = self.file.write_head(self.commits);
        Ok(())
    }

    /// Looks what the file holds, without writing to it, and has that on disk.
    fn look(&self) -> Result<Found, OpenError> {
        let unusable = |error| OpenError::Unusable(self.file.path().clone(), error);
        if self.file.sync_has_failed() {
            return Err(unusable(io::Error::other("a sync has failed")));
        }
        let contents = inspect(self.file.path())?;
        self.file.sync_data().map_err(unusable)?;
        Ok(Found { commits: contents.commits, locks: contents.rows.len() as u64 })
    }

    fn database(&mut self) -> Result<&Database, redb::Error> {
        match &mut self.database {
            Some(database) => Ok(database),
            closed => Ok(closed.insert(open_database(self.file.clone())?)),
        }
    }
}

impl Store for FileStore {
    fn load(&mut self, restore: &mut Restore<'_>) -> Result<u64, OpenError> {
        let contents = inspect(self.file.path())?;
        let opened = self.database().map(drop);
        opened.map_err(|error| self.unusable(error))?;
        (self.commits, self.last_token) = (contents.commits, contents.last_token);
        self.revive(contents.rows, restore)?;
        self.reserve.fill();
        Ok(self.last_token)
    }

    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let mut written = self.write(batch, grace);
        if matches!(written, Err(StoreError::Refused(_)))
            && batch.iter().all(Change::makes_room)
            && self.reserve.spend()
        {
            written = self.write(batch, grace);
        }
        if written.is_ok() {
            self.reserve.fill();
        }
        written
    }

    /// The rows say the same as before, only later.
    fn repeat(&mut self, batch: &[Change], grace: Duration) {
        let _ = self.commit(batch, grace);
    }

    /// Brings the remaining lifetimes of some locks up to date, so that a host that restarts in
    /// a loop does not hold a lock for ever.
    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let from = self.checkpointed.take();
        let refused = |error: redb::Error| StoreError::Refused(error.to_string().into());
        let database = self.database().map_err(refused)?;
        let rows = rows_behind(database, from.as_ref(), ROWS_AT_A_TIME).map_err(refused)?;
        if rows.len() == ROWS_AT_A_TIME {
            let last = rows.last();
            self.checkpointed = last.map(|(name, row)| (name.clone(), row.fencing_token()));
        }
        let due = rows.into_iter().filter_map(|(name, row)| {
            row.checkpointed(now, CHECKPOINT).map(|checkpointed| (name, checkpointed))
        });
        self.write_rows(&due.collect::<Vec<_>>(), &[])
    }

    fn next_checkpoint(&self) -> Option<Duration> {
        match (self.locks, &self.checkpointed) {
            (0, _) => None,
            (_, Some(_)) => Some(Duration::ZERO),
            (_, None) => Some(CHECKPOINT),
        }
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
    let file = JournalFile::new(file, new.clone());
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
        rows.push(read_row(&entry?)?);
    }
    Ok(Contents { rows, commits: number(COMMITS)?, last_token: number(LAST_TOKEN)? })
}

type Entry<'a> = (AccessGuard<'a, (&'static str, u64)>, AccessGuard<'a, Columns<'static>>);

fn read_row((key, columns): &Entry<'_>) -> Result<(ResourceName, Row), redb::Error> {
    let (name, token) = key.value();
    let name: ResourceName = name.parse().map_err(|_| {
        redb::Error::Corrupted(format!("it has a lock on {name:?}, which is no resource name"))
    })?;
    let row = Row::from_columns(token, columns.value());
    let row = row.ok_or_else(|| {
        redb::Error::Corrupted(format!("it has a lock on {name} that makes no sense"))
    })?;
    Ok((name, row))
}

/// The number of the newest transaction, and how many locks there are.
struct Found {
    commits: u64,
    locks: u64,
}

fn counts(database: &Database) -> Result<Found, redb::Error> {
    let transaction = database.begin_read()?;
    let commits = transaction.open_table(META)?.get(COMMITS)?.map_or(0, |value| value.value());
    Ok(Found { commits, locks: transaction.open_table(LOCKS)?.len()? })
}

/// Some rows in order, from behind the one with this key.
fn rows_behind(
    database: &Database,
    key: Option<&(ResourceName, u64)>,
    limit: usize,
) -> Result<Vec<(ResourceName, Row)>, redb::Error> {
    let locks = database.begin_read()?.open_table(LOCKS)?;
    let from =
        key.map_or(Bound::Unbounded, |(name, token)| Bound::Excluded((name.as_str(), *token)));
    let range = locks.range::<(&str, u64)>((from, Bound::Unbounded))?;
    range.take(limit).map(|entry| read_row(&entry?)).collect()
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
    for fencing_token in &change.ended {
        locks.remove((resource, *fencing_token))?;
    }
    for held in &change.held {
        locks.insert(
            (resource, held.grant.fencing_token),
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
    use crate::lock::journal::store::Held;
    use crate::lock::{Grant, LockId, Mode};

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

        fn open(&self) -> Result<(FileStore, Vec<Restored>), OpenError> {
            let mut store = FileStore::open(&self.0, GRACE)?;
            let mut restored = Vec::new();
            store.load(&mut |lock| {
                restored.push(lock);
                Ok(())
            })?;
            Ok((store, restored))
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
        let grant = Grant {
            id: LockId::random(),
            title: resource.into(),
            client: "a client".into(),
            mode,
            wait: Duration::ZERO,
            lifetime: Duration::from_secs(3600),
            since: UNIX_EPOCH,
            expires: UNIX_EPOCH,
            fencing_token,
        };
        let held = Held { grant, key: Some("a-key".parse().unwrap()) };
        Change { resource: resource.parse().unwrap(), ended: vec![], held: vec![held] }
    }

    fn release_of(grant: &Change) -> Change {
        let ended = grant.held.iter().map(|held| held.grant.fencing_token).collect();
        Change { resource: grant.resource.clone(), ended, held: vec![] }
    }

    fn names(restored: &[Restored]) -> Vec<&str> {
        restored.iter().map(|restored| restored.resource.as_str()).collect()
    }

    /// The bytes of a file with some locks, as a crash leaves it and as an orderly end does.
    fn files(dir: &Dir) -> [Vec<u8>; 2] {
        let (mut store, _) = dir.open().unwrap();
        let grants: Vec<_> = (1..=30).map(|n| grant(&format!("r{n}"), n)).collect();
        for some in grants.chunks(3) {
            store.commit(some, GRACE).unwrap();
        }
        let releases: Vec<_> = grants[..20].iter().map(release_of).collect();
        for some in releases.chunks(5) {
            store.commit(some, GRACE).unwrap();
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
                assert_eq!(store.last_token, 30, "{what}");
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
        assert!(restored.is_empty() && store.next_checkpoint().is_none());
        let grants = [grant("a", 5), grant("b", 7)];
        store.commit(&grants, GRACE).unwrap();
        // A release and the grant that it causes are one change.
        let next = grant("a", 9);
        let hand_over = Change { ended: vec![5], ..next };
        store.commit(&[hand_over, release_of(&grants[1])], GRACE).unwrap();
        drop(store);
        let (store, restored) = dir.open().unwrap();
        assert_eq!((names(&restored), store.last_token), (vec!["a"], 9));
    }
}
