//! The log while a server runs: what is appended, and how its room is used again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::log::warn;

use super::HostClock;
use super::directory::{Directory, Name};
use super::draft::{Draft, Effect};
use super::frame;
use super::record::{Entry, Stamp};
use super::rows::Rows;
use super::segment::{SEGMENT_BYTES, Segment, bytes_for, capacity, make_spare};
use super::sweep::{Cursor, Sweep};
use super::time::{Clock, Restarts};
use crate::journal::store::{Change, StoreError};

/// How many files are kept to become segments.
pub(super) const SPARES: usize = 2;

/// With less room than this, only what makes room is written: for half a segment, and the rows
/// of the oldest one have room in another.
const RESERVE: u64 = SEGMENT_BYTES * 3 / 2;

/// With less garbage than this, none is looked for in need.
const WORTH: u64 = SEGMENT_BYTES / 2;

/// How many bytes of the oldest segment are gone through for each byte that is written, when
/// there is more room than is needed: three would do if the rows were spread evenly.
const SWEPT_FOR_WRITTEN: usize = 4;

/// How many are gone through with each record when the reserve is being used.
const SWEPT_IN_NEED: usize = 1 << 16;

/// A row is shorter: a name, a title, a key and some numbers.
const MAX_ROW_BYTES: usize = 2048;

/// The log, opened for appending.
pub(super) struct Writer {
    pub(super) host: HostClock,
    pub(super) clock: Clock,
    pub(super) rows: Rows,
    pub(super) restarts: Restarts,
    pub(super) segment: Segment,
    /// The number of the next record.
    pub(super) next: u64,
    pub(super) last_token: u64,
    pub(super) spares: Vec<Name>,
    sweep: Option<Sweep>,
    /// A segment could not be read: nothing is reclaimed until the next start.
    unreadable: bool,
    /// When the latest record was written, by the journal's clock.
    latest: Duration,
    /// It is not known what is on disk. Nothing may be written any more.
    unknown: Option<Arc<str>>,
}

impl Writer {
    pub(super) fn new(
        host: HostClock,
        clock: Clock,
        rows: Rows,
        segment: Segment,
        next: u64,
        last_token: u64,
    ) -> Self {
        Self {
            host,
            clock,
            rows,
            restarts: Restarts::default(),
            segment,
            next,
            last_token,
            spares: Vec::new(),
            sweep: None,
            unreadable: false,
            latest: Duration::ZERO,
            unknown: None,
        }
    }

    /// What the journal's clock shows.
    pub(super) fn now(&self) -> Duration {
        self.clock.read((self.host)().uptime)
    }

    /// How long ago the latest record was written.
    pub(super) fn idle(&self) -> Duration {
        self.now().saturating_sub(self.latest)
    }

    /// Whether any lock is held.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// Writes some changes as one record.
    pub(super) fn commit(
        &mut self,
        directory: &Directory,
        batch: &[Change],
        grace: Duration,
    ) -> Result<(), StoreError> {
        let now = self.now();
        let frees_space = !batch.is_empty() && batch.iter().all(Change::frees_space);
        self.write(directory, frees_space, |draft| draft.changes(batch, now, grace))
    }

    /// Writes one record, and with it some rows of the oldest segment. One that does not make
    /// room is refused while there is no reserve.
    pub(super) fn write(
        &mut self,
        directory: &Directory,
        frees_space: bool,
        entries: impl FnOnce(&mut Draft) -> Option<()>,
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
        entries: impl FnOnce(&mut Draft) -> Option<()>,
    ) -> Result<(), StoreError> {
        let mut own = Draft::default();
        entries(&mut own).ok_or_else(too_large)?;
        let needed =
            own.bytes.len() as u64 + if frees_space { self.needed_for_oldest() } else { RESERVE };
        if self.room() < needed && self.fill_spares(directory).is_err() {
            self.reclaim(directory)?;
            if self.room() < needed && !frees_space {
                self.fill_spares(directory).map_err(refused)?;
            }
        }
        let mut draft = Draft::default();
        let own_len = own.bytes.len();
        let swept = self.swept(directory, self.budget(own_len), own_len, &mut draft);
        // What is swept comes first, for the changes may be about the same locks.
        draft.extend(own);
        self.make_room(directory, draft.bytes.len() as u64)?;
        self.append(directory, draft)?;
        if let Some(at) = swept {
            self.go_on_from(at);
        }
        Ok(())
    }

