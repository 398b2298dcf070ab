//! Administrative requests: what is locked, and deleting it.

use std::time::SystemTime;

use log::info;

use super::{Answer, Call, hal};
use crate::http::{Problem, Response, Status};
use crate::lock::{Refusal, ResourceName};

/// `GET /status`
pub(super) fn show_status(call: &Call<'_>) -> Answer {
    let locks = &call.service.locks;
    let resources = locks.resources(None, usize::MAX).into_iter().map(|resource| {
        let locks = locks.locks(&resource);
        (resource, locks)
    });
    // What has been released since the names were listed has no place in it.
    let held: Vec<_> = resources.filter(|(_, locks)| !locks.is_empty()).collect();
    // After the locks: none of them is newer.
    Ok(hal::status(SystemTime::now(), &held))
}

/// `GET /resources`
pub(super) fn list_resources(call: &Call<'_>) -> Answer {
    Ok(hal::resources(&call.service.locks.resources(None, usize::MAX)))
}

/// `DELETE /resources`
pub(super) fn delete_all(call: &Call<'_>) -> Answer {
    call.service.locks.delete_all()?;
    info!("{} deleted all locks", call.caller.name());
    Ok(Response::no_content())
}

/// `GET /resources/{name}`
pub(super) fn list_locks(call: &Call<'_>, resource: &ResourceName) -> Answer {
    Ok(hal::locks(resource, &call.service.locks.locks(resource)))
}

/// `DELETE /resources/{name}`
pub(super) fn delete_resource(call: &Call<'_>, resource: &ResourceName) -> Answer {
    call.service.locks.delete_resource(resource).map_err(|refusal| match refusal {
        Refusal::NoSuchLock => {
            Problem::new(Status::NotFound, "this resource has no locks").because(refusal.name())
        }
        refusal => refusal.into(),
    })?;
    info!("{} deleted all locks of {resource}", call.caller.name());
    Ok(Response::no_content())
}
