//! What the log says: its segments are read by all processors, and put together in order.

use std::collections::BTreeMap;

use super::directory::Directory;
use super::reader::{Reader, SegmentContents, damaged};
use super::record::Stamp;
use super::rows::Rows;
use super::segment::{Head, Scan};
use super::time::Restarts;
use crate::journal::store::OpenError;
use crate::parallel::share;
use crate::sync::{Mutex, locked, poisoned};

/// What all segments say together.
pub(super) struct Contents {
    pub(super) rows: Rows,
    pub(super) restarts: Restarts,
    pub(super) latest: Stamp,
    /// The segment that is appended to, and what was found in it.
    pub(super) end: (u64, Head, Scan),
}

impl Contents {
    /// Reads all segments, of which this is the last one there is.
    pub(super) fn read(directory: &Directory, last: u64) -> Result<Self, OpenError> {
        let first = first_segment(directory, last)?;
        let assembly = Mutex::new(Assembly::new(directory, first, last));
        share(first..=last, || {
            let (assembly, mut reader) = (&assembly, Reader::new(directory));
            move |number| {
                let contents = reader.contents(number);
                locked(assembly).add(number, contents)
            }
        })?;
        let Assembly { rows, restarts, latest, end, .. } =
            assembly.into_inner().unwrap_or_else(|_| poisoned());
        match end {
            Some((_, _, end)) if end.continued => {
                Err(damaged(directory, last + 1, "it is missing"))
            }
            Some(end) => Ok(Self { rows, restarts, latest, end }),
            None => Err(damaged(directory, last, "it is older than what it says of itself")),
        }
    }
}

/// The number of the segment where the log begins, when this is the last one there is.
fn first_segment(directory: &Directory, last: u64) -> Result<u64, OpenError> {
    let mut reader = Reader::new(directory);
    // The last one may have been made just before the server ended, and have no record yet.
    for number in [last, last.saturating_sub(1).max(1)] {
        if let Some(stamp) = reader.contents(number)?.scan.stamp {
            return Ok(stamp.first_segment);
        }
    }
    let missing = || damaged(directory, last, "the records before it are missing");
    if last == 1 { Ok(1) } else { Err(missing()) }
}

/// The segments before `next`, put together.
struct Assembly<'a> {
    directory: &'a Directory,
    next: u64,
    last: u64,
    /// Those that were read before their turn.
    ahead: BTreeMap<u64, Result<SegmentContents, OpenError>>,
    rows: Rows,
    restarts: Restarts,
    latest: Stamp,
    end: Option<(u64, Head, Scan)>,
}

impl<'a> Assembly<'a> {
    fn new(directory: &'a Directory, first: u64, last: u64) -> Self {
        Self {
            directory,
            next: first,
            last,
            ahead: BTreeMap::new(),
            rows: Rows::new(),
            restarts: Restarts::default(),
            latest: Stamp::default(),
            end: None,
        }
    }

    /// Adds a segment when all before it are.
    fn add(
        &mut self,
        number: u64,
        contents: Result<SegmentContents, OpenError>,
    ) -> Result<(), OpenError> {
        self.ahead.insert(number, contents);
        while let Some(contents) = self.ahead.remove(&self.next) {
            self.append(self.next, contents?)?;
            self.next += 1;
        }
        Ok(())
    }

    fn append(&mut self, number: u64, contents: SegmentContents) -> Result<(), OpenError> {
        let SegmentContents { head, scan, locks, restarts, ends_cleanly } = contents;
        match &self.end {
            Some((_, _, before)) if !before.continued => {
                // It was made just before the server ended.
                let unused = number == self.last && scan.stamp.is_none() && ends_cleanly;
                let missing = "its last records are missing";
                let missing = || damaged(self.directory, number - 1, missing);
                return if unused { Ok(()) } else { Err(missing()) };
            }
            Some((_, _, before)) if before.next != head.first_record => {
                return Err(damaged(
                    self.directory,
                    number,
                    "it does not go on from the one before",
                ));
            }
            _ => {}
        }
        self.rows.add_segment(number, head.bytes);
        for (token, row) in locks {
            match row {
                Some(at) => self.rows.hold(token, number, &at),
                None => self.rows.end(token),
            }
        }
        restarts.into_iter().for_each(|restart| self.restarts.push(restart));
        if !ends_cleanly {
            let unreadable = "changes that were acknowledged cannot be read";
            return Err(damaged(self.directory, number, unreadable));
        }
        self.latest = scan.stamp.unwrap_or(self.latest);
        self.end = Some((number, head, scan));
        Ok(())
    }
}
