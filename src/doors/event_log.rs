//! `--event-log`: what happens to locks, a line of JSON each, in a file.
//!
//! A thread of its own writes them. If the file cannot be written, or not as fast as things
//! happen, lines are missing, and the locks go on. The file may be a pipe, with or without a reader.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use log::{error, info};

use super::events;
use crate::appended::Appended;
use crate::lock::{Events, Received, Subscriber};
use crate::metrics::Metrics;

/// The shortest time between two writes, so that lines are written in batches.
const PACE: Duration = Duration::from_millis(5);

/// How many events are written at a time.
const BATCH: usize = 1024;

/// The time limit for writing the last events at shutdown.
const FINISH: Duration = Duration::from_millis(200);

/// No deadline.
const DAY: Duration = Duration::from_secs(86_400);

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
    /// Disconnected when the thread has come to its end.
    ended: Receiver<()>,
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
        let subscriber = events.subscribe_permanently();
        let writer = Writer {
            file,
            uids: options.uids,
            reopen: Arc::clone(&reopen),
            metrics,
            failing: false,
        };
        let (ending, ended) = bounded(0);
        thread::Builder::new().name("event log".into()).spawn(move || {
            writer.run(subscriber);
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

struct Writer {
    file: Appended,
    uids: bool,
    reopen: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// The latest attempt failed, and the log says so.
    failing: bool,
}

impl Writer {
    fn run(mut self, mut subscriber: Subscriber) {
        let mut lines = Vec::new();
        loop {
            lines.clear();
            let lost = match subscriber.receive(BATCH, DAY) {
                Received::Events(happened) => {
                    for event in &happened {
                        // Writing to a Vec cannot fail.
                        let _ = events::write_line(&mut lines, event, self.uids);
                    }
                    self.write(&lines)
                }
                Received::Missed { count, .. } => {
                    let _ = events::write_gap(&mut lines);
                    self.write(&lines);
                    count
                }
                Received::TimedOut => continue,
                Received::Closed => return,
            };
            self.metrics.event_log_lost(lost);
            // At shutdown this returns at once.
            let _ = subscriber.pause(PACE);
        }
    }

    /// Returns how many lines were not written, or not to their end.
    fn write(&mut self, lines: &[u8]) -> u64 {
        if self.reopen.swap(false, Ordering::SeqCst) {
            self.file.close();
        }
        let mut rest = lines;
        let written = self.file.write(&mut rest);
        self.tell(written);
        rest.iter().map(|byte| u64::from(*byte == b'\n')).sum()
    }

    /// One line in the log for each time that it begins or ceases to fail.
    fn tell(&mut self, written: io::Result<()>) {
        let path = self.file.path().display();
        match &written {
            Err(error) if !self.failing => error!("events are not written to {path}: {error}"),
            Ok(()) if self.failing => info!("events are written to {path} again"),
            _ => {}
        }
        self.failing = written.is_err();
    }
}
