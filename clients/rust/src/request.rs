//! A request for a lock: it ends with the lock or with an error, and leaves nothing on the server
//! when it is given up.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::answer::Failure;
use super::api::Lock;
use super::deadline::{Deadline, Wait};
use super::guard::GIVE_UP;
use super::retry::{Pauses, TRIES};
use super::transport::{ANSWER, new_key};
use super::target::who;
use super::{Client, Error, Guard, LockOptions};
use crate::clock;

/// A request that waits for its lock, on a thread of its own. Dropping it withdraws the request.
pub struct Pending {
    request: Request,
    /// Dropping it ends the repetitions.
    go_on: Option<Sender<()>>,
    answers: Receiver<Result<Guard, Error>>,
    answered: Receiver<()>,
}

/// How long to wait for the end of a request before it is taken over once more.
const TAKE_OVER: Duration = Duration::from_millis(200);

/// How long one server may take to withdraw a request, if there are others.
const ONE_OF_SEVERAL: Duration = Duration::from_secs(1);

impl Client {
    /// Waits for the lock on a resource, and holds it. A request whose connection breaks, or that
    /// something on the way answers, is sent again: it has its place in line, or the lock, again.
    ///
    /// # Errors
    /// [`Error::NotGranted`] after `options.wait`. See [`Error`] for others.
    pub fn acquire(&self, resource: &str, options: &LockOptions) -> Result<Guard, Error> {
        self.request(resource, options)?.wait()
    }

    /// The same for whoever has to listen to something else meanwhile.
    ///
    /// # Errors
    /// Options that no server accepts, or no thread.
    pub fn request(&self, resource: &str, options: &LockOptions) -> Result<Pending, Error> {
        let title = options.title.clone().unwrap_or_else(|| who(None));
        let options = LockOptions { title: Some(fitting(&title)), ..options.clone() };
        check(&options)?;
        let client = self.clone();
        let request = Request { client, resource: resource.into(), options, key: new_key() };
        let (go_on, given_up) = bounded::<()>(0);
        let (sender, answers) = bounded(1);
        let (done, answered) = bounded(1);
        let asking = {
            let request = request.clone();
            move || {
                // If nobody listens any more, the lock is released by this.
                let _ = sender.send(request.until_held(&given_up));
                let _ = done.send(());
            }
        };
        let refused = |error| Error::System(format!("cannot start a thread: {error}"));
        thread::Builder::new().name("asking".into()).spawn(asking).map_err(refused)?;
        Ok(Pending { request, go_on: Some(go_on), answers, answered })
    }
}

/// What no server accepts, or no clock.
fn check(options: &LockOptions) -> Result<(), Error> {
    let longest = LockOptions::FOR_EVER;
    if options.wait > longest {
        return Err(Error::Usage("a wait is up to 1e9 seconds".into()));
    }
    if options.lifetime.is_zero() || options.lifetime > longest {
        return Err(Error::Usage("a lifetime is over 0 to 1e9 seconds".into()));
    }
    Ok(())
}

impl Pending {
    /// Ready when there is an answer, so that [`Pending::wait`] does not wait.
    #[must_use]
    pub fn answered(&self) -> &Receiver<()> {
        &self.answered
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`Error::NotGranted`] after the wait that was asked for. See [`Error`] for others.
    pub fn wait(mut self) -> Result<Guard, Error> {
        let answer = self.answers.recv();
        self.go_on = None;
        let ended = |_| Err(Error::System("the thread that asks has ended".into()));
        answer.unwrap_or_else(ended)
    }

    /// Withdraws the request, by a deadline that is shared with what is given up beside it.
    #[doc(hidden)]
    pub fn withdraw(mut self, by: Deadline) {
        self.go_on = None;
        self.request.withdraw(&self.answers, by);
    }
}

/// Withdraws the request, which takes 3 s at the most.
impl Drop for Pending {
    fn drop(&mut self) {
        if self.go_on.take().is_some() {
            self.request.withdraw(&self.answers, Deadline::after(GIVE_UP));
        }
    }
}

/// One request, however often it is sent.
#[derive(Clone)]
struct Request {
    client: Client,
    resource: String,
    options: LockOptions,
    key: String,
}

impl Request {
    fn until_held(self, given_up: &Receiver<()>) -> Result<Guard, Error> {
        let asked = clock::now();
        let lock = self.until_answered(given_up)?;
        Guard::hold(self.client, &self.resource, lock, asked)
    }

    /// Sends the request, and again with what is left of the wait when the connection breaks:
    /// by its key it has its place in line, or the lock, again.
    fn until_answered(&self, given_up: &Receiver<()>) -> Result<Lock, Failure> {
        let (wait, tries) = (Wait::of(self.options.wait), Deadline::after(TRIES));
        let mut pauses = Pauses::new();
        let mut arrived = false;
        loop {
            let sent = Instant::now();
            let failure = match self.send(wait, Deadline::after(ANSWER)) {
                Ok(lock) => return Ok(lock),
                Err(failure) => failure,
            };
            match failure {
                // From something on the way, which does not wait for so long.
                Failure::Refused { status: 408, .. } if !wait.is_over() => {}
                ref failure if failure.is_passing() => {}
                failure => return Err(failure),
            }
            // A wrong URL is answered at once; who took longer has passed the request on.
            arrived |= match failure {
                Failure::Unreachable(_) => false,
                Failure::Foreign(_) => sent.elapsed() >= Duration::from_secs(1),
                _ => true,
            };
            let left = if arrived { wait.left().max(tries.left()) } else { tries.left() };
            let pause = pauses.next(&failure);
            if pause > left || given_up.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return Err(failure);
            }
        }
    }

    fn send(&self, wait: Wait, by: Deadline) -> Result<Lock, Failure> {
        let Self { client, resource, options, key } = self;
        client.ask_once(resource, options, key, wait, by)
    }

    /// Leaves the line. Closing the connection is not enough: the key keeps the place for a
    /// while. So the same request without a wait takes over the place and gives it up, or
    /// gets the lock if that was granted by now. The request that is being taken over may
    /// still be on its way; that its answer has come is the proof that nothing is left.
    fn withdraw(&self, answers: &Receiver<Result<Guard, Error>>, by: Deadline) {
        while !by.is_over() {
            // So that there is time for another server if this one is silent.
            let this = if self.client.has_others() { by.at_most(ONE_OF_SEVERAL) } else { by };
            if let Ok(lock) = self.send(Wait::of(Duration::ZERO), this) {
                // If it fails, it was released a moment before, or it expires by itself.
                let _ = self.client.release_by(&lock.path, by);
            }
            match answers.recv_timeout(TAKE_OVER.min(by.left())) {
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

/// A title that the server accepts: at most 1024 bytes.
fn fitting(title: &str) -> String {
    const MAX_BYTES: usize = 1024;
    title[..title.floor_char_boundary(MAX_BYTES)].into()
}
