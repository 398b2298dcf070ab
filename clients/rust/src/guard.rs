//! A lock that is held: renewed at a third of its lifetime, on a thread of its own, until it is
//! released or lost.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Error;
use super::api::{Client, Lock};
use super::retry::Pauses;
use super::transport::{ANSWER, Failure};
use crate::clock;

/// A lock that is held. Dropping it releases the lock.
pub struct Guard {
    client: Client,
    resource: String,
    lock: Lock,
    hold: Arc<Mutex<Hold>>,
    /// Dropping it ends the renewals.
    renewals: Option<Sender<()>>,
}

/// A lock that was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// The name of the resource.
    pub resource: String,
    /// In words.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hold {
    /// The lock is held until then, by [`clock::now`], if no renewal gets through.
    Until(Duration),
    /// It is released, or left to its lifetime.
    Over,
    Lost,
}

impl Guard {
    /// Takes over a lock that was asked for at `asked`, by [`clock::now`].
    ///
    /// It lives for its lifetime from its grant, which may have been any time since it was asked
    /// for. If that is long ago, it is renewed before anything else.
    pub(super) fn hold(
        client: Client,
        resource: &str,
        lock: Lock,
        lifetime: Duration,
        asked: Duration,
    ) -> Result<Self, Error> {
        let (stop, stopped) = bounded(0);
        let hold = Arc::new(Mutex::new(Hold::Until(asked + lifetime)));
        // From here on, an error releases the lock.
        let guard = Self { client, resource: resource.into(), lock, hold, renewals: Some(stop) };
        let confirmed = guard.confirm(lifetime, asked)?;
        set(&guard.hold, Hold::Until(confirmed + lifetime));
        let renewals = Renewals {
            client: guard.client.clone(),
            resource: resource.into(),
            lock: guard.lock.clone(),
            lifetime,
            hold: Arc::clone(&guard.hold),
        };
        let refused = |error| Error::System(format!("cannot start a thread: {error}"));
        let renew = move || renewals.until_the_end(confirmed, &stopped);
        thread::Builder::new().name("renewals".into()).spawn(renew).map_err(refused)?;
        Ok(guard)
    }

