//! The files of a history, opened for appending.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::statvfs;

use super::Settings;

/// What the history leaves free on its file system, in bytes. The files of locks there are of 1 MiB,
/// and at most three are allocated at a time.
const LEFT_FREE: u64 = 4 << 20;

/// One file has at most this part of the bytes and of the time, so as much more may be kept.
const PARTS: u32 = 16;

/// A line that was cut off is looked for in so many bytes at the end of a file.
const MAX_TAIL: u64 = super::reader::MAX_LINE;

/// The files, which one writer at a time has locked.
pub struct Files {
    settings: Settings,
    /// Locked.
    _dir: File,
    /// In order; lines are appended to the last one while it is open.
    all: VecDeque<Segment>,
    open: Option<File>,
}

struct Segment {
    number: u64,
    bytes: u64,
    /// By the wall clock; of a file of an earlier run, the time of its last line.
    began: SystemTime,
    ended: SystemTime,
}

impl Files {
    /// Opens the directory, and removes a line that was cut off by a crash.
    ///
    /// # Errors
    /// It cannot be used, or another server uses it.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let path = &settings.dir;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let dir = OpenOptions::new().read(true).open(path)?;
        dir.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another server uses it"),
            TryLockError::Error(error) => error,
        })?;
        let mut all = VecDeque::new();
        for number in numbers(path)? {
            let about = fs::metadata(file_name(path, number))?;
            let ended = about.modified()?;
            all.push_back(Segment { number, bytes: about.len(), began: ended, ended });
        }
        let mut files = Self { settings, _dir: dir, all, open: None };
        files.reopen_last()?;
        Ok(files)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.settings.dir
    }

    /// Whether nothing has been written yet.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Appends whole lines, all or none.
    ///
    /// # Errors
    /// There is not enough room, or what the operating system says.
    pub fn append(&mut self, lines: &[u8], now: SystemTime) -> io::Result<()> {
        self.remove_old(now);
        let len = lines.len() as u64;
        self.make_room(len)?;
        let (bytes, keep) = (self.settings.bytes / u64::from(PARTS), self.settings.keep / PARTS);
        let is_full = self
            .all
            .back()
            .is_none_or(|last| last.bytes.saturating_add(len) > bytes || last.began + keep < now);
        if is_full {
            self.open = None;
        }
        let mut file = match self.open.take() {
            Some(file) => file,
            None => self.begin_file(now)?,
        };
        let Some(last) = self.all.back_mut() else { return Ok(()) };
        if let Err(error) = file.write_all(lines) {
            // The file may end with a part of a line now. If that stays, readers skip it, and the
            // next lines go into another file.
            self.open = file.set_len(last.bytes).is_ok().then_some(file);
            return Err(error);
        }
        last.bytes += len;
        last.ended = now;
        self.open = Some(file);
        Ok(())
    }

    /// Removes the files whose last line is too old.
    pub fn remove_old(&mut self, now: SystemTime) {
        let keep = self.settings.keep;
        while self.all.front().is_some_and(|first| first.ended + keep < now) {
            self.remove_first();
        }
    }

    /// Removes files until so many bytes more are not too many.
    fn make_room(&mut self, len: u64) -> io::Result<()> {
        let disk = statvfs(&self.settings.dir)?;
        let most = self.settings.bytes.min(disk.f_blocks.saturating_mul(disk.f_frsize) / 10);
        let total = |all: &VecDeque<Segment>| all.iter().map(|it| it.bytes).sum::<u64>();
        while !self.all.is_empty() && total(&self.all).saturating_add(len) > most {
            self.remove_first();
        }
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if len > most || free < len.saturating_add(LEFT_FREE) {
            let why = "there is too little room on its file system";
            return Err(io::Error::new(io::ErrorKind::StorageFull, why));
        }
        Ok(())
    }

    fn remove_first(&mut self) {
        let Some(first) = self.all.pop_front() else { return };
        if self.all.is_empty() {
            self.open = None;
        }
        // If it stays, the next start counts it again.
        let _ = fs::remove_file(file_name(&self.settings.dir, first.number));
    }

    fn begin_file(&mut self, now: SystemTime) -> io::Result<File> {
        let number = self.all.back().map_or(1, |last| last.number.saturating_add(1));
        let path = file_name(&self.settings.dir, number);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        self.all.push_back(Segment { number, bytes: 0, began: now, ended: now });
        Ok(file)
    }

    /// Goes on with the last file of an earlier run, up to its last whole line.
    fn reopen_last(&mut self) -> io::Result<()> {
        let Some(last) = self.all.back_mut() else { return Ok(()) };
        let path = file_name(&self.settings.dir, last.number);
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        let from = last.bytes.saturating_sub(MAX_TAIL);
        file.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        (&file).take(MAX_TAIL).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        last.bytes = from + whole;
        file.set_len(last.bytes)?;
        self.open = Some(file);
        Ok(())
    }
}

