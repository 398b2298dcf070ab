//! Administrative requests that end locks.

use log::info;

use super::refusals::refused;
use super::{Answer, Call};
use crate::http::{Problem, Response, Status};
use crate::lock::{Refusal, ResourceName};

/// `DELETE /resources`
pub(super) fn delete_all(call: &Call<'_>) -> Answer {
    call.service.locks()?.delete_all().map_err(refused)?;
    info!("{} deleted all locks", call.caller.name());
    Ok(Response::no_content())
}

/// `DELETE /resources/{name}`
pub(super) fn delete_resource(call: &Call<'_>, resource: &ResourceName) -> Answer {
    call.service.locks()?.delete_resource(resource).map_err(|refusal| match refusal {
        Refusal::NoSuchLock => {
            Problem::new(Status::NotFound, "this resource has no locks").because(refusal.name())
        }
        refusal => refused(refusal),
    })?;
    info!("{} deleted all locks of {resource}", call.caller.name());
    Ok(Response::no_content())
}
