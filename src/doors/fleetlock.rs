//! FleetLock: a node asks for a slot of its group before it reboots, and gives it back when it is
//! up again (coreos/airlock, docs/fleet-lock-protocol). Every answer is an object with a kind and
//! a value.

use std::fmt::Write;

use humantime::format_rfc3339_seconds;
use serde::Deserialize;
use serde_json::json;

use super::acquire::{Undelivered, acquire};
use super::call::ANONYMOUS;
use super::call::{Call, HandlerResult, PendingResult};
use super::door::{AnsweredBy, Door, Handler, Operation, Outcome, Path, at_once};
use super::refusals::{invalid, not_found, refused};
use super::rights::{Requirement, Right};
use super::slots::is_group;
use crate::http::{Problem, Response, Status};
use crate::lock::{IdempotencyKey, Lifetime, Limit, Mode, Refusal, ResourceName, Terms};

pub(super) const DOOR: Door = Door {
    is_enabled: |settings| settings.fleetlock.is_some(),
    error,
    paths: &[
        Path::new(
            "/v1/pre-reboot",
            AnsweredBy::Active,
            &[post(|call| at_once(pre_reboot(call))).counted_as(Outcome::Acquisition)],
        ),
        Path::new(
            "/v1/steady-state",
            AnsweredBy::Active,
            &[post(|call| at_once(steady_state(call)))],
        ),
    ],
};

/// The node in the body is the key of its request.
const fn post(handler: fn(&Call<'_>) -> PendingResult) -> Operation {
    Operation::new("POST", Requirement::LOCK, "fleetlock", Handler::Plain(handler)).repeatable()
}

/// The namespace of its keys.
const NAMESPACE: &str = "fl";

/// How many holders of a slot an answer names.
const MAX_NAMED: usize = 20;

/// `POST /v1/pre-reboot`: the node may reboot when it has a slot. It keeps it until it is up
/// again: one that does not come back holds the next one up, which is what the protocol is for.
fn pre_reboot(call: &Call<'_>) -> HandlerResult {
    let node = Node::of(call)?;
    call.require(Right::Lock, &node.resource)?;
    let slots = call.context.settings.fleetlock.as_ref().ok_or_else(not_found)?;
    let limit = slots.of(&node.group);
    let request = Terms {
        mode: Mode::Exclusive { limit },
        other_limits: true,
        client: call.caller.requester.clone(),
        ..Terms::exclusive(format!("reboot of {}", node.id), Lifetime::Endless)
    };
    let grant =
        acquire(call, &node.resource, request, Some(node.key)).wait().map_err(|refusal| {
            match refusal {
                Refusal::TimedOut => all_slots_taken(call, &node.resource, &node.group, limit),
                refusal => refused(refusal),
            }
        })?;
    let success = answer(Status::Ok, "success", &format!("{} may reboot", node.id));
    Ok(Undelivered::new(call, node.resource).unless_delivered(success, grant.id))
}

/// `POST /v1/steady-state`: the node is up, and gives back the slot that it may have.
fn steady_state(call: &Call<'_>) -> HandlerResult {
    let node = Node::of(call)?;
    call.require(Right::Lock, &node.resource)?;
    match call.locks()?.release_by_key(&node.resource, &node.key, call.actor("fleetlock")?).wait() {
        Ok(()) | Err(Refusal::NoSuchLock) => {
            Ok(answer(Status::Ok, "success", &format!("{} has no slot now", node.id)))
        }
        Err(refusal) => Err(refused(refusal)),
    }
}

/// An error as this protocol has it.
fn error(problem: Problem) -> Response {
    let kind = match problem.status() {
        Status::Locked => "all_slots_taken",
        Status::BadRequest | Status::RequestTimeout => problem.reason().unwrap_or("bad_request"),
        Status::MethodNotAllowed => "method_not_allowed",
        Status::ServiceUnavailable => "unavailable",
        Status::Forbidden => "forbidden",
        Status::Unauthorized => "unauthorized",
        Status::NotFound => return problem.into(),
        Status::InternalServerError => "failed",
        _ => "bad_request",
    };
    let response = answer(problem.status(), kind, problem.detail());
    match problem.header() {
        Some((name, value)) => response.header(name, value.clone()),
        None => response,
    }
}

fn answer(status: Status, kind: &str, value: &str) -> Response {
    let body = json!({ "kind": kind, "value": value }).to_string();
    Response::new(status).body("application/json", (body + "\n").into_bytes())
}

fn all_slots_taken(call: &Call<'_>, resource: &ResourceName, group: &str, limit: Limit) -> Problem {
    let mut value = format!("all slots of the group {group} are taken, which has {limit}");
    let shows_title = call.shows_titles(resource, NAMESPACE);
    let holders = call.locks().map(|locks| locks.holders(resource, MAX_NAMED));
    for (grant, key) in holders.unwrap_or_default() {
        let holder = if shows_title(key.as_ref()) { &grant.terms.title } else { ANONYMOUS };
        let since = format_rfc3339_seconds(grant.since);
        // Writing to a string cannot fail.
        let _ = write!(value, "; {holder} since {since}");
    }
    Problem::new(Status::Locked, value)
}

/// The header without which a page of another site could send such a request.
const HEADER: &str = "fleet-lock-protocol";

/// The node that sends the request.
struct Node {
    id: String,
    group: String,
    resource: ResourceName,
    key: IdempotencyKey,
}

#[derive(Deserialize)]
struct Body {
    client_params: Params,
}

#[derive(Deserialize)]
struct Params {
    id: String,
    group: String,
}

impl Node {
    fn of(call: &Call<'_>) -> Result<Self, Problem> {
        if call.request.headers.only(HEADER)? != Some("true") {
            let detail = format!("the header {HEADER} is missing: send it as true");
            return Err(Problem::bad_request(detail).because("missing_header"));
        }
        let Body { client_params: Params { id, group } } =
            serde_json::from_slice(call.request.body).map_err(|error| {
                Problem::bad_request(format!(
                    "the body is not valid ({error}), expected \
                     {{\"client_params\":{{\"id\":\"…\",\"group\":\"…\"}}}}"
                ))
            })?;
        if !is_group(&group) {
            return Err(Problem::bad_request("a group is letters, digits, . and -"));
        }
        let resource = format!("reboot:{group}").parse().map_err(invalid)?;
        let key = IdempotencyKey::of_door(NAMESPACE, &id)
            .map_err(|_| Problem::bad_request("an id is 1 to 124 visible ASCII characters"))?;
        Ok(Self { id, group, resource, key })
    }
}
