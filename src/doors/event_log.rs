//! `--event-log`: what happens to locks, a line of JSON each, in a file.
//!
//! A thread of its own writes them. If the file cannot be written, or not as fast as things
//! happen, lines are missing, and the locks go on. The file may be a pipe, with or without a reader.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use log::{error, info};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::{Errno, retry_on_intr};

use super::events;
use crate::lock::{Events, Follower, Heard};

/// How often it is written to at most: many lines at a time cost little.
const PACE: Duration = Duration::from_millis(5);

/// How many events are written at a time.
const BATCH: usize = 1024;

/// How long the last events may take to be written.
const FINISH: Duration = Duration::from_millis(200);

/// How long the reader of a pipe may take to make room for the next lines.
const READER: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A very long time.
const DAY: Duration = Duration::from_secs(86_400);

/// The log of events.
pub struct EventLog {
    reopen: Arc<AtomicBool>,
    /// Disconnected when the thread has come to its end.
    ended: Receiver<()>,
}

impl EventLog {
    /// Opens the file and begins to write what happens to the end of it. A pipe that nobody reads
    /// yet is opened when somebody does.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread.
    pub fn start(path: PathBuf, events: &Arc<Events>) -> io::Result<Self> {
        let (file, unread) = match open(&path) {
            Ok(file) => (Some(file), None),
            Err(error) if is_unread(&error) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        let reopen = Arc::<AtomicBool>::default();
        let follower = events.follow_for_good();
        let (failing, in_line) = (false, false);
        let mut writer = Writer { path, file, reopen: Arc::clone(&reopen), failing, in_line };
        if let Some(error) = unread {
            writer.tell(Err(error));
        }
        let (ending, ended) = bounded(0);
        thread::Builder::new().name("event log".into()).spawn(move || {
            writer.run(follower);
            drop(ending);
        })?;
        Ok(Self { reopen, ended })
    }

    /// Has the file opened again before the next event is written.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
    }

    /// Waits until the last event is written, when there will not be any more; not for long.
    pub fn finish(&self) {
        let _ = self.ended.recv_timeout(FINISH);
    }
}

/// Waits for no reader, if it is a pipe. Writing will not wait either.
fn open(path: &PathBuf) -> io::Result<File> {
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new().append(true).create(true).custom_flags(without_waiting).open(path)
}

/// Whether it is that of opening a pipe without a reader.
fn is_unread(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::NXIO)
}

/// Writes the rest; if it is a pipe, as soon as its reader takes it.
fn write(file: &mut File, rest: &mut &[u8]) -> io::Result<()> {
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

fn wait_for_room(file: &File) -> io::Result<()> {
    let mut file = [PollFd::new(file, PollFlags::OUT)];
    match retry_on_intr(|| poll(&mut file, Some(&READER)))? {
        0 => Err(io::Error::new(io::ErrorKind::TimedOut, "its reader does not take them")),
        _ => Ok(()),
    }
}

struct Writer {
    path: PathBuf,
    file: Option<File>,
    reopen: Arc<AtomicBool>,
    /// The latest attempt failed, and the log says so.
    failing: bool,
    /// What was written last was cut off in the middle of a line.
    in_line: bool,
}

impl Writer {
    fn run(mut self, mut follower: Follower) {
        let mut lines = Vec::new();
        loop {
            lines.clear();
            if self.in_line {
                lines.push(b'\n');
            }
            match follower.hear(BATCH, DAY) {
                // Writing to a Vec cannot fail.
                Heard::Events(happened) => happened.iter().for_each(|event| {
                    let _ = events::write_line(&mut lines, event);
                }),
                Heard::Missed(_) => drop(events::write_gap(&mut lines)),
                Heard::Nothing => continue,
                Heard::End => return,
            }
            let written = self.write(&lines);
            self.tell(written);
            // Also at the end there is nothing to wait for.
            let _ = follower.pause(PACE);
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.reopen.swap(false, Ordering::SeqCst) {
            self.file = None;
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let file = self.file.insert(file);
        let mut rest = lines;
        let written = write(file, &mut rest);
        // What was written without its end is not to be taken for the beginning of another line.
        let last = lines.len().checked_sub(rest.len() + 1).map(|last| lines[last]);
        self.in_line = last.map_or(self.in_line, |last| last != b'\n');
        // After a failure it is opened again.
        written.inspect_err(|_| self.file = None)
    }

    /// One line in the log for each time that it begins or ceases to fail.
    fn tell(&mut self, written: io::Result<()>) {
        let path = self.path.display();
        match &written {
            Err(error) if !self.failing => error!("events are not written to {path}: {error}"),
            Ok(()) if self.failing => info!("events are written to {path} again"),
            _ => {}
        }
        self.failing = written.is_err();
    }
}
