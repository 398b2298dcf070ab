//! A store in a directory on disk: a log of records, in segments.
//!
//! # Records
//! A batch is one record: one write behind the previous record, and one `fdatasync`. A record says
//! what has changed. All records in order say what is held. Memory has only the position of each
//! lock's row: 16 bytes a lock, plus the slack of a hash table.
//!
//! # Segments
//! A segment is created at its full length with all blocks written, so a sync that overwrites them
//! has no block to allocate and no length to update. Its header is on disk before its first record,
//! so a truncated file is noticed at any length. It ends with a record that says so. Behind that
//! record, the next segment must exist.
//!
//! # A record that was cut off, or damage
//! Each record has a number and a checksum. After its sync, a small *acknowledgement* with its
//! number is written behind it, without a sync of its own: it is in the page that the next record
//! writes anyway. At a start, the records end where no further one can be read. If there is an
//! acknowledgement of a later record behind that point, something acknowledged was damaged: the
//! directory is refused and not modified. Otherwise, a crash cut off a record that no client had
//! been told about. Checksums start from a random number of the segment, so neither a title nor the
//! previous contents of the file can look like an acknowledgement.
//!
//! # Failures
//! A failed write may have written a part. That part is read back: unless the whole record is there,
//! no start will find it, and the next record overwrites it. So a refusal needs no undoing. After a
//! failed sync nothing is known, and nothing is written any more.
//!
//! # Time
//! Lifetimes end by the journal's clock, which is in each record (`time.rs`). A checkpoint is a
//! record without a change, which advances it. The grace that a restart gives to all lifetimes is
//! one record, too.
//!
//! # Space
//! Once more than half of the log is dead, live rows of the oldest segment are copied along with
//! other changes, a few bytes for each byte written. Each record names the first segment that is
//! still needed. Once it is on disk, earlier files become spares. When less than a segment and a half
//! is free, only changes that free space are written, so the oldest segment can always be copied.
//!
//! # Why no library
//! Changes per second, one commit each, by one thread, in one run on two shared cores:
//!
//! | | 1 lock a commit | 16 | 64 | crates | the last record is cut off by a crash, or damaged |
//! |---|---|---|---|---|---|
//! | redb 4.6 | 4,970/s | 4,540 | 3,710 | 2 | needs a header of our own to tell them apart |
//! | fjall 3.1 (its journal, synced) | 11,200 | 6,740 | 4,400 | 58 | refuses to open in both cases |
//! | raft-engine 0.4 | 11,400 | 7,590 | 5,760 | 86 | drops it in both cases, or refuses in both |
//! | okaywal 0.3 | 11,300 | 11,300 | 10,200 | 16 | refuses in both; it has no index and no rows |
//! | appending to a growing file | 8,180 | 7,050 | 6,700 | | |
//! | the same into blocks allocated by `fallocate` | 11,500 | 8,590 | 6,840 | | |
//! | the same over blocks already written | 10,600 | 10,600 | 9,980 | | |
//! | the same, and an acknowledgement behind each | 10,000 | 10,200 | 9,920 | | |
//!
//! No library tells a cut-off record from a damaged one, which the promises need, and each would
//! still need code to reclaim space. Without redb, the binary is 0.4 MB smaller.

mod appender;
mod cleaner;
mod directory;
mod frame;
mod index;
mod live_rows;
mod log_state;
mod reader;
mod record;
mod record_builder;
mod recovery;
mod segment;
mod time;
mod v1;

use std::io;
use std::path::Path;
use std::time::Duration;

use super::clock::BootClock;
use super::store::{Change, OpenError, Restore, Store, StoreError};
use appender::Appender;
use directory::Directory;
use time::Uptime;

/// While a lock is held, the log records the time at least this often.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// The clock of the host.
type HostClock = Box<dyn Fn() -> Uptime + Send>;

/// The locks in a directory on disk.
pub struct FileStore {
    directory: Directory,
    restart_grace: Duration,
    /// Moves to the appender when the log is loaded.
    host: Option<HostClock>,
    appender: Option<Appender>,
}

impl FileStore {
    /// Locks a directory for this server, and creates it if it is missing. A restart leaves each lock
    /// `restart_grace` at least, once.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(dir: &Path, restart_grace: Duration) -> Result<Self, OpenError> {
        let clock = BootClock::of_this_boot();
        let host = move || Uptime { boot: clock.boot(), uptime: clock.now() };
        Self::with_clock(dir, restart_grace, Box::new(host))
    }

    fn with_clock(dir: &Path, restart_grace: Duration, host: HostClock) -> Result<Self, OpenError> {
        let directory = Directory::open(dir)?;
        Ok(Self { directory, restart_grace, host: Some(host), appender: None })
    }

    /// The log, after it was loaded.
    fn appender(&mut self) -> Result<(&Directory, &mut Appender), StoreError> {
        let not_loaded = || StoreError::Refused("the journal has not been read".into());
        Ok((&self.directory, self.appender.as_mut().ok_or_else(not_loaded)?))
    }
}

impl Store for FileStore {
    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
        let again = || io::Error::other("it was read before");
        let path = || self.directory.path().to_path_buf();
        let host = self.host.take().ok_or_else(|| OpenError::Unusable(path(), again()))?;
        let appender = recovery::recover(&self.directory, host, self.restart_grace, restore)?;
        Ok(self.appender.insert(appender).last_token())
    }

    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let (directory, appender) = self.appender()?;
        appender.commit(directory, batch, grace)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let (directory, appender) = self.appender()?;
        if appender.is_empty() || appender.idle() < CHECKPOINT / 2 {
            return Ok(());
        }
        appender.write(directory, true, |_| Some(()))
    }

    fn next_checkpoint(&self) -> Option<Duration> {
        self.appender.as_ref().filter(|appender| !appender.is_empty()).map(|_| CHECKPOINT)
    }
}

#[cfg(test)]
mod tests;
