//! Room on the disk for the changes that make room: a lock can be released when the disk is full.
//!
//! The database writes a page anew instead of changing it, so that even a removal needs room
//! first.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Enough for the pages of a batch, and for the opening of the database.
const BYTES: u64 = 1 << 20;

const FILE: &str = "reserve";

/// What is written to take room. A hole would take none.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A file that takes room, and is cut to nothing when that is needed.
pub(super) struct Reserve {
    file: File,
    bytes: u64,
}

impl Reserve {
    /// The reserve in this directory, as large as an earlier server left it.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(dir.join(FILE))?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }

    /// Takes what is missing, or as much of it as there is: what is left over for others would
    /// be taken by grants.
    pub(super) fn fill(&mut self) {
        while self.bytes < BYTES {
            let missing = usize::try_from(BYTES - self.bytes).unwrap_or(usize::MAX);
            let zeros = &ZEROS[..missing.min(ZEROS.len())];
            match self.file.write_at(zeros, self.bytes) {
                Ok(written @ 1..) => self.bytes += written as u64,
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Gives all of it back to the disk. Returns whether there was any.
    pub(super) fn spend(&mut self) -> bool {
        let spent = self.bytes > 0 && self.file.set_len(0).is_ok();
        if spent {
            self.bytes = 0;
        }
        spent
    }
}
