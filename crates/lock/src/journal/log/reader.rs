//! The segments of a directory, read one at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::directory::Directory;
use super::record::{Entry, Found, Row};
use super::segment::{Head, Scan, ends_cleanly, scan};
use super::time::Restart;
use crate::journal::store::OpenError;

/// Reads into the same memory again and again.
pub(super) struct Reader<'a> {
    directory: &'a Directory,
    /// The latest that was read.
    bytes: Vec<u8>,
}

/// What a segment says.
pub(super) struct SegmentContents {
    pub(super) head: Head,
    pub(super) scan: Scan,
    /// In order: a lock by its fencing token and where its row is, or `None` if it has ended.
    pub(super) locks: Vec<(u64, Option<Range<usize>>)>,
    pub(super) restarts: Vec<Restart>,
    /// Nothing that was acknowledged is lost behind the last record.
    pub(super) ends_cleanly: bool,
}

/// What is wrong with a segment.
pub(super) fn damaged(directory: &Directory, number: u64, why: &str) -> OpenError {
    OpenError::Damaged(directory.segment(number), why.into())
}

impl<'a> Reader<'a> {
    pub(super) fn new(directory: &'a Directory) -> Self {
        Self { directory, bytes: Vec::new() }
    }

    /// What a segment says, but for what its rows do.
    pub(super) fn contents(&mut self, number: u64) -> Result<SegmentContents, OpenError> {
        let head = self.read(number)?;
        let (mut locks, mut restarts) = (Vec::new(), Vec::new());
        let scan = self.scan(number, &head, |found| match found.entry {
            Entry::Held(row) => locks.push((row.token, Some(found.at))),
            Entry::Ended(token) => locks.push((token, None)),
            Entry::Restarted(grace) => {
                restarts.push(Restart { record: found.record, clock: found.clock, grace });
            }
            Entry::Continued => {}
        })?;
        let ends_cleanly = ends_cleanly(&self.bytes, &head, &scan);
        Ok(SegmentContents { head, scan, locks, restarts, ends_cleanly })
    }

    /// Calls `visit` for each row of a segment, with the number of its record and where it is.
    pub(super) fn rows(
        &mut self,
        number: u64,
        mut visit: impl FnMut(u64, &Range<usize>, &Row<'_>),
    ) -> Result<(), OpenError> {
        let head = self.read(number)?;
        let visit = |Found { record, at, entry, .. }: Found<'_>| {
            if let Entry::Held(row) = entry {
                visit(record, &at, &row);
            }
        };
        self.scan(number, &head, visit).map(drop)
    }

    fn read(&mut self, number: u64) -> Result<Head, OpenError> {
        let damaged = |why| damaged(self.directory, number, why);
        let path = self.directory.segment(number);
        read_file(&path, &mut self.bytes).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("it is missing"),
            _ => OpenError::Unusable(path, error),
        })?;
        let head = Head::read(&self.bytes, number);
        let head = head.ok_or_else(|| damaged("its head is not one of rdlm's"))?;
        if head.bytes != self.bytes.len() as u64 {
            return Err(damaged("it does not have the length it was created with"));
        }
        Ok(head)
    }

    /// Calls `visit` for each entry of the segment that was read.
    fn scan<'b>(
        &'b self,
        number: u64,
        head: &Head,
        visit: impl FnMut(Found<'b>),
    ) -> Result<Scan, OpenError> {
        scan(&self.bytes, head, visit).map_err(|why| damaged(self.directory, number, why))
    }
}

fn read_file(path: &Path, bytes: &mut Vec<u8>) -> io::Result<()> {
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    bytes.resize(len, 0);
    file.read_exact_at(bytes, 0)
}
