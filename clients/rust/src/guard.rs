//! A lock that is held: a thread of its own renews it after each third of its lifetime, until it is
//! released or lost.

use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::Client;
use super::answer::Failure;
use super::api::Lock;
use super::deadline::Deadline;
use super::lease::Lease;
use super::retry::{Pauses, retry};
use super::transport::ANSWER;
use super::{Error, Time};
use crate::clock;

/// How long giving up a request or a lock may take if the server does not respond.
pub const GIVE_UP: Duration = Duration::from_secs(3);

/// A lock that is held. Dropping it releases the lock, which takes at most 3 s.
pub struct Guard {
    client: Client,
    resource: String,
    lock: Lock,
    lease: Arc<Lease>,
    is_over: bool,
}

/// A lock that was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// The name of the resource.
    pub resource: String,
    /// The reason, as a sentence.
    pub why: String,
}

impl Guard {
    /// Holds a lock that was requested at `asked`, by [`clock::now`].
    ///
    /// It may have been granted at any time since then, and lives for its lifetime from that time.
    /// If more than a third of it may be over, it is renewed first.
    pub(super) fn hold(
        client: Client,
        resource: &str,
        lock: Lock,
        asked: Duration,
    ) -> Result<Self, Error> {
        let path = lock.path.clone();
        let on_error = client.clone();
        let guard = Self::try_hold(client, resource, lock, asked);
        if guard.is_err() {
            let _ = on_error.release_by(&path, Deadline::after(GIVE_UP));
        }
        guard
    }

    fn try_hold(
        client: Client,
        resource: &str,
        mut lock: Lock,
        asked: Duration,
    ) -> Result<Self, Error> {
        let mut held = asked;
        if clock::now().saturating_sub(asked) >= lock.lifetime / 3 {
            (held, lock.lifetime) = confirm(&client, resource, &lock)?;
        }
        let lease = Lease::begin(resource, held, lock.lifetime, client.on_loss())?;
        let guard = Self { client, resource: resource.into(), lock, lease, is_over: false };
        guard.renew_from(held)?;
        Ok(guard)
    }

    /// Starts the thread that renews the lock, which was certainly held at `held`.
    fn renew_from(&self, held: Duration) -> Result<(), Error> {
        let renewals = Renewals {
            client: self.client.clone(),
            lock: self.lock.clone(),
            lease: Arc::clone(&self.lease),
        };
        let refused = |error| Error::System(format!("cannot start a thread: {error}"));
        let renew = move || renewals.until_the_end(held);
        thread::Builder::new().name("renewals".into()).spawn(renew).map_err(refused)?;
        Ok(())
    }

    /// The name of the resource.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// The URL of the lock. It is secret: knowing it is the right to release the lock.
    #[must_use]
    pub fn url(&self) -> String {
        self.client.url_of(&self.lock.path)
    }

