//! One file of the log.
//!
//! It is created at its full length with all blocks written: a sync that overwrites them has no block
//! to allocate and no length to update, and a truncated file is noticed at any length. Its header is
//! on disk before its first record.
//!
//! # How the format grows
//! [`SegmentHeader`] and the header of a record are fields without names or versions: what changes
//! them changes [`FORMAT`], which is a digit in [`MAGIC`]. A segment has one format throughout. A
//! server that writes a new format reads the earlier one, begins a new segment at its start, and
//! seeds the checksum of its segments' headers with the new number. By that, this version tells a
//! newer file from a damaged one, and refuses it as such.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::directory::{Directory, Name};
use super::frame;
use super::record::{LogEntry, RecordHeader, ScannedEntry, Unreadable, append, entries};
use crate::journal::store::StoreError;

/// The length of a segment, unless its only record is longer. Tests look at every byte.
pub(super) const SEGMENT_BYTES: u64 = if cfg!(test) { 1 << 16 } else { 1 << 20 };

/// Where the records begin, the first one behind the acknowledgement of the previous segment's last.
pub(super) const BEGIN: usize = 4096;

/// The most bytes of a record besides its entries: the acknowledgement before it, its frame and its
/// header.
const RECORD_BYTES: u64 = 128;

/// Space for the segment's last record and its acknowledgement.
const END_BYTES: u64 = 256;

/// No segment that rdlm wrote has larger numbers of records. With that, they cannot overflow.
const MAX_NUMBER: u64 = 1 << 62;

/// Tokens are integers that JSON can represent.
pub(super) const MAX_TOKEN: u64 = 1 << 53;

/// The number of the format. 1 was that before rdlm 1.0.
const FORMAT: u8 = 2;

const MAGIC: &[u8; 16] = b"rdlm locks v2\r\n\0";

/// The position of the format in the magic.
const FORMAT_AT: usize = 12;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// The beginning of a segment. Its frame has the number of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentHeader {
    /// Seeds the checksums in this file. Random, each time that the file is used.
    pub(super) salt: u32,
    /// The length of the file.
    pub(super) bytes: u64,
    /// The number of its first record.
    pub(super) first_record: u64,
}

impl SegmentHeader {
    fn to_bytes(self, number: u64) -> Option<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        frame::append(&mut bytes, 0, number, |out| append(&self, out))?;
        Some(bytes)
    }

    /// Decodes the header of the segment with this number.
    pub(super) fn read(bytes: &[u8], number: u64) -> Result<Self, Unreadable> {
        if is_newer(bytes) {
            return Err(Unreadable::Newer);
        }
        Self::read_own(bytes, number).ok_or(Unreadable::Senseless)
    }

    fn read_own(bytes: &[u8], number: u64) -> Option<Self> {
        let frame = frame::read(bytes.get(..BEGIN)?, MAGIC.len(), 0)?;
        let ours = bytes.starts_with(MAGIC) && frame.number == number;
        let header: Option<Self> = postcard::from_bytes(&bytes[frame.body]).ok();
        header.filter(|header| ours && (1..=MAX_NUMBER).contains(&header.first_record))
    }
}

/// Whether this is a segment of a later format. A flipped bit in the magic is not taken for that,
/// because the checksum of the header has to fit.
fn is_newer(bytes: &[u8]) -> bool {
    let (before, behind) = (&MAGIC[..FORMAT_AT], &MAGIC[FORMAT_AT + 1..]);
    let Some(magic) = bytes.get(..MAGIC.len()) else { return false };
    let format = magic[FORMAT_AT].wrapping_sub(b'0');
    magic.starts_with(before)
        && magic.ends_with(behind)
        && (FORMAT + 1..10).contains(&format)
        && frame::read(bytes, MAGIC.len(), format.into()).is_some()
}

/// The result of reading all records of a segment.
pub(super) struct Scan {
    /// Where the last record ends.
    pub(super) end: usize,
    /// The number of the next record.
    pub(super) next: u64,
    /// The header of the last record.
    pub(super) latest: Option<RecordHeader>,
    /// The last record says that there is a next segment.
    pub(super) continued: bool,
}

/// Calls `visit` for each entry of a segment.
///
/// # Errors
/// A record has a good checksum, but cannot be decoded.
pub(super) fn scan<'a>(
    bytes: &'a [u8],
    header: &SegmentHeader,
    mut visit: impl FnMut(ScannedEntry<'a>),
) -> Result<Scan, Unreadable> {
    let (mut end, mut next, mut latest, mut continued) = (BEGIN, header.first_record, None, false);
    while let Some(frame) = frame::read(bytes, end + frame::HEADER_BYTES, header.salt) {
        if frame.number != next || continued {
            break;
        }
        let read = RecordHeader::read(&bytes[frame.body.clone()]);
        let (read, rest) =
            read.filter(|(s, _)| s.last_token <= MAX_TOKEN).ok_or(Unreadable::Senseless)?;
        let begin = frame.body.end - rest.len();
        for entry in entries(bytes, begin..frame.body.end) {
            let (at, entry) = entry?;
            continued |= entry == LogEntry::Continued;
            visit(ScannedEntry { record: next, clock: read.clock, at, entry });
        }
        (end, next, latest) = (frame.body.end, next + 1, Some(read));
    }
    Ok(Scan { end, next, latest, continued })
}

