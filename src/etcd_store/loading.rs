//! Reads all rows at one revision, on a thread of its own: ahead of a take-over, or during it, while
//! the store keeps writing heartbeats.

use std::convert::Infallible;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::bisection::Bisection;
use super::etcd::wire::{self, KeyValue, RangeAnswer};
use super::etcd::{Etcd, Failure};
use super::records::{self, Keys, PlaceRow, range_end};
use crate::lock::{HeldLock, KeptPlace, ResourceName, StoredLock};

/// How many rows are read at a time: at first, at most, and at least if that takes too long. Each
/// page costs etcd a look at all keys that are left.
const FIRST_PAGE: usize = 1_000;
const LARGEST_PAGE: usize = 10_000;
const SMALLEST_PAGE: usize = 50;

/// How long a page may take, and how fast it has to be for the next one to be larger.
const PAGE_TIME: Duration = Duration::from_millis(1500);
const FAST: Duration = Duration::from_millis(400);

/// How long to wait when no member has answered.
const PAUSE: Duration = Duration::from_millis(50);

/// The rows that are being read. Dropping it ends the reading.
pub(super) struct Loading {
    head: i64,
    revision: Arc<AtomicI64>,
    /// Ends behind [`Loaded::All`].
    pub(super) loaded: Receiver<Loaded>,
    _wanted: Sender<Infallible>,
}

/// A part of the rows, or why none comes.
pub(super) enum Loaded {
    Locks(Vec<LoadedLock>),
    Places(Vec<KeptPlace>),
    /// The values of these keys are no places in line. They are skipped.
    Skipped(Vec<String>),
    /// No member answers for now.
    Failing(Failure),
    /// The value of this key is no lock, so what is held is unknown.
    Foreign(String),
    /// There are no more.
    All,
}

/// A lock of a row.
pub(super) struct LoadedLock {
    pub(super) resource: ResourceName,
    /// Without its remaining lifetime.
    pub(super) held: HeldLock,
    /// When it ends, by the cluster clock.
    pub(super) end: Option<Duration>,
}

impl Loading {
    /// Begins to read the rows at `revision`, where the latest `head` is the one that was written at
    /// the revision `head`.
    ///
    /// # Errors
    /// The operating system refused the thread.
    pub(super) fn start(
        etcd: Arc<Etcd>,
        keys: &Keys,
        head: i64,
        revision: i64,
    ) -> io::Result<Self> {
        let (sender, loaded) = unbounded();
        let (wanted, given_up) = bounded(0);
        let at = Arc::new(AtomicI64::new(revision));
        let reader = Reader { etcd, revision: Arc::clone(&at), loaded: sender, given_up };
        let keys = keys.clone();
        let thread = thread::Builder::new().name("loading".into());
        thread.spawn(move || reader.run(&keys))?;
        Ok(Self { head, revision: at, loaded, _wanted: wanted })
    }

    /// Whether these rows are those of the `head` of this revision.
    pub(super) fn is_of(&self, head: i64) -> bool {
        self.head == head
    }

    /// The rows are the same at this later revision, which etcd will compact later.
    pub(super) fn stays_until(&self, revision: i64) {
        self.revision.store(revision, Ordering::Relaxed);
    }
}

struct Reader {
    etcd: Arc<Etcd>,
    revision: Arc<AtomicI64>,
    loaded: Sender<Loaded>,
    /// Ends when the rest is not wanted.
    given_up: Receiver<Infallible>,
}

/// The rest is not wanted.
struct GivenUp;

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|why| resume_unwind(why))
}

impl Reader {
    fn run(&self, keys: &Keys) {
        let read = self
            .read_all(&keys.locks(), |rows| {
                let (locks, foreign) = parsed(&rows, |row| lock(row, keys));
                let foreign = foreign.into_iter().next().map(Loaded::Foreign);
                vec![foreign.unwrap_or(Loaded::Locks(locks))]
            })
            .and_then(|()| {
                self.read_all(&keys.places(), |rows| {
                    let (places, skipped) = parsed(&rows, |row| place(row, keys));
                    vec![Loaded::Places(places), Loaded::Skipped(skipped)]
                })
            });
        if read.is_ok() {
            // Fails if the rest is not wanted.
            let _ = self.loaded.send(Loaded::All);
        }
    }

    /// Reads all rows below `prefix`: if they are many, in two halves at a time, or one after the
    /// other if there is no thread for that.
    fn read_all(
        &self,
        prefix: &str,
        parse: impl Fn(Vec<KeyValue>) -> Vec<Loaded> + Sync,
    ) -> Result<(), GivenUp> {
        let (end, mut size) = (range_end(prefix), FIRST_PAGE);
        let first = self.page(prefix.as_bytes(), &end, &mut size)?;
        let (from, left) = (behind(&first), first.count.saturating_sub(first.kvs.len() as u64));
        self.pass_on(parse(first.kvs))?;
        let Some(from) = from else { return Ok(()) };
        match self.middle(&from, &end, left)? {
            None => self.read(&from, &end, &parse),
            Some(middle) => thread::scope(|scope| {
                let read_second = || self.read(&middle, &end, &parse);
                let second = thread::Builder::new().spawn_scoped(scope, read_second);
                self.read(&from, &middle, &parse)?;
                second.map_or_else(|_| read_second(), join)
            }),
        }
    }