/// The path of a file.
pub(super) fn file_name(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

/// The numbers of all files, in order.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_suffix(".jsonl")?.parse::<u64>().ok());
        // Only as they are written here.
        numbers.extend(number.filter(|number| *name == *format!("{number:08}.jsonl")));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(dir: &TempDir, bytes: u64) -> Files {
        let dir = dir.path().join("history");
        Files::open(Settings { dir, keep: 16 * HOUR, bytes, required: true }).unwrap()
    }

    fn contents(files: &Files) -> String {
        let read = |number| fs::read_to_string(file_name(files.path(), number)).unwrap();
        numbers(files.path()).unwrap().into_iter().map(read).collect()
    }

    #[test]
    fn the_oldest_files_make_room_for_new_lines() {
        let dir = TempDir::new().unwrap();
        let mut files = open(&dir, 1600);
        let start = SystemTime::UNIX_EPOCH + 1_000_000 * HOUR;
        for n in 0..100 {
            files.append(format!("{n:049}\n").as_bytes(), start).unwrap();
        }
        let kept = contents(&files);
        assert!((1500..=1600).contains(&kept.len()), "{}", kept.len());
        assert!(kept.ends_with("99\n") && kept.starts_with("00"), "{kept}");
        assert!(files.append(&[b'x'; 2000], start).is_err(), "more than all");
    }

    #[test]
    fn what_is_too_old_is_removed_also_at_a_clock_that_was_set_back() {
        let dir = TempDir::new().unwrap();
        let mut files = open(&dir, 1 << 20);
        let start = SystemTime::UNIX_EPOCH + 1_000_000 * HOUR;
        for hours in 0..40 {
            files.append(format!("{hours}\n").as_bytes(), start + hours * HOUR).unwrap();
        }
        let kept = contents(&files);
        assert!(kept.starts_with("22\n") || kept.starts_with("23\n"), "{kept}");
        // A clock that is set back removes nothing.
        files.append(b"back\n", start).unwrap();
        assert_eq!(contents(&files), kept + "back\n");
        files.remove_old(start + 100 * HOUR);
        assert!(files.is_empty());
        files.append(b"new\n", start).unwrap();
        assert_eq!(contents(&files), "new\n");
    }

    #[test]
    fn a_line_that_was_cut_off_is_removed_and_one_server_has_the_directory() {
        let dir = TempDir::new().unwrap();
        let mut files = open(&dir, 1 << 20);
        files.append(b"whole\n", SystemTime::UNIX_EPOCH).unwrap();
        let settings = files.settings.clone();
        assert!(Files::open(settings.clone()).is_err());
        let path = file_name(files.path(), 1);
        drop(files);
        OpenOptions::new().append(true).open(path).unwrap().write_all(b"cut").unwrap();
        let mut files = Files::open(settings).unwrap();
        files.append(b"more\n", SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(contents(&files), "whole\nmore\n");
    }
}
