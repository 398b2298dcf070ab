//! Threads that serve connections, one at a time each.
//!
//! Many clients open a connection for each request. Starting and ending a thread costs more
//! than the request, so a thread whose connection has ended waits a moment for another one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// How long an idle thread lives.
const IDLE: Duration = Duration::from_secs(1);

/// A thread needs little stack; only pages that it touches take memory.
const STACK: usize = 128 * 1024;

/// As many threads as there are jobs, and a few in reserve for when no more can be started.
pub(super) struct Workers<J> {
    /// Both channels have no capacity: a job can be sent only to a thread that waits for one.
    idle: (Sender<J>, Receiver<J>),
    reserve: Sender<J>,
    work: Arc<dyn Fn(J) + Send + Sync>,
}

/// No thread could be started for a job.
pub(super) struct NoThread<J> {
    pub(super) job: J,
    pub(super) error: io::Error,
}

impl<J: Send + 'static> Workers<J> {
    /// `work` does one job. Starts the threads in reserve.
    ///
    /// # Errors
    /// There is no thread for them.
    pub(super) fn new(
        reserve: usize,
        work: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (sender, jobs) = bounded(0);
        let workers = Self { idle: bounded(0), reserve: sender, work: Arc::new(work) };
        for _ in 0..reserve {
            let (jobs, work) = (jobs.clone(), Arc::clone(&workers.work));
            spawn("reserve", move || jobs.iter().for_each(|job| work(job)))?;
        }
        Ok(workers)
    }

    /// Gives the job to an idle thread or a new one.
    pub(super) fn start(&self, job: J) -> Result<(), NoThread<J>> {
        match self.idle.0.try_send(job) {
            Ok(()) => Ok(()),
            Err(all_busy) => self.start_in_new_thread(all_busy.into_inner()),
        }
    }

    /// Gives the job to a reserved thread, if one is free within `timeout`.
    ///
    /// # Errors
    /// The job, if none was.
    pub(super) fn start_in_reserve(&self, job: J, timeout: Duration) -> Result<(), J> {
        self.reserve.send_timeout(job, timeout).map_err(|error| error.into_inner())
    }

    fn start_in_new_thread(&self, job: J) -> Result<(), NoThread<J>> {
        let (jobs, work) = (self.idle.1.clone(), Arc::clone(&self.work));
        // If the thread cannot be started, the job is still there.
        let first = Arc::new(Mutex::new(Some(job)));
        let run = {
            let first = Arc::clone(&first);
            move || {
                let mut next = take(&first);
                while let Some(job) = next {
                    work(job);
                    next = jobs.recv_timeout(IDLE).ok();
                }
            }
        };
        let Err(error) = spawn("connection", run) else { return Ok(()) };
        match take(&first) {
            Some(job) => Err(NoThread { job, error }),
            None => Ok(()),
        }
    }
}

fn take<J>(job: &Mutex<Option<J>>) -> Option<J> {
    job.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).stack_size(STACK).spawn(run).map(drop)
}
