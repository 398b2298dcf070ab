//! One file of the log.
//!
//! It has its full length from the beginning, and its blocks have been written before: so a
//! record is written over blocks that there are, which a sync has little to do for, and a file
//! that was cut off is noticed at any length. Its head is on disk before its first record.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use super::directory::{Directory, Name};
use super::frame;
use super::record::{Entry, Found, Stamp, Unreadable, append, entries};
use crate::journal::store::StoreError;

/// The length of a segment, unless it has one record that is longer. Tests look at every byte.
pub(super) const SEGMENT_BYTES: u64 = if cfg!(test) { 1 << 16 } else { 1 << 20 };

/// Where the acknowledgement of the record before the first one is, and behind it that one.
pub(super) const BEGIN: usize = 4096;

/// What a record takes at most beside its entries: the acknowledgement of the one before, its
/// frame and its stamp.
const RECORD_BYTES: u64 = 128;

/// What is kept free for the last record and its acknowledgement.
const END_BYTES: u64 = 256;

/// The numbers of records end long before those of the machine: what was not written by rdlm does
/// not lead beyond them.
const MAX_NUMBER: u64 = 1 << 62;

/// Tokens are integers that JSON can carry.
pub(super) const MAX_TOKEN: u64 = 1 << 53;

const MAGIC: &[u8; 16] = b"rdlm locks v2\r\n\0";
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// The head of a segment. Its frame has the number of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Of the checksums in this file; another one each time that the file is used.
    pub(super) salt: u32,
    /// The length of the file.
    pub(super) bytes: u64,
    /// The number of its first record.
    pub(super) first_record: u64,
}

impl Head {
    fn to_bytes(self, number: u64) -> Option<Vec<u8>> {
        let mut bytes = MAGIC.to_vec();
        frame::append(&mut bytes, 0, number, |out| append(&self, out))?;
        Some(bytes)
    }

    /// The head in the first bytes of the segment of this number; `None` if there is none.
    pub(super) fn read(bytes: &[u8], number: u64) -> Option<Self> {
        let frame = frame::read(bytes.get(..BEGIN)?, MAGIC.len(), 0)?;
        let ours = bytes.starts_with(MAGIC) && frame.number == number;
        let head: Option<Self> = postcard::from_bytes(&bytes[frame.body]).ok();
        head.filter(|head| ours && (1..=MAX_NUMBER).contains(&head.first_record))
    }
}

/// The records that were found in a segment.
pub(super) struct Scan {
    /// Where the last one ends.
    pub(super) end: usize,
    /// The number of the next one.
    pub(super) next: u64,
    /// The beginning of the last one.
    pub(super) stamp: Option<Stamp>,
    /// The last one says that there is a next segment.
    pub(super) continued: bool,
}

/// Calls `visit` for each entry of a segment.
///
/// # Errors
/// What is wrong with it.
pub(super) fn scan<'a>(
    bytes: &'a [u8],
    head: &Head,
    mut visit: impl FnMut(Found<'a>),
) -> Result<Scan, Unreadable> {
    let (mut end, mut next, mut stamp, mut continued) = (BEGIN, head.first_record, None, false);
    while let Some(frame) = frame::read(bytes, end + frame::HEAD_BYTES, head.salt) {
        if frame.number != next || continued {
            break;
        }
        let read = Stamp::read(&bytes[frame.body.clone()]);
        let (read, rest) =
            read.filter(|(s, _)| s.last_token <= MAX_TOKEN).ok_or(Unreadable::Senseless)?;
        let begin = frame.body.end - rest.len();
        for entry in entries(bytes, begin..frame.body.end) {
            let (at, entry) = entry?;
            continued |= entry == Entry::Continued;
            visit(Found { record: next, clock: read.clock, at, entry });
        }
        (end, next, stamp) = (frame.body.end, next + 1, Some(read));
    }
    Ok(Scan { end, next, stamp, continued })
}

/// Whether nothing that was acknowledged is lost behind the last record that can be read: then
/// what is there was cut off by a crash.
pub(super) fn ends_cleanly(bytes: &[u8], head: &Head, scan: &Scan) -> bool {
    let behind = bytes.get(scan.end..).unwrap_or_default();
    !frame::acknowledges_after(behind, head.salt, scan.next - 1)
}

