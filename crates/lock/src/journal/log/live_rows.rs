//! Which rows are live, and how much of each segment they take. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use super::index::{Index, Location, MAX_SEGMENTS};

/// A segment, and the live rows in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SegmentUsage {
    pub(super) number: u64,
    /// The length of its file.
    pub(super) bytes: u64,
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
}

/// The segments in order, and the live rows in them.
pub(super) struct LiveRows {
    segments: VecDeque<SegmentUsage>,
    index: Index,
    bytes: u64,
    row_bytes: u64,
}

impl LiveRows {
    pub(super) fn new() -> Self {
        Self { segments: VecDeque::new(), index: Index::new(), bytes: 0, row_bytes: 0 }
    }

    /// How many locks are held.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// How many segments there are.
    pub(super) fn segments(&self) -> u64 {
        self.segments.len() as u64
    }

    /// The bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes of all live rows.
    pub(super) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// The earliest segment with a live row, or else the last segment.
    pub(super) fn first_needed(&self) -> Option<SegmentUsage> {
        let needed = self.segments.iter().find(|segment| segment.rows > 0);
        needed.or(self.segments.back()).copied()
    }

    /// Whether there are segments before the first needed one.
    pub(super) fn has_unneeded_segments(&self) -> bool {
        let first = self.segments.front().map(|segment| segment.number);
        self.first_needed().map(|needed| needed.number) > first
    }

    /// Whether another segment is allowed.
    pub(super) fn may_grow(&self) -> bool {
        self.segments.len() < MAX_SEGMENTS
    }

    pub(super) fn add_segment(&mut self, number: u64, bytes: u64) {
        self.segments.push_back(SegmentUsage { number, bytes, rows: 0, row_bytes: 0 });
        self.bytes += bytes;
    }

    /// Removes the segments before this one, which have no live rows.
    pub(super) fn take_before(&mut self, number: u64) -> Vec<SegmentUsage> {
        let dead = self.segments.iter().take_while(|segment| segment.number < number).count();
        let dead: Vec<_> = self.segments.drain(..dead).collect();
        debug_assert!(dead.iter().all(|segment| segment.rows == 0), "{dead:?}");
        self.bytes -= dead.iter().map(|segment| segment.bytes).sum::<u64>();
        dead
    }

    /// Whether the row at this position is live.
    pub(super) fn is_live(&self, token: u64, segment: u64, at: &Range<usize>) -> bool {
        self.index.get(token) == Some(location(segment, at))
    }

    /// The lock's row is now at this position.
    pub(super) fn insert(&mut self, token: u64, segment: u64, at: &Range<usize>) {
        let location = location(segment, at);
        if let Some(before) = self.index.insert(token, location) {
            self.count(before, false);
        }
        self.count(location, true);
    }

    /// The lock has ended.
    pub(super) fn remove(&mut self, token: u64) {
        if let Some(before) = self.index.remove(token) {
            self.count(before, false);
        }
    }

    fn count(&mut self, location: Location, more: bool) {
        let Some(first) = self.segments.front().map(|segment| segment.number) else { return };
        let position = location.segment.wrapping_sub(first as u16);
        let Some(segment) = self.segments.get_mut(usize::from(position)) else { return };
        let bytes = u64::from(location.len);
        if more {
            segment.rows += 1;
            segment.row_bytes += bytes;
            self.row_bytes += bytes;
        } else {
            segment.rows -= 1;
            segment.row_bytes -= bytes;
            self.row_bytes -= bytes;
        }
    }
}

fn location(segment: u64, at: &Range<usize>) -> Location {
    Location {
        segment: segment as u16,
        len: u16::try_from(at.len()).unwrap_or(u16::MAX),
        // A segment is as long as its longest record, which is under 4 GiB.
        offset: u32::try_from(at.start).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_rows_are_counted_by_segment() {
        let mut rows = LiveRows::new();
        // The lower 16 bits of the numbers wrap among them.
        for number in 65_534..65_538 {
            rows.add_segment(number, 1_000);
        }
        rows.insert(1, 65_534, &(100..150));
        rows.insert(2, 65_536, &(100..160));
        rows.insert(2, 65_536, &(200..280));
        assert!(!rows.is_live(2, 65_536, &(100..160)) && rows.is_live(2, 65_536, &(200..280)));
        assert_eq!((rows.len(), rows.row_bytes(), rows.bytes()), (2, 130, 4_000));
        assert_eq!(rows.first_needed().unwrap().number, 65_534);
        rows.insert(1, 65_537, &(100..150));
        assert_eq!(rows.first_needed().unwrap().number, 65_536);
        rows.remove(2);
        rows.remove(3);
        assert_eq!(rows.first_needed().unwrap().number, 65_537);
        assert_eq!(rows.take_before(65_537).len(), 3);
        assert_eq!((rows.len(), rows.row_bytes(), rows.bytes()), (1, 50, 1_000));
        rows.remove(1);
        assert_eq!(rows.first_needed().unwrap().number, 65_537);
        assert_eq!(rows.row_bytes(), 0);
    }
}
