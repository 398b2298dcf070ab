//! `--event-log`: what happens to locks, a line of JSON each, in a file.
//!
//! A thread of its own writes them. If the file cannot be written, or not as fast as things
//! happen, lines are missing, and the locks go on. The file may be a pipe, with or without a reader.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::event_writer::{EventWriter, Sink};
use crate::appended::Appended;
use crate::lock::{Event, Events};
use crate::metrics::Metrics;

/// Where and what it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The file.
    pub file: PathBuf,
    /// With the uids of locks: who can read one can release the lock.
    pub uids: bool,
}

/// The log of events.
pub struct EventLog {
    reopen: Arc<AtomicBool>,
    writer: EventWriter,
}

impl EventLog {
    /// Opens the file and begins to write what happens to the end of it. A pipe without a
    /// reader is opened when there is one.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no thread.
    pub fn start(
        options: Options,
        events: &Arc<Events>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let file = Appended::open(options.file)?;
        let reopen = Arc::<AtomicBool>::default();
        let log = LogFile { file, uids: options.uids, reopen: Arc::clone(&reopen), metrics };
        let writer = EventWriter::start(log, "event log", events)?;
        Ok(Self { reopen, writer })
    }

    /// Has the file opened again before the next event is written.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::SeqCst);
    }

    /// Waits until the last event is written, when there will not be any more; not for long.
    pub fn finish(&self) {
        self.writer.finish();
    }
}

struct LogFile {
    file: Appended,
    uids: bool,
    reopen: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Sink for LogFile {
    const PACE: Duration = Duration::from_millis(5);

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn has_uids(&self) -> bool {
        self.uids
    }

    fn write(&mut self, lines: &[u8], happened: &[Event]) -> io::Result<()> {
        if self.reopen.swap(false, Ordering::SeqCst) {
            self.file.close();
        }
        let mut rest = lines;
        let written = self.file.write(&mut rest);
        if !happened.is_empty() {
            // Those that were not written, or not to their end.
            let lines_lost: u64 = rest.iter().map(|byte| u64::from(*byte == b'\n')).sum();
            self.lost(lines_lost.min(happened.len() as u64));
        }
        written
    }

    fn lost(&mut self, count: u64) {
        self.metrics.event_log_lost(count);
    }
}
