//! An answer that may come later.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use super::sync::{Condvar, Mutex, locked, poisoned};

/// An answer that is there, or that comes when a change was written. Whoever has nothing better
/// to do waits for it; whoever has says what to do with it, which the thread that writes then
/// does: it must be short, and wait for nothing.
#[must_use]
pub enum Pending<T> {
    /// It is there.
    Ready(T),
    /// It will be given to what is handed over here.
    Later(Box<dyn FnOnce(Then<T>) + Send>),
}

/// What is done with an answer, or with the panic by which there is none.
pub type Then<T> = Box<dyn FnOnce(thread::Result<T>) + Send>;

impl<T> From<T> for Pending<T> {
    fn from(answer: T) -> Self {
        Self::Ready(answer)
    }
}

impl<T: Send + 'static> Pending<T> {
    /// Makes something else of the answer.
    pub fn map<U: 'static>(self, make: impl FnOnce(T) -> U + Send + 'static) -> Pending<U> {
        match self {
            Self::Ready(answer) => Pending::Ready(make(answer)),
            Self::Later(later) => Pending::Later(Box::new(|then| {
                later(Box::new(move |answer| {
                    let make = |answer| panic::catch_unwind(AssertUnwindSafe(|| make(answer)));
                    then(answer.and_then(make));
                }));
            })),
        }
    }

    /// Has another answer in place of a panic at making it later.
    pub fn or_if_it_panics(self, instead: impl FnOnce() -> T + Send + 'static) -> Self {
        match self {
            Self::Ready(answer) => Self::Ready(answer),
            Self::Later(later) => Self::Later(Box::new(|then| {
                later(Box::new(|answer| then(Ok(answer.unwrap_or_else(|_| instead())))));
            })),
        }
    }

    /// Does this with the answer.
    pub fn then(self, run: impl FnOnce(T) + Send + 'static) {
        match self {
            Self::Ready(answer) => run(answer),
            // Without an answer, it is dropped.
            Self::Later(later) => later(Box::new(|answer| drop(answer.map(run)))),
        }
    }

    /// Waits for the answer. Panics if making it did.
    pub fn wait(self) -> T {
        let later = match self {
            Self::Ready(answer) => return answer,
            Self::Later(later) => later,
        };
        let place = Arc::new((Mutex::new(None), Condvar::new()));
        let there = Arc::clone(&place);
        later(Box::new(move |answer| {
            *locked(&there.0) = Some(answer);
            there.1.notify_one();
        }));
        let mut waiting = locked(&place.0);
        loop {
            match waiting.take() {
                Some(answer) => {
                    return answer.unwrap_or_else(|panic| panic::resume_unwind(panic));
                }
                None => waiting = place.1.wait(waiting).unwrap_or_else(|_| poisoned()),
            }
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    fn later<T: Send + 'static>(answer: T) -> Pending<T> {
        Pending::Later(Box::new(|then| drop(thread::spawn(move || then(Ok(answer))))))
    }

    #[test]
    fn a_panic_at_making_an_answer_is_heard_of_by_whoever_waits() {
        let panics = |number: u32| -> u32 { panic!("at {number}") };
        let made = later(1).map(panics).map(|number| number + 1);
        assert!(panic::catch_unwind(AssertUnwindSafe(|| made.wait())).is_err());
        assert_eq!(later(1).map(panics).or_if_it_panics(|| 7).map(|number| number + 1).wait(), 8);
        assert_eq!(later(1).map(|number| number + 1).or_if_it_panics(|| 7).wait(), 2);
    }
}
