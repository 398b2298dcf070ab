//! Renews a lock at a third of its lifetime, on a thread of its own.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Error;
use super::api::{Lock, Server};
use super::retry::Pauses;
use super::transport::{ANSWER, Failure};

/// What has become of a renewal.
pub(super) enum News {
    /// The lock lives for its lifetime from then on: the moment when the request was sent.
    Renewed(Instant),
    /// It did not get through, or was refused for now; another one follows.
    Failed(String),
    /// The lock is gone. There are no more renewals.
    Gone,
}

/// Renewals until this is dropped.
pub(super) struct Renewals {
    _stop: Sender<()>,
}

/// Begins to renew a lock that was last renewed, or asked for, at `last`. What becomes of each
/// renewal is passed to `tell`, which says whether anybody still listens.
pub(super) fn start(
    server: &Server,
    lock: &Lock,
    lifetime: Duration,
    last: Instant,
    tell: impl Fn(News) -> bool + Send + 'static,
) -> Result<Renewals, Error> {
    let (server, lock) = (server.clone(), lock.clone());
    let (stop, stopped) = bounded(0);
    let renew = move || renew(&server, &lock, lifetime, last, &tell, &stopped);
    let refused = |error| Error::System(format!("cannot start a thread: {error}"));
    thread::Builder::new().name("renewals".into()).spawn(renew).map_err(refused)?;
    Ok(Renewals { _stop: stop })
}

/// The body of the thread.
fn renew(
    server: &Server,
    lock: &Lock,
    lifetime: Duration,
    last: Instant,
    tell: &dyn Fn(News) -> bool,
    stopped: &Receiver<()>,
) {
    let third = lifetime / 3;
    let mut due = last + third;
    let mut pauses = Pauses::new();
    while stopped.recv_deadline(due) == Err(RecvTimeoutError::Timeout) {
        let sent = Instant::now();
        let heard = match server.renew_once(&lock.path, lifetime, third.min(ANSWER)) {
            Ok(()) => {
                due = sent + third;
                pauses = Pauses::new();
                tell(News::Renewed(sent))
            }
            Err(Failure::NotThere) => {
                tell(News::Gone);
                return;
            }
            Err(failure) => {
                due = Instant::now() + pauses.next(&failure).min(third);
                tell(News::Failed(Error::from(failure).to_string()))
            }
        };
        if !heard {
            return;
        }
    }
}
