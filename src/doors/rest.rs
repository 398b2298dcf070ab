//! Requests that every client may send: acquire, look at, renew, convert and release a lock.

use std::sync::Arc;

use super::acquire::{acquire, convert};
use super::{Answer, Call, body, hal};
use crate::http::{Problem, Request, Response, Singleton, Status};
use crate::lock::{Grant, IdempotencyKey, LockId, Refusal, ResourceName};

/// `POST /locks/{resource}`: returns when the lock is granted or the wait is over.
pub(super) fn acquire_lock(call: &Call<'_>, resource: &ResourceName) -> Answer {
    let request = call.request;
    let (limits, requester) = (call.service.settings.limits, &call.caller.requester);
    let lock_request = body::lock_request(request.body, limits, requester)?;
    let key = key(request)?;
    let grant = acquire(call, resource, lock_request, key).map_err(|refusal| match refusal {
        Refusal::TimedOut if prefers_409(request) => {
            let problem = Problem::new(Status::Conflict, Refusal::TimedOut.to_string());
            problem.with_header("Preference-Applied", "status=409")
        }
        refusal => refusal.into(),
    })?;
    Ok(created(call, resource, &grant))
}

/// `DELETE /locks/{resource}`, for whoever has a key and lost the URL.
pub(super) fn release_by_key(call: &Call<'_>, resource: &ResourceName) -> Answer {
    let key = key(call.request)?.ok_or_else(|| {
        Problem::bad_request(
            "the header Idempotency-Key is missing: send that of the request whose lock is to be \
             released, or DELETE the URL of the lock",
        )
    })?;
    call.service.locks.release_by_key(resource, &key)?;
    Ok(Response::no_content())
}

fn key(request: &Request<'_>) -> Result<Option<IdempotencyKey>, Problem> {
    let key = request.headers.only("Idempotency-Key")?;
    Ok(key.map(str::parse).transpose()?)
}

/// `GET /locks/{resource}/{uid}`
pub(super) fn get_lock(call: &Call<'_>, resource: &ResourceName, id: LockId) -> Answer {
    let lock = call.service.locks.find(resource, id).ok_or(Refusal::NoSuchLock)?;
    Ok(hal::lock(Status::Ok, &call.service.prefix, resource, &lock))
}

/// `PATCH /locks/{resource}/{uid}`
pub(super) fn change_lock(call: &Call<'_>, resource: &ResourceName, id: LockId) -> Answer {
    let grant = match body::change(call.request.body, call.service.settings.limits)? {
        body::Change::Renewal(lifetime) => {
            let renewed = call.service.locks.renew(resource, id, lifetime);
            renewed.inspect_err(|refusal| call.service.metrics.renewal_failed(refusal))?
        }
        body::Change::Conversion(conversion) => convert(call, resource, id, conversion)?,
    };
    Ok(hal::held(Status::Ok, &call.service.prefix, resource, &grant))
}

/// `DELETE /locks/{resource}/{uid}`
pub(super) fn release_lock(call: &Call<'_>, resource: &ResourceName, id: LockId) -> Answer {
    call.service.locks.release(resource, id)?;
    Ok(Response::no_content())
}

fn created(call: &Call<'_>, resource: &ResourceName, grant: &Grant) -> Response {
    let location = location(call, hal::Path::Lock(resource, grant.id));
    let (locks, resource_name, id) = (Arc::clone(&call.service.locks), resource.clone(), grant.id);
    hal::held(Status::Created, &call.service.prefix, resource, grant)
        .header("Location", location)
        .header("RDLM-Fencing-Token", grant.fencing_token.to_string())
        .on_undelivered(move || locks.abandon(&resource_name, id))
}

fn location(call: &Call<'_>, path: hal::Path<'_>) -> String {
    match (&call.service.settings.base_url, call.request.host) {
        (Some(base_url), _) => format!("{base_url}{path}"),
        (None, Singleton::One(host)) if !host.is_empty() => {
            let scheme = if call.caller.is_encrypted { "https" } else { "http" };
            format!("{scheme}://{host}{path}")
        }
        // A client in HTTP/1.0 that names no host gets a relative reference.
        _ => path.to_string(),
    }
}

/// Whether 409 is preferred where a lock is not granted (RFC 7240: whoever does not understand a
/// preference ignores it).
fn prefers_409(request: &Request<'_>) -> bool {
    request.headers.list("Prefer").any(|preference| {
        let preference = preference.split(';').next().unwrap_or_default();
        preference.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("status") && value.trim().trim_matches('"') == "409"
        })
    })
}
