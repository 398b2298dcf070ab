//! Appends records, and reclaims space.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::log::warn;

use super::HostClock;
use super::cleaner::{Cleaner, Cursor};
use super::directory::{Directory, Name};
use super::frame;
use super::live_rows::LiveRows;
use super::record::{LogEntry, RecordHeader, append};
use super::record_builder::{Effect, RecordBuilder};
use super::segment::{SEGMENT_BYTES, Segment, bytes_for, capacity, make_spare};
use super::time::{Clock, Restarts};
use crate::journal::store::{Change, StoreError};

/// How many spare files there are, which become segments.
pub(super) const SPARES: usize = 2;

/// With less room than this, only changes that free space are written: the rows of the oldest
/// segment fit into one segment, and changes into another half.
const RESERVE: u64 = SEGMENT_BYTES * 3 / 2;

/// With less garbage than this, reclaiming is not worth it.
const WORTH: u64 = SEGMENT_BYTES / 2;

/// How many bytes of the oldest segment are cleaned for each byte that is written, while there is
/// room. Three would do if the rows were spread evenly.
const CLEANED_FOR_WRITTEN: usize = 4;

/// How many bytes are cleaned with each record while only the reserve is left.
const CLEANED_IN_NEED: usize = 1 << 16;

/// No row is longer: a name, a title, a key, some numbers.
const MAX_ROW_BYTES: usize = 2048;

/// The log, opened for appending.
pub(super) struct Appender {
    host: HostClock,
    clock: Clock,
    tail: Tail,
    pub(super) spares: Vec<Name>,
    cleaner: Option<Cleaner>,
    /// A segment could not be read. No space is reclaimed until the next start.
    unreadable: bool,
    /// The time of the latest record.
    latest: Duration,
    /// It is unknown what is on disk. Nothing may be written any more.
    unknown: Option<Arc<str>>,
}

/// Where the log is continued, and what is before.
pub(super) struct Tail {
    pub(super) rows: LiveRows,
    pub(super) restarts: Restarts,
    pub(super) segment: Segment,
    /// The number of the next record.
    pub(super) next: u64,
    pub(super) last_token: u64,
}

impl Appender {
    pub(super) fn new(host: HostClock, clock: Clock, tail: Tail) -> Self {
        let (spares, latest) = (Vec::new(), Duration::ZERO);
        Self { host, clock, tail, spares, cleaner: None, unreadable: false, latest, unknown: None }
    }

    /// The largest fencing token so far.
    pub(super) fn last_token(&self) -> u64 {
        self.tail.last_token
    }

    /// The time of the journal's clock.
    pub(super) fn now(&self) -> Duration {
        self.clock.read((self.host)().uptime)
    }

    /// How long ago the latest record was written.
    pub(super) fn idle(&self) -> Duration {
        self.now().saturating_sub(self.latest)
    }

    /// Whether no lock is held.
    pub(super) fn is_empty(&self) -> bool {
        self.tail.rows.len() == 0
    }

    /// Writes changes as one record.
    pub(super) fn commit(
        &mut self,
        directory: &Directory,
        batch: &[Change],
        grace: Duration,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let frees_space = !batch.is_empty() && batch.iter().all(Change::frees_space);
        self.write(directory, frees_space, |record| record.changes(batch, now, grace))
    }

    /// Writes one record, and with it some rows of the oldest segment. A record that does not free
    /// space is refused while less than the reserve is left.
    pub(super) fn write(
        &mut self,
        directory: &Directory,
        frees_space: bool,
        entries: impl FnOnce(&mut RecordBuilder) -> Option<()>,
    ) -> Result<(), StoreError> {
        if let Some(why) = &self.unknown {
            return Err(StoreError::Unknown(Arc::clone(why)));
        }
        let written = self.try_write(directory, frees_space, entries);
        if let Err(StoreError::Unknown(why)) = &written {
            self.unknown = Some(Arc::clone(why));
        }
        written
    }

    fn try_write(
        &mut self,
        directory: &Directory,
        frees_space: bool,
        entries: impl FnOnce(&mut RecordBuilder) -> Option<()>,
    ) -> Result<(), StoreError> {
        let mut own = RecordBuilder::default();
        entries(&mut own).ok_or_else(too_large)?;
        let needed =
            own.bytes.len() as u64 + if frees_space { self.needed_for_oldest() } else { RESERVE };
        if self.room() < needed && self.fill_spares(directory).is_err() {
            self.reclaim(directory)?;
            if self.room() < needed && !frees_space {
                self.fill_spares(directory).map_err(refused)?;
            }
        }
        let mut record = RecordBuilder::default();
        let own_len = own.bytes.len();
        let cleaned = self.clean(directory, self.budget(own_len), own_len, &mut record);
        // Old rows come first, because the changes may replace them.
        record.extend(own);
        self.make_room(directory, record.bytes.len() as u64)?;
        self.append(directory, record)?;
        if let Some(at) = cleaned {
            self.continue_cleaning(at);
        }
        Ok(())
    }