/// Whether no acknowledged record is missing behind the last one that can be read: what is there
/// was cut off by a crash.
pub(super) fn ends_cleanly(bytes: &[u8], header: &SegmentHeader, scan: &Scan) -> bool {
    let behind = bytes.get(scan.end..).unwrap_or_default();
    !frame::acknowledges_after(behind, header.salt, scan.next - 1)
}

/// The segment to which records are appended.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) header: SegmentHeader,
    /// Where the latest record ends.
    pub(super) end: u64,
    file: File,
    /// For messages.
    path: PathBuf,
}

impl Segment {
    /// Opens a segment whose last record ends at `end`.
    pub(super) fn open(
        directory: &Directory,
        number: u64,
        header: SegmentHeader,
        end: u64,
    ) -> io::Result<Self> {
        let name = Name::segment(number);
        let file = directory.open_to_write(&name)?;
        Ok(Self { number, header, end, file, path: directory.path_of(&name) })
    }

    /// Turns a spare file into a segment. It is renamed once its header is on disk.
    ///
    /// # Errors
    /// The file is still a spare.
    pub(super) fn begin(
        directory: &Directory,
        spare: &Name,
        number: u64,
        first_record: u64,
    ) -> io::Result<Self> {
        let file = directory.open_to_write(spare)?;
        let mut salt = [0; 4];
        getrandom(&mut salt, GetRandomFlags::empty())?;
        let (salt, bytes) = (u32::from_ne_bytes(salt), file.metadata()?.len());
        let header = SegmentHeader { salt, bytes, first_record };
        let bytes = header.to_bytes(number).ok_or(io::ErrorKind::InvalidData)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        let name = Name::segment(number);
        directory.rename(spare, &name)?;
        Ok(Self { number, header, end: BEGIN as u64, file, path: directory.path_of(&name) })
    }

    /// How many bytes of entries another record may have.
    pub(super) fn room(&self) -> u64 {
        self.header.bytes.saturating_sub(self.end + RECORD_BYTES + END_BYTES)
    }

    /// Whether so many bytes of entries fit, and behind them the record that ends the segment.
    pub(super) fn has_room_for(&self, entries: u64) -> bool {
        entries <= self.room()
    }

    /// Writes a record, with the acknowledgement of the one before it, and syncs.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Err(error) = self.file.write_all_at(bytes, self.end) {
            // A part may have been written. A restart does not find the record unless all of it is
            // there; the next record overwrites it.
            let mut there = vec![0; bytes.len()];
            match self.file.read_exact_at(&mut there, self.end) {
                Ok(()) if there != bytes => return Err(StoreError::Refused(self.told(&error))),
                Ok(()) => {}
                Err(_) => return Err(StoreError::Unknown(self.told(&error))),
            }
        }
        // After a failed sync, the kernel may have dropped the pages that it could not write, and a
        // later sync may succeed without them (Rebello et al., "Can Applications Recover from
        // fsync Failures?", USENIX ATC 2020).
        let synced = self.file.sync_data();
        synced.map_err(|error| StoreError::Unknown(self.told(&error)))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Notes that the latest record was acknowledged. That reaches the disk with the next record.
    pub(super) fn acknowledge(&self, record: u64) {
        // If this fails, damage to the record goes unnoticed until the next one is written.
        let _ = self.file.write_all_at(&frame::acknowledgement(self.header.salt, record), self.end);
    }

    fn told(&self, error: &io::Error) -> std::sync::Arc<str> {
        format!("{}: {error}", self.path.display()).into()
    }
}

/// How many bytes of entries fit into a segment of this length.
pub(super) fn capacity(bytes: u64) -> u64 {
    bytes.saturating_sub(BEGIN as u64 + RECORD_BYTES + END_BYTES)
}

/// How long a segment has to be for so many bytes of entries.
pub(super) fn bytes_for(entries: u64) -> u64 {
    let bytes = BEGIN as u64 + RECORD_BYTES + END_BYTES + entries;
    bytes.max(SEGMENT_BYTES).next_multiple_of(ZEROS.len() as u64)
}

/// Creates a file of this length, a multiple of 64 KiB, with all blocks on disk.
///
/// # Errors
/// The file was not created.
pub(super) fn make_spare(directory: &Directory, name: &Name, bytes: u64) -> io::Result<()> {
    let make = || {
        let file = directory.create(name)?;
        for at in (0..bytes).step_by(ZEROS.len()) {
            file.write_all_at(&ZEROS, at)?;
        }
        file.sync_all()
    };
    make().inspect_err(|_| {
        // Its space is needed.
        let _ = directory.remove(name);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, the format has changed: the top of this file says what to do.
    #[test]
    fn the_layout_of_a_segment_s_header_is_frozen() {
        let header = SegmentHeader { salt: 1, bytes: 2, first_record: 3 };
        let bytes = header.to_bytes(4).unwrap();
        let mut expected = b"rdlm locks v2\r\n\0".to_vec();
        frame::append(&mut expected, 0, 4, |out| {
            out.extend_from_slice(&[1, 2, 3]);
            Some(())
        });
        assert_eq!(bytes, expected);
    }
}
