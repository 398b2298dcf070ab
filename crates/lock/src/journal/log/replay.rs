//! The start: reads what there is, changes nothing of it unless all of it is in order, and goes
//! on from there.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::HostClock;
use super::contents::Contents;
use super::directory::{Directory, Name};
use super::reader::{Reader, damaged};
use super::record::{Entry, Row, Stamp};
use super::rows::Rows;
use super::segment::{MAX_TOKEN, SEGMENT_BYTES, Segment, make_spare};
use super::time::{Clock, Restart};
use super::writer::{SPARES, Writer};
use crate::journal::store::{Conflict, OpenError, Restore, RestoredLock};
use crate::parallel::share;
use crate::sync::{Mutex, locked, poisoned};

/// A lifetime is up to 10⁹ seconds, and so is what a restart may add to it.
const MAX_REMAINING: Duration = Duration::from_secs(4_000_000_000);

/// Hands the locks that are still held to `restore`, and opens the log for appending.
pub(super) fn open(
    directory: &Directory,
    host: HostClock,
    restart_grace: Duration,
    restore: &dyn Restore,
) -> Result<Writer, OpenError> {
    let unusable = |error: io::Error| OpenError::Unusable(directory.path().into(), error);
    let numbers = directory.segments().map_err(unusable)?;
    let Some(last) = numbers.last() else {
        let writer = begin(directory, host).map_err(unusable)?;
        return started(directory, writer, None);
    };
    let mut log = Contents::read(directory, *last)?;
    let at = host();
    let clock = Clock::resumed(&log.latest, at);
    let (number, head, ref scanned) = log.end;
    let (now, next, end) = (clock.read(at.uptime), scanned.next, scanned.end as u64);
    log.restarts.push(Restart { record: next, clock: now, grace: restart_grace });
    let matters = hand_over(directory, &mut log, now, restore)?;

    let segment = Segment::open(directory, number, head, end).map_err(unusable)?;
    // What was read may not be synced, if the server was killed: the last record, the end of the
    // segment before, the names. It has to be before anything is removed because of it.
    for number in number.saturating_sub(1).max(log.latest.first_segment)..=number {
        let synced =
            directory.open_to_read(&Name::segment(number)).and_then(|file| file.sync_data());
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
    let spare = Name::spare(0);
    make_spare(directory, &spare, SEGMENT_BYTES)?;
    let segment = Segment::begin(directory, &spare, 1, 1)?;
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
    unused.for_each(|number| drop(directory.remove(&Name::segment(*number))));
    for name in directory.spares().unwrap_or_default() {
        let len = directory.open_to_read(&name).and_then(|file| Ok(file.metadata()?.len()));
        if len.is_ok_and(|len| len == SEGMENT_BYTES) && writer.spares.len() < SPARES {
            writer.spares.push(name);
        } else {
            let _ = directory.remove(&name);
        }
    }
}

/// The locks on their way out of the log.
struct HandOver<'a> {
    log: &'a Contents,
    now: Duration,
    restore: &'a dyn Restore,
    /// By the latest restart, a lock lives longer or has ended.
    changed: AtomicBool,
    /// The fencing tokens of locks that have ended.
    ended: Mutex<Vec<u64>>,
}

/// Hands over what is held `now`. Returns whether, by the latest restart, a lock lives longer or
/// has ended.
fn hand_over(
    directory: &Directory,
    log: &mut Contents,
    now: Duration,
    restore: &dyn Restore,
) -> Result<bool, OpenError> {
    let Some(first) = log.rows.first_needed() else { return Ok(false) };
    let (changed, ended) = (AtomicBool::new(false), Mutex::default());
    let hand_over = HandOver { log, now, restore, changed, ended };
    share(first.number..=log.end.0, || {
        let mut reader = Reader::new(directory);
        let hand_over = &hand_over;
        move |number| hand_over.segment(directory, &mut reader, number)
    })?;
    let HandOver { changed, ended, .. } = hand_over;
    let ended = ended.into_inner().unwrap_or_else(|_| poisoned());
    ended.into_iter().for_each(|token| log.rows.end(token));
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
            if self.log.rows.is_true(row.lock.token, number, at) {
                makes_sense &= self.row(record, row).is_some();
            }
        })?;
        let senseless = || damaged(directory, number, "it has a lock that makes no sense");
        if makes_sense { Ok(()) } else { Err(senseless()) }
    }

    /// Hands over the lock of a row that is true; `None` if no server has written such a row.
    fn row(&self, record: u64, row: &Row<'_>) -> Option<()> {
        let written = row.lifetime();
        let lifetime = self.log.restarts.lifetime(record, written);
        if lifetime != written {
            self.changed.store(true, Ordering::Relaxed);
        }
        let remaining = lifetime.remaining(self.now);
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
