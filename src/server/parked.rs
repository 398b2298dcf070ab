//! Threads that are started with the server and wait for their work: when it is due, the system may
//! be out of threads.

use std::convert::Infallible;
use std::io;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

/// A thread that does its work at most once.
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

    /// Starts the work. The returned channel disconnects when it is done.
    pub(super) fn start(self) -> Receiver<Infallible> {
        // Fails only if the thread has ended, and then the channel is disconnected.
        let _ = self.begin.send(());
        self.done
    }
}
