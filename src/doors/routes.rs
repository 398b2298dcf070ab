//! What there is: paths, the methods of each, what is needed for them and who answers.

use percent_encoding::percent_decode_str;

use super::refusals::invalid;
use super::rights::Right;
use super::{Answer, Call, Later, admin, events, fleetlock, health, lists, page, rest, terraform};
use crate::http::{Problem, Status, Target};
use crate::lock::{LockId, ResourceName};
use crate::metrics::Kind;

/// What can be done with a path.
pub(super) struct Operation<H> {
    method: &'static str,
    needs: Need,
    kind: Kind,
    handler: H,
}

/// What a caller needs for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: nobody is asked who it is.
    Nothing,
    /// A right to the resource that the path names; to some, if it names none.
    Some(Right),
    /// A right to every resource.
    All(Right),
}

impl Need {
    /// Whether it is asked in order to look at the locks of others.
    pub(super) fn shows_locks(self) -> bool {
        self == SEE
    }

    /// Whether it is for those who may see or end what is not theirs.
    fn is_administrative(self) -> bool {
        !matches!(self, Self::Nothing | Self::Some(Right::Lock) | METRICS)
    }
}

const LOCK_IT: Need = Need::Some(Right::Lock);
const SEE: Need = Need::Some(Right::See);
const END: Need = Need::Some(Right::Administrate);
const END_ALL: Need = Need::All(Right::Administrate);
/// They tell of all resources, but of none by its name.
pub(super) const METRICS: Need = Need::All(Right::See);

