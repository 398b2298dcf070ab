//! Requests that every client may send: acquire, look at, renew, convert and release a lock.

use std::sync::Arc;

use smol_str::SmolStr;

use super::acquire::{Undelivered, acquire, convert};
use super::call::{Call, PendingResult};
use super::door::{AnsweredBy, Door, Handler, Operation, Outcome, Path, at_once};
use super::gone::{Gone, not_granted};
use super::refusals::{invalid, refused};
use super::rights::Requirement;
use super::{body, hal, terraform};
use crate::http::{Problem, Request, Response, Singleton, Status};
use crate::lock::{Grant, IdempotencyKey, LockId, Refusal, ResourceName};

pub(super) const DOOR: Door = Door::new(&[
    Path::new(
        "/locks/{resource}",
        AnsweredBy::Active,
        &[
            Operation::new("POST", LOCK, "acquire", Handler::Resource(acquire_lock))
                .repeatable_with_key()
                .counted_as(Outcome::Acquisition),
            Operation::new("DELETE", LOCK, "release", Handler::Resource(release_by_key)),
            terraform::OPERATIONS[0],
            terraform::OPERATIONS[1],
        ],
    ),
    Path::new(
        "/locks/{resource}/{uid}",
        AnsweredBy::Active,
        &[
            Operation::new("GET", LOCK, "look", Handler::Lock(get_lock)),
            Operation::new("PATCH", LOCK, "renew", Handler::Lock(change_lock))
                .repeatable()
                .counted_as(Outcome::Change),
            Operation::new("DELETE", LOCK, "release", Handler::Lock(release_lock)),
        ],
    ),
]);

const LOCK: Requirement = Requirement::LOCK;

/// What events call this door, and that of administrators.
pub(super) const DOOR_NAME: &str = "api";

/// `POST /locks/{resource}`: returns when the wait is over.
fn acquire_lock(call: &Call<'_>, resource: &ResourceName) -> PendingResult {
    let request = call.request;
    let (limits, requester) = (call.context.settings.limits, &call.caller.requester);
    let lock_request = body::lock_request(request.body, limits, requester)?;
    let key = key(request)?;
    let (created, prefers_409) = (Created::for_client(call, resource), prefers_409(request));
    let sees = call.caller.permissions.sees(resource);
    let acquired = acquire(call, resource, lock_request, key);
    Ok(acquired.map(move |acquired| match acquired {
        Ok(grant) => Ok(created.response(&grant)),
        Err(Refusal::TimedOut) if prefers_409 => {
            let problem = Problem::new(Status::Conflict, Refusal::TimedOut.to_string());
            Err(problem.with_header("Preference-Applied", "status=409"))
        }
        Err(refusal) => Err(not_granted(refusal, sees)),
    }))
}

/// `DELETE /locks/{resource}`, for a client that has the key and lost the URL.
fn release_by_key(call: &Call<'_>, resource: &ResourceName) -> PendingResult {
    let key = key(call.request)?.ok_or_else(|| {
        Problem::bad_request(
            "the header Idempotency-Key is missing: send that of the request whose lock is to be \
             released, or DELETE the URL of the lock",
        )
    })?;
    let released = call.locks()?.release_by_key(resource, &key, call.actor(DOOR_NAME)?);
    Ok(released.map(|released| released.map(|()| Response::no_content()).map_err(refused)))
}

fn key(request: &Request<'_>) -> Result<Option<IdempotencyKey>, Problem> {
    let key = request.headers.only("Idempotency-Key")?;
    key.map(str::parse).transpose().map_err(invalid)
}

/// `GET /locks/{resource}/{uid}`
fn get_lock(call: &Call<'_>, resource: &ResourceName, id: LockId) -> PendingResult {
    let locks = call.locks()?;
    let lock = locks.find(resource, id).ok_or_else(|| {
        Gone::new(call, Arc::clone(&locks), resource, id).problem(Refusal::NoSuchLock)
    })?;
    at_once(Ok(hal::lock(Status::Ok, &call.context.prefix, resource, &lock)))
}

/// `PATCH /locks/{resource}/{uid}`
fn change_lock(call: &Call<'_>, resource: &ResourceName, id: LockId) -> PendingResult {
    let locks = call.locks()?;
    let changed = match body::change(call.request.body, call.context.settings.limits)? {
        body::Change::Renewal(lifetime) => {
            let metrics = Arc::clone(&call.context.metrics);
            let renewed = locks.renew(resource, id, lifetime);
            renewed.map(move |grant| {
                grant.inspect_err(|refusal| metrics.renewal_failed(refusal.reason()))
            })
        }
        body::Change::Conversion(conversion) => convert(call, resource, id, conversion).into(),
    };
    let gone = Gone::new(call, locks, resource, id);
    let (prefix, resource) = (call.context.prefix.clone(), resource.clone());
    Ok(changed.map(move |changed| {
        let changed = changed.map_err(|refusal| gone.problem(refusal))?;
        Ok(hal::held(Status::Ok, &prefix, &resource, &changed))
    }))
}

/// `DELETE /locks/{resource}/{uid}`
fn release_lock(call: &Call<'_>, resource: &ResourceName, id: LockId) -> PendingResult {
    let locks = call.locks()?;
    let released = locks.release(resource, id, call.actor(DOOR_NAME)?);
    let gone = Gone::new(call, locks, resource, id);
    Ok(released.map(move |released| {
        released.map_err(|refusal| gone.problem(refusal))?;
        Ok(Response::no_content())
    }))
}

/// How a client is told of the lock that it gets.
struct Created {
    undelivered: Undelivered,
    /// What precedes the paths of links.
    prefix: SmolStr,
    /// What precedes the path in a Location.
    base: String,
}

impl Created {
    fn for_client(call: &Call<'_>, resource: &ResourceName) -> Self {
        let undelivered = Undelivered::new(call, resource.clone());
        Self { undelivered, prefix: call.context.prefix.clone(), base: base_url(call) }
    }

    fn response(self, grant: &Grant) -> Response {
        let Self { undelivered, prefix, base } = self;
        let location = format!("{base}{}", hal::Path::Lock(&undelivered.resource, grant.id));
        let response = hal::held(Status::Created, &prefix, &undelivered.resource, grant)
            .header("Location", location)
            .header("RDLM-Fencing-Token", grant.fencing_token.to_string());
        undelivered.unless_delivered(response, grant.id)
    }
}

fn base_url(call: &Call<'_>) -> String {
    match (&call.context.settings.base_url, call.request.host) {
        (Some(base_url), _) => base_url.clone(),
        (None, Singleton::One(host)) if !host.is_empty() => {
            let scheme = if call.caller.is_encrypted { "https" } else { "http" };
            format!("{scheme}://{host}")
        }
        // A client in HTTP/1.0 that names no host gets a relative reference.
        _ => String::new(),
    }
}

/// Whether 409 is preferred where a lock is not granted (RFC 7240).
fn prefers_409(request: &Request<'_>) -> bool {
    request.headers.list("Prefer").any(|preference| {
        let preference = preference.split(';').next().unwrap_or_default();
        preference.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("status") && value.trim().trim_matches('"') == "409"
        })
    })
}