    /// How long the lock lives without a renewal, as granted.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.lock.lifetime
    }

    /// The fencing token, larger than that of every earlier holder. A store that is sent it with
    /// each write can reject writes of a holder that has lost the lock. `None`: the server gives
    /// none.
    #[must_use]
    pub fn fencing_token(&self) -> Option<u64> {
        self.lock.fencing_token
    }

    /// Whether the lock is lost: it was deleted, or no renewal has succeeded for its lifetime,
    /// counted from when the last successful one was sent. A lost lock stays lost. See
    /// [`Client::tell_of_loss`] for a channel that reports it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost().is_some()
    }

    /// The loss and its reason, if the lock is lost.
    pub fn lost(&self) -> Option<Lost> {
        self.lease.lost()
    }

    /// Converts the lock to another mode (`"PR"`, `"EX"` …), and waits up to `wait` for that. The
    /// lock stays held and renewed meanwhile, and keeps its token.
    ///
    /// # Errors
    /// [`Error::NotGranted`]: the wait ran out, or the conversion would be a deadlock; the lock is
    /// held in its previous mode. See [`Error`] for others.
    pub fn convert(&self, mode: &str, wait: Duration) -> Result<(), Error> {
        let path = &self.lock.path;
        let converted = self.client.convert(path, mode, wait, None);
        converted.map_err(|failure| failure.about_lock(path))
    }

    /// Releases the lock.
    ///
    /// # Errors
    /// [`Error::Gone`]: the lock was lost before. Any other: the release failed, and the lock
    /// expires within its lifetime.
    pub fn release(self) -> Result<(), Error> {
        self.release_by(Deadline::after(ANSWER))
    }

    /// Releases the lock by a deadline that several releases share.
    ///
    /// # Errors
    /// As [`Guard::release`].
    #[doc(hidden)]
    pub fn release_by(mut self, by: Deadline) -> Result<(), Error> {
        self.end(by)
    }

    /// Ends the renewals and returns the URL, for renewing and releasing the lock elsewhere. Unless
    /// it is renewed, the lock expires within its lifetime.
    #[must_use]
    pub fn leave(mut self) -> String {
        self.is_over = true;
        self.lease.give_up();
        self.url()
    }

    fn end(&mut self, by: Deadline) -> Result<(), Error> {
        self.is_over = true;
        let gone = |how: Option<String>| {
            let how = how.map(|how| format!(": {how}")).unwrap_or_default();
            Error::Gone(format!(
                "the lock on {} was lost before it was released{how}",
                self.resource
            ))
        };
        // Once the lease has ended, there is nothing to release.
        let left = self.lease.give_up();
        if left.is_zero() {
            return Err(gone(None));
        }
        match self.client.release_by(&self.lock.path, by.at_most(left)) {
            Ok(()) => Ok(()),
            Err(Failure::NotThere(how)) => Err(gone(how)),
            Err(failure) => Err(failure.into()),
        }
    }
}

/// Renews a lock that was granted at an unknown time. Returns when the renewal was sent, and the
/// lifetime from then.
fn confirm(client: &Client, resource: &str, lock: &Lock) -> Result<(Duration, Duration), Error> {
    // It was not granted later than now.
    let by = Deadline::after(lock.lifetime.min(ANSWER));
    let renewed = retry(by, || {
        let sent = clock::now();
        Ok((sent, client.renew_by(&lock.path, lock.lifetime, by)?))
    });
    renewed.map_err(|failure| match failure {
        Failure::NotThere(how) => {
            let how = how.map(|how| format!(": {how}")).unwrap_or_default();
            Error::Gone(format!("the lock on {resource} was lost as it was granted{how}"))
        }
        failure => failure.into(),
    })
}

/// Releases the lock. If that fails, it expires.
impl Drop for Guard {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.end(Deadline::after(GIVE_UP));
        }
    }
}

impl fmt::Debug for Guard {
    /// Without the URL, which is the right to release the lock.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, lost) = (&self.resource, self.is_lost());
        f.debug_struct("Guard").field("resource", resource).field("lost", &lost).finish()
    }
}

impl From<Lost> for Error {
    fn from(Lost { resource, why }: Lost) -> Self {
        Self::Gone(format!("the lock on {resource} was lost: {why}"))
    }
}

/// The thread that renews a lock.
struct Renewals {
    client: Client,
    lock: Lock,
    lease: Arc<Lease>,
}

impl Renewals {
    /// The body of the thread. The lock was certainly held at `held`.
    fn until_the_end(&self, held: Duration) {
        let Lock { path, mut lifetime, .. } = self.lock.clone();
        let mut due = held.saturating_add(lifetime / 3);
        let mut pauses = Pauses::new();
        while self.lease.wait_until(due) {
            let (sent, third) = (clock::now(), lifetime / 3);
            // For all servers together. It leaves time for another attempt.
            let by = Deadline::after(third.min(ANSWER).min(self.lease.left()));
            match self.client.renew_by(&path, lifetime, by) {
                Ok(granted) => {
                    self.lease.renewed(sent, granted);
                    due = sent.saturating_add(third.min(granted / 3));
                    pauses = Pauses::new();
                }
                Err(Failure::NotThere(how)) => {
                    self.lease.lose(how.as_deref().unwrap_or("it was deleted, or has expired"));
                }
                // The server was started again with another limit.
                Err(Failure::TooLong { time: Time::Lifetime, longest, .. })
                    if longest < lifetime =>
                {
                    lifetime = longest;
                    due = sent;
                }
                Err(failure) => {
                    due = clock::now().saturating_add(pauses.next(&failure).min(third));
                    self.lease.failed(Error::from(failure).to_string());
                }
            }
        }
    }
}
