//! Counts the requests in flight, so that a shutdown can wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};

/// How many requests are in flight.
pub(super) struct InFlight {
    count: AtomicUsize,
    draining: AtomicBool,
    drained: (Sender<()>, Receiver<()>),
}

/// One request in flight.
pub(super) struct InFlightGuard(Arc<InFlight>);

impl InFlight {
    pub(super) fn new() -> Self {
        Self { count: AtomicUsize::new(0), draining: AtomicBool::new(false), drained: bounded(1) }
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlightGuard {
        self.count.fetch_add(1, Ordering::SeqCst);
        InFlightGuard(Arc::clone(self))
    }

    /// A channel that gets a message when no request is in flight.
    pub(super) fn drain(&self) -> Receiver<()> {
        self.draining.store(true, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            self.notify_drained();
        }
        self.drained.1.clone()
    }

    fn notify_drained(&self) {
        // A full channel has this message already.
        let _ = self.drained.0.try_send(());
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let last = self.0.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.draining.load(Ordering::SeqCst) {
            self.0.notify_drained();
        }
    }
}
