//! Reclaiming room: the rows of the oldest segment that are still true are written again.

use std::io;
use std::ops::Range;

use super::draft::Draft;
use super::frame;
use super::record::{Entry, Stamp, entries};
use super::rows::Rows;
use super::segment::{BEGIN, Head};
use super::time::{Lifetime, Restarts};

/// A segment that is being gone through.
pub(super) struct Sweep {
    pub(super) segment: u64,
    head: Head,
    bytes: Vec<u8>,
    at: Cursor,
}

/// How far a sweep has got: behind this many bytes, of which the last whole record ended at
/// `record_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    record_end: usize,
    next: u64,
    entry: usize,
}

impl Sweep {
    /// Begins with the bytes of a segment.
    pub(super) fn new(segment: u64, bytes: Vec<u8>) -> io::Result<Self> {
        let head = Head::read(&bytes, segment).ok_or(io::ErrorKind::InvalidData)?;
        let at = Cursor { record_end: BEGIN, next: head.first_record, entry: 0 };
        Ok(Self { segment, head, bytes, at })
    }

    /// Adds the rows to `draft` that are still true among the next `budget` bytes. Returns where
    /// to go on when they are written.
    pub(super) fn some(
        &self,
        budget: usize,
        rows: &Rows,
        restarts: &Restarts,
        draft: &mut Draft,
    ) -> Option<Cursor> {
        let mut at = self.at;
        let mut gone_through = 0;
        loop {
            let frame = frame::read(&self.bytes, at.record_end + frame::HEAD_BYTES, self.head.salt);
            let Some(frame) = frame.filter(|frame| frame.number == at.next) else {
                return Some(at);
            };
            let (_, rest) = Stamp::read(&self.bytes[frame.body.clone()])?;
            let begin = at.entry.max(frame.body.end - rest.len());
            for entry in entries(&self.bytes, begin..frame.body.end) {
                let (position, entry) = entry?;
                if gone_through.max(draft.bytes.len()) >= budget {
                    return Some(Cursor { entry: position.start, ..at });
                }
                gone_through += position.len();
                self.keep(&position, entry, frame.number, rows, restarts, draft)?;
            }
            at = Cursor { record_end: frame.body.end, next: frame.number + 1, entry: 0 };
        }
    }

    fn keep(
        &self,
        position: &Range<usize>,
        entry: Entry<'_>,
        record: u64,
        rows: &Rows,
        restarts: &Restarts,
        draft: &mut Draft,
    ) -> Option<()> {
        match entry {
            Entry::Held(row) if rows.is_true(row.token, self.segment, position) => {
                let written = Lifetime { end: row.end, graced: row.graced };
                let Lifetime { end, graced } = restarts.lifetime(record, written);
                draft.entry(&Entry::Held(row.with_end(end, graced)))
            }
            _ => Some(()),
        }
    }

    /// What was added up to there is written. Returns whether that is further than before.
    pub(super) fn go_on_from(&mut self, at: Cursor) -> bool {
        let moved = self.at != at;
        self.at = at;
        moved
    }
}
