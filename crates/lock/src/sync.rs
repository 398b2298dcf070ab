//! What the core excludes, waits and tells the time with: that of std. Under `--cfg shuttle` it
//! is the model checker's, which runs the threads in every order that it can think of, and in
//! which time passes only when a test lets it.

#[cfg(shuttle)]
mod checked;

#[cfg(all(test, shuttle))]
pub(super) use checked::advance;
#[cfg(shuttle)]
pub(super) use checked::{Condvar, Mutex, MutexGuard, atomic, now, thread};

#[cfg(not(shuttle))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(shuttle))]
pub(super) use std::thread;

/// The monotonic clock.
#[cfg(not(shuttle))]
pub(super) fn now() -> super::nanos::Instant {
    super::nanos::Instant::since_start(crate::clock::monotonic())
}

/// Locks a mutex of the core.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| poisoned())
}

/// Another thread panicked in the middle of a change, and the process is about to end because
/// of that. What is there may be half of a change: this thread does not go on with it.
pub(super) fn poisoned() -> ! {
    panic!("another thread panicked while it changed the locks")
}
