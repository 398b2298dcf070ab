//! Requests that every client may send: acquire, look at and release a lock.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;

use super::departures::Client;
use super::message::{Request, Response, Singleton, Status};
use super::problem::Problem;
use super::{Service, body, hal};
use crate::lock::{
    Acquired, IdempotencyKey, Lock, LockId, NotWritten, Phase, Renewal, ResourceName,
};
use crate::metrics::Outcome;

/// A grant that took longer, also without a wait (the disk may), is only for a client that is
/// still there.
const PATIENCE: Duration = Duration::from_millis(100);

impl Service {
    /// `POST /locks/{resource}`: returns when the lock is granted or the wait is over.
    pub(super) fn acquire_lock(
        &self,
        resource: &ResourceName,
        request: &Request<'_>,
        client: Client<'_>,
    ) -> Result<Response, Problem> {
        let lock_request = body::lock_request(request.body, self.limits, client.address())?;
        let key = idempotency_key(request.idempotency_key)?;
        let mut watch = None;
        let began = Instant::now();
        let has_key = key.is_some();
        let acquired = self.locks.acquire(resource, lock_request, key, &mut |claim| {
            let (locks, resource) = (Arc::clone(&self.locks), resource.clone());
            watch = Some(client.watch(move || locks.withdraw(&resource, claim)));
        });
        let took = began.elapsed();
        self.count(&acquired, took);
        if let Some(Err(error)) = &watch {
            warn!("a client waits and would not be noticed if it left: {error}");
        }
        // A retry may come when its client has gone on to another one.
        let may_have_left = watch.is_some() || has_key || took >= PATIENCE;
        match acquired {
            Acquired::Granted(lock) if may_have_left && client.has_left() => {
                self.locks.abandon(resource, lock.id);
                Err(departed())
            }
            Acquired::Granted(lock) => Ok(self.created(resource, &lock, request)),
            Acquired::TimedOut => {
                let detail = "the lock was not granted within the wait";
                Err(if request.prefers_409 {
                    let problem = Problem::new(Status::Conflict, detail);
                    problem.with_header("Preference-Applied", "status=409")
                } else {
                    Problem::new(Status::RequestTimeout, detail)
                })
            }
            Acquired::Deleted => {
                let detail = "the request was deleted while it waited for the lock";
                Err(Problem::new(Status::Conflict, detail))
            }
            Acquired::Withdrawn => Err(departed()),
            Acquired::Superseded => Err(Problem::new(Status::Conflict, "superseded")),
            Acquired::OtherLimit(theirs) => {
                let detail = format!(
                    "the locks on this resource have the limit {theirs}: ask for the same, or \
                     wait until there is none"
                );
                Err(Problem::new(Status::UnprocessableContent, detail))
            }
            Acquired::OtherMode(theirs) => {
                let detail = format!(
                    "this Idempotency-Key is that of a request on this resource for {theirs}: \
                     repeat that one, or take another key"
                );
                Err(Problem::new(Status::UnprocessableContent, detail))
            }
            Acquired::TooManyWaiters => {
                // Closing, because connections are kept free for releases.
                let detail = "too many requests are waiting for locks; try again later";
                Err(unavailable(detail).closing())
            }
            Acquired::NotWritten(error) => Err(not_written(error)),
            Acquired::ShuttingDown => Err(unavailable("the server is shutting down").closing()),
        }
    }

    /// `GET /locks/{resource}/{uid}`
    pub(super) fn get_lock(
        &self,
        resource: &ResourceName,
        id: LockId,
    ) -> Result<Response, Problem> {
        let lock = self.locks.find(resource, id).ok_or_else(no_such_lock)?;
        Ok(hal::lock(Status::Ok, resource, &lock))
    }

    /// `PATCH /locks/{resource}/{uid}`
    pub(super) fn renew_lock(
        &self,
        resource: &ResourceName,
        id: LockId,
        request: &Request<'_>,
    ) -> Result<Response, Problem> {
        let lifetime = body::renewal(request.body, self.limits)?;
        match self.locks.renew(resource, id, lifetime).map_err(not_written)? {
            Renewal::Renewed(lock) => Ok(hal::lock(Status::Ok, resource, &lock)),
            Renewal::StillWaiting => {
                let detail =
                    "the request still waits for the lock; its lifetime begins with the grant";
                Err(Problem::new(Status::Conflict, detail))
            }
            Renewal::Gone => Err(no_such_lock()),
        }
    }

    /// `DELETE /locks/{resource}/{uid}`
    pub(super) fn release_lock(
        &self,
        resource: &ResourceName,
        id: LockId,
    ) -> Result<Response, Problem> {
        if self.locks.release(resource, id).map_err(not_written)? {
            Ok(Response::no_content())
        } else {
            Err(no_such_lock())
        }
    }

    fn count(&self, acquired: &Acquired, took: Duration) {
        let outcome = match acquired {
            Acquired::Granted(_) => Outcome::Granted,
            Acquired::TimedOut => Outcome::TimedOut,
            Acquired::Deleted => Outcome::Deleted,
            Acquired::Withdrawn => Outcome::Departed,
            Acquired::Superseded => Outcome::Superseded,
            Acquired::TooManyWaiters => Outcome::TooManyWaiting,
            Acquired::OtherLimit(_) | Acquired::OtherMode(_) => Outcome::Mismatch,
            Acquired::NotWritten(_) => Outcome::NotWritten,
            Acquired::ShuttingDown => Outcome::ShuttingDown,
        };
        self.metrics.acquisition(outcome, took);
    }

    fn created(&self, resource: &ResourceName, lock: &Lock, request: &Request<'_>) -> Response {
        let location = self.location(request, hal::Path::Lock(resource, lock.id));
        let created = hal::lock(Status::Created, resource, lock).header("Location", location);
        let created = match lock.phase {
            Phase::Active { fencing_token, .. } => {
                created.header("RDLM-Fencing-Token", fencing_token.to_string())
            }
            Phase::Waiting { .. } => created,
        };
        created.granting(resource.clone(), lock.id)
    }

    fn location(&self, request: &Request<'_>, path: hal::Path<'_>) -> String {
        match (&self.base_url, request.host) {
            (Some(base_url), _) => format!("{base_url}{path}"),
            (None, Singleton::One(host)) if !host.is_empty() => format!("http://{host}{path}"),
            // A client in HTTP/1.0 that names no host gets a relative reference.
            _ => path.to_string(),
        }
    }
}

fn idempotency_key(header: Singleton<'_>) -> Result<Option<IdempotencyKey>, Problem> {
    match header {
        Singleton::None => Ok(None),
        Singleton::One(key) => Ok(Some(key.parse()?)),
        Singleton::Several => {
            let detail = "there are several Idempotency-Key headers: at most one is allowed";
            Err(Problem::bad_request(detail))
        }
    }
}

fn no_such_lock() -> Problem {
    let detail = "there is no such lock: it was released, deleted or has expired, or it never was";
    Problem::new(Status::NotFound, detail)
}

/// Whoever has closed only its sending side gets to read it.
fn departed() -> Problem {
    let detail = "the client closed the connection, or its side of it, while it waited";
    Problem::new(Status::RequestTimeout, detail).closing()
}

/// Nothing has changed, and nothing can for the moment.
pub(super) fn not_written(error: NotWritten) -> Problem {
    unavailable(format!("locks cannot be changed for now, and nothing has changed: {error}"))
}

fn unavailable(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Status::ServiceUnavailable, detail).with_header("Retry-After", "1")
}
