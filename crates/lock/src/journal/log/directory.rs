//! The directory: one server at a time has it.
//!
//! All files are reached through the descriptor that is locked, never by their paths: the
//! directory may be moved away while the server runs, and another server may have made one in its
//! place.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use crate::journal::store::OpenError;

/// What versions before 1.0 kept locks in: a database.
const OUTDATED: &str = "locks.redb";

/// The name of a file in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    /// Of the segment of this number.
    pub(super) fn segment(number: u64) -> Self {
        Self(format!("{number:08}.log"))
    }

    /// Of a file that is kept to become a segment.
    pub(super) fn spare(number: usize) -> Self {
        Self(format!("{number}.spare"))
    }

    /// The number of the segment that has this name.
    fn segment_number(&self) -> Option<u64> {
        let number = self.0.strip_suffix(".log")?.parse().ok()?;
        (Self::segment(number) == *self).then_some(number)
    }

    fn is_spare(&self) -> bool {
        Path::new(&self.0).extension().is_some_and(|ext| ext == "spare")
    }
}

/// A directory that no second server may use meanwhile.
pub(super) struct Directory {
    /// Where it was when it was opened, for messages.
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
        match statat(&handle, OUTDATED, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(Self { path: path.into(), handle }),
            Err(error) => Err(unusable(error.into())),
            Ok(_) => Err(OpenError::Outdated(path.join(OUTDATED))),
        }
    }

    /// Where it was when it was opened: to be shown.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file was then: to be shown.
    pub(super) fn path_of(&self, Name(name): &Name) -> PathBuf {
        self.path.join(name)
    }

    /// The numbers of the segments that there are, in order.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<_> = self.names()?.iter().filter_map(Name::segment_number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The files that are kept to become segments.
    pub(super) fn spares(&self) -> io::Result<Vec<Name>> {
        Ok(self.names()?.into_iter().filter(Name::is_spare).collect())
    }

    /// The names of its files; none of rdlm's is anything but ASCII.
    fn names(&self) -> io::Result<Vec<Name>> {
        let name = |entry: Result<rustix::fs::DirEntry, Errno>| match entry {
            Ok(entry) => Ok(entry.file_name().to_str().ok().map(|name| Name(name.into()))),
            Err(error) => Err(error.into()),
        };
        Dir::read_from(&self.handle)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    /// Opens a file that there is, to be read.
    pub(super) fn open_to_read(&self, name: &Name) -> io::Result<File> {
        self.file(name, OFlags::RDONLY)
    }

    /// Opens a file that there is, to be read and written.
    pub(super) fn open_to_write(&self, name: &Name) -> io::Result<File> {
        self.file(name, OFlags::RDWR)
    }

    /// Makes a file, or empties the one that has this name.
    pub(super) fn create(&self, name: &Name) -> io::Result<File> {
        self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
    }

    fn file(&self, Name(name): &Name, flags: OFlags) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        let open = || openat(&self.handle, name.as_str(), flags | OFlags::CLOEXEC, mode);
        Ok(retry_on_intr(open)?.into())
    }

    /// What a file has in it.
    pub(super) fn read(&self, name: &Name) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_to_read(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn rename(&self, Name(from): &Name, Name(to): &Name) -> io::Result<()> {
        Ok(renameat(&self.handle, from.as_str(), &self.handle, to.as_str())?)
    }

    pub(super) fn remove(&self, Name(name): &Name) -> io::Result<()> {
        Ok(unlinkat(&self.handle, name.as_str(), AtFlags::empty())?)
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
