//! The limit of open connections, and which of them make room for a new one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::warn;

use crate::http::transport::ShutdownHandle;

/// A connection that has been idle for so long may be ended to make room for a new one.
const IDLE: Duration = Duration::from_secs(1);

/// While one new connection after the other finds no room, that time is halved down to this.
/// Otherwise a crowd that sends nothing could hold up a release for many seconds.
const MIN_IDLE: Duration = Duration::from_millis(50);

/// How often that is logged, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The open connections: at most `max`, and one that waits for room. More wait in the kernel's
/// queue. Clones share them.
#[derive(Clone)]
pub(super) struct Connections(Arc<Shared>);

struct Shared {
    max: usize,
    start: Instant,
    open: Mutex<Open>,
    /// Signalled when there is room again, and on close.
    room: Condvar,
    /// A new connection waits for room, or for a thread.
    crowded: AtomicBool,
}

struct Open {
    connections: HashMap<u64, Arc<Activity>>,
    latest: u64,
    closed: bool,
    /// A connection that has been idle for so long may be ended.
    patience: Duration,
    /// How many were ended to make room since that was last logged.
    ended: usize,
    logged: Option<Instant>,
}

/// What a connection is doing now.
struct Activity {
    shutdown_handle: ShutdownHandle,
    /// Since when it has been idle, in milliseconds from the start; or [`BUSY`] or [`ENDED`].
    idle_since_ms: AtomicU64,
}

/// A request is being received or answered.
const BUSY: u64 = u64::MAX;

/// The connection is being ended.
const ENDED: u64 = u64::MAX - 1;

/// The right to have one connection open.
pub(super) struct Permit {
    connections: Connections,
    number: u64,
    activity: Arc<Activity>,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        let connections = HashMap::new();
        let patience = IDLE;
        let open = Open { connections, latest: 0, closed: false, patience, ended: 0, logged: None };
        Self(Arc::new(Shared {
            max,
            start: Instant::now(),
            open: Mutex::new(open),
            room: Condvar::new(),
            crowded: AtomicBool::new(false),
        }))
    }

    /// Waits for room for one more connection, which counts as idle at first; `None` when closed.
    /// While there is no room, the connection that has been idle longest is ended.
    pub(super) fn admit(&self, shutdown_handle: ShutdownHandle) -> Option<Permit> {
        let shared = &*self.0;
        let mut open = self.lock();
        let is_full = open.connections.len() >= shared.max;
        while open.connections.len() >= shared.max && !open.closed {
            shared.crowded.store(true, Ordering::Relaxed);
            let wait = shared.end_longest_idle(&mut open);
            let waited = shared.room.wait_timeout(open, wait);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        shared.crowded.store(false, Ordering::Relaxed);
        open.patience = if is_full { (open.patience / 2).max(MIN_IDLE) } else { IDLE };
        if open.closed {
            return None;
        }
        open.latest += 1;
        let number = open.latest;
        let idle_since_ms = AtomicU64::new(shared.now_ms());
        let activity = Arc::new(Activity { shutdown_handle, idle_since_ms });
        open.connections.insert(number, Arc::clone(&activity));
        let ended_to_log = shared.ended_to_log(&mut open);
        drop(open);
        if let Some(ended) = ended_to_log {
            let max = shared.max;
            warn!("all {max} connections were in use: idle ones make room, {ended} so far");
        }
        Some(Permit { connections: self.clone(), number, activity })
    }

    /// Ends the connection that has been idle longest, because there is no thread for a new one.
    /// Returns after which time to try again.
    pub(super) fn make_room(&self) -> Duration {
        let shared = &*self.0;
        shared.crowded.store(true, Ordering::Relaxed);
        shared.end_longest_idle(&mut self.lock())
    }

    /// How many connections are idle.
    pub(super) fn idle(&self) -> usize {
        let open = self.lock();
        open.connections.values().filter(|activity| activity.idle_since_ms().is_some()).count()
    }

    /// Sleeps for `timeout`, or until closed.
    pub(super) fn pause(&self, timeout: Duration) {
        let goes_on = |open: &mut Open| !open.closed;
        let _ = self.0.room.wait_timeout_while(self.lock(), timeout, goes_on);
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.room.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Each change is a single step, so a panic leaves it whole.
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(ENDED - 1)
    }

    /// Ends the connection that has been idle longest, if that is long enough. Returns after which
    /// time to try again, unless a connection ends before.
    fn end_longest_idle(&self, open: &mut Open) -> Duration {
        let idle = open.connections.values();
        let idle = idle.filter_map(|activity| Some((activity.idle_since_ms()?, activity)));
        let Some((since_ms, longest)) = idle.min_by_key(|(since_ms, _)| *since_ms) else {
            return IDLE;
        };
        let for_so_long = Duration::from_millis(self.now_ms().saturating_sub(since_ms));
        let left = open.patience.saturating_sub(for_so_long);
        if !left.is_zero() {
            return left;
        }
        if longest.change(since_ms, ENDED) {
            longest.shutdown_handle.end();
            open.ended += 1;
        }
        open.patience
    }

    /// How many were ended to make room, if it is time to log it.
    fn ended_to_log(&self, open: &mut Open) -> Option<usize> {
        let is_time = open.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL);
        (is_time && open.ended > 0).then(|| {
            open.logged = Some(Instant::now());
            std::mem::take(&mut open.ended)
        })
    }
}

impl Activity {
    fn idle_since_ms(&self) -> Option<u64> {
        Some(self.idle_since_ms.load(Ordering::Relaxed)).filter(|since_ms| *since_ms < ENDED)
    }

    fn change(&self, from: u64, to: u64) -> bool {
        let changed =
            self.idle_since_ms.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        changed.is_ok()
    }
}

impl Permit {
    /// Marks the connection as busy with a request. `false`: it is being ended to make room, and this
    /// request is the last one.
    pub(super) fn busy(&self) -> bool {
        self.activity.idle_since_ms.swap(BUSY, Ordering::Relaxed) != ENDED
    }

    /// Marks the connection as idle, unless it is being ended.
    pub(super) fn idle(&self) {
        let now_ms = self.connections.0.now_ms();
        let unless_ended = |state| (state != ENDED).then_some(now_ms);
        let state = &self.activity.idle_since_ms;
        // Fails if it is being ended.
        let _ = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unless_ended);
    }

    /// Whether a new connection waits for another one to end.
    pub(super) fn is_wanted(&self) -> bool {
        self.connections.0.crowded.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        let was_full = open.connections.len() >= self.connections.0.max;
        open.connections.remove(&self.number);
        drop(open);
        if was_full {
            self.connections.0.room.notify_one();
        }
    }
}