    /// How much of the oldest segment is gone through with so many bytes of entries.
    fn budget(&self, entries: usize) -> usize {
        if self.room() < RESERVE && self.garbage() > WORTH {
            SWEPT_IN_NEED
        } else if self.garbage() > self.rows.row_bytes() + 4 * SEGMENT_BYTES {
            entries.max(64) * SWEPT_FOR_WRITTEN
        } else {
            0
        }
    }

    /// How much of what is written is not true any more. What a segment takes beside its rows is
    /// not to be had back by writing them again.
    fn garbage(&self) -> u64 {
        let frames = self.rows.segments() * (SEGMENT_BYTES - capacity(SEGMENT_BYTES));
        let needed = self.rows.row_bytes() + frames + self.segment.room();
        self.rows.bytes().saturating_sub(needed)
    }

    /// Adds rows of the oldest segment to a draft, so many that they fit in before `others`.
    /// Returns where to go on when they are written.
    fn swept(
        &mut self,
        directory: &Directory,
        budget: usize,
        others: usize,
        draft: &mut Draft,
    ) -> Option<Cursor> {
        let oldest = self.rows.first_needed()?;
        let room = usize::try_from(self.segment.room()).unwrap_or(usize::MAX);
        // A segment that is left with much room in it would be the same loss again.
        let fitting = room.saturating_sub(others + MAX_ROW_BYTES);
        let budget = if fitting == 0 { budget } else { budget.min(fitting) };
        if budget == 0 || self.unreadable || oldest.number == self.segment.number {
            return None;
        }
        if self.sweep.as_ref().is_none_or(|sweep| sweep.segment != oldest.number) {
            self.sweep = None;
            let read = directory.read(&Name::segment(oldest.number));
            match read.and_then(|bytes| Sweep::new(oldest.number, bytes)) {
                Ok(sweep) => self.sweep = Some(sweep),
                Err(error) => {
                    warn!("space of old locks is not reused until a restart: {error}");
                    self.unreadable = true;
                }
            }
        }
        self.sweep.as_ref()?.some(budget, &self.rows, &self.restarts, draft)
    }

    /// Makes room of what is not true any more, if that is worth it.
    fn reclaim(&mut self, directory: &Directory) -> Result<(), StoreError> {
        if self.garbage() > WORTH {
            let oldest = self.rows.first_needed();
            if oldest.is_some_and(|oldest| oldest.number == self.segment.number) {
                // What is written to can only be gone through when something else is.
                self.begin_segment(directory, SEGMENT_BYTES)?;
            }
            while self.rows.first_needed().map(|first| first.number) == oldest.map(|o| o.number) {
                let mut draft = Draft::default();
                let swept = self.swept(directory, SWEPT_IN_NEED, 0, &mut draft);
                if !draft.bytes.is_empty() {
                    self.make_room(directory, draft.bytes.len() as u64)?;
                    self.append(directory, draft)?;
                }
                if !swept.is_some_and(|at| self.go_on_from(at)) {
                    break;
                }
            }
        }
        if self.rows.has_unneeded_segments() {
            // A record says that they are not needed, before they are used again.
            self.make_room(directory, 0)?;
            self.append(directory, Draft::default())?;
        }
        Ok(())
    }

    /// Returns whether that is further on.
    fn go_on_from(&mut self, at: Cursor) -> bool {
        self.sweep.as_mut().is_some_and(|sweep| sweep.go_on_from(at))
    }

    /// How many bytes of entries there is room for without a new file.
    fn room(&self) -> u64 {
        self.segment.room() + self.spares.len() as u64 * capacity(SEGMENT_BYTES)
    }

