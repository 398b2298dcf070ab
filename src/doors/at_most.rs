//! What is done by a few requests at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts them.
#[derive(Default)]
pub(super) struct AtMost<const MAX: usize>(Arc<AtomicUsize>);

/// One of them, counted until it is dropped.
pub(super) struct Turn(Arc<AtomicUsize>);

impl<const MAX: usize> AtMost<MAX> {
    /// One more, unless there are as many as may be.
    pub(super) fn enter(&self) -> Option<Turn> {
        let turn = Turn(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::SeqCst) < MAX).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
