//! Mutexes, condition variables and a clock for the model checker.
//!
//! The checker has no time-outs of its own: a wait with a deadline ends when the clock, which only
//! [`advance`] moves, has reached it. A wait that nothing ends is a deadlock, which the checker
//! reports.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::LockResult;
use std::time::Duration;

pub(crate) use shuttle::sync::atomic;
pub(crate) use shuttle::thread;

use crate::nanos::Instant;

/// A mutex whose guard refers to it, so that a wait can lock it again.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    inner: shuttle::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// A panic ends the whole run, so no mutex is ever poisoned.
    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        Ok(MutexGuard { mutex: self, inner: self.0.lock().unwrap() })
    }

    pub(crate) fn into_inner(self) -> LockResult<T> {
        Ok(self.0.into_inner().unwrap())
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A condition variable that wakes exactly one for each call of `notify_one`.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    /// So that each has an address of its own, which identifies it.
    _size: u8,
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        let mut clock = CLOCK.state.lock().unwrap();
        let mut sleepers = clock.sleepers.iter_mut();
        if let Some(sleeper) = sleepers.find(|s| s.condvar == self.address() && !s.woken) {
            sleeper.woken = true;
            CLOCK.changed.notify_all();
        }
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        Ok(self.sleep(guard, None))
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, ())> {
        Ok((self.sleep(guard, Some(timeout)), ()))
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// A sleeper is on the list before it unlocks the mutex, so that no wake-up is lost.
    fn sleep<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, T> {
        let mutex = guard.mutex;
        let mut clock = CLOCK.state.lock().unwrap();
        let number = clock.next_sleeper;
        clock.next_sleeper += 1;
        clock.sleepers.push(Sleeper { number, condvar: self.address(), woken: false });
        // The time-out was computed from this thread's latest look at the clock. Real time goes on,
        // so it does not matter there; here it may never move again.
        let looked = LOOKED.with(|looked| *looked.borrow());
        let end = timeout.map(|timeout| looked + timeout);
        drop(guard);
        let sleeps = |clock: &ClockState| {
            let sleeper = clock.sleepers.iter().find(|sleeper| sleeper.number == number);
            sleeper.is_some_and(|sleeper| !sleeper.woken)
                && end.is_none_or(|end| clock.elapsed < end)
        };
        while sleeps(&clock) {
            clock = CLOCK.changed.wait(clock).unwrap();
        }
        clock.sleepers.retain(|sleeper| sleeper.number != number);
        drop(clock);
        mutex.lock().unwrap()
    }
}

/// The time that has passed.
pub(crate) fn now() -> Instant {
    let elapsed = CLOCK.state.lock().unwrap().elapsed;
    LOOKED.with(|looked| *looked.borrow_mut() = elapsed);
    Instant::since_start(elapsed)
}

/// Lets time pass.
pub(crate) fn advance(time: Duration) {
    CLOCK.state.lock().unwrap().elapsed += time;
    CLOCK.changed.notify_all();
}

/// One clock for all condition variables.
struct Clock {
    state: shuttle::sync::Mutex<ClockState>,
    changed: shuttle::sync::Condvar,
}

#[derive(Default)]
struct ClockState {
    elapsed: Duration,
    sleepers: Vec<Sleeper>,
    next_sleeper: u64,
}

struct Sleeper {
    number: u64,
    condvar: usize,
    woken: bool,
}

shuttle::thread_local! {
    /// This thread's latest look at the clock.
    static LOOKED: RefCell<Duration> = RefCell::new(Duration::ZERO);
}

shuttle::lazy_static! {
    static ref CLOCK: Clock = Clock {
        state: shuttle::sync::Mutex::new(ClockState::default()),
        changed: shuttle::sync::Condvar::new(),
    };
}