/// The segment that records are appended to.
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) head: Head,
    /// Where the latest record ends.
    pub(super) end: u64,
    file: File,
    /// To be shown.
    path: PathBuf,
}

impl Segment {
    /// Opens one of which `end` is known.
    pub(super) fn open(
        directory: &Directory,
        number: u64,
        head: Head,
        end: u64,
    ) -> io::Result<Self> {
        let name = Name::segment(number);
        let file = directory.open_to_write(&name)?;
        Ok(Self { number, head, end, file, path: directory.path_of(&name) })
    }

    /// Makes a segment of a spare file. It has its name when its head is on disk.
    ///
    /// # Errors
    /// The spare is as good as before.
    pub(super) fn begin(
        directory: &Directory,
        spare: &Name,
        number: u64,
        first_record: u64,
    ) -> io::Result<Self> {
        let file = directory.open_to_write(spare)?;
        let mut salt = [0; 4];
        getrandom(&mut salt, GetRandomFlags::empty())?;
        let head =
            Head { salt: u32::from_ne_bytes(salt), bytes: file.metadata()?.len(), first_record };
        let bytes = head.to_bytes(number).ok_or(io::ErrorKind::InvalidData)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        let name = Name::segment(number);
        directory.rename(spare, &name)?;
        Ok(Self { number, head, end: BEGIN as u64, file, path: directory.path_of(&name) })
    }

    /// How many bytes the entries of one more record may have.
    pub(super) fn room(&self) -> u64 {
        self.head.bytes.saturating_sub(self.end + RECORD_BYTES + END_BYTES)
    }

    /// Whether there is room for so many bytes of entries, and behind them for the record that
    /// ends the segment.
    pub(super) fn has_room_for(&self, entries: u64) -> bool {
        entries <= self.room()
    }

    /// Writes a record, with the acknowledgement of the one before, and has it synced.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Err(error) = self.file.write_all_at(bytes, self.end) {
            // A part may be written. A restart finds a record in it only if the rest was there by
            // chance; the next record is written to the same place.
            let mut there = vec![0; bytes.len()];
            match self.file.read_exact_at(&mut there, self.end) {
                Ok(()) if there != bytes => return Err(StoreError::Refused(self.told(&error))),
                Ok(()) => {}
                Err(_) => return Err(StoreError::Unknown(self.told(&error))),
            }
        }
        // After a sync that failed, the kernel may have dropped what it could not write: a later
        // one that succeeds says nothing about it (Rebello et al., "Can Applications Recover from
        // fsync Failures?", USENIX ATC 2020).
        let synced = self.file.sync_data();
        synced.map_err(|error| StoreError::Unknown(self.told(&error)))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Notes that the latest record is acknowledged. It reaches the disk with the next one.
    pub(super) fn acknowledge(&self, record: u64) {
        // If it fails, damage to this record may go unnoticed until the next one is written.
        let _ = self.file.write_all_at(&frame::acknowledgement(self.head.salt, record), self.end);
    }

    fn told(&self, error: &io::Error) -> std::sync::Arc<str> {
        format!("{}: {error}", self.path.display()).into()
    }
}

/// How many bytes of entries a segment has room for that has `bytes` in all.
pub(super) fn capacity(bytes: u64) -> u64 {
    bytes.saturating_sub(BEGIN as u64 + RECORD_BYTES + END_BYTES)
}

/// How long a segment has to be to have room for so many bytes of entries.
pub(super) fn bytes_for(entries: u64) -> u64 {
    let bytes = BEGIN as u64 + RECORD_BYTES + END_BYTES + entries;
    bytes.max(SEGMENT_BYTES).next_multiple_of(ZEROS.len() as u64)
}

/// Makes a file with so many bytes, a multiple of 64 KiB, that are on disk.
///
/// # Errors
/// The file was not made.
pub(super) fn make_spare(directory: &Directory, name: &Name, bytes: u64) -> io::Result<()> {
    let make = || {
        let file = directory.create(name)?;
        for at in (0..bytes).step_by(ZEROS.len()) {
            file.write_all_at(&ZEROS, at)?;
        }
        file.sync_all()
    };
    make().inspect_err(|_| {
        // Its room is needed by others.
        let _ = directory.remove(name);
    })
}
