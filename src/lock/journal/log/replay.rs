//! The start: reads what there is, changes nothing of it unless all of it is in order, and goes
//! on from there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::HostClock;
use super::directory::Directory;
use super::record::{Entry, Found, NO_END, Stamp};
use super::rows::Rows;
use super::segment::{
    Head, MAX_TOKEN, SEGMENT_BYTES, Scan, Segment, ends_cleanly, make_spare, scan,
};
use super::time::{Clock, Lifetime, Restart, Restarts};
use super::writer::{SPARES, Writer};
use crate::lock::journal::store::{Misfit, OpenError, Restore, Restored};

/// A lifetime is up to 10⁹ seconds, and so is what a restart may add to it.
const MAX_REMAINING: Duration = Duration::from_secs(4_000_000_000);

/// The locks of how many segments wait to be handed over.
const BATCHES: usize = 2;

/// The segments of a directory, read one at a time.
struct Reader<'a> {
    directory: &'a Directory,
    /// The latest that was read.
    bytes: Vec<u8>,
}

/// What is in the log.
struct Log {
    rows: Rows,
    restarts: Restarts,
    latest: Stamp,
    /// The segment that is appended to, and what was found in it.
    end: (u64, Head, Scan),
}

/// Hands the locks that are still held to `restore`, and opens the log for appending.
pub(super) fn open(
    directory: &Directory,
    host: HostClock,
    restart_grace: Duration,
    restore: &mut Restore<'_>,
) -> Result<Writer, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(directory.path().into(), error);
    let numbers = directory.segments().map_err(unusable)?;
    let Some(last) = numbers.last() else {
        let writer = begin(directory, host).map_err(unusable)?;
        return started(directory, writer, None);
    };
    let mut reader = Reader { directory, bytes: Vec::new() };
    let mut log = reader.find(*last)?;
    let at = host();
    let clock = Clock::resumed(&log.latest, at);
    let (number, head, ref scanned) = log.end;
    let (now, next, end) = (clock.read(at.uptime), scanned.next, scanned.end as u64);
    log.restarts.push(Restart { record: next, clock: now, grace: restart_grace });
    let matters = reader.restore(&mut log, now, restore)?;

    let segment = Segment::open(directory.segment(number), number, head, end).map_err(unusable)?;
    // What was read may not be synced, if the server was killed: the last record, the end of the
    // segment before, the names. It has to be before anything is removed because of it.
    for number in number.saturating_sub(1).max(log.latest.first_segment)..=number {
        let synced = File::open(directory.segment(number)).and_then(|file| file.sync_data());
        synced.map_err(unusable)?;
    }
    directory.sync().map_err(unusable)?;
    let needed = log.latest.first_segment..=number;
    let mut writer = Writer::new(host, clock, log.rows, segment, next, log.latest.last_token);
    writer.restarts = log.restarts;
    tidy(directory, &mut writer, numbers.iter().filter(|number| !needed.contains(*number)));
    started(directory, writer, matters.then_some(restart_grace))
}

/// Makes the first segment.
fn begin(directory: &Directory, host: HostClock) -> io::Result<Writer> {
    let spare = directory.spare(0);
    make_spare(&spare, SEGMENT_BYTES)?;
    let segment = Segment::begin(&spare, directory.segment(1), 1, 1)?;
    directory.sync()?;
    let mut rows = Rows::new();
    rows.add_segment(1, segment.head.bytes);
    let clock = Clock::resumed(&Stamp::default(), host());
    Ok(Writer::new(host, clock, rows, segment, 1, 0))
}

/// Notes that the server was started: with what is written now, all that was read is on disk.
fn started(
    directory: &Directory,
    mut writer: Writer,
    restarted: Option<Duration>,
) -> Result<Writer, OpenError> {
    let written = writer.write(directory, true, |draft| match restarted {
        Some(grace) => draft.entry(&Entry::Restarted(grace)),
        None => Some(()),
    });
    let path = directory.path();
    written.map_err(|error| OpenError::Unusable(path.into(), io::Error::other(error)))?;
    // Without a reserve, the server can at least release.
    let _ = writer.fill_spares(directory);
    Ok(writer)
}

/// Files that an earlier server has left are in reserve from now on, or removed.
fn tidy<'a>(directory: &Directory, writer: &mut Writer, unused: impl Iterator<Item = &'a u64>) {
    // One that stays is not in the way.
    unused.for_each(|number| drop(fs::remove_file(directory.segment(*number))));
    for path in directory.spares().unwrap_or_default() {
        let fits = fs::metadata(&path).is_ok_and(|file| file.len() == SEGMENT_BYTES);
        if fits && writer.spares.len() < SPARES {
            writer.spares.push(path);
        } else {
            let _ = fs::remove_file(path);
        }
    }
}

