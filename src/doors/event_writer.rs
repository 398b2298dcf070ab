//! What happens to locks, written as lines of JSON by a thread of its own.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use log::{error, info};

use super::events;
use crate::lock::{Event, Events, Received, Subscriber};

/// How many events are written at a time.
const BATCH: usize = 1024;

/// How often the files are looked after when nothing happens.
const IDLE: Duration = Duration::from_secs(3600);

/// The time limit for writing the last events at shutdown.
const FINISH: Duration = Duration::from_millis(200);

/// Where lines go.
pub(super) trait Sink: Send + 'static {
    /// The shortest time between two writes, so that lines are written in batches.
    const PACE: Duration;

    /// For messages.
    fn path(&self) -> &Path;

    /// Whether the lines have the uids of locks.
    fn has_uids(&self) -> bool;

    /// Called before the first event is received.
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Writes the lines of these events, and counts those that are lost by that. There are no events
    /// if the line says that some are missing.
    fn write(&mut self, lines: &[u8], happened: &[Event]) -> io::Result<()>;

    /// So many events were not written.
    fn lost(&mut self, count: u64);

    /// Nothing has happened for a while.
    fn idle(&mut self) {}
}

/// The thread that writes.
pub(super) struct EventWriter {
    /// Disconnected when it has come to its end.
    ended: Receiver<()>,
}

impl EventWriter {
    /// Begins to write what happens from now on.
    pub(super) fn start(sink: impl Sink, name: &str, events: &Arc<Events>) -> io::Result<Self> {
        let subscriber = events.subscribe_permanently();
        let writer = Writer { sink, gap: false, failing: false };
        let (ending, ended) = bounded(0);
        thread::Builder::new().name(name.into()).spawn(move || {
            writer.run(subscriber);
            drop(ending);
        })?;
        Ok(Self { ended })
    }

    /// Waits until the last event is written, when there will not be any more; not for long.
    pub(super) fn finish(&self) {
        let _ = self.ended.recv_timeout(FINISH);
    }
}

struct Writer<S> {
    sink: S,
    /// Events were not written, which the next lines are to say first.
    gap: bool,
    /// The latest attempt failed, and the log says so.
    failing: bool,
}

impl<S: Sink> Writer<S> {
    fn run(mut self, mut subscriber: Subscriber) {
        let begun = self.sink.begin();
        self.tell(begun);
        let mut lines = Vec::new();
        loop {
            lines.clear();
            let happened = match subscriber.receive(BATCH, IDLE) {
                Received::Events(happened) => happened,
                Received::Missed { count, .. } => {
                    self.sink.lost(count);
                    // Writing to a Vec cannot fail.
                    drop(events::write_gap(&mut lines));
                    Vec::new()
                }
                Received::TimedOut => {
                    self.sink.idle();
                    continue;
                }
                Received::Closed => return,
            };
            if self.gap {
                drop(events::write_gap(&mut lines));
            }
            let uids = self.sink.has_uids();
            happened.iter().for_each(|event| drop(events::write_line(&mut lines, event, uids)));
            let written = self.sink.write(&lines, &happened);
            self.gap = written.is_err();
            self.tell(written);
            if happened.len() < BATCH {
                // At shutdown this returns at once.
                let _ = subscriber.pause(S::PACE);
            }
        }
    }

    /// One line in the log for each time that it begins or ceases to fail.
    fn tell(&mut self, written: io::Result<()>) {
        let path = self.sink.path().display();
        match &written {
            Err(error) if !self.failing => error!("events are not written to {path}: {error}"),
            Ok(()) if self.failing => info!("events are written to {path} again"),
            _ => {}
        }
        self.failing = written.is_err();
    }
}
