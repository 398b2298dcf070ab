//! How many locks, waiting requests and kept places there are in the whole table.

use crate::resource::Tally;
use crate::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Default)]
pub(super) struct Counts {
    held: AtomicUsize,
    waiting: AtomicUsize,
    kept: AtomicUsize,
}

impl Counts {
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// What the limit on locks counts.
    pub(super) fn locks(&self) -> usize {
        self.held() + self.kept()
    }

    /// Under the mutex of the resource once others can see it, so that nothing is subtracted
    /// before it was added.
    pub(super) fn change(&self, before: Tally, after: Tally) {
        for (count, before, after) in [
            (&self.held, before.held, after.held),
            (&self.waiting, before.waiting, after.waiting),
            (&self.kept, before.kept, after.kept),
        ] {
            if after > before {
                count.fetch_add(after - before, Ordering::Relaxed);
            } else if after < before {
                let earlier = count.fetch_sub(before - after, Ordering::Relaxed);
                assert!(earlier >= before - after, "fewer locks than none");
            }
        }
    }
}
