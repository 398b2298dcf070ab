//! Reads segments, one at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::directory::{Directory, Name};
use super::record::{LogEntry, Row, ScannedEntry, Unreadable};
use super::segment::{Scan, SegmentHeader, ends_cleanly, scan};
use super::time::Restart;
use crate::journal::store::OpenError;

/// Reuses its buffer.
pub(super) struct Reader<'a> {
    directory: &'a Directory,
    /// The latest segment.
    bytes: Vec<u8>,
}

/// What a segment contains, without its rows.
pub(super) struct SegmentSummary {
    pub(super) header: SegmentHeader,
    pub(super) scan: Scan,
    /// In order: a fencing token, and the position of the lock's row; `None`: the lock has ended.
    pub(super) locks: Vec<(u64, Option<Range<usize>>)>,
    pub(super) restarts: Vec<Restart>,
    /// No acknowledged record is missing behind the last one.
    pub(super) ends_cleanly: bool,
}

/// A segment is damaged.
pub(super) fn damaged(directory: &Directory, number: u64, why: &str) -> OpenError {
    OpenError::Damaged(directory.path_of(&Name::segment(number)), why.into())
}

impl<'a> Reader<'a> {
    pub(super) fn new(directory: &'a Directory) -> Self {
        Self { directory, bytes: Vec::new() }
    }

    /// Reads a segment without its rows.
    pub(super) fn summary(&mut self, number: u64) -> Result<SegmentSummary, OpenError> {
        let header = self.read(number)?;
        let (mut locks, mut restarts) = (Vec::new(), Vec::new());
        let scan = self.scan(number, &header, |found| match found.entry {
            LogEntry::Held(row) => locks.push((row.lock.token, Some(found.at))),
            LogEntry::Ended(token) => locks.push((token, None)),
            LogEntry::Restarted(grace) => {
                restarts.push(Restart { record: found.record, clock: found.clock, grace });
            }
            _ => {}
        })?;
        let ends_cleanly = ends_cleanly(&self.bytes, &header, &scan);
        Ok(SegmentSummary { header, scan, locks, restarts, ends_cleanly })
    }

    /// Calls `visit` for each row of a segment, with the number of its record and its position.
    pub(super) fn rows(
        &mut self,
        number: u64,
        mut visit: impl FnMut(u64, &Range<usize>, &Row<'_>),
    ) -> Result<(), OpenError> {
        let header = self.read(number)?;
        let visit = |ScannedEntry { record, at, entry, .. }: ScannedEntry<'_>| {
            if let LogEntry::Held(row) = entry {
                visit(record, &at, &row);
            }
        };
        self.scan(number, &header, visit).map(drop)
    }

    fn read(&mut self, number: u64) -> Result<SegmentHeader, OpenError> {
        let damaged = |why| damaged(self.directory, number, why);
        let name = Name::segment(number);
        let read = self.directory.open_to_read(&name).and_then(|file| read(&file, &mut self.bytes));
        read.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("it is missing"),
            _ => OpenError::Unusable(self.directory.path_of(&name), error),
        })?;
        let header = SegmentHeader::read(&self.bytes, number).map_err(|why| match why {
            Unreadable::Newer => self.newer(number),
            Unreadable::Senseless => damaged("its head is not one of rdlm's"),
        })?;
        if header.bytes != self.bytes.len() as u64 {
            return Err(damaged("it does not have the length it was created with"));
        }
        Ok(header)
    }

    fn newer(&self, number: u64) -> OpenError {
        OpenError::Newer(self.directory.path_of(&Name::segment(number)))
    }

    /// Calls `visit` for each entry of the latest segment.
    fn scan<'b>(
        &'b self,
        number: u64,
        header: &SegmentHeader,
        visit: impl FnMut(ScannedEntry<'b>),
    ) -> Result<Scan, OpenError> {
        scan(&self.bytes, header, visit).map_err(|why| match why {
            Unreadable::Newer => self.newer(number),
            Unreadable::Senseless => {
                damaged(self.directory, number, "it has a record that makes no sense")
            }
        })
    }
}

fn read(file: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    bytes.resize(len, 0);
    file.read_exact_at(bytes, 0)
}
