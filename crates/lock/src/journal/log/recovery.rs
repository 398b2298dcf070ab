//! The start: reads the log, and continues it. Modifies nothing unless all of it is in order.
//!
//! Segments are read twice, by all processors: to find the live rows and check that nothing is
//! damaged, and to hand over the locks of those rows. Keeping the rows in between would double the
//! memory.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::HostClock;
use super::appender::{Appender, SPARES, Tail};
use super::directory::{Directory, Name};
use super::live_rows::LiveRows;
use super::log_state::{LastSegment, LogState};
use super::reader::{Reader, damaged};
use super::record::{LogEntry, RecordHeader, Row};
use super::segment::{MAX_TOKEN, SEGMENT_BYTES, Segment, make_spare};
use super::time::{Clock, Restart, Restarts};
use crate::journal::store::{Conflict, OpenError, Restore, RestoredLock};
use crate::parallel::share;
use crate::sync::{Mutex, locked, poisoned};

/// A lifetime has up to 10⁹ seconds, and a restart may add as many.
const MAX_REMAINING: Duration = Duration::from_secs(4_000_000_000);

/// Hands the locks that are still held to `restore`, and opens the log for appending.
pub(super) fn recover(
    directory: &Directory,
    host: HostClock,
    restart_grace: Duration,
    restore: &dyn Restore,
) -> Result<Appender, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(directory.path().into(), error);
    let numbers = directory.segments().map_err(unusable)?;
    let Some(last) = numbers.last() else {
        let appender = begin(directory, host).map_err(unusable)?;
        return started(directory, appender, None);
    };
    let mut log = LogState::read(directory, *last)?;
    let at = host();
    let clock = Clock::resumed(log.latest.clock, log.latest.host(), at);
    let LastSegment { number, header, ref scan } = log.last;
    let (now, next, end) = (clock.read(at.uptime), scan.next, scan.end as u64);
    log.restarts.push(Restart { record: next, clock: now, grace: restart_grace });
    let prolonged = hand_over(directory, &mut log, now, restore)?;

    let segment = Segment::open(directory, number, header, end).map_err(unusable)?;
    // If the server was killed, what was read may not be synced: the last record, the end of the
    // segment before it, the names. That comes before anything is removed because of it.
    for number in number.saturating_sub(1).max(log.latest.first_segment)..=number {
        let synced =
            directory.open_to_read(&Name::segment(number)).and_then(|file| file.sync_data());
        synced.map_err(unusable)?;
    }
    directory.sync().map_err(unusable)?;
    let needed = log.latest.first_segment..=number;
    let LogState { rows, restarts, latest: RecordHeader { last_token, .. }, .. } = log;
    let tail = Tail { rows, restarts, segment, next, last_token };
    let mut appender = Appender::new(host, clock, tail);
    tidy(directory, &mut appender, numbers.iter().filter(|number| !needed.contains(*number)));
    started(directory, appender, prolonged.then_some(restart_grace))
}

/// Creates the first segment.
fn begin(directory: &Directory, host: HostClock) -> io::Result<Appender> {
    let spare = Name::spare(0);
    make_spare(directory, &spare, SEGMENT_BYTES)?;
    let segment = Segment::begin(directory, &spare, 1, 1)?;
    directory.sync()?;
    let mut rows = LiveRows::new();
    rows.add_segment(1, segment.header.bytes);
    let at = host();
    let clock = Clock::resumed(Duration::ZERO, at, at);
    let tail = Tail { rows, restarts: Restarts::default(), segment, next: 1, last_token: 0 };
    Ok(Appender::new(host, clock, tail))
}

