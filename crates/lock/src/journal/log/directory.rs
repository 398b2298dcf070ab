//! The data directory, which one server at a time has locked.
//!
//! All files are opened relative to the locked descriptor, never by their paths: the directory may be
//! moved while a server uses it, and another server may create one in its place.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, renameat, statat, unlinkat};
use rustix::io::{Errno, retry_on_intr};

use crate::journal::store::OpenError;

/// The database of versions before 1.0.
const OUTDATED: &str = "locks.redb";

/// The name of a file in the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    /// The name of this segment.
    pub(super) fn segment(number: u64) -> Self {
        Self(format!("{number:08}.log"))
    }

    /// The name of a file that will become a segment.
    pub(super) fn spare(number: usize) -> Self {
        Self(format!("{number}.spare"))
    }

    /// The number of the segment with this name.
    fn segment_number(&self) -> Option<u64> {
        let number = self.0.strip_suffix(".log")?.parse().ok()?;
        (Self::segment(number) == *self).then_some(number)
    }

    fn is_spare(&self) -> bool {
        Path::new(&self.0).extension().is_some_and(|ext| ext == "spare")
    }
}

/// A locked directory.
pub(super) struct Directory {
    /// The path it was opened by, for messages.
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Creates the directory if it is missing, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let unusable = |error| OpenError::Unusable(path.into(), error);
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(unusable(error));
            }
            _ => {}
        }
        // A pipe would be waited for.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty());
        let handle = File::from(handle.map_err(|error| unusable(error.into()))?);
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

    /// The path it was opened by, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file, for messages.
    pub(super) fn path_of(&self, Name(name): &Name) -> PathBuf {
        self.path.join(name)
    }

    /// The numbers of all segments, in order.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers: Vec<_> = self.names()?.iter().filter_map(Name::segment_number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The spare files.
    pub(super) fn spares(&self) -> io::Result<Vec<Name>> {
        Ok(self.names()?.into_iter().filter(Name::is_spare).collect())
    }

    /// The names of its files, as far as they are UTF-8.
    fn names(&self) -> io::Result<Vec<Name>> {
        let name = |entry: Result<rustix::fs::DirEntry, Errno>| match entry {
            Ok(entry) => Ok(entry.file_name().to_str().ok().map(|name| Name(name.into()))),
            Err(error) => Err(error.into()),
        };
        Dir::read_from(&self.handle)?.filter_map(|entry| name(entry).transpose()).collect()
    }

    /// Opens an existing file for reading.
    pub(super) fn open_to_read(&self, name: &Name) -> io::Result<File> {
        self.file(name, OFlags::RDONLY)
    }

    /// Opens an existing file for reading and writing.
    pub(super) fn open_to_write(&self, name: &Name) -> io::Result<File> {
        self.file(name, OFlags::RDWR)
    }

    /// Creates a file, or truncates the one with this name.
    pub(super) fn create(&self, name: &Name) -> io::Result<File> {
        self.file(name, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)
    }

    fn file(&self, Name(name): &Name, flags: OFlags) -> io::Result<File> {
        let mode = Mode::RUSR | Mode::WUSR;
        // Not waiting for the other end of a pipe.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = || openat(&self.handle, name.as_str(), flags, mode);
        Ok(retry_on_intr(open)?.into())
    }

    /// The contents of a file.
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

    /// Syncs the names of the files.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing may not do: a child that is between fork and exec has the descriptor, too.
        let _ = self.handle.unlock();
    }
}
