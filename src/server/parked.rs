//! Threads that wait for their work from the start of the server: when there is something for them
//! to do, the system may give no more threads.

use std::convert::Infallible;
use std::io;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

/// A thread that does something once, or not.
pub(super) struct Parked {
    begin: Sender<()>,
    done: Receiver<Infallible>,
}

impl Parked {
    pub(super) fn new(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (begin, begins) = bounded(1);
        let (does, done) = bounded(0);
        thread::Builder::new().name(name.into()).spawn(move || {
            if begins.recv().is_ok() {
                work();
            }
            drop(does);
        })?;
        Ok(Self { begin, done })
    }

    /// Has it done. The result is disconnected when it is.
    pub(super) fn start(self) -> Receiver<Infallible> {
        // Fails only if the thread has ended, and that is told by the result.
        let _ = self.begin.send(());
        self.done
    }
}