/// Writes the first record of this run, which syncs everything that was read.
fn started(
    directory: &Directory,
    mut appender: Appender,
    restarted: Option<Duration>,
) -> Result<Appender, OpenError> {
    let written = appender.write(directory, true, |record| match restarted {
        Some(grace) => record.entry(&LogEntry::Restarted(grace)),
        None => Some(()),
    });
    let path = directory.path();
    written.map_err(|error| OpenError::Unusable(path.into(), io::Error::other(error)))?;
    // Without a reserve, locks can at least be released.
    let _ = appender.fill_spares(directory);
    Ok(appender)
}

/// Keeps files of an earlier run as spares, or removes them.
fn tidy<'a>(directory: &Directory, appender: &mut Appender, unused: impl Iterator<Item = &'a u64>) {
    // One that cannot be removed does no harm.
    unused.for_each(|number| drop(directory.remove(&Name::segment(*number))));
    for name in directory.spares().unwrap_or_default() {
        let len = directory.open_to_read(&name).and_then(|file| Ok(file.metadata()?.len()));
        if len.is_ok_and(|len| len == SEGMENT_BYTES) && appender.spares.len() < SPARES {
            appender.spares.push(name);
        } else {
            let _ = directory.remove(&name);
        }
    }
}

/// The second round.
struct HandOver<'a> {
    log: &'a LogState,
    now: Duration,
    restore: &'a dyn Restore,
    /// This restart has prolonged a lock, or ended one.
    changed: AtomicBool,
    /// The fencing tokens of locks that have ended.
    ended: Mutex<Vec<u64>>,
}

/// Hands over the locks that are held at `now`. Returns whether this restart has prolonged a lock,
/// or ended one.
fn hand_over(
    directory: &Directory,
    log: &mut LogState,
    now: Duration,
    restore: &dyn Restore,
) -> Result<bool, OpenError> {
    let Some(first) = log.rows.first_needed() else { return Ok(false) };
    let (changed, ended) = (AtomicBool::new(false), Mutex::default());
    let hand_over = HandOver { log, now, restore, changed, ended };
    share(first.number..=log.last.number, || {
        let mut reader = Reader::new(directory);
        let hand_over = &hand_over;
        move |number| hand_over.segment(directory, &mut reader, number)
    })?;
    let HandOver { changed, ended, .. } = hand_over;
    let ended = ended.into_inner().unwrap_or_else(|_| poisoned());
    ended.into_iter().for_each(|token| log.rows.remove(token));
    restore.complete().map_err(|Conflict { resource, .. }| {
        let why = format!("it has locks on {resource} that cannot be held together");
        OpenError::Damaged(directory.path().into(), why.into())
    })?;
    Ok(changed.into_inner())
}

impl HandOver<'_> {
    /// Hands over the locks whose rows are in this segment.
    fn segment(
        &self,
        directory: &Directory,
        reader: &mut Reader<'_>,
        number: u64,
    ) -> Result<(), OpenError> {
        let mut makes_sense = true;
        reader.rows(number, |record, at, row| {
            if self.log.rows.is_live(row.lock.token, number, at) {
                makes_sense &= self.row(record, row).is_some();
            }
        })?;
        let senseless = || damaged(directory, number, "it has a lock that makes no sense");
        if makes_sense { Ok(()) } else { Err(senseless()) }
    }

    /// Hands over the lock of a live row; `None` if rdlm does not write such a row.
    fn row(&self, record: u64, row: &Row<'_>) -> Option<()> {
        let written = row.expiry();
        let expiry = self.log.restarts.expiry(record, written);
        if expiry != written {
            self.changed.store(true, Ordering::Relaxed);
        }
        let remaining = expiry.remaining(self.now);
        if remaining == Some(Duration::ZERO) {
            locked(&self.ended).push(row.lock.token);
            return Some(());
        }
        let ends_sometime = remaining.is_none_or(|remaining| remaining <= MAX_REMAINING);
        let (resource, held) = row.lock.held(remaining)?;
        let makes_sense = ends_sometime && row.lock.token <= MAX_TOKEN;
        makes_sense.then(|| self.restore.restore(RestoredLock { resource, held }))
    }
}