impl Reader<'_> {
    fn damaged(&self, number: u64, why: &str) -> OpenError {
        OpenError::Damaged(self.directory.segment(number), why.into())
    }

    /// Reads one segment.
    fn read(&mut self, number: u64) -> Result<Head, OpenError> {
        let path = self.directory.segment(number);
        read_file(&path, &mut self.bytes).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.damaged(number, "it is missing"),
            _ => OpenError::Unusable(path, error),
        })?;
        let head = Head::read(&self.bytes, number);
        let head = head.ok_or_else(|| self.damaged(number, "its head is not one of rdlm's"))?;
        if head.bytes != self.bytes.len() as u64 {
            return Err(self.damaged(number, "it does not have the length it was created with"));
        }
        Ok(head)
    }

    /// Calls `visit` for each entry of the segment that was read.
    fn scan<'a>(
        &'a self,
        number: u64,
        head: &Head,
        visit: impl FnMut(Found<'a>),
    ) -> Result<Scan, OpenError> {
        scan(&self.bytes, head, visit).map_err(|why| self.damaged(number, why))
    }

    /// The number of the segment where the log begins, when this is the last one there is.
    fn first_segment(&mut self, last: u64) -> Result<u64, OpenError> {
        // The last one may have been made just before the server ended, and have no record yet.
        for number in [last, last.saturating_sub(1).max(1)] {
            let head = self.read(number)?;
            if let Some(stamp) = self.scan(number, &head, |_| {})?.stamp {
                return Ok(stamp.first_segment);
            }
        }
        if last == 1 { Ok(1) } else { Err(self.damaged(last, "the records before it are missing")) }
    }

    /// Reads all segments, of which this is the last one there is.
    fn find(&mut self, last: u64) -> Result<Log, OpenError> {
        let first = self.first_segment(last)?;
        let (mut rows, mut restarts) = (Rows::new(), Restarts::default());
        let mut latest = Stamp::default();
        let mut end: Option<(u64, Head, Scan)> = None;
        for number in first..=last {
            let head = self.read(number)?;
            match &end {
                Some((_, _, before)) if !before.continued => {
                    let scanned = self.scan(number, &head, |_| {})?;
                    let empty = scanned.stamp.is_none();
                    if number != last || !empty || !ends_cleanly(&self.bytes, &head, &scanned) {
                        return Err(self.damaged(number - 1, "its last records are missing"));
                    }
                    break;
                }
                Some((_, _, before)) if before.next != head.first_record => {
                    return Err(self.damaged(number, "it does not go on from the one before"));
                }
                _ => {}
            }
            rows.add_segment(number, head.bytes);
            let scanned = self.scan(number, &head, |found| match found.entry {
                Entry::Held(row) => rows.hold(row.token, number, &found.at),
                Entry::Ended(token) => rows.end(token),
                Entry::Restarted(grace) => {
                    restarts.push(Restart { record: found.record, clock: found.clock, grace });
                }
                Entry::Continued => {}
            })?;
            if !ends_cleanly(&self.bytes, &head, &scanned) {
                return Err(self.damaged(number, "changes that were acknowledged cannot be read"));
            }
            latest = scanned.stamp.unwrap_or(latest);
            end = Some((number, head, scanned));
        }
        match end {
            Some((_, _, end)) if end.continued => Err(self.damaged(last + 1, "it is missing")),
            Some(end) => Ok(Log { rows, restarts, latest, end }),
            None => Err(self.damaged(last, "it is older than what it says of itself")),
        }
    }

    /// Hands over what is held `now`, while a thread reads on. Returns whether, by the latest
    /// restart, a lock lives longer or has ended.
    fn restore(
        &mut self,
        log: &mut Log,
        now: Duration,
        restore: &mut Restore<'_>,
    ) -> Result<bool, OpenError> {
        let Some(first) = log.rows.first_needed() else { return Ok(false) };
        let directory = self.directory;
        let (sender, batches) = bounded(BATCHES);
        thread::scope(|scope| {
            let read = move || -> Result<bool, OpenError> {
                let mut matters = false;
                for number in first.number..=log.end.0 {
                    let (locks, changed) = self.held(log, number, now)?;
                    matters |= changed;
                    if sender.send((number, locks)).is_err() {
                        break;
                    }
                }
                Ok(matters)
            };
            let reading = thread::Builder::new().name("replay".into()).spawn_scoped(scope, read);
            let reading = reading.map_err(OpenError::Thread)?;
            for (number, locks) in batches {
                for lock in locks {
                    let name = lock.resource.clone();
                    if restore(lock) == Err(Misfit) {
                        let why = format!("it has locks on {name} that cannot be held together");
                        return Err(OpenError::Damaged(directory.segment(number), why.into()));
                    }
                }
            }
            reading.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// The locks that are held `now` whose rows are in this segment, and whether, by the latest
    /// restart, one of them lives longer or has ended.
    fn held(
        &mut self,
        log: &mut Log,
        number: u64,
        now: Duration,
    ) -> Result<(Vec<Restored>, bool), OpenError> {
        let head = self.read(number)?;
        let (mut locks, mut matters, mut makes_sense) = (Vec::new(), false, true);
        let (rows, restarts) = (&mut log.rows, &log.restarts);
        self.scan(number, &head, |Found { record, at, entry, .. }| {
            let Entry::Held(row) = entry else { return };
            if !rows.is_true(row.token, number, &at) {
                return;
            }
            let written = Lifetime { end: row.end, graced: row.graced };
            let lifetime = restarts.lifetime(record, written);
            matters |= lifetime != written;
            let remaining = (lifetime.end != NO_END).then(|| lifetime.end.saturating_sub(now));
            if remaining.is_some_and(|remaining| remaining.is_zero()) {
                rows.end(row.token);
                return;
            }
            let ends_sometime = remaining.is_none_or(|remaining| remaining <= MAX_REMAINING);
            match row.lock(remaining).filter(|_| ends_sometime && row.token <= MAX_TOKEN) {
                Some((resource, held)) => locks.push(Restored { resource, held }),
                None => makes_sense = false,
            }
        })?;
        if !makes_sense {
            return Err(self.damaged(number, "it has a lock that makes no sense"));
        }
        // Names that are neighbours in the table come one after the other, which makes a start of
        // many locks a third shorter. The locks of one resource stay in their order.
        locks.sort_by(|one, other| one.resource.cmp(&other.resource));
        Ok((locks, matters))
    }
}

fn read_file(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    bytes.clear();
    bytes.resize(len, 0);
    file.read_exact_at(bytes, 0)
}
