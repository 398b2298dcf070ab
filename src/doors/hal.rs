//! Locks and resources as JSON (HAL, draft-kelly-json-hal).

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_micros;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::http::{Response, Status};
use crate::lock::{
    Grant, Lifetime, Limit, Lock, LockId, LockRequest, Mode, Requester, ResourceName, Waiting,
};

/// A response with one lock.
pub(super) fn lock(status: Status, prefix: &str, resource: &ResourceName, lock: &Lock) -> Response {
    hal(status, &LockView::new(prefix, resource, lock))
}

/// A response with a lock that is held.
pub(super) fn held(
    status: Status,
    prefix: &str,
    resource: &ResourceName,
    grant: &Grant,
) -> Response {
    hal(status, &LockView::held(prefix, resource, grant))
}

/// Writes a lock as lists show it: its position if it waits, and the mode that it waits for if it
/// is held in another. Who may not release it gets no uid.
pub(super) fn write_listed(
    out: &mut dyn Write,
    prefix: &str,
    resource: &ResourceName,
    lock: &Lock,
    (position, converting_to): (Option<usize>, Option<Mode>),
    shows_uid: bool,
) -> io::Result<()> {
    let Requester { address, user } = lock.client();
    let mut view = LockView::new(prefix, resource, lock);
    if !shows_uid {
        view.uid = None;
        view.links.own = None;
    }
    let lock = ListedLockView {
        lock: view,
        position,
        converting_to: converting_to.map(Mode::name),
        client: address,
        user: user.as_deref(),
    };
    Ok(serde_json::to_writer(out, &lock)?)
}

/// Writes a resource as the list of resources shows it.
pub(super) fn write_resource(
    out: &mut dyn Write,
    prefix: &str,
    resource: &ResourceName,
) -> io::Result<()> {
    Ok(serde_json::to_writer(out, &ResourceView::new(prefix, resource))?)
}

/// The path of what a link leads to. Names and ids need no escaping in a path; . and .. would
/// not be helped by it.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// One resource.
    Resource(&'a ResourceName),
    /// One lock.
    Lock(&'a ResourceName, LockId),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(resource) => write!(f, "/resources/{resource}"),
            Self::Lock(resource, id) => write!(f, "/locks/{resource}/{id}"),
        }
    }
}

fn hal(status: Status, view: &impl Serialize) -> Response {
    json(status, "application/hal+json", view)
}

fn json(status: Status, content_type: &'static str, view: &impl Serialize) -> Response {
    let mut body = Vec::with_capacity(512);
    // Serializing these views into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut body, view);
    // For people with a terminal.
    body.push(b'\n');
    Response::new(status).body(content_type, body)
}

#[derive(Serialize)]
struct LockView<'a> {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "display_some")]
    uid: Option<LockId>,
    title: &'a str,
    #[serde(serialize_with = "lifetime")]
    lifetime: Lifetime,
    #[serde(serialize_with = "seconds")]
    wait: Duration,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    active: bool,
    #[serde(flatten)]
    state: State,
    #[serde(rename = "_links")]
    links: Links<'a>,
}

/// A lock among the others of its resource.
#[derive(Serialize)]
struct ListedLockView<'a> {
    #[serde(flatten)]
    lock: LockView<'a>,
    /// In line; 1 is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    converting_to: Option<&'static str>,
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum State {
    Waiting {
        #[serde(serialize_with = "timestamp")]
        wait_since: SystemTime,
        #[serde(serialize_with = "timestamp")]
        wait_expires: SystemTime,
    },
    Active {
        #[serde(serialize_with = "timestamp")]
        active_since: SystemTime,
        #[serde(serialize_with = "timestamp_or_null")]
        active_expires: Option<SystemTime>,
        fencing_token: u64,
    },
}

#[derive(Serialize)]
struct ResourceView<'a> {
    name: &'a str,
    #[serde(rename = "_links")]
    links: Links<'a>,
}

#[derive(Serialize)]
struct Links<'a> {
    #[serde(rename = "self", skip_serializing_if = "Option::is_none")]
    own: Option<Link<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource: Option<Link<'a>>,
}

#[derive(Serialize)]
struct Link<'a> {
    #[serde(serialize_with = "display")]
    href: Href<'a>,
}

/// A path as clients see it: behind a proxy, another one may precede it.
struct Href<'a> {
    prefix: &'a str,
    path: Path<'a>,
}

impl fmt::Display for Href<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, self.path)
    }
}

impl<'a> Links<'a> {
    fn of_lock(prefix: &'a str, resource: &'a ResourceName, id: LockId) -> Self {
        Self {
            own: Some(Link::new(prefix, Path::Lock(resource, id))),
            resource: Some(Link::new(prefix, Path::Resource(resource))),
        }
    }
}

impl<'a> Link<'a> {
    fn new(prefix: &'a str, path: Path<'a>) -> Self {
        Self { href: Href { prefix, path } }
    }
}

impl<'a> LockView<'a> {
    fn new(prefix: &'a str, resource: &'a ResourceName, lock: &'a Lock) -> Self {
        match lock {
            Lock::Held(grant) => Self::held(prefix, resource, grant),
            Lock::Waiting(waiting) => {
                let Waiting { id, request, since, expires } = waiting;
                let LockRequest { title, wait, lifetime, mode, .. } = request;
                let state = State::Waiting { wait_since: *since, wait_expires: *expires };
                let links = Links::of_lock(prefix, resource, *id);
                Self::in_state(*id, title, (*wait, *lifetime), *mode, state, links)
            }
        }
    }

    fn held(prefix: &'a str, resource: &'a ResourceName, grant: &'a Grant) -> Self {
        let state = State::Active {
            active_since: grant.since,
            active_expires: grant.expires,
            fencing_token: grant.fencing_token,
        };
        let times = (grant.wait, grant.lifetime);
        let links = Links::of_lock(prefix, resource, grant.id);
        Self::in_state(grant.id, &grant.title, times, grant.mode, state, links)
    }

    fn in_state(
        id: LockId,
        title: &'a str,
        (wait, lifetime): (Duration, Lifetime),
        mode: Mode,
        state: State,
        links: Links<'a>,
    ) -> Self {
        Self {
            uid: Some(id),
            title,
            lifetime,
            wait,
            mode: mode.name(),
            limit: mode.limit().map(Limit::get),
            active: matches!(state, State::Active { .. }),
            state,
            links,
        }
    }
}

impl<'a> ResourceView<'a> {
    fn new(prefix: &'a str, resource: &'a ResourceName) -> Self {
        let links =
            Links { own: Some(Link::new(prefix, Path::Resource(resource))), resource: None };
        Self { name: resource.as_str(), links }
    }
}

fn display<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn display_some<S: Serializer>(
    value: &Option<impl fmt::Display>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

/// A JSON number of seconds, whole ones without a fraction.
pub(super) fn in_seconds(duration: Duration) -> Value {
    if duration.subsec_nanos() == 0 {
        duration.as_secs().into()
    } else {
        duration.as_secs_f64().into()
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    in_seconds(*duration).serialize(serializer)
}

/// The same; null if it has no end.
fn lifetime<S: Serializer>(lifetime: &Lifetime, serializer: S) -> Result<S::Ok, S::Error> {
    match lifetime {
        Lifetime::For(duration) => seconds(duration, serializer),
        Lifetime::Endless => serializer.serialize_none(),
    }
}

fn timestamp_or_null<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => timestamp(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// RFC 3339 in UTC with microseconds.
fn timestamp<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_rfc3339_micros(*time))
}
