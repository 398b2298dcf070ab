//! `--history`: what happens to locks, in files that are kept for a while.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_micros;

use super::event_writer::{EventWriter, Sink};
use super::events;
use crate::current_locks::CurrentLocks;
use crate::history::{Files, Line, Settings, read, without_times};
use crate::lock::Event;
use crate::metrics::HistoryCounters;

/// The writer of the history.
pub struct History(EventWriter);

impl History {
    /// Opens the directory and begins to write what happens. `is_shared`: other servers may have
    /// the locks in between.
    ///
    /// # Errors
    /// The directory cannot be used, or there is no thread.
    pub fn start(
        settings: Settings,
        locks: Arc<dyn CurrentLocks>,
        is_shared: bool,
        counters: HistoryCounters,
    ) -> io::Result<Self> {
        let files = Files::open(settings)?;
        let events = Arc::clone(locks.events());
        let sink = Kept { files, locks, is_shared, counters, last: Some(0) };
        EventWriter::start(sink, "history", &events).map(Self)
    }

    /// Waits until the last event is written, when there will not be any more; not for long.
    pub fn finish(&self) {
        self.0.finish();
    }
}

struct Kept {
    files: Files,
    locks: Arc<dyn CurrentLocks>,
    is_shared: bool,
    counters: HistoryCounters,
    /// The number of the latest event, 0 before the first; `None`: events were missed.
    last: Option<u64>,
}

impl Sink for Kept {
    /// So many events happen in this time at the very most that they fit into the ring.
    const PACE: Duration = Duration::from_millis(20);

    fn path(&self) -> &Path {
        self.files.path()
    }

    /// The files are for their owner alone.
    fn has_uids(&self) -> bool {
        true
    }

    fn begin(&mut self) -> io::Result<()> {
        let mut lines = Vec::new();
        if self.files.is_empty() {
            events::write_gap(&mut lines)?;
        } else if !self.is_shared {
            self.write_forgotten(&mut lines, &[])?;
        }
        self.append(&lines)
    }

    fn write(&mut self, lines: &[u8], happened: &[Event]) -> io::Result<()> {
        self.append_after_gap(lines, happened).inspect_err(|_| self.lost(happened.len() as u64))
    }

    fn lost(&mut self, count: u64) {
        self.counters.lost.inc_by(count);
    }

    fn idle(&mut self) {
        self.files.remove_old(now());
    }
}

impl Kept {
    fn append_after_gap(&mut self, lines: &[u8], happened: &[Event]) -> io::Result<()> {
        let follows = |first: &Event| self.last.is_none_or(|last| first.number == last + 1);
        let goes_on = happened.first().is_none_or(follows);
        self.last = happened.last().map(|event| event.number);
        if goes_on || !self.is_shared {
            return self.append(lines);
        }
        // Another server had the locks in between, and knows what happened.
        let mut before = Vec::new();
        events::write_gap(&mut before)?;
        self.write_forgotten(&mut before, happened)?;
        before.extend_from_slice(lines);
        self.append(&before)
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() { Ok(()) } else { self.files.append(lines, now()) }
    }

    /// Writes an event for each lock that was held when this server last knew, and that neither is
    /// held now nor has ended with one of these events.
    fn write_forgotten(&mut self, lines: &mut Vec<u8>, happened: &[Event]) -> io::Result<()> {
        let Ok(table) = self.locks.current() else { return Ok(()) };
        let ended: HashSet<_> = happened.iter().map(|event| event.details.id).collect();
        let (held, damaged) = held_at_the_end(self.files.path())?;
        self.counters.damaged.inc_by(damaged);
        let time = format_rfc3339_micros(now()).to_string();
        for (uid, text) in held {
            let Some(line) = Line::parse(&text) else { continue };
            let resource = line.resource.as_deref().and_then(|name| name.parse().ok());
            let Some((resource, id)) = resource.zip(uid.parse().ok()) else { continue };
            if ended.contains(&id) || table.find(&resource, id).is_some() {
                continue;
            }
            let since = line.active_since.as_deref().unwrap_or(&line.time).to_string();
            let mut data = without_times(line.data());
            data.insert("event".into(), "forgotten".into());
            data.insert("time".into(), time.as_str().into());
            data.insert("active_since".into(), since.into());
            serde_json::to_writer(&mut *lines, &data)?;
            lines.push(b'\n');
        }
        Ok(())
    }
}

/// The last line of each lock that does not end in these files, and how many lines are damaged.
fn held_at_the_end(dir: &Path) -> io::Result<(HashMap<String, String>, u64)> {
    let mut held = HashMap::new();
    let result = read(dir, |line| {
        let Some(uid) = &line.uid else { return Ok(()) };
        if line.begins_or_goes_on() {
            held.insert(uid.to_string(), line.text.to_string());
        } else if line.ends_lock() {
            held.remove(&**uid);
        }
        Ok(())
    })?;
    Ok((held, result.damaged))
}

#[expect(clippy::disallowed_methods, reason = "what is shown is kept by the time that it shows")]
fn now() -> SystemTime {
    SystemTime::now()
}
