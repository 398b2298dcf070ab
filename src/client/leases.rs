//! The locks of a `run`: each is renewed until it is released, and all are lost with the first.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::api::{Lock, Server};
use super::renewal::{self, News, Renewals};
use super::transport::Failure;
use super::{Error, say};

/// Locks that are held.
pub(super) struct Leases {
    server: Server,
    lifetime: Duration,
    held: Vec<Lease>,
    sender: Sender<(usize, News)>,
    /// What has become of renewals, to be passed to [`Leases::hear`].
    pub(super) news: Receiver<(usize, News)>,
}

struct Lease {
    resource: String,
    lock: Lock,
    /// The lock is held until then, if no renewal gets through.
    until: Instant,
    /// Why the latest renewal did not.
    why: String,
    _renewals: Renewals,
}

/// A lock was lost, and why.
pub(super) struct Lost {
    pub(super) resource: String,
    pub(super) why: String,
}

impl Leases {
    pub(super) fn new(server: &Server, lifetime: Duration) -> Self {
        let (sender, news) = unbounded();
        Self { server: server.clone(), lifetime, held: Vec::new(), sender, news }
    }

    /// Takes over a lock that was asked for at `asked`, and renews it from now on.
    ///
    /// It lives for its lifetime from its grant, which may have been any time since it was asked
    /// for. If that is long ago, it is renewed before anything else.
    ///
    /// # Errors
    /// It was lost already, or the server does not answer; it is released.
    pub(super) fn add(&mut self, resource: &str, lock: Lock, asked: Instant) -> Result<(), Error> {
        let added = self.confirm(resource, &lock, asked).and_then(|confirmed| {
            let index = self.held.len();
            let sender = self.sender.clone();
            let tell = move |news| sender.send((index, news)).is_ok();
            let renewals = renewal::start(&self.server, &lock, self.lifetime, confirmed, tell)?;
            Ok((confirmed + self.lifetime, renewals))
        });
        match added {
            Ok((until, renewals)) => {
                let why = "the server was not asked yet".into();
                let resource = resource.into();
                self.held.push(Lease { resource, lock, until, why, _renewals: renewals });
                Ok(())
            }
            Err(error) => {
                let _ = self.server.release(&lock.path);
                Err(error)
            }
        }
    }

    fn confirm(&self, resource: &str, lock: &Lock, asked: Instant) -> Result<Instant, Error> {
        let now = Instant::now();
        if now.duration_since(asked) < self.lifetime / 3 {
            return Ok(asked);
        }
        match self.server.renew(&lock.path, self.lifetime) {
            Ok(()) => Ok(now),
            Err(Failure::NotThere) => Err(Error::Gone(format!(
                "the lock on {resource} was lost before the command began"
            ))),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Notes what has become of a renewal.
    pub(super) fn hear(&mut self, (index, news): (usize, News)) -> Result<(), Lost> {
        let Some(lease) = self.held.get_mut(index) else { return Ok(()) };
        match news {
            News::Renewed(sent) => lease.until = sent + self.lifetime,
            News::Failed(failure) => lease.why = failure,
            News::Gone => return Err(lease.lost("it was deleted, or has expired".into())),
        }
        Ok(())
    }

    /// When the first of them is lost unless a renewal gets through.
    pub(super) fn until(&self) -> Option<Instant> {
        self.held.iter().map(|lease| lease.until).min()
    }

    /// The one that is lost because no renewal has got through.
    pub(super) fn first_lost(&self) -> Option<Lost> {
        let lease = self.held.iter().min_by_key(|lease| lease.until)?;
        let seconds = self.lifetime.as_secs_f64();
        Some(lease.lost(format!("no renewal got through for {seconds} s: {}", lease.why)))
    }

    /// The values of the variables RDLM_RESOURCE, RDLM_LOCK_URL and RDLM_FENCING_TOKEN.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let words = |word: &dyn Fn(&Lease) -> String| {
            self.held.iter().map(word).collect::<Vec<_>>().join(" ")
        };
        let token = |lease: &Lease| lease.lock.fencing_token.map(|token| token.to_string());
        vec![
            ("RDLM_RESOURCE", words(&|lease| lease.resource.clone())),
            ("RDLM_LOCK_URL", words(&|lease| self.server.url_of(&lease.lock.path))),
            ("RDLM_FENCING_TOKEN", words(&|lease| token(lease).unwrap_or_default())),
        ]
    }

    /// Releases all of them, the latest first. What cannot be released expires by itself.
    ///
    /// # Errors
    /// One of them was lost before.
    pub(super) fn release(mut self) -> Result<(), Error> {
        let mut result = Ok(());
        while let Some(lease) = self.held.pop() {
            match self.server.release(&lease.lock.path) {
                Ok(()) => {}
                Err(Failure::NotThere) => {
                    let resource = &lease.resource;
                    let text = format!("the lock on {resource} was lost before the command ended");
                    result = Err(Error::Gone(text));
                }
                Err(failure) => {
                    let seconds = self.lifetime.as_secs_f64();
                    let error = Error::from(failure);
                    say(&format!(
                        "the lock is not released, it expires within {seconds} s: {error}"
                    ));
                }
            }
        }
        result
    }
}

impl Lease {
    fn lost(&self, why: String) -> Lost {
        Lost { resource: self.resource.clone(), why }
    }
}
