//! The first round of a start: all processors read segments, whose contents are merged in order.

use std::collections::BTreeMap;

use super::directory::Directory;
use super::live_rows::LiveRows;
use super::reader::{Reader, SegmentSummary, damaged};
use super::record::RecordHeader;
use super::segment::{Scan, SegmentHeader};
use super::time::Restarts;
use crate::journal::store::OpenError;
use crate::parallel::share;
use crate::sync::{Mutex, locked, poisoned};

/// What all segments contain together.
pub(super) struct LogState {
    pub(super) rows: LiveRows,
    pub(super) restarts: Restarts,
    pub(super) latest: RecordHeader,
    /// The segment to which records are appended.
    pub(super) last: LastSegment,
}

impl LogState {
    /// Reads all segments. `last` is the number of the last file.
    pub(super) fn read(directory: &Directory, last: u64) -> Result<Self, OpenError> {
        let first = first_segment(directory, last)?;
        let merge = Mutex::new(Merge::new(directory, first, last));
        share(first..=last, || {
            let (merge, mut reader) = (&merge, Reader::new(directory));
            move |number| {
                let summary = reader.summary(number);
                locked(merge).add(number, summary)
            }
        })?;
        let Merge { rows, restarts, latest, end, .. } =
            merge.into_inner().unwrap_or_else(|_| poisoned());
        match end {
            Some(end) if end.scan.continued => Err(damaged(directory, last + 1, "it is missing")),
            Some(last) => Ok(Self { rows, restarts, latest, last }),
            None => Err(damaged(directory, last, "it is older than what it says of itself")),
        }
    }
}

/// A segment, and what was found in it.
pub(super) struct LastSegment {
    pub(super) number: u64,
    pub(super) header: SegmentHeader,
    pub(super) scan: Scan,
}

/// The number of the first segment that is needed.
fn first_segment(directory: &Directory, last: u64) -> Result<u64, OpenError> {
    let mut reader = Reader::new(directory);
    // The last segment may have been created just before the server ended, and have no record.
    for number in [last, last.saturating_sub(1).max(1)] {
        if let Some(latest) = reader.summary(number)?.scan.latest {
            return Ok(latest.first_segment);
        }
    }
    let missing = || damaged(directory, last, "the records before it are missing");
    if last == 1 { Ok(1) } else { Err(missing()) }
}

/// The merged segments before `next`.
struct Merge<'a> {
    directory: &'a Directory,
    next: u64,
    last: u64,
    /// Segments that were read before their turn.
    ahead: BTreeMap<u64, Result<SegmentSummary, OpenError>>,
    rows: LiveRows,
    restarts: Restarts,
    latest: RecordHeader,
    end: Option<LastSegment>,
}

impl<'a> Merge<'a> {
    fn new(directory: &'a Directory, first: u64, last: u64) -> Self {
        Self {
            directory,
            next: first,
            last,
            ahead: BTreeMap::new(),
            rows: LiveRows::new(),
            restarts: Restarts::default(),
            latest: RecordHeader::default(),
            end: None,
        }
    }

    /// Adds a segment once all earlier ones have been.
    fn add(
        &mut self,
        number: u64,
        summary: Result<SegmentSummary, OpenError>,
    ) -> Result<(), OpenError> {
        self.ahead.insert(number, summary);
        while let Some(summary) = self.ahead.remove(&self.next) {
            self.append(self.next, summary?)?;
            self.next += 1;
        }
        Ok(())
    }

    fn append(&mut self, number: u64, summary: SegmentSummary) -> Result<(), OpenError> {
        let SegmentSummary { header, scan, locks, restarts, ends_cleanly } = summary;
        match &self.end {
            Some(before) if !before.scan.continued => {
                // It was created just before the server ended.
                let unused = number == self.last && scan.latest.is_none() && ends_cleanly;
                let missing = "its last records are missing";
                let missing = || damaged(self.directory, number - 1, missing);
                return if unused { Ok(()) } else { Err(missing()) };
            }
            Some(before) if before.scan.next != header.first_record => {
                return Err(damaged(
                    self.directory,
                    number,
                    "it does not go on from the one before",
                ));
            }
            _ => {}
        }
        self.rows.add_segment(number, header.bytes);
        for (token, row) in locks {
            match row {
                Some(at) => self.rows.insert(token, number, &at),
                None => self.rows.remove(token),
            }
        }
        restarts.into_iter().for_each(|restart| self.restarts.push(restart));
        if !ends_cleanly {
            let unreadable = "changes that were acknowledged cannot be read";
            return Err(damaged(self.directory, number, unreadable));
        }
        self.latest = scan.latest.unwrap_or(self.latest);
        self.end = Some(LastSegment { number, header, scan });
        Ok(())
    }
}