    /// How many bytes of the oldest segment are cleaned with so many bytes of entries.
    fn budget(&self, entries: usize) -> usize {
        if self.room() < RESERVE && self.garbage() > WORTH {
            CLEANED_IN_NEED
        } else if self.garbage() > self.tail.rows.row_bytes() + 4 * SEGMENT_BYTES {
            entries.max(64) * CLEANED_FOR_WRITTEN
        } else {
            0
        }
    }

    /// The bytes that cleaning would free. Headers and the unused end of a segment are not among
    /// them.
    fn garbage(&self) -> u64 {
        let frames = self.tail.rows.segments() * (SEGMENT_BYTES - capacity(SEGMENT_BYTES));
        let needed = self.tail.rows.row_bytes() + frames + self.tail.segment.room();
        self.tail.rows.bytes().saturating_sub(needed)
    }

    /// Adds rows of the oldest segment to a record, as many as fit beside `others`. Returns where to
    /// continue when they have been written.
    fn clean(
        &mut self,
        directory: &Directory,
        budget: usize,
        others: usize,
        record: &mut RecordBuilder,
    ) -> Option<Cursor> {
        let oldest = self.tail.rows.first_needed()?;
        let room = usize::try_from(self.tail.segment.room()).unwrap_or(usize::MAX);
        // A segment that is left half empty would waste as much again.
        let fitting = room.saturating_sub(others + MAX_ROW_BYTES);
        let budget = if fitting == 0 { budget } else { budget.min(fitting) };
        if budget == 0 || self.unreadable || oldest.number == self.tail.segment.number {
            return None;
        }
        if self.cleaner.as_ref().is_none_or(|cleaner| cleaner.segment != oldest.number) {
            self.cleaner = None;
            let read = directory.read(&Name::segment(oldest.number));
            match read.and_then(|bytes| Cleaner::new(oldest.number, bytes)) {
                Ok(cleaner) => self.cleaner = Some(cleaner),
                Err(error) => {
                    warn!("space of old locks is not reused until a restart: {error}");
                    self.unreadable = true;
                }
            }
        }
        self.cleaner.as_ref()?.copy(budget, &self.tail.rows, &self.tail.restarts, record)
    }

    /// Reclaims the oldest segment if that is worth it, and all unneeded ones.
    fn reclaim(&mut self, directory: &Directory) -> Result<(), StoreError> {
        if self.garbage() > WORTH {
            let oldest = self.tail.rows.first_needed();
            if oldest.is_some_and(|oldest| oldest.number == self.tail.segment.number) {
                // The last segment cannot be cleaned.
                self.begin_segment(directory, SEGMENT_BYTES)?;
            }
            while self.tail.rows.first_needed().map(|first| first.number)
                == oldest.map(|o| o.number)
            {
                let mut record = RecordBuilder::default();
                let cleaned = self.clean(directory, CLEANED_IN_NEED, 0, &mut record);
                if !record.bytes.is_empty() {
                    self.make_room(directory, record.bytes.len() as u64)?;
                    self.append(directory, record)?;
                }
                if !cleaned.is_some_and(|at| self.continue_cleaning(at)) {
                    break;
                }
            }
        }
        if self.tail.rows.has_unneeded_segments() {
            // A record has to say so before they are reused.
            self.make_room(directory, 0)?;
            self.append(directory, RecordBuilder::default())?;
        }
        Ok(())
    }

    /// Returns whether that is progress.
    fn continue_cleaning(&mut self, at: Cursor) -> bool {
        self.cleaner.as_mut().is_some_and(|cleaner| cleaner.continue_at(at))
    }

    /// How many bytes of entries fit without a new file.
    fn room(&self) -> u64 {
        self.tail.segment.room() + self.spares.len() as u64 * capacity(SEGMENT_BYTES)
    }

    /// How many of them the rows of the oldest segment take when it is cleaned.
    fn needed_for_oldest(&self) -> u64 {
        let oldest = self
            .tail
            .rows
            .first_needed()
            .filter(|oldest| oldest.number != self.tail.segment.number);
        oldest.map_or(0, |oldest| oldest.row_bytes + oldest.row_bytes / 8)
    }

