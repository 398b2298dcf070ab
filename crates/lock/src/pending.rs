//! A result that may come later.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use super::sync::{Condvar, Mutex, locked, poisoned};

/// A result that is there, or that comes once a change is written. Either a thread waits for it, or
/// a callback is run on the thread that has written: it must be short, and block on nothing.
#[must_use]
pub enum Pending<T> {
    /// It is there.
    Ready(T),
    /// Will call back with it.
    Later(Box<dyn FnOnce(Then<T>) + Send>),
}

/// A callback for a result, or for the panic that happened instead.
pub type Then<T> = Box<dyn FnOnce(thread::Result<T>) + Send>;

impl<T> From<T> for Pending<T> {
    fn from(result: T) -> Self {
        Self::Ready(result)
    }
}

impl<T: Send + 'static> Pending<T> {
    /// Maps the result.
    pub fn map<U: 'static>(self, make: impl FnOnce(T) -> U + Send + 'static) -> Pending<U> {
        match self {
            Self::Ready(result) => Pending::Ready(make(result)),
            Self::Later(later) => Pending::Later(Box::new(|then| {
                later(Box::new(move |result| {
                    let make = |result| panic::catch_unwind(AssertUnwindSafe(|| make(result)));
                    then(result.and_then(make));
                }));
            })),
        }
    }

    /// Replaces a panic that happens later by this result.
    pub fn or_if_it_panics(self, instead: impl FnOnce() -> T + Send + 'static) -> Self {
        match self {
            Self::Ready(result) => Self::Ready(result),
            Self::Later(later) => Self::Later(Box::new(|then| {
                later(Box::new(|result| then(Ok(result.unwrap_or_else(|_| instead())))));
            })),
        }
    }

    /// Runs a callback with the result.
    pub fn then(self, run: impl FnOnce(T) + Send + 'static) {
        match self {
            Self::Ready(result) => run(result),
            // After a panic there is none, and the callback is dropped.
            Self::Later(later) => later(Box::new(|result| drop(result.map(run)))),
        }
    }

    /// Waits for the result. Passes a panic on.
    pub fn wait(self) -> T {
        let later = match self {
            Self::Ready(result) => return result,
            Self::Later(later) => later,
        };
        let place = Arc::new((Mutex::new(None), Condvar::new()));
        let filled = Arc::clone(&place);
        later(Box::new(move |result| {
            *locked(&filled.0) = Some(result);
            filled.1.notify_one();
        }));
        let mut waiting = locked(&place.0);
        loop {
            match waiting.take() {
                Some(result) => {
                    return result.unwrap_or_else(|panic| panic::resume_unwind(panic));
                }
                None => waiting = place.1.wait(waiting).unwrap_or_else(|_| poisoned()),
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn later<T: Send + 'static>(result: T) -> Pending<T> {
        Pending::Later(Box::new(|then| drop(thread::spawn(move || then(Ok(result))))))
    }

    #[test]
    fn a_panic_instead_of_a_result_is_passed_on() {
        let panics = |number: u32| -> u32 { panic!("at {number}") };
        let made = later(1).map(panics).map(|number| number + 1);
        assert!(panic::catch_unwind(AssertUnwindSafe(|| made.wait())).is_err());
        assert_eq!(later(1).map(panics).or_if_it_panics(|| 7).map(|number| number + 1).wait(), 8);
        assert_eq!(later(1).map(|number| number + 1).or_if_it_panics(|| 7).wait(), 2);
    }
}
