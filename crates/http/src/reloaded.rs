//! What files say, taken anew when they change. Whoever asks looks at them now and then: nothing
//! is done while nobody asks.

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
pub const MAX_FILE: u64 = 1 << 20;

/// Files, and what they mean.
pub trait Source: Send + Sync {
    /// What they mean.
    type Value: Send + Sync;
    /// What is wrong with them, in a line.
    type Error: Display;

    /// The bytes of each.
    ///
    /// # Errors
    /// They cannot be read.
    fn read(&self) -> Result<Vec<Vec<u8>>, Self::Error>;

    /// What these bytes mean.
    ///
    /// # Errors
    /// They are not as they should be.
    fn parse(&self, contents: &[Vec<u8>]) -> Result<Self::Value, Self::Error>;

    /// What it is, for the log.
    fn describe(&self, value: &Self::Value) -> String;
}

/// What the files said when they were last in order.
pub struct Reloaded<S: Source> {
    source: S,
    /// How often they are looked at, at most.
    every: Duration,
    state: Mutex<State<S::Value>>,
    /// Held by whoever looks.
    looking: Mutex<()>,
}

struct State<V> {
    value: Arc<V>,
    /// Of what was seen last, in order or not.
    seen: Fingerprint,
    looked: Instant,
}

/// Of all the files together, or why they could not be read.
type Fingerprint = Result<[u8; 32], String>;

impl<S: Source> Reloaded<S> {
    /// Reads the files.
    ///
    /// # Errors
    /// They are not as they should be.
    pub fn load(source: S, every: Duration) -> Result<Self, S::Error> {
        let contents = source.read()?;
        let value = Arc::new(source.parse(&contents)?);
        info!("{}", source.describe(&value));
        let state = State { value, seen: Ok(fingerprint(&contents)), looked: Instant::now() };
        Ok(Self { source, every, state: Mutex::new(state), looking: Mutex::default() })
    }

    /// Looks at the files and takes what is new. If that is not in order the log says so, once, and
    /// what was in use stays.
    pub fn reload(&self) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_alone();
    }

    /// What is to be used now. Looks at the files first if that was not done for a while.
    pub fn current(&self) -> Arc<S::Value> {
        let is_due = self.state().looked.elapsed() >= self.every;
        // One looks; the others go on meanwhile, as a disk may be slow.
        if is_due && let Ok(_looking) = self.looking.try_lock() {
            self.look_alone();
        }
        self.latest()
    }

    /// The same for a thread that must not wait for a disk: others look for it.
    pub fn latest(&self) -> Arc<S::Value> {
        Arc::clone(&self.state().value)
    }

    /// Where it comes from.
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
                // Now it is so.
                info!("taken anew: {}", self.source.describe(&value));
            }
            Err(error) => error!("what was in use before stays: {error}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S::Value>> {
        // What is in there is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a file, up to [`MAX_FILE`] and a byte. If it is a pipe, it is empty while nobody writes.
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

/// Opens a file to be read. Of a pipe, that would wait for somebody to write.
fn open(path: &Path) -> io::Result<File> {
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(without_waiting).open(path)?;
    // What somebody is about to write to it is waited for.
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
