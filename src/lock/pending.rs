//! An answer that may come later.

use std::sync::Arc;

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

/// What is done with an answer.
pub type Then<T> = Box<dyn FnOnce(T) + Send>;

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
                later(Box::new(move |answer| then(make(answer))));
            })),
        }
    }

    /// Does this with the answer.
    pub fn then(self, run: impl FnOnce(T) + Send + 'static) {
        match self {
            Self::Ready(answer) => run(answer),
            Self::Later(later) => later(Box::new(run)),
        }
    }

    /// Waits for the answer.
    pub fn wait(self) -> T {
        if let Self::Ready(answer) = self {
            return answer;
        }
        let place = Arc::new((Mutex::new(None), Condvar::new()));
        let there = Arc::clone(&place);
        self.then(move |answer| {
            *locked(&there.0) = Some(answer);
            there.1.notify_one();
        });
        let mut waiting = locked(&place.0);
        loop {
            match waiting.take() {
                Some(answer) => return answer,
                None => waiting = place.1.wait(waiting).unwrap_or_else(|_| poisoned()),
            }
        }
    }
}