    /// When the lock was certainly held.
    fn confirm(&self, lifetime: Duration, asked: Duration) -> Result<Duration, Error> {
        let now = clock::now();
        if now.saturating_sub(asked) < lifetime / 3 {
            return Ok(asked);
        }
        match self.client.renew(&self.lock.path, lifetime) {
            Ok(()) => Ok(now),
            Err(Failure::NotThere) => {
                let resource = &self.resource;
                Err(Error::Gone(format!("the lock on {resource} was lost as it was granted")))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// The name of the resource.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The URL of the lock. Whoever knows it can release the lock.
    #[must_use]
    pub fn url(&self) -> String {
        self.client.url_of(&self.lock.path)
    }

    /// A number that is larger than that of every earlier holder. What is written under the lock
    /// can carry it, so that whoever has lost the lock can be refused. `None`: the server has none.
    #[must_use]
    pub fn fencing_token(&self) -> Option<u64> {
        self.lock.fencing_token
    }

    /// Whether the lock is lost: it was deleted, or no renewal has got through for its lifetime,
    /// counted from when the last that did was sent. Once lost, it stays lost. See
    /// [`Client::tell_of_loss`] for a channel that tells of it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        match *lock(&self.hold) {
            Hold::Until(until) => until <= clock::now(),
            Hold::Lost => true,
            Hold::Over => false,
        }
    }

    /// Converts the lock to another mode (`"PR"`, `"EX"` …), and waits for that up to `wait`. It
    /// is held and renewed all the time, with the same token.
    ///
    /// # Errors
    /// [`Error::NotGranted`]: the mode did not fit within the wait, or would have been waited for
    /// in vain; the lock is held as before. See [`Error`] for others.
    pub fn convert(&self, mode: &str, wait: Duration) -> Result<(), Error> {
        let path = &self.lock.path;
        let converted = self.client.convert(path, mode, wait, None);
        converted.map_err(|failure| failure.about_lock(path))
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// [`Error::Gone`]: the lock was lost before. Another one: the server does not answer, and the
    /// lock expires within its lifetime.
    pub fn release(mut self) -> Result<(), Error> {
        self.end()
    }

    /// Ends the renewals and returns the URL. The lock is held for another lifetime at the most,
    /// and can be renewed and released by its URL.
    #[must_use]
    pub fn leave(mut self) -> String {
        self.renewals = None;
        set(&self.hold, Hold::Over);
        self.url()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.renewals = None;
        let before = std::mem::replace(&mut *lock(&self.hold), Hold::Over);
        let gone = || Error::Gone(format!("the lock on {} was lost before", self.resource));
        match (before, self.client.release(&self.lock.path)) {
            (Hold::Lost, _) | (_, Err(Failure::NotThere)) => Err(gone()),
            (_, Ok(())) => Ok(()),
            (_, Err(failure)) => Err(failure.into()),
        }
    }
}

/// Releases the lock. What cannot be released expires by itself.
impl Drop for Guard {
    fn drop(&mut self) {
        if *lock(&self.hold) != Hold::Over {
            let _ = self.end();
        }
    }
}

impl fmt::Debug for Guard {
    /// Without the URL, which is the right to release the lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hold = *lock(&self.hold);
        f.debug_struct("Guard").field("resource", &self.resource).field("hold", &hold).finish()
    }
}

impl From<Lost> for Error {
    fn from(Lost { resource, why }: Lost) -> Self {
        Self::Gone(format!("the lock on {resource} was lost: {why}"))
    }
}

/// What the thread that renews a lock knows.
struct Renewals {
    client: Client,
    resource: String,
    lock: Lock,
    lifetime: Duration,
    hold: Arc<Mutex<Hold>>,
}

impl Renewals {
    /// The body of the thread. The lock was certainly held at `held`.
    fn until_the_end(&self, held: Duration, stopped: &Receiver<()>) {
        let Some(why) = self.renew_until_lost(held, stopped) else { return };
        {
            let mut hold = lock(&self.hold);
            // It was given up in this moment.
            if *hold == Hold::Over {
                return;
            }
            *hold = Hold::Lost;
        }
        self.client.lost(Lost { resource: self.resource.clone(), why });
    }

    /// Returns why the lock is lost; nothing if it was given up.
    fn renew_until_lost(&self, held: Duration, stopped: &Receiver<()>) -> Option<String> {
        let third = self.lifetime / 3;
        let (mut until, mut due) = (held + self.lifetime, held + third);
        let mut why = String::from("the server was not asked yet");
        let mut pauses = Pauses::new();
        loop {
            let pause = due.min(until).saturating_sub(clock::now());
            if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return None;
            }
            let sent = clock::now();
            let left = until.saturating_sub(sent);
            if left.is_zero() {
                let seconds = self.lifetime.as_secs_f64();
                return Some(format!("no renewal got through for {seconds} s: {why}"));
            }
            let within = third.min(ANSWER).min(left);
            match self.client.renew_once(&self.lock.path, self.lifetime, within) {
                Ok(()) => {
                    // An answer that comes too late changes nothing: it was said to be lost.
                    if clock::now() < until {
                        until = sent + self.lifetime;
                        self.is_held_until(until);
                    }
                    due = sent + third;
                    pauses = Pauses::new();
                }
                Err(Failure::NotThere) => return Some("it was deleted, or has expired".into()),
                Err(failure) => {
                    due = clock::now() + pauses.next(&failure).min(third);
                    why = Error::from(failure).to_string();
                }
            }
        }
    }

    fn is_held_until(&self, until: Duration) {
        let mut hold = lock(&self.hold);
        if let Hold::Until(_) = *hold {
            *hold = Hold::Until(until);
        }
    }
}

fn lock(hold: &Mutex<Hold>) -> MutexGuard<'_, Hold> {
    hold.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(hold: &Mutex<Hold>, to: Hold) {
    *lock(hold) = to;
}
