//! Reclaiming space: copies the live rows of the oldest segment to the end of the log.

use std::io;

use super::frame;
use super::live_rows::LiveRows;
use super::record::{LogEntry, RecordHeader, entries};
use super::record_builder::RecordBuilder;
use super::segment::{BEGIN, SegmentHeader};
use super::time::Restarts;

/// A segment that is being cleaned.
pub(super) struct Cleaner {
    pub(super) segment: u64,
    header: SegmentHeader,
    bytes: Vec<u8>,
    at: Cursor,
}

/// How far cleaning has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Where the last finished record ends.
    record_end: usize,
    /// The number of the record behind that.
    next: u64,
    /// The first entry of that record that has not been looked at; 0: all of them.
    entry: usize,
}

impl Cleaner {
    /// Begins with the contents of a segment.
    pub(super) fn new(segment: u64, bytes: Vec<u8>) -> io::Result<Self> {
        let header =
            SegmentHeader::read(&bytes, segment).map_err(|_| io::ErrorKind::InvalidData)?;
        let at = Cursor { record_end: BEGIN, next: header.first_record, entry: 0 };
        Ok(Self { segment, header, bytes, at })
    }

    /// Adds the live rows among the next `budget` bytes to `record`. Returns where to continue
    /// once that is written.
    pub(super) fn copy(
        &self,
        budget: usize,
        rows: &LiveRows,
        restarts: &Restarts,
        record: &mut RecordBuilder,
    ) -> Option<Cursor> {
        let mut at = self.at;
        let mut looked_at = 0;
        loop {
            let begin = at.record_end + frame::HEADER_BYTES;
            let frame = frame::read(&self.bytes, begin, self.header.salt);
            let Some(frame) = frame.filter(|frame| frame.number == at.next) else {
                return Some(at);
            };
            let (_, rest) = RecordHeader::read(&self.bytes[frame.body.clone()])?;
            let begin = at.entry.max(frame.body.end - rest.len());
            for entry in entries(&self.bytes, begin..frame.body.end) {
                let (position, entry) = entry.ok()?;
                if looked_at.max(record.bytes.len()) >= budget {
                    return Some(Cursor { entry: position.start, ..at });
                }
                looked_at += position.len();
                match entry {
                    LogEntry::Held(row)
                        if rows.is_live(row.lock.token, self.segment, &position) =>
                    {
                        let expiry = restarts.expiry(frame.number, row.expiry());
                        record.entry(&LogEntry::Held(row.with(expiry)))?;
                    }
                    _ => {}
                }
            }
            at = Cursor { record_end: frame.body.end, next: frame.number + 1, entry: 0 };
        }
    }

    /// The rows up to there have been written. Returns whether that is progress.
    pub(super) fn continue_at(&mut self, at: Cursor) -> bool {
        let moved = self.at != at;
        self.at = at;
        moved
    }
}