type Plain = fn(&Call<'_>) -> Answer;
type OfResource = fn(&Call<'_>, &ResourceName) -> Later;
type OfLock = fn(&Call<'_>, &ResourceName, LockId) -> Later;

const fn op<H>(method: &'static str, needs: Need, kind: Kind, handler: H) -> Operation<H> {
    Operation { method, needs, kind, handler }
}

fn at_once(answer: Answer) -> Later {
    Ok(answer.into())
}

/// Paths without a name in them.
const PLAIN: [(&str, &[Operation<Plain>]); 7] = [
    ("/", &[op("GET", Need::Nothing, Kind::Other, page::home)]),
    ("/openapi.json", &[op("GET", Need::Nothing, Kind::Other, health::openapi)]),
    ("/health", &[op("GET", Need::Nothing, Kind::Other, health::health)]),
    ("/metrics", &[op("GET", METRICS, Kind::Other, health::metrics)]),
    ("/events", &[op("GET", SEE, Kind::Admin, events::subscribe)]),
    ("/status", &[op("GET", SEE, Kind::Admin, lists::show_status)]),
    (
        "/resources",
        &[
            op("GET", SEE, Kind::Admin, lists::list_resources),
            op("DELETE", END_ALL, Kind::Admin, admin::delete_all),
        ],
    ),
];

pub(super) const PRE_REBOOT: &str = "/v1/pre-reboot";

/// The protocol of FleetLock: what a node asks for before and after it reboots.
const FLEETLOCK: [(&str, &[Operation<Plain>]); 2] = [
    (PRE_REBOOT, &[op("POST", LOCK_IT, Kind::Fleetlock, fleetlock::pre_reboot)]),
    ("/v1/steady-state", &[op("POST", LOCK_IT, Kind::Fleetlock, fleetlock::steady_state)]),
];

/// `/locks/{resource}`
const LOCKS: &[Operation<OfResource>] = &[
    op("POST", LOCK_IT, Kind::Acquire, rest::acquire_lock),
    op("DELETE", LOCK_IT, Kind::Release, rest::release_by_key),
    op("LOCK", LOCK_IT, Kind::Terraform, |call, name| at_once(terraform::lock(call, name))),
    op("UNLOCK", LOCK_IT, Kind::Terraform, |call, name| at_once(terraform::unlock(call, name))),
];

/// `/locks/{resource}/{uid}`
const LOCK: &[Operation<OfLock>] = &[
    op("GET", LOCK_IT, Kind::Look, |call, name, id| at_once(rest::get_lock(call, name, id))),
    op("PATCH", LOCK_IT, Kind::Renew, rest::change_lock),
    op("DELETE", LOCK_IT, Kind::Release, rest::release_lock),
];

/// `/resources/{resource}`
const RESOURCE: &[Operation<OfResource>] = &[
    op("GET", SEE, Kind::Admin, |call, name| at_once(lists::list_locks(call, name))),
    op("DELETE", END, Kind::Admin, |call, name| at_once(admin::delete_resource(call, name))),
];

/// What a target names.
pub(super) enum Route {
    /// `*`: the server as a whole.
    Server,
    /// A path without a name in it.
    Plain(&'static [Operation<Plain>]),
    /// A path of FleetLock's.
    FleetLock(&'static [Operation<Plain>]),
    OfResource(&'static [Operation<OfResource>], ResourceName),
    OfLock(&'static [Operation<OfLock>], ResourceName, LockId),
}

/// An operation on what a target names.
pub(super) struct Found<'r> {
    pub(super) needs: Need,
    pub(super) kind: Kind,
    run: Run<'r>,
}

enum Run<'r> {
    Plain(Plain),
    OfResource(OfResource, &'r ResourceName),
    OfLock(OfLock, &'r ResourceName, LockId),
}

impl Found<'_> {
    /// Does it.
    pub(super) fn run(&self, call: &Call<'_>) -> Later {
        match self.run {
            Run::Plain(handler) => at_once(handler(call)),
            Run::OfResource(handler, resource) => handler(call, resource),
            Run::OfLock(handler, resource, id) => handler(call, resource, id),
        }
    }
}

impl Route {
    /// What the path of a target names.
    pub(super) fn parse(target: &Target<'_>) -> Result<Self, Problem> {
        let path = target.path();
        if path.is_empty() {
            let detail = "the request target is not a path that begins with /";
            return Err(Problem::bad_request(detail));
        }
        if path == "*" {
            return Ok(Self::Server);
        }
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("locks"), Some(resource), None, _) => {
                Ok(Self::OfResource(LOCKS, name(resource)?))
            }
            (Some("locks"), Some(resource), Some(id), None) => {
                let resource = name(resource)?;
                let id = id.parse().map_err(|_| {
                    let detail = "there is no such lock: a lock's uid is 32 lower-case hex digits";
                    Problem::new(Status::NotFound, detail)
                })?;
                Ok(Self::OfLock(LOCK, resource, id))
            }
            (Some("resources"), Some(resource), None, _) => {
                Ok(Self::OfResource(RESOURCE, name(resource)?))
            }
            _ => {
                let known = |(known, _): &&(&str, _)| *known == path;
                if let Some((_, operations)) = FLEETLOCK.iter().find(known) {
                    return Ok(Self::FleetLock(operations));
                }
                let plain = PLAIN.iter().find(known);
                plain.map(|(_, operations)| Self::Plain(operations)).ok_or_else(not_found)
            }
        }
    }

    /// What this method does with it, if it is supported.
    pub(super) fn operation(&self, method: &str) -> Option<Found<'_>> {
        match self {
            Self::Server => None,
            Self::Plain(all) | Self::FleetLock(all) => {
                let op = find(all, method)?;
                Some(Found { needs: op.needs, kind: op.kind, run: Run::Plain(op.handler) })
            }
            Self::OfResource(all, resource) => {
                let op = find(all, method)?;
                let run = Run::OfResource(op.handler, resource);
                Some(Found { needs: op.needs, kind: op.kind, run })
            }
            Self::OfLock(all, resource, id) => {
                let op = find(all, method)?;
                let run = Run::OfLock(op.handler, resource, *id);
                Some(Found { needs: op.needs, kind: op.kind, run })
            }
        }
    }

    /// Whether it is only for those who may see or end what is not theirs.
    pub(super) fn is_administrative(&self) -> bool {
        match self {
            Self::Server => false,
            Self::Plain(all) | Self::FleetLock(all) => needs_right(all),
            Self::OfResource(all, _) => needs_right(all),
            Self::OfLock(all, ..) => needs_right(all),
        }
    }

    /// The resource that it names.
    pub(super) fn resource(&self) -> Option<&ResourceName> {
        match self {
            Self::Server | Self::Plain(_) | Self::FleetLock(_) => None,
            Self::OfResource(_, resource) | Self::OfLock(_, resource, _) => Some(resource),
        }
    }

    /// The supported methods, as the Allow header lists them.
    pub(super) fn allow(&self) -> String {
        match self {
            Self::Server => "GET, HEAD, POST, PATCH, DELETE, OPTIONS".into(),
            Self::Plain(all) | Self::FleetLock(all) => allow(all),
            Self::OfResource(all, _) => allow(all),
            Self::OfLock(all, ..) => allow(all),
        }
    }
}

/// HEAD goes wherever GET does.
fn find<H>(all: &'static [Operation<H>], method: &str) -> Option<&'static Operation<H>> {
    let method = if method == "HEAD" { "GET" } else { method };
    all.iter().find(|operation| operation.method == method)
}

fn needs_right<H>(all: &[Operation<H>]) -> bool {
    all.iter().any(|operation| operation.needs.is_administrative())
}

fn allow<H>(all: &[Operation<H>]) -> String {
    let mut allow = String::new();
    for operation in all {
        allow += operation.method;
        allow += if operation.method == "GET" { ", HEAD, " } else { ", " };
    }
    allow + "OPTIONS"
}

fn name(segment: &str) -> Result<ResourceName, Problem> {
    if segment.is_empty() {
        return Err(not_found());
    }
    let decoded = percent_decode_str(segment).decode_utf8().unwrap_or_default();
    decoded.parse().map_err(invalid)
}

pub(super) fn not_found() -> Problem {
    let detail = "there is nothing here; try /locks/{resource}, /locks/{resource}/{uid}, \
                  /resources, /resources/{resource}, /status or /events; /openapi.json describes \
                  them";
    Problem::new(Status::NotFound, detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_openapi_document_has_the_routes_and_methods_that_there_are() {
        let document: Value = serde_json::from_str(health::OPENAPI).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        let paths = document["paths"].as_object().unwrap();
        let named = [
            ("/locks/{resource}", "/locks/r"),
            ("/locks/{resource}/{uid}", "/locks/r/aa4e181e17374148a21b30d9dcb941f9"),
            ("/resources/{resource}", "/resources/r"),
        ];
        let plain = PLAIN.iter().chain(&FLEETLOCK).map(|(path, _)| (*path, *path));
        // There is no room for others in such a document.
        let has_room = |method: &&str| !["HEAD", "OPTIONS", "LOCK", "UNLOCK"].contains(method);
        let routes = plain.chain(named);
        assert_eq!(paths.len(), routes.clone().count());
        for (path, target) in routes {
            let documented =
                paths[path].as_object().unwrap().keys().filter(|key| *key != "parameters");
            let documented: BTreeSet<_> = documented.map(|method| method.to_uppercase()).collect();
            let allow = Route::parse(&Target::parse(target)).unwrap().allow();
            let methods = allow.split(", ").filter(has_room);
            let methods: BTreeSet<_> = methods.map(str::to_string).collect();
            assert_eq!(documented, methods, "{path}");
        }
    }

    #[test]
    fn a_target_names_one_thing_or_nothing() {
        for target in
            ["/", "/?a/b", "/health", "http://h", "http://h/health?x", "*", "/locks/a%2Db"]
        {
            assert!(Route::parse(&Target::parse(target)).is_ok(), "{target}");
        }
        for target in
            ["", "health", "//", "/locks", "/locks/", "/locks/a/b/c", "/resources/a/b", "/health/"]
        {
            assert!(Route::parse(&Target::parse(target)).is_err(), "{target}");
        }
    }
}