    /// Reads the rows from `from` to before `end`: the next page while one is parsed.
    fn read(
        &self,
        from: &[u8],
        end: &[u8],
        parse: &impl Fn(Vec<KeyValue>) -> Vec<Loaded>,
    ) -> Result<(), GivenUp> {
        let mut size = 2 * FIRST_PAGE;
        let mut page = self.page(from, end, &mut size)?;
        loop {
            let from = behind(&page);
            let (loaded, ahead) = thread::scope(|scope| {
                let size = &mut size;
                let ahead = from.as_deref().and_then(|from| {
                    let read = move || self.page(from, end, size);
                    thread::Builder::new().spawn_scoped(scope, read).ok()
                });
                (parse(page.kvs), ahead.map(join))
            });
            self.pass_on(loaded)?;
            let Some(from) = from else { return Ok(()) };
            page = ahead.unwrap_or_else(|| self.page(&from, end, &mut size))?;
        }
    }

    fn pass_on(&self, loaded: Vec<Loaded>) -> Result<(), GivenUp> {
        loaded.into_iter().try_for_each(|loaded| self.loaded.send(loaded).map_err(|_| GivenUp))
    }

    /// Where the `left` rows from `from` to before `end` can be cut into halves, if that is found
    /// soon enough.
    fn middle(&self, from: &[u8], end: &[u8], left: u64) -> Result<Option<Vec<u8>>, GivenUp> {
        let mut middle = Bisection::new(from, end, left);
        while let Some(guess) = middle.guess() {
            let found = self.ask(|revision, _| wire::page(&guess, end, revision, 1), &mut 0)?;
            let first = found.kvs.first().map(|first| &first.key[..]);
            if middle.is_found(&guess, first, found.count) {
                return Ok(Some(guess));
            }
        }
        Ok(None)
    }

    /// At most `size` rows from `from` on, and fewer the next time if that takes too long.
    fn page(&self, from: &[u8], end: &[u8], size: &mut usize) -> Result<RangeAnswer, GivenUp> {
        let began = Instant::now();
        let page = self.ask(|revision, size| wire::page(from, end, revision, size), size)?;
        if began.elapsed() < FAST {
            *size = (*size * 2).min(LARGEST_PAGE);
        }
        Ok(page)
    }

    /// Asks one member after the other. One that lags behind the revision answers with an error.
    fn ask(
        &self,
        body: impl Fn(i64, usize) -> Vec<u8>,
        size: &mut usize,
    ) -> Result<RangeAnswer, GivenUp> {
        let (mut attempts, mut told) = (0, false);
        loop {
            let body = body(self.revision.load(Ordering::Relaxed), *size);
            let failure = match self.etcd.range(&body, PAGE_TIME) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            *size = (*size / 2).max(SMALLEST_PAGE);
            attempts += 1;
            if attempts % self.etcd.members() == 0 {
                if !told {
                    self.loaded.send(Loaded::Failing(failure)).map_err(|_| GivenUp)?;
                    told = true;
                }
                if self.given_up.recv_timeout(PAUSE) == Err(RecvTimeoutError::Disconnected) {
                    return Err(GivenUp);
                }
            }
        }
    }
}

/// Where the next page begins, if there is one: behind the last key.
fn behind(page: &RangeAnswer) -> Option<Vec<u8>> {
    let last = page.kvs.last().filter(|_| page.more)?;
    Some([&last.key[..], b"\0"].concat())
}

/// The parsed rows, and the keys of those that no server has written.
fn parsed<T>(rows: &[KeyValue], read: impl Fn(&KeyValue) -> Option<T>) -> (Vec<T>, Vec<String>) {
    let (mut all, mut foreign) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match read(row) {
            Some(it) => all.push(it),
            None => foreign.push(String::from_utf8_lossy(&row.key).into_owned()),
        }
    }
    (all, foreign)
}

/// A row at another key than its own is refused: its release would delete the wrong key.
fn lock(row: &KeyValue, keys: &Keys) -> Option<LoadedLock> {
    let (value, key) = (serde_json::from_slice::<StoredLock<'_>>(&row.value).ok()?, &row.key);
    let (resource, held) = records::lock(&value)?;
    let is_own = keys.lock(&resource, value.token).as_bytes() == key;
    is_own.then_some(LoadedLock { resource, held, end: value.end })
}

fn place(row: &KeyValue, keys: &Keys) -> Option<KeptPlace> {
    let place = serde_json::from_slice::<PlaceRow<'_>>(&row.value).ok()?.place()?;
    (keys.place(&place.resource, place.arrival).as_bytes() == row.key).then_some(place)
}
