//! The file: a head of our own, and the database behind it.
//!
//! The head tells which commit was the last to be acknowledged. The database alone cannot: if
//! its newest commit is damaged, that looks like a write that a crash cut off, and it goes
//! back to the commit before. The head is written after each commit and reaches the disk with
//! the next one at the latest.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

/// Where the database begins.
pub(super) const HEAD_BYTES: u64 = 4096;

const MAGIC: &[u8; 16] = b"rdlm locks v1\r\n\0";

/// One file, as a place for a database.
#[derive(Debug, Clone)]
pub(super) struct JournalFile {
    file: Arc<File>,
    path: PathBuf,
    sync_failed: Arc<AtomicBool>,
}

impl JournalFile {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file: Arc::new(file), path, sync_failed: Arc::default() }
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Whether a sync has failed. The kernel may have dropped what it could not write: a later
    /// sync that succeeds says nothing about it (Rebello et al., "Can Applications Recover from
    /// fsync Failures?", USENIX ATC 2020). What is on disk is only known after a restart.
    pub(super) fn sync_has_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Relaxed)
    }

    /// Writes the head. It is on disk after the next sync.
    pub(super) fn write_head(&self, acknowledged_commit: u64) -> io::Result<()> {
        self.file.write_all_at(&head(acknowledged_commit), 0)
    }
}

/// The last commit that was acknowledged, from the first bytes of a file; `None` if that is
/// no head.
pub(super) fn read_head(bytes: &[u8]) -> Option<u64> {
    let commit = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    (bytes.get(..32)? == head(commit)).then_some(commit)
}

/// The number stands twice, once inverted: a flipped bit is noticed.
fn head(commit: u64) -> [u8; 32] {
    let mut head = [0; 32];
    head[..16].copy_from_slice(MAGIC);
    head[16..24].copy_from_slice(&commit.to_le_bytes());
    head[24..].copy_from_slice(&(!commit).to_le_bytes());
    head
}

impl StorageBackend for JournalFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(HEAD_BYTES))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, HEAD_BYTES + offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(HEAD_BYTES + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        if synced.is_err() {
            self.sync_failed.store(true, Ordering::Relaxed);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, HEAD_BYTES + offset)
    }
}
