//! Which rows are true, and in which segments they are. Pure.

use std::collections::VecDeque;
use std::ops::Range;

use super::index::{Index, MAX_SEGMENTS, Place};

/// What there is of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) number: u64,
    /// The length of its file.
    pub(super) bytes: u64,
    /// The rows in it that are true.
    pub(super) rows: u64,
    pub(super) row_bytes: u64,
}

/// The segments in order, and the rows in them that are true.
pub(super) struct Rows {
    segments: VecDeque<Share>,
    index: Index,
    bytes: u64,
    row_bytes: u64,
}

impl Rows {
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

    /// What all segments take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What all rows take that are true.
    pub(super) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// The earliest segment with a row that is true, or else the last one.
    pub(super) fn first_needed(&self) -> Option<Share> {
        let needed = self.segments.iter().find(|segment| segment.rows > 0);
        needed.or(self.segments.back()).copied()
    }

    /// Whether there are segments before the first one that is needed.
    pub(super) fn has_unneeded_segments(&self) -> bool {
        let first = self.segments.front().map(|segment| segment.number);
        self.first_needed().map(|needed| needed.number) > first
    }

    /// Whether there may be one more segment.
    pub(super) fn may_grow(&self) -> bool {
        self.segments.len() < MAX_SEGMENTS
    }

    pub(super) fn add_segment(&mut self, number: u64, bytes: u64) {
        self.segments.push_back(Share { number, bytes, rows: 0, row_bytes: 0 });
        self.bytes += bytes;
    }

    /// Takes out the segments before this one, in which nothing is true any more.
    pub(super) fn take_before(&mut self, number: u64) -> Vec<Share> {
        let dead = self.segments.iter().take_while(|segment| segment.number < number).count();
        let dead: Vec<_> = self.segments.drain(..dead).collect();
        debug_assert!(dead.iter().all(|segment| segment.rows == 0), "{dead:?}");
        self.bytes -= dead.iter().map(|segment| segment.bytes).sum::<u64>();
        dead
    }

    /// Whether what is at this place is true.
    pub(super) fn is_true(&self, token: u64, segment: u64, at: &Range<usize>) -> bool {
        self.index.get(token) == Some(place(segment, at))
    }

    /// The row of a lock is at this place from now on.
    pub(super) fn hold(&mut self, token: u64, segment: u64, at: &Range<usize>) {
        let place = place(segment, at);
        if let Some(before) = self.index.insert(token, place) {
            self.count(before, false);
        }
        self.count(place, true);
    }

    /// The lock is held no more.
    pub(super) fn end(&mut self, token: u64) {
        if let Some(before) = self.index.remove(token) {
            self.count(before, false);
        }
    }

    fn count(&mut self, place: Place, more: bool) {
        let Some(first) = self.segments.front().map(|segment| segment.number) else { return };
        let position = place.segment.wrapping_sub(first as u16);
        let Some(segment) = self.segments.get_mut(usize::from(position)) else { return };
        let bytes = u64::from(place.len);
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

fn place(segment: u64, at: &Range<usize>) -> Place {
    Place {
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
    fn rows_are_counted_where_they_are_true() {
        let mut rows = Rows::new();
        // The lower half of the numbers begins anew among them.
        for number in 65_534..65_538 {
            rows.add_segment(number, 1_000);
        }
        rows.hold(1, 65_534, &(100..150));
        rows.hold(2, 65_536, &(100..160));
        rows.hold(2, 65_536, &(200..280));
        assert!(!rows.is_true(2, 65_536, &(100..160)) && rows.is_true(2, 65_536, &(200..280)));
        assert_eq!((rows.len(), rows.row_bytes(), rows.bytes()), (2, 130, 4_000));
        assert_eq!(rows.first_needed().unwrap().number, 65_534);
        rows.hold(1, 65_537, &(100..150));
        assert_eq!(rows.first_needed().unwrap().number, 65_536);
        rows.end(2);
        rows.end(3);
        assert_eq!(rows.first_needed().unwrap().number, 65_537);
        assert_eq!(rows.take_before(65_537).len(), 3);
        assert_eq!((rows.len(), rows.row_bytes(), rows.bytes()), (1, 50, 1_000));
        rows.end(1);
        assert_eq!(rows.first_needed().unwrap().number, 65_537);
        assert_eq!(rows.row_bytes(), 0);
    }
}
