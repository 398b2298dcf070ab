//! How many connections are open.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The open connections, at most `max` of them. Those beyond wait in the kernel's queue.
pub(super) struct Connections(Arc<ConnectionsState>);

struct ConnectionsState {
    max: usize,
    count: Mutex<Count>,
    /// Signalled when there is room again, or to close.
    room: Condvar,
}

struct Count {
    open: usize,
    closed: bool,
}

/// The right to have one connection open.
pub(super) struct Permit(Arc<ConnectionsState>);

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        let count = Mutex::new(Count { open: 0, closed: false });
        Self(Arc::new(ConnectionsState { max, count, room: Condvar::new() }))
    }

    /// Returns when another connection may be open; `None` when closed.
    pub(super) fn wait_for_room(&self) -> Option<Permit> {
        let full = |count: &mut Count| count.open >= self.0.max && !count.closed;
        let waited = self.0.room.wait_while(self.0.lock(), full);
        let mut count = waited.unwrap_or_else(PoisonError::into_inner);
        if count.closed {
            return None;
        }
        count.open += 1;
        Some(Permit(Arc::clone(&self.0)))
    }

    /// Returns when `timeout` is over; at once when closed.
    pub(super) fn pause(&self, timeout: Duration) {
        let open = |count: &mut Count| !count.closed;
        let _ = self.0.room.wait_timeout_while(self.0.lock(), timeout, open);
    }

    pub(super) fn close(&self) {
        self.0.lock().closed = true;
        self.0.room.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl ConnectionsState {
    fn lock(&self) -> MutexGuard<'_, Count> {
        // A count is whole at any moment.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut count = self.0.lock();
        let was_full = count.open == self.0.max;
        count.open -= 1;
        drop(count);
        if was_full {
            self.0.room.notify_one();
        }
    }
}
