//! A request for a lock: it ends with the lock or with an error, and leaves nothing on the server
//! when it is withdrawn.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::answer::Failure;
use super::api::Lock;
use super::deadline::{Deadline, Wait};
use super::guard::GIVE_UP;
use super::retry::{LastFailure, Pauses, TRIES};
use super::target::who;
use super::transport::{ANSWER, new_key};
use super::{Client, Error, Guard, LockOptions, Time};
use crate::clock;

/// A request that waits for its lock, on a thread of its own. Dropping it withdraws the request,
/// which takes at most 3 s.
pub struct Pending {
    request: Request,
    /// Ends the repetitions when it is dropped.
    go_on: Option<Sender<()>>,
    answers: Receiver<Result<Guard, Error>>,
    answered: Receiver<()>,
}

/// How long to wait for the end of a request before it is withdrawn once more.
const WITHDRAWN: Duration = Duration::from_millis(200);

/// How long one server may take to withdraw a request, if there are others.
const ONE_OF_SEVERAL: Duration = Duration::from_secs(1);

impl Client {
    /// Waits for the lock on a resource, and holds it. If the connection breaks, the request is sent
    /// again, and keeps its place in line, or its lock.
    ///
    /// # Errors
    /// [`Error::NotGranted`] after `options.wait`. See [`Error`] for others.
    pub fn acquire(&self, resource: &str, options: &LockOptions) -> Result<Guard, Error> {
        self.request(resource, options)?.wait()
    }

    /// Requests the lock, to wait for something else at the same time.
    ///
    /// # Errors
    /// [`Error::Usage`]: options that no server accepts. [`Error::System`]: no thread.
    pub fn request(&self, resource: &str, options: &LockOptions) -> Result<Pending, Error> {
        let title = options.title.clone().unwrap_or_else(|| who(None));
        let options = LockOptions { title: Some(fitting(&title)), ..options.clone() };
        check(&options)?;
        let client = self.clone();
        let (resource, last_failure) = (resource.into(), LastFailure::default());
        let key = options.key.clone().unwrap_or_else(new_key);
        let request = Request { client, resource, options, key, last_failure };
        let (go_on, given_up) = bounded::<()>(0);
        let (sender, answers) = bounded(1);
        let (done, answered) = bounded(1);
        let asking = {
            let request = request.clone();
            move || {
                // If the receiver is gone, this drops the guard, which releases the lock.
                let _ = sender.send(request.until_held(&given_up));
                let _ = done.send(());
            }
        };
        let refused = |error| Error::System(format!("cannot start a thread: {error}"));
        thread::Builder::new().name("asking".into()).spawn(asking).map_err(refused)?;
        Ok(Pending { request, go_on: Some(go_on), answers, answered })
    }
}

/// Refuses what no server accepts, or no clock can represent.
fn check(options: &LockOptions) -> Result<(), Error> {
    let longest = LockOptions::LONGEST;
    if options.wait.is_some_and(|wait| wait > longest) {
        return Err(Error::Usage("a wait is up to 1e9 seconds".into()));
    }
    if options.lifetime.is_some_and(|lifetime| lifetime.is_zero() || lifetime > longest) {
        return Err(Error::Usage("a lifetime is over 0 to 1e9 seconds".into()));
    }
    let is_key = |key: &String| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if options.key.as_ref().is_some_and(|key| !is_key(key)) {
        return Err(Error::Usage("an Idempotency-Key is visible ASCII characters".into()));
    }
    Ok(())
}

impl Pending {
    /// Ready when [`Pending::wait`] would return at once.
    #[must_use]
    pub fn answered(&self) -> &Receiver<()> {
        &self.answered
    }

    /// Why the request was sent again, if it was.
    #[doc(hidden)]
    #[must_use]
    pub fn last_failure(&self) -> LastFailure {
        self.request.last_failure.clone()
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// [`Error::NotGranted`] after the wait requested. See [`Error`] for others.
    pub fn wait(mut self) -> Result<Guard, Error> {
        let answer = self.answers.recv();
        self.go_on = None;
        let ended = |_| Err(Error::System("the thread that asks has ended".into()));
        answer.unwrap_or_else(ended)
    }

    /// Withdraws the request by a deadline that several withdrawals and releases share.
    #[doc(hidden)]
    pub fn withdraw(mut self, by: Deadline) {
        self.go_on = None;
        self.request.withdraw(&self.answers, by);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.go_on.take().is_some() {
            self.request.withdraw(&self.answers, Deadline::after(GIVE_UP));
        }
    }
}

/// A request and all its repetitions.
#[derive(Clone)]
struct Request {
    client: Client,
    resource: String,
    options: LockOptions,
    key: String,
    last_failure: LastFailure,
}

impl Request {
    fn until_held(self, given_up: &Receiver<()>) -> Result<Guard, Error> {
        let asked = clock::now();
        let lock = self.until_answered(given_up)?;
        Guard::hold(self.client, &self.resource, lock, asked)
    }

