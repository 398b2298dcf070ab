//! Mutexes, condition variables, threads and the clock, as std has them. Under `--cfg shuttle` they
//! are the model checker's, which tries many orders of the threads, and in which time passes only
//! when a test says so.

#[cfg(shuttle)]
mod checked;

#[cfg(all(test, shuttle))]
pub(super) use checked::advance;
#[cfg(shuttle)]
pub(super) use checked::{
    Condvar, Mutex, MutexGuard, atomic, now, now as now_also_suspended, thread,
};

#[cfg(not(shuttle))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard, atomic};
#[cfg(not(shuttle))]
pub(super) use std::thread;

/// The monotonic clock, which stops while the host is suspended.
#[cfg(not(shuttle))]
pub(super) fn now() -> super::nanos::Instant {
    super::nanos::Instant::since_start(crate::clock::monotonic())
}

/// The clock that goes on while the host is suspended. Not comparable with [`now`].
#[cfg(not(shuttle))]
pub(super) fn now_also_suspended() -> super::nanos::Instant {
    super::nanos::Instant::since_start(crate::clock::now())
}

/// Locks a mutex of the core.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| poisoned())
}

/// Another thread panicked in the middle of a change, and the process is about to end because of
/// that. The change may be half made, so this thread must not go on.
pub(super) fn poisoned() -> ! {
    panic!("another thread panicked while it changed the locks")
}
