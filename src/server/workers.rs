//! Threads that serve connections, one at a time each.
//!
//! Many clients open a connection for each request. Starting and ending a thread costs more
//! than the request, so a thread whose connection has ended waits a while for another one.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// How long a thread stays without a connection.
const IDLE: Duration = Duration::from_secs(1);

/// A thread needs little stack; only pages that it touches take memory.
const STACK: usize = 128 * 1024;

/// As many threads as there are jobs at a time.
pub(super) struct Workers<J> {
    /// Without capacity: a job can be sent when a thread waits for one.
    idle: (Sender<J>, Receiver<J>),
    work: Arc<dyn Fn(J) + Send + Sync>,
}

impl<J: Send + 'static> Workers<J> {
    /// `work` does one job.
    pub(super) fn new(work: impl Fn(J) + Send + Sync + 'static) -> Self {
        Self { idle: bounded(0), work: Arc::new(work) }
    }

    /// Has an idle thread do the job, or a new one.
    ///
    /// # Errors
    /// No thread could be started. The job is dropped.
    pub(super) fn start(&self, job: J) -> io::Result<()> {
        match self.idle.0.try_send(job) {
            Ok(()) => Ok(()),
            Err(all_busy) => self.start_in_new_thread(all_busy.into_inner()),
        }
    }

    fn start_in_new_thread(&self, job: J) -> io::Result<()> {
        let (jobs, work) = (self.idle.1.clone(), Arc::clone(&self.work));
        let run = move || {
            let mut next = Some(job);
            while let Some(job) = next {
                work(job);
                next = jobs.recv_timeout(IDLE).ok();
            }
        };
        let builder = thread::Builder::new().name("connection".into());
        builder.stack_size(STACK).spawn(run).map(|_| ())
    }
}
