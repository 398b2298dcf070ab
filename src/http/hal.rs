//! Locks and resources as JSON (HAL, draft-kelly-json-hal).

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::message::{Response, Status};
use crate::lock::{Lock, Phase, ResourceName};

/// A response with one lock.
pub(super) fn lock(status: Status, resource: &ResourceName, lock: &Lock) -> Response {
    hal(status, &LockView::new(resource, lock))
}

/// A response with the locks of a resource.
pub(super) fn locks(resource: &ResourceName, locks: &[Lock]) -> Response {
    let locks: Vec<_> = locks.iter().map(|lock| LockView::new(resource, lock)).collect();
    let embedded = if locks.is_empty() { None } else { Some(EmbeddedLocks { locks }) };
    hal(Status::Ok, &ResourceView { embedded, ..ResourceView::new(resource) })
}

/// A response with all resources.
pub(super) fn resources(resources: &[ResourceName]) -> Response {
    let resources = resources.iter().map(ResourceView::new).collect();
    let links = Links { own: Link { href: "/resources".into() }, resource: None };
    hal(Status::Ok, &ResourcesView { embedded: EmbeddedResources { resources }, links })
}

/// The path of a lock. Names need no escaping in a path.
pub(super) fn lock_path(resource: &ResourceName, lock: &Lock) -> String {
    format!("/locks/{resource}/{}", lock.id)
}

fn hal(status: Status, view: &impl Serialize) -> Response {
    let mut body = Vec::with_capacity(512);
    // Serializing these views into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut body, view);
    Response::new(status).body("application/hal+json", body)
}

#[derive(Serialize)]
struct LockView<'a> {
    uid: String,
    title: &'a str,
    #[serde(serialize_with = "seconds")]
    lifetime: Duration,
    #[serde(serialize_with = "seconds")]
    wait: Duration,
    active: bool,
    #[serde(flatten)]
    times: Times,
    #[serde(rename = "_links")]
    links: Links,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Times {
    Waiting { wait_since: String, wait_expires: String },
    Active { active_since: String, active_expires: String },
}

#[derive(Serialize)]
struct ResourceView<'a> {
    name: &'a str,
    #[serde(rename = "_embedded", skip_serializing_if = "Option::is_none")]
    embedded: Option<EmbeddedLocks<'a>>,
    #[serde(rename = "_links")]
    links: Links,
}

#[derive(Serialize)]
struct EmbeddedLocks<'a> {
    locks: Vec<LockView<'a>>,
}

#[derive(Serialize)]
struct ResourcesView<'a> {
    #[serde(rename = "_embedded")]
    embedded: EmbeddedResources<'a>,
    #[serde(rename = "_links")]
    links: Links,
}

#[derive(Serialize)]
struct EmbeddedResources<'a> {
    resources: Vec<ResourceView<'a>>,
}

#[derive(Serialize)]
struct Links {
    #[serde(rename = "self")]
    own: Link,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Link>,
}

#[derive(Serialize)]
struct Link {
    href: String,
}

impl<'a> LockView<'a> {
    fn new(resource: &ResourceName, lock: &'a Lock) -> Self {
        let request = &lock.request;
        let times = match lock.phase {
            Phase::Waiting(since) => Times::Waiting {
                wait_since: timestamp(since),
                wait_expires: timestamp(since + request.wait),
            },
            Phase::Active(since) => Times::Active {
                active_since: timestamp(since),
                active_expires: timestamp(since + request.lifetime),
            },
        };
        Self {
            uid: lock.id.to_string(),
            title: &request.title,
            lifetime: request.lifetime,
            wait: request.wait,
            active: matches!(lock.phase, Phase::Active(_)),
            times,
            links: Links {
                own: Link { href: lock_path(resource, lock) },
                resource: Some(Link { href: resource_path(resource) }),
            },
        }
    }
}

impl<'a> ResourceView<'a> {
    fn new(resource: &'a ResourceName) -> Self {
        let links = Links { own: Link { href: resource_path(resource) }, resource: None };
        Self { name: resource.as_str(), embedded: None, links }
    }
}

fn resource_path(resource: &ResourceName) -> String {
    format!("/resources/{resource}")
}

/// A JSON number of seconds, whole ones without a fraction.
fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    if duration.subsec_nanos() == 0 {
        serializer.serialize_u64(duration.as_secs())
    } else {
        serializer.serialize_f64(duration.as_secs_f64())
    }
}

/// RFC 3339 in UTC with microseconds.
fn timestamp(time: SystemTime) -> String {
    const FORMAT: &[BorrowedFormatItem<'_>] =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    // Fails only for years beyond 9999.
    OffsetDateTime::from(time).format(FORMAT).unwrap_or_default()
}
