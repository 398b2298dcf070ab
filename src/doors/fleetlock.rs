//! FleetLock: a node asks for a slot of its group before it reboots, and gives it back when it is
//! up again (coreos/airlock, docs/fleet-lock-protocol). Every answer is an object with a kind and
//! a value.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::str::FromStr;
use std::time::Duration;

use humantime::format_rfc3339_seconds;
use serde::Deserialize;
use serde_json::json;

use super::acquire::{Untold, acquire};
use super::caller::SOMEBODY;
use super::door::{AnsweredBy, Door, Handler, Operation, Outcome, Path, at_once};
use super::refusals::{invalid, not_found, refused};
use super::rights::{Requirement, Right};
use super::{Call, HandlerResult, PendingResult};
use crate::http::{Problem, Response, Status};
use crate::lock::{IdempotencyKey, Lifetime, Limit, Mode, Refusal, ResourceName, Terms};

pub(super) const DOOR: Door = Door {
    is_enabled: |settings| settings.fleetlock.is_some(),
    error,
    paths: &[
        Path {
            pattern: "/v1/pre-reboot",
            answered_by: AnsweredBy::Active,
            operations: &[post(|call| at_once(pre_reboot(call))).counted_as(Outcome::Acquisition)],
        },
        Path {
            pattern: "/v1/steady-state",
            answered_by: AnsweredBy::Active,
            operations: &[post(|call| at_once(steady_state(call)))],
        },
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

/// How many nodes of each group may reboot at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    default: Limit,
    of_groups: BTreeMap<String, Limit>,
}

/// A number for every group, and numbers of some: `1,workers=3`.
impl FromStr for Slots {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let expected = "a number of slots for every group, and for some, as in 1,workers=3";
        let limit = |text: &str| text.parse().ok().and_then(Limit::new).ok_or(expected);
        let mut parts = text.split(',');
        let default = limit(parts.next().unwrap_or_default())?;
        let mut of_groups = BTreeMap::new();
        for part in parts {
            let (group, slots) = part.split_once('=').ok_or(expected)?;
            let named = is_group(group) && of_groups.insert(group.into(), limit(slots)?).is_none();
            if !named {
                return Err(expected);
            }
        }
        Ok(Self { default, of_groups })
    }
}

impl Slots {
    fn of(&self, group: &str) -> Limit {
        self.of_groups.get(group).copied().unwrap_or(self.default)
    }
}

fn is_group(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !text.is_empty() && text.bytes().all(is_allowed)
}

/// `POST /v1/pre-reboot`: the node may reboot when it has a slot. It keeps it until it is up
/// again: one that does not come back holds the next one up, which is what the protocol is for.
fn pre_reboot(call: &Call<'_>) -> HandlerResult {
    let node = Node::of(call)?;
    call.require(Right::Lock, &node.resource)?;
    let slots = call.service.settings.fleetlock.as_ref().ok_or_else(not_found)?;
    let limit = slots.of(&node.group);
    let request = Terms {
        title: format!("reboot of {}", node.id).into(),
        wait: Duration::ZERO,
        lifetime: Lifetime::Endless,
        mode: Mode::Exclusive { limit },
        other_limits: true,
        client: call.caller.requester.clone(),
    };
    let grant =
        acquire(call, &node.resource, request, Some(node.key)).wait().map_err(|refusal| {
            match refusal {
                Refusal::TimedOut => all_slots_taken(call, &node.resource, &node.group, limit),
                refusal => refused(refusal),
            }
        })?;
    let success = answer(Status::Ok, "success", &format!("{} may reboot", node.id));
    Ok(Untold::new(call, node.resource).unless_told(success, grant.id))
}

/// `POST /v1/steady-state`: the node is up, and gives back the slot that it may have.
fn steady_state(call: &Call<'_>) -> HandlerResult {
    let node = Node::of(call)?;
    call.require(Right::Lock, &node.resource)?;
    match call.service.locks.release_by_key(&node.resource, &node.key).wait() {
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
    for (grant, key) in call.service.locks.holders(resource, MAX_NAMED) {
        let holder = if shows_title(key.as_ref()) { &grant.terms.title } else { SOMEBODY };
        let since = format_rfc3339_seconds(grant.since);
        // Writing to a string cannot fail.
        let _ = write!(value, "; {holder} since {since}");
    }
    Problem::new(Status::Locked, value)
}

/// The header without which a page of another site could send such a request.
const HEADER: &str = "fleet-lock-protocol";

/// Who asks.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_a_number_and_those_of_some_groups() {
        let slots: Slots = "1,workers=3,db.eu-1=2".parse().unwrap();
        let of = |group| slots.of(group).get();
        assert_eq!((of("workers"), of("db.eu-1"), of("default")), (3, 2, 1));
        for wrong in ["", "0", "x", "workers=3", "1,", "1,workers", "1,w=0", "1,a b=1", "1,a=1,a=2"]
        {
            assert!(wrong.parse::<Slots>().is_err(), "{wrong}");
        }
    }
}
