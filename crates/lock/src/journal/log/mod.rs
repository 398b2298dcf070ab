//! The locks in a log of segments: what is committed is one write behind the last one, and one
//! sync.
//!
//! A record says what has changed; the locks that are held are what all records say, one after
//! the other. Memory has no more than the place of each lock's row. Rows that are still true are
//! written again from time to time, so that the oldest segment can be used for new records.

mod contents;
mod directory;
mod draft;
mod frame;
mod index;
mod reader;
mod record;
mod replay;
mod rows;
mod segment;
mod sweep;
mod time;
mod v1;
mod writer;

use std::io;
use std::path::Path;
use std::time::Duration;

use super::clock::BootClock;
use super::store::{Change, OpenError, Restore, Store, StoreError};
use directory::Directory;
use time::Uptime;
use writer::Writer;

/// How long a lock that is held goes without a record of what the time is.
const CHECKPOINT: Duration = Duration::from_secs(60);

/// The clock of the host.
type HostClock = Box<dyn Fn() -> Uptime + Send>;

/// The locks in a directory on disk.
pub struct FileStore {
    directory: Directory,
    restart_grace: Duration,
    /// Until the log is opened.
    host: Option<HostClock>,
    writer: Option<Writer>,
}

impl FileStore {
    /// Takes a directory for this server, and makes it if it is missing. A lock that was held
    /// when an earlier server ended gets `restart_grace` at least, once.
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
        Ok(Self { directory, restart_grace, host: Some(host), writer: None })
    }

    /// The log, once it was loaded.
    fn writer(&mut self) -> Result<(&Directory, &mut Writer), StoreError> {
        let not_loaded = || StoreError::Refused("the journal has not been read".into());
        Ok((&self.directory, self.writer.as_mut().ok_or_else(not_loaded)?))
    }
}

impl Store for FileStore {
    fn load(&mut self, restore: &dyn Restore) -> Result<u64, OpenError> {
        let again = || io::Error::other("it was read before");
        let path = || self.directory.path().to_path_buf();
        let host = self.host.take().ok_or_else(|| OpenError::Unusable(path(), again()))?;
        let writer = replay::open(&self.directory, host, self.restart_grace, restore)?;
        Ok(self.writer.insert(writer).last_token)
    }

    fn commit(&mut self, batch: &[Change], grace: Duration) -> Result<(), StoreError> {
        let (directory, writer) = self.writer()?;
        writer.commit(directory, batch, grace)
    }

    fn checkpoint(&mut self) -> Result<(), StoreError> {
        let (directory, writer) = self.writer()?;
        if writer.is_empty() || writer.idle() < CHECKPOINT / 2 {
            return Ok(());
        }
        writer.write(directory, true, |_| Some(()))
    }

    fn next_checkpoint(&self) -> Option<Duration> {
        self.writer.as_ref().filter(|writer| !writer.is_empty()).map(|_| CHECKPOINT)
    }
}

#[cfg(test)]
mod tests;
