//! Which locks a request is about: the table of a single server, or on one of several servers the
//! table of its current term, if it is the active one.

use std::sync::Arc;

use crate::lock::{Events, LockManager, NotWritten, Refusal};

/// Where requests find the locks.
pub trait CurrentLocks: Send + Sync {
    /// The table at this moment. To be dropped after the operation: a server that steps down tells
    /// the others only when nobody uses its table any more.
    ///
    /// # Errors
    /// There is none here: another server is active, or none.
    fn current(&self) -> Result<Arc<dyn LockManager>, Refusal>;

    /// The events of all tables that this server has had.
    fn events(&self) -> &Arc<Events>;

    /// Whether changes can be written, as far as this server knows.
    ///
    /// # Errors
    /// The latest could not.
    fn writable(&self) -> Result<(), NotWritten>;

    /// What a request is told that a table refuses because it shuts down.
    fn on_shutdown(&self) -> Refusal {
        Refusal::ShuttingDown
    }

    /// Refuses all requests from now on, including those that wait.
    fn shut_down(&self);
}

/// A single server has one table.
impl<T: LockManager + 'static> CurrentLocks for Arc<T> {
    fn current(&self) -> Result<Arc<dyn LockManager>, Refusal> {
        Ok(Arc::clone(self) as Arc<dyn LockManager>)
    }

    fn events(&self) -> &Arc<Events> {
        LockManager::events(&**self)
    }

    fn writable(&self) -> Result<(), NotWritten> {
        LockManager::writable(&**self)
    }

    fn shut_down(&self) {
        LockManager::shut_down(&**self);
    }
}
