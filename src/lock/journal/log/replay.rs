//! The start: reads what there is, changes nothing of it unless all of it is in order, and goes
//! on from there.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use super::HostClock;
use super::contents::Contents;
use super::directory::Directory;
use super::reader::{Reader, damaged};
use super::record::{Entry, NO_END, Stamp};
use super::rows::Rows;
use super::segment::{MAX_TOKEN, SEGMENT_BYTES, Segment, make_spare};
use super::time::{Clock, Lifetime, Restart};
use super::writer::{SPARES, Writer};
use crate::lock::journal::store::{Misfit, OpenError, Restore, Restored};
use crate::lock::parallel::share;
use crate::lock::sync::{Mutex, locked, poisoned};

/// A lifetime is up to 10⁹ seconds, and so is what a restart may add to it.
const MAX_REMAINING: Duration = Duration::from_secs(4_000_000_000);

/// Hands the locks that are still held to `restore`, and opens the log for appending.
pub(super) fn open(
    directory: &Directory,
    host: HostClock,
    restart_grace: Duration,
    restore: &Restore<'_>,
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

/// What was found on the way.
#[derive(Default)]
struct Found {
    /// By the latest restart, a lock lives longer or has ended.
    changed: bool,
    /// The fencing tokens of locks that have ended.
    ended: Vec<u64>,
}

/// Hands over what is held `now`. Returns whether, by the latest restart, a lock lives longer or
/// has ended.
fn hand_over(
    directory: &Directory,
    log: &mut Contents,
    now: Duration,
    restore: &Restore<'_>,
) -> Result<bool, OpenError> {
    let Some(first) = log.rows.first_needed() else { return Ok(false) };
    let found = Mutex::new(Found::default());
    share(first.number..=log.end.0, || {
        let (log, found, mut reader) = (&*log, &found, Reader::new(directory));
        move |number| {
            let (locks, of_segment) = held(&mut reader, log, number, now)?;
            let mut found = locked(found);
            found.changed |= of_segment.changed;
            found.ended.extend(of_segment.ended);
            drop(found);
            for lock in locks {
                let name = lock.resource.clone();
                if restore(lock) == Err(Misfit) {
                    let why = format!("it has locks on {name} that cannot be held together");
                    return Err(damaged(directory, number, &why));
                }
            }
            Ok(())
        }
    })?;
    let Found { changed, ended } = found.into_inner().unwrap_or_else(|_| poisoned());
    ended.into_iter().for_each(|token| log.rows.end(token));
    Ok(changed)
}

/// The locks that are held `now` whose rows are in this segment.
fn held(
    reader: &mut Reader<'_>,
    log: &Contents,
    number: u64,
    now: Duration,
) -> Result<(Vec<Restored>, Found), OpenError> {
    let (mut locks, mut found, mut makes_sense) = (Vec::new(), Found::default(), true);
    reader.rows(number, |record, at, row| {
        if !log.rows.is_true(row.token, number, at) {
            return;
        }
        let written = Lifetime { end: row.end, graced: row.graced };
        let lifetime = log.restarts.lifetime(record, written);
        found.changed |= lifetime != written;
        let remaining = (lifetime.end != NO_END).then(|| lifetime.end.saturating_sub(now));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            found.ended.push(row.token);
            return;
        }
        let ends_sometime = remaining.is_none_or(|remaining| remaining <= MAX_REMAINING);
        match row.lock(remaining).filter(|_| ends_sometime && row.token <= MAX_TOKEN) {
            Some((resource, held)) => locks.push(Restored { resource, held }),
            None => makes_sense = false,
        }
    })?;
    if !makes_sense {
        return Err(damaged(reader.directory, number, "it has a lock that makes no sense"));
    }
    // Names that are neighbours in the table come one after the other, which makes a start of
    // many locks a third shorter. The locks of one resource stay in their order.
    locks.sort_by(|one, other| one.resource.cmp(&other.resource));
    Ok((locks, found))
}
