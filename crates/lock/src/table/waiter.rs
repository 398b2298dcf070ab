//! What a request waits on until its result is there.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

use log::error;

use crate::resource::{self, Reply};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, locked};
use crate::{LockId, Then};

pub(super) type Resource = resource::Resource<Arc<Waiter>>;
pub(super) type Input = resource::Input<Arc<Waiter>>;

/// What happens to a queued input if its caller times out.
#[derive(Clone, Copy)]
pub(super) enum OnTimeout {
    /// It is cancelled if it is still queued.
    Cancel,
    /// It is carried out.
    Keep,
    /// It is carried out, and then this lock is released, since no client knows of it.
    Abandon(LockId),
}

/// A thread that sleeps, with the mutex of a resource, until its result is there; or a callback
/// that is run with the result instead.
#[derive(Default)]
pub(super) struct Waiter {
    /// Set once, under the mutex of the resource.
    result: OnceLock<Reply>,
    departed: AtomicBool,
    pub(super) awake: Condvar,
    callback: Mutex<Option<Then<Reply>>>,
}

impl Waiter {
    /// Sets the result, under the mutex of the resource. [`Waiter::wake`] has to follow.
    pub(super) fn complete(&self, result: Reply) {
        // A request leaves the line with its result, so there cannot be a second one.
        assert!(self.result.set(result).is_ok(), "a waiter got two results");
    }

    pub(super) fn result(&self) -> Option<Reply> {
        self.result.get().cloned()
    }

    /// Notes that the client has gone, under the mutex of the resource.
    pub(super) fn depart(&self) {
        self.departed.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_departed(&self) -> bool {
        self.departed.load(Ordering::Relaxed)
    }

    /// Runs this with the result: when that is set, on the thread that sets it, or now.
    pub(super) fn then(&self, callback: Then<Reply>) {
        let mut place = locked(&self.callback);
        match self.result() {
            None => *place = Some(callback),
            Some(result) => {
                drop(place);
                callback(Ok(result));
            }
        }
    }

    /// Wakes the thread, or runs the callback. Outside the mutex of the resource, on which the
    /// thread would only sleep again.
    pub(super) fn wake(&self) {
        let Some(result) = self.result() else { return self.awake.notify_one() };
        let Some(callback) = locked(&self.callback).take() else { return self.awake.notify_one() };
        // The change is complete, and a panic of the callback must not look like one of the core.
        if panic::catch_unwind(AssertUnwindSafe(|| callback(Ok(result)))).is_err() {
            error!("a panic at what was to be done with an answer");
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("result", &self.result).finish_non_exhaustive()
    }
}
