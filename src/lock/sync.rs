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
pub(super) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