    /// Sends the request, and again with what is left of the wait if the connection breaks: by its
    /// key, it keeps its place in line, or its lock.
    fn until_answered(&self, given_up: &Receiver<()>) -> Result<Lock, Error> {
        let Self { client, resource, options, key, last_failure } = self;
        let mut attempts = Attempts::of(options);
        loop {
            let sent = Instant::now();
            let (times, by) = ((attempts.wait, attempts.lifetime), Deadline::after(ANSWER));
            let failure = match client.ask_once(resource, options, key, times, by) {
                Ok(lock) => return Ok(lock),
                Err(failure) => failure,
            };
            let Some(pause) = attempts.pause_after(&failure, sent.elapsed()) else {
                return Err(attempts.error(failure));
            };
            if !pause.is_zero() {
                last_failure.is(failure.clone());
            }
            if given_up.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return Err(attempts.error(failure));
            }
        }
    }

    /// Leaves the line. Closing the connection is not enough: the key keeps the place for a while,
    /// so what belongs to the key is deleted, be it the place or, by now, the lock. The request
    /// itself may still be on its way to the server: only its answer proves that nothing is left.
    fn withdraw(&self, answers: &Receiver<Result<Guard, Error>>, by: Deadline) {
        while !by.is_over() {
            // Leaves time for another server if this one is silent.
            let this = if self.client.has_others() { by.at_most(ONE_OF_SEVERAL) } else { by };
            let _ = self.client.withdraw(&self.resource, &self.key, this);
            match answers.recv_timeout(WITHDRAWN.min(by.left())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ok(guard)) => {
                    let _ = guard.release_by(by);
                    return;
                }
                Ok(Err(_)) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// What the attempts at a request have in common.
struct Attempts<'a> {
    options: &'a LockOptions,
    wait: Wait,
    lifetime: Duration,
    /// How long to try to reach a server at first.
    tries: Deadline,
    pauses: Pauses,
    /// Whether an attempt may have reached a server.
    arrived: bool,
    /// Whether an attempt may have been carried out whose answer was lost.
    is_unanswered: bool,
}

impl<'a> Attempts<'a> {
    fn of(options: &'a LockOptions) -> Self {
        let wait = Wait::of(options.wait);
        let lifetime = options.lifetime.unwrap_or(LockOptions::LIFETIME);
        let (tries, pauses) = (Deadline::after(TRIES), Pauses::new());
        Self { options, wait, lifetime, tries, pauses, arrived: false, is_unanswered: false }
    }

    /// The pause before the next attempt, after one that took this long; `None`: it was the last.
    fn pause_after(&mut self, failure: &Failure, took: Duration) -> Option<Duration> {
        match failure {
            Failure::TooLong { .. } => return self.lower(failure).then_some(Duration::ZERO),
            Failure::Dropped(_) if self.wait.slice_is_over(took) => return Some(Duration::ZERO),
            // From an intermediary that does not wait that long.
            Failure::Refused { status: 408, .. } if !self.wait.is_over() => {}
            failure if failure.is_passing() => {}
            _ => return None,
        }
        // A foreign response at once means a wrong URL; a late one, that a proxy has passed the
        // request on.
        self.arrived |= match failure {
            Failure::Unreachable(_) => false,
            Failure::Foreign(_) => took >= Duration::from_secs(1),
            _ => true,
        };
        self.is_unanswered |= matches!(failure, Failure::Dropped(_) | Failure::Proxy { .. });
        let pause = self.pauses.next(failure);
        let tries = self.tries.left();
        let wait = self.wait.left().unwrap_or(LockOptions::LONGEST);
        let left = if self.arrived { wait.max(tries) } else { tries };
        (pause <= left).then_some(pause)
    }

    /// The error after the last attempt.
    fn error(&self, failure: Failure) -> Error {
        match failure.into() {
            Error::NoServer(text) if self.is_unanswered => Error::Unknown(text),
            error => error,
        }
    }

    /// Lowers a time that is too long, unless it was asked for. Returns whether it is lower.
    fn lower(&mut self, failure: &Failure) -> bool {
        match *failure {
            Failure::TooLong { time: Time::Wait, longest, .. } => self.wait.slice(longest),
            Failure::TooLong { time: Time::Lifetime, longest, .. }
                if self.options.lifetime.is_none() && longest < self.lifetime =>
            {
                self.lifetime = longest;
                true
            }
            _ => false,
        }
    }
}

/// Cut to what the server accepts.
fn fitting(title: &str) -> String {
    const MAX_BYTES: usize = 1024;
    title[..title.floor_char_boundary(MAX_BYTES)].into()
}
