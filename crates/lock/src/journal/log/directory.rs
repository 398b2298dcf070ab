//! The directory: one server at a time has it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::journal::store::OpenError;

/// What versions before 1.0 kept locks in: a database.
const OUTDATED: &str = "locks.redb";

/// A directory that no second server may use meanwhile.
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Makes the directory if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let unusable = |error| OpenError::Unusable(path.into(), error);
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(error));
            }
            _ => {}
        }
        let handle = File::open(path).map_err(unusable)?;
        match handle.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.into())),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let outdated = path.join(OUTDATED);
        if fs::exists(&outdated).map_err(unusable)? {
            return Err(OpenError::Outdated(outdated));
        }
        Ok(Self { path: path.into(), handle })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the segment of this number is.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:08}.log"))
    }

    /// Where a file is kept that is to become a segment.
    pub(super) fn spare(&self, number: usize) -> PathBuf {
        self.path.join(format!("{number}.spare"))
    }

    /// The numbers of the segments that there are, in order.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            numbers.extend(number.filter(|number| self.segment(*number) == path));
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The files that are kept to become segments.
    pub(super) fn spares(&self) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.path()));
        let is_spare = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "spare");
        paths.filter(|path| path.as_ref().map_or(true, is_spare)).collect()
    }

    /// Has the names of the files written to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A process that is just being started may hold the descriptor for a moment longer.
        let _ = self.handle.unlock();
    }
}
