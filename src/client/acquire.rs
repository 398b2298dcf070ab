//! The wait for a lock: it ends with the lock, with an error, or with a signal that leaves no
//! request behind.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, at, bounded, never, select};
use signal_hook::consts::SIGTSTP;

use super::api::{Lock, Server};
use super::leases::{Leases, Lost};
use super::retry::{Pauses, TRIES};
use super::transport::{ANSWER, Failure, new_key};
use super::{Ask, Error, signals};

/// How the wait ended, unless with an error.
pub(super) enum Acquired {
    /// With the lock, which was asked for at this moment.
    Granted(Lock, Instant),
    /// With a signal.
    Signalled(i32),
    /// Because a lock that is held already was lost.
    Lost(Lost),
}

/// How long a signal may take to end the wait if the server does not help.
const GIVE_UP: Duration = Duration::from_secs(3);

/// How long to wait for the end of a request before it is taken over once more.
const TAKE_OVER: Duration = Duration::from_millis(200);

/// Asks until the lock is granted, the wait is over, a signal comes, or one of the locks that are
/// held meanwhile is lost.
pub(super) fn acquire(
    server: &Server,
    ask: &Ask,
    signals: &Receiver<i32>,
    leases: &mut Leases,
) -> Result<Acquired, Error> {
    let asked = Instant::now();
    let ask = Ask { title: ask.title.as_deref().map(fitting), ..ask.clone() };
    let request = Request { server: server.clone(), ask, key: new_key() };
    // Dropping the sender ends the repetitions.
    let (go_on, given_up) = bounded::<()>(0);
    let (sender, answers) = bounded(1);
    let asking = {
        let request = request.clone();
        // Nobody listens if a signal has ended the process.
        move || drop(sender.send(request.until_answered(&given_up)))
    };
    let refused = |error| Error::System(format!("cannot start a thread: {error}"));
    thread::Builder::new().name("asking".into()).spawn(asking).map_err(refused)?;
    let mut signals = signals.clone();
    let given_up = loop {
        let first_ends = leases.until().map_or_else(never, at);
        select! {
            recv(answers) -> answer => {
                let ended = Failure::Dropped("the thread that asks has ended".into());
                return Ok(Acquired::Granted(answer.unwrap_or(Err(ended))?, asked));
            }
            recv(signals) -> signal => match signal {
                Ok(SIGTSTP) => signals::stop_here(),
                Ok(signal) if signals::ends(signal) => break Acquired::Signalled(signal),
                Ok(_) => {}
                Err(_) => signals = never(),
            },
            recv(leases.news) -> news => if let Ok(Err(lost)) = news.map(|news| leases.hear(news)) {
                break Acquired::Lost(lost);
            },
            recv(first_ends) -> _ => if let Some(lost) = leases.first_lost() {
                break Acquired::Lost(lost);
            },
        }
    };
    drop(go_on);
    request.give_up(&answers);
    Ok(given_up)
}

/// One request, however often it is sent.
#[derive(Clone)]
struct Request {
    server: Server,
    ask: Ask,
    key: String,
}

impl Request {
    /// Sends the request, and again with what is left of the wait when the connection breaks:
    /// by its key it has its place in line, or the lock, again.
    fn until_answered(&self, given_up: &Receiver<()>) -> Result<Lock, Failure> {
        let begun = Instant::now();
        let (ends, tries_end) = (begun + self.ask.wait, begun + TRIES);
        let mut pauses = Pauses::new();
        let mut arrived = false;
        let mut wait = self.ask.wait;
        loop {
            let sent = Instant::now();
            let failure = match self.send(wait, wait.saturating_add(ANSWER)) {
                Ok(lock) => return Ok(lock),
                Err(failure) => failure,
            };
            let wait_is_over = ends <= Instant::now();
            match failure {
                // From something on the way, which does not wait for so long.
                Failure::Refused { status: 408, .. } if !wait_is_over => {}
                ref failure if failure.is_passing() => {}
                failure => return Err(failure),
            }
            // A wrong URL is answered at once; who took longer has passed the request on.
            arrived |= match failure {
                Failure::Unreachable(_) => false,
                Failure::Foreign(_) => sent.elapsed() >= Duration::from_secs(1),
                _ => true,
            };
            let until = if arrived { ends.max(tries_end) } else { tries_end };
            let pause = pauses.next(&failure);
            if Instant::now() + pause > until
                || given_up.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
            {
                return Err(failure);
            }
            wait = ends.saturating_duration_since(Instant::now());
        }
    }

    fn send(&self, wait: Duration, answer_within: Duration) -> Result<Lock, Failure> {
        self.server.ask_once(&self.ask, &self.key, wait, answer_within)
    }

    /// Leaves the line. Closing the connection is not enough: the key keeps the place for a
    /// while. So the same request without a wait takes over the place and gives it up, or
    /// gets the lock if that was granted by now. The request that is being taken over may
    /// still be on its way; that its answer has come is the proof that nothing is left.
    fn give_up(&self, answers: &Receiver<Result<Lock, Failure>>) {
        let until = Instant::now() + GIVE_UP;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            if let Ok(lock) = self.send(Duration::ZERO, left) {
                self.release(&lock);
            }
            match answers.recv_timeout(TAKE_OVER.min(left)) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ok(lock)) => return self.release(&lock),
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// If it fails, the lock was released a moment before, or it expires by itself.
    fn release(&self, lock: &Lock) {
        let _ = self.server.release(&lock.path);
    }
}

/// A title that the server accepts: at most 1024 bytes.
fn fitting(title: &str) -> String {
    const MAX_BYTES: usize = 1024;
    let mut end = title.len().min(MAX_BYTES);
    while !title.is_char_boundary(end) {
        end -= 1;
    }
    title[..end].into()
}