    /// Creates spare files until there are enough.
    pub(super) fn fill_spares(&mut self, directory: &Directory) -> io::Result<()> {
        while self.spares.len() < SPARES {
            let name = self.free_name();
            make_spare(directory, &name, SEGMENT_BYTES)?;
            self.spares.push(name);
        }
        Ok(())
    }

    /// A name that no spare has.
    fn free_name(&self) -> Name {
        let mut names = (0..SPARES).map(Name::spare);
        names.find(|name| !self.spares.contains(name)).unwrap_or_else(|| Name::spare(SPARES))
    }

    /// Begins a segment if so many bytes of entries do not fit into this one.
    fn make_room(&mut self, directory: &Directory, entries: u64) -> Result<(), StoreError> {
        if self.tail.segment.has_room_for(entries) {
            return Ok(());
        }
        self.begin_segment(directory, bytes_for(entries))
    }

    /// Begins a segment of this length.
    fn begin_segment(&mut self, directory: &Directory, bytes: u64) -> Result<(), StoreError> {
        if !self.tail.rows.may_grow() {
            return Err(StoreError::Refused("the journal has too many segments".into()));
        }
        let spare = match self.spares.pop() {
            Some(spare) if bytes == SEGMENT_BYTES => spare,
            unfit => {
                self.spares.extend(unfit);
                let name = self.free_name();
                make_spare(directory, &name, bytes).map_err(refused)?;
                name
            }
        };
        let number = self.tail.segment.number + 1;
        // The record in between ends this segment.
        let begun = Segment::begin(directory, &spare, number, self.tail.next + 1);
        let next = begun.map_err(refused).inspect_err(|_| self.spares.push(spare.clone()))?;
        directory.sync().map_err(|error| StoreError::Unknown(error.to_string().into()))?;
        let mut ends = RecordBuilder::default();
        ends.entry(&LogEntry::Continued).ok_or_else(too_large)?;
        let ended = self.append(directory, ends);
        if let Err(StoreError::Refused(_)) = ended
            && directory.rename(&Name::segment(number), &spare).is_ok()
        {
            // If renaming fails, a start finds it empty, or the next attempt replaces it.
            self.spares.push(spare);
        }
        ended?;
        self.tail.rows.add_segment(number, next.header.bytes);
        self.tail.segment = next;
        Ok(())
    }

    /// Writes a record, and updates the index.
    fn append(&mut self, directory: &Directory, record: RecordBuilder) -> Result<(), StoreError> {
        let last_token = self.tail.last_token.max(record.last_token);
        let first_segment =
            self.tail.rows.first_needed().map_or(self.tail.segment.number, |first| first.number);
        let uptime = (self.host)().uptime;
        let clock = self.clock.read(uptime);
        let header =
            RecordHeader { clock, boot: self.clock.boot(), uptime, last_token, first_segment };
        let salt = self.tail.segment.header.salt;
        let mut bytes = frame::acknowledgement(salt, self.tail.next - 1);
        let mut begin = 0;
        frame::append(&mut bytes, salt, self.tail.next, |out| {
            append(&header, out)?;
            begin = out.len();
            out.extend_from_slice(&record.bytes);
            Some(())
        })
        .ok_or_else(too_large)?;
        let begin = begin + usize::try_from(self.tail.segment.end).map_err(|_| too_large())?;
        self.tail.segment.write(&bytes)?;
        self.tail.segment.acknowledge(self.tail.next);

        for effect in record.effects {
            match effect {
                Effect::Held { token, at, len } => {
                    let at = begin + at;
                    self.tail.rows.insert(token, self.tail.segment.number, &(at..at + len));
                }
                Effect::Ended(token) => self.tail.rows.remove(token),
            }
        }
        (self.tail.last_token, self.latest) = (last_token, clock);
        self.tail.next += 1;
        self.recycle_before(directory, first_segment);
        Ok(())
    }

    /// Reuses the files of segments that the latest record says are not needed.
    fn recycle_before(&mut self, directory: &Directory, first_segment: u64) {
        for dead in self.tail.rows.take_before(first_segment) {
            let name = Name::segment(dead.number);
            // If that fails, the next start removes it.
            if dead.bytes == SEGMENT_BYTES && self.spares.len() < SPARES {
                let spare = self.free_name();
                if directory.rename(&name, &spare).is_ok() {
                    self.spares.push(spare);
                }
            } else {
                let _ = directory.remove(&name);
            }
        }
    }
}

fn refused(error: io::Error) -> StoreError {
    StoreError::Refused(error.to_string().into())
}

fn too_large() -> StoreError {
    StoreError::Refused("the changes are too large to be written at once".into())
}
