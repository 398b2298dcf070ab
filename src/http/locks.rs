//! Requests that every client may send: acquire, look at and release a lock.

use std::time::{Duration, Instant};

use log::warn;

use super::departures::Client;
use super::message::{Request, Response, Singleton, Status};
use super::problem::Problem;
use super::{Service, body, hal};
use crate::lock::{Grant, IdempotencyKey, LockId, Refusal, ResourceName};

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
        let acquired = self.locks.acquire(resource, lock_request, key, &mut |departure| {
            watch = Some(client.watch(move || departure.leave()));
        });
        let took = began.elapsed();
        self.metrics.acquisition(acquired.as_ref().map(drop), took);
        if let Some(Err(error)) = &watch {
            warn!("a client waits and would not be noticed if it left: {error}");
        }
        let grant = acquired.map_err(|refusal| match refusal {
            Refusal::TimedOut if request.prefers_409 => {
                let problem = Problem::new(Status::Conflict, Refusal::TimedOut.to_string());
                problem.with_header("Preference-Applied", "status=409")
            }
            refusal => refusal.into(),
        })?;
        // A retry may come when its client has gone on to another one.
        let may_have_left = watch.is_some() || has_key || took >= PATIENCE;
        if may_have_left && client.has_left() {
            self.locks.abandon(resource, grant.id);
            return Err(Refusal::Departed.into());
        }
        Ok(self.created(resource, &grant, request))
    }

    /// `GET /locks/{resource}/{uid}`
    pub(super) fn get_lock(
        &self,
        resource: &ResourceName,
        id: LockId,
    ) -> Result<Response, Problem> {
        let lock = self.locks.find(resource, id).ok_or(Refusal::NoSuchLock)?;
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
        let grant = self.locks.renew(resource, id, lifetime)?;
        Ok(hal::held(Status::Ok, resource, &grant))
    }

    /// `DELETE /locks/{resource}/{uid}`
    pub(super) fn release_lock(
        &self,
        resource: &ResourceName,
        id: LockId,
    ) -> Result<Response, Problem> {
        self.locks.release(resource, id)?;
        Ok(Response::no_content())
    }

    fn created(&self, resource: &ResourceName, grant: &Grant, request: &Request<'_>) -> Response {
        let location = self.location(request, hal::Path::Lock(resource, grant.id));
        hal::held(Status::Created, resource, grant)
            .header("Location", location)
            .header("RDLM-Fencing-Token", grant.fencing_token.to_string())
            .granting(resource.clone(), grant.id)
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
