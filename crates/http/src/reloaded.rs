//! Values parsed from files and reloaded when these change. The threads that use a value check its
//! files now and then, so an unused one costs nothing.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{error, info};
use ring::digest;
use rustix::fs::{OFlags, fcntl_setfl};

/// The longest file, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// Files and how to parse them.
pub trait Source: Send + Sync {
    /// The parsed value.
    type Value: Send + Sync;
    /// What is wrong with the files, in one line.
    type Error: Display;

    /// Reads all files.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(&self) -> Result<Vec<Vec<u8>>, Self::Error>;

    /// Parses their contents.
    ///
    /// # Errors
    /// They are malformed.
    fn parse(&self, contents: &[Vec<u8>]) -> Result<Self::Value, Self::Error>;

    /// Describes a value for the log.
    fn describe(&self, value: &Self::Value) -> String;
}

/// The value of the latest valid contents.
pub struct Reloaded<S: Source> {
    source: S,
    /// How often the files are checked, at most.
    every: Duration,
    state: Mutex<State<S::Value>>,
    /// Held by the thread that checks the files.
    looking: Mutex<()>,
}

struct State<V> {
    value: Arc<V>,
    /// Of the latest contents, valid or not.
    seen: Fingerprint,
    looked: Instant,
}

/// Of all the files together, or why they could not be read.
type Fingerprint = Result<[u8; 32], String>;

impl<S: Source> Reloaded<S> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// They cannot be read, or are malformed.
    pub fn load(source: S, every: Duration) -> Result<Self, S::Error> {
        let contents = source.read()?;
        let value = Arc::new(source.parse(&contents)?);
        info!("{}", source.describe(&value));
        let state = State { value, seen: Ok(fingerprint(&contents)), looked: Instant::now() };
        Ok(Self { source, every, state: Mutex::new(state), looking: Mutex::default() })
    }

    /// Reads the files and parses them if they have changed. If they are malformed, that is logged
    /// once, and the previous value stays.
    pub fn reload(&self) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_alone();
    }

    /// The current value. Checks the files first if that is due.
    pub fn current(&self) -> Arc<S::Value> {
        let is_due = self.state().looked.elapsed() >= self.every;
        // One thread checks; the others do not wait for the disk.
        if is_due && let Ok(_looking) = self.looking.try_lock() {
            self.look_alone();
        }
        self.latest()
    }

    /// The latest value, for threads that must not wait for a disk.
    pub fn latest(&self) -> Arc<S::Value> {
        Arc::clone(&self.state().value)
    }

    /// The files.
    pub fn source(&self) -> &S {
        &self.source
    }

    fn look_alone(&self) {
        let contents = self.source.read();
        let seen = match &contents {
            Ok(contents) => Ok(fingerprint(contents)),
            Err(error) => Err(error.to_string()),
        };
        let is_new = {
            let mut state = self.state();
            state.looked = Instant::now();
            std::mem::replace(&mut state.seen, seen.clone()) != seen
        };
        if !is_new {
            return;
        }
        match contents.and_then(|contents| self.source.parse(&contents)) {
            Ok(value) => {
                let value = Arc::new(value);
                self.state().value = Arc::clone(&value);
                // Not before the new value is in use.
                info!("taken anew: {}", self.source.describe(&value));
            }
            Err(error) => error!("what was in use before stays: {error}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S::Value>> {
        // Each change is a single assignment, so a panic leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file of at most 1 MiB. A pipe without a writer is empty.
///
/// # Errors
/// As the operating system gives them; [`io::ErrorKind::FileTooLarge`] if there is more.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        let what = format!("it is longer than {MAX_FILE} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

/// Opens a file for reading, without blocking until a pipe has a writer.
fn open(path: &Path) -> io::Result<File> {
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(without_waiting).open(path)?;
    // Reads from a pipe that has a writer do block.
    fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

fn fingerprint(contents: &[Vec<u8>]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for bytes in contents {
        context.update(&bytes.len().to_be_bytes());
        context.update(bytes);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// A file of one byte, and what was in use when each of its values was told of.
    #[derive(Default)]
    struct OneByte {
        file: AtomicU8,
        reloaded: OnceLock<Arc<Reloaded<Arc<Self>>>>,
        in_use: Mutex<Vec<(u8, u8)>>,
    }

    impl Source for Arc<OneByte> {
        type Value = u8;
        type Error = Infallible;

        fn read(&self) -> Result<Vec<Vec<u8>>, Infallible> {
            Ok(vec![vec![self.file.load(Ordering::SeqCst)]])
        }

        fn parse(&self, contents: &[Vec<u8>]) -> Result<u8, Infallible> {
            Ok(contents[0][0])
        }

        fn describe(&self, value: &u8) -> String {
            let reloaded = self.reloaded.get();
            let in_use = reloaded.map(|reloaded| (*value, *reloaded.current()));
            self.in_use.lock().unwrap().extend(in_use);
            String::new()
        }
    }

    #[test]
    fn what_the_log_says_is_taken_is_in_use() {
        // Or what is logged would not be made.
        log::set_max_level(log::LevelFilter::Info);
        let source = Arc::new(OneByte::default());
        let reloaded = Reloaded::load(Arc::clone(&source), Duration::MAX).unwrap();
        let reloaded = source.reloaded.get_or_init(|| Arc::new(reloaded));
        for byte in [1, 2] {
            source.file.store(byte, Ordering::SeqCst);
            reloaded.reload();
        }
        assert_eq!(*source.in_use.lock().unwrap(), [(1, 1), (2, 2)]);
    }
}
