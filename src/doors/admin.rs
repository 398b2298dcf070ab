//! What administrators ask for: what is locked, and the end of locks.

use log::info;

use super::call::{Call, HandlerResult};
use super::door::{AnsweredBy, Door, Handler, Operation, Path, at_once};
use super::lists;
use super::refusals::refused;
use super::rest::DOOR_NAME;
use super::rights::Requirement;
use crate::http::{Problem, Response, Status};
use crate::lock::{Refusal, ResourceName};

pub(super) const DOOR: Door = Door::new(&[
    Path::new(
        "/status",
        AnsweredBy::Active,
        &[get(Handler::Plain(|call| at_once(lists::show_status(call))))],
    ),
    Path::new(
        "/resources",
        AnsweredBy::Active,
        &[
            get(Handler::Plain(|call| at_once(lists::list_resources(call)))),
            delete(Requirement::END_ALL, Handler::Plain(|call| at_once(delete_all(call)))),
        ],
    ),
    Path::new(
        "/resources/{resource}",
        AnsweredBy::Active,
        &[
            get(Handler::Resource(|call, name| at_once(lists::list_locks(call, name)))),
            delete(
                Requirement::END,
                Handler::Resource(|call, name| at_once(delete_resource(call, name))),
            ),
        ],
    ),
]);

const fn get(handler: Handler) -> Operation {
    Operation::new("GET", Requirement::SEE, "admin", handler)
}

const fn delete(requires: Requirement, handler: Handler) -> Operation {
    Operation::new("DELETE", requires, "admin", handler)
}

/// `DELETE /resources`
fn delete_all(call: &Call<'_>) -> HandlerResult {
    call.locks()?.delete_all(call.actor(DOOR_NAME)?).map_err(refused)?;
    info!("{} deleted all locks", call.caller.requester);
    Ok(Response::no_content())
}

/// `DELETE /resources/{name}`
fn delete_resource(call: &Call<'_>, resource: &ResourceName) -> HandlerResult {
    call.locks()?.delete_resource(resource, call.actor(DOOR_NAME)?).map_err(
        |refusal| match refusal {
            Refusal::NoSuchLock => {
                Problem::new(Status::NotFound, "this resource has no locks").because(refusal.name())
            }
            refusal => refused(refusal),
        },
    )?;
    info!("{} deleted all locks of {resource}", call.caller.requester);
    Ok(Response::no_content())
}