    /// How many of them the rows of the oldest segment need, if it is to be used again.
    fn needed_for_oldest(&self) -> u64 {
        let oldest = self.rows.first_needed().filter(|oldest| oldest.number != self.segment.number);
        oldest.map_or(0, |oldest| oldest.row_bytes + oldest.row_bytes / 8)
    }

    /// Makes spare files until there are enough.
    pub(super) fn fill_spares(&mut self, directory: &Directory) -> io::Result<()> {
        while self.spares.len() < SPARES {
            let name = self.free_name();
            make_spare(directory, &name, SEGMENT_BYTES)?;
            self.spares.push(name);
        }
        Ok(())
    }

    /// One that none of the few spares has.
    fn free_name(&self) -> Name {
        let mut names = (0..SPARES).map(Name::spare);
        names.find(|name| !self.spares.contains(name)).unwrap_or_else(|| Name::spare(SPARES))
    }

    /// Goes on to a next segment if this one has no room for so many bytes of entries.
    fn make_room(&mut self, directory: &Directory, entries: u64) -> Result<(), StoreError> {
        if self.segment.has_room_for(entries) {
            return Ok(());
        }
        self.begin_segment(directory, bytes_for(entries))
    }

    /// Goes on to a next segment that is so long.
    fn begin_segment(&mut self, directory: &Directory, bytes: u64) -> Result<(), StoreError> {
        if !self.rows.may_grow() {
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
        let number = self.segment.number + 1;
        // The record that ends this segment comes between.
        let begun = Segment::begin(directory, &spare, number, self.next + 1);
        let next = begun.map_err(refused).inspect_err(|_| self.spares.push(spare.clone()))?;
        directory.sync().map_err(|error| StoreError::Unknown(error.to_string().into()))?;
        let mut ends = Draft::default();
        ends.entry(&Entry::Continued).ok_or_else(too_large)?;
        let ended = self.append(directory, ends);
        if let Err(StoreError::Refused(_)) = ended
            && directory.rename(&Name::segment(number), &spare).is_ok()
        {
            // If it keeps its name, it is found to be empty, or replaced.
            self.spares.push(spare);
        }
        ended?;
        self.rows.add_segment(number, next.head.bytes);
        self.segment = next;
        Ok(())
    }

    /// Writes a record, and then notes what is true.
    fn append(&mut self, directory: &Directory, draft: Draft) -> Result<(), StoreError> {
        let last_token = self.last_token.max(draft.last_token);
        let first_segment =
            self.rows.first_needed().map_or(self.segment.number, |first| first.number);
        let uptime = (self.host)().uptime;
        let clock = self.clock.read(uptime);
        let stamp = Stamp { clock, boot: self.clock.boot(), uptime, last_token, first_segment };
        let salt = self.segment.head.salt;
        let mut bytes = frame::acknowledgement(salt, self.next - 1);
        let mut begin = 0;
        frame::append(&mut bytes, salt, self.next, |out| {
            stamp.append(out)?;
            begin = out.len();
            out.extend_from_slice(&draft.bytes);
            Some(())
        })
        .ok_or_else(too_large)?;
        let begin = begin + usize::try_from(self.segment.end).map_err(|_| too_large())?;
        self.segment.write(&bytes)?;
        self.segment.acknowledge(self.next);

        for effect in draft.effects {
            match effect {
                Effect::Held { token, at, len } => {
                    let at = begin + at;
                    self.rows.hold(token, self.segment.number, &(at..at + len));
                }
                Effect::Ended(token) => self.rows.end(token),
            }
        }
        (self.last_token, self.latest) = (last_token, clock);
        self.next += 1;
        self.recycle_before(directory, first_segment);
        Ok(())
    }

    /// Uses the files of segments again that the latest record says are not needed.
    fn recycle_before(&mut self, directory: &Directory, first_segment: u64) {
        for dead in self.rows.take_before(first_segment) {
            let name = Name::segment(dead.number);
            // One that stays is removed at the next start.
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
