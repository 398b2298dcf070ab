//! A file to which lines are appended. It may be a named pipe: opening it does not wait for a
//! reader, and a write waits a second at most.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};

/// How long the reader of a pipe may take to make room for more.
const READER: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The permissions of a new file: names of users, their addresses and what they do are not for
/// everybody on this host.
const MODE: u32 = 0o640;

/// The file, opened again after each failure.
pub struct Appended {
    path: PathBuf,
    file: Option<File>,
    /// The last write ended in the middle of a line.
    in_line: bool,
}

impl Appended {
    /// Opens the file. A pipe without a reader is opened by a later write.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let file = match open(&path) {
            Ok(file) => Some(file),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { path, file, in_line: false })
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file. The next write opens it again.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// Appends lines. If that fails, what is left in `rest` is not in the file.
    ///
    /// # Errors
    /// Those of the operating system, and a time-out if the reader of a pipe is too slow.
    pub fn write(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        if self.in_line {
            self.write_from(&mut &b"\n"[..])?;
            self.in_line = false;
        }
        let lines = *rest;
        let written = self.write_from(rest);
        let last = lines.len().checked_sub(rest.len() + 1).map(|last| lines[last]);
        self.in_line = last.is_some_and(|last| last != b'\n');
        written
    }

    fn write_from(&mut self, rest: &mut &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        write_all(&file, rest)?;
        self.file = Some(file);
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE).custom_flags(without_waiting).open(path)
}

fn write_all(mut file: &File, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => *rest = &rest[len..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_room(file)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn wait_for_room(pipe: &File) -> io::Result<()> {
    let mut pipe = [PollFd::new(pipe, PollFlags::OUT)];
    match retry_on_intr(|| poll(&mut pipe, Some(&READER)))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader does not take them")),
        _ => Ok(()),
    }
}
