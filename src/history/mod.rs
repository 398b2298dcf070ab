//! The history: what has happened to locks, as lines of JSON in files that are kept for a time and
//! up to a size.
//!
//! A line is `{"id":…,"event":"granted","time":…,"resource":…,"uid":…,…}`. No snapshot of the locks
//! is written: the event of an end says since when the lock was held, and what has not ended is in
//! the table. After a start, locks of which neither is true get an event of their own: `forgotten`.
//!
//! The files are `00000001.jsonl` and so on. The writer appends to the last one and removes whole
//! ones, the oldest first. Readers list the directory and read, without a word to the writer; a file
//! that is removed meanwhile was too old anyway. Only `write` is relied on, not `fsync`: lines
//! survive the end of the process, while a power failure may take the last half a minute.
//!
//! This module knows lines, not locks: members that it does not know are kept.

mod files;
mod line;
mod reader;

use std::path::PathBuf;
use std::time::Duration;

pub use files::Files;
pub use line::{HOLDS, Line, without_times};
pub use reader::{Read, read};

/// What is kept, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of the files, created if it is missing.
    pub dir: PathBuf,
    /// How long.
    pub keep: Duration,
    /// How many bytes at most; never more than a tenth of the file system.
    pub bytes: u64,
    /// Whether the directory was asked for: the server does not start without it.
    pub required: bool,
}
