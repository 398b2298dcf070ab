//! Locks and resources as JSON (HAL, draft-kelly-json-hal).

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_micros;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::http::{Response, Status};
use crate::lock::{
    Grant, Lifetime, Limit, Lock, LockId, Mode, Requester, ResourceName, Terms, Waiting,
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

/// Writes the locks of a resource as lists show them.
pub(super) struct LockList<'a> {
    pub(super) prefix: &'a str,
    pub(super) resource: &'a ResourceName,
    /// A uid is the right to release the lock.
    pub(super) shows_uids: bool,
}

impl LockList<'_> {
    /// `position`: if it waits, its number in line. `converting_to`: the mode that a held lock
    /// waits for.
    pub(super) fn write(
        &self,
        out: &mut dyn Write,
        lock: &Lock,
        position: Option<usize>,
        converting_to: Option<Mode>,
    ) -> io::Result<()> {
        let mut view = LockView::new(self.prefix, self.resource, lock);
        if !self.shows_uids {
            view.uid = None;
            view.links.own = None;
        }
        let client = ClientView::of(lock.terms());
        let converting_to = converting_to.map(Mode::name);
        view.listed = Some(ListedView { position, converting_to, client });
        Ok(serde_json::to_writer(out, &view)?)
    }
}

/// Writes a resource as the list of resources shows it.
pub(super) fn write_resource(
    out: &mut dyn Write,
    prefix: &str,
    resource: &ResourceName,
) -> io::Result<()> {
    Ok(serde_json::to_writer(out, &ResourceView::new(prefix, resource))?)
}

/// The path of what a link leads to. Of the characters of a name only the slash is escaped; `.` and
/// `..` would not be helped by it.
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
            Self::Resource(resource) => write!(f, "/resources/{}", escaped(resource)),
            Self::Lock(resource, id) => write!(f, "/locks/{}/{id}", escaped(resource)),
        }
    }
}

fn escaped(resource: &ResourceName) -> Cow<'_, str> {
    let name = resource.as_str();
    match name.as_bytes().contains(&b'/') {
        true => name.replace('/', "%2F").into(),
        false => name.into(),
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
    #[serde(flatten)]
    terms: TermsView,
    active: bool,
    #[serde(flatten)]
    state: State,
    #[serde(rename = "_links")]
    links: Links<'a>,
    #[serde(flatten)]
    listed: Option<ListedView<'a>>,
}

/// What every view of a lock shows of the request for it, events included: a new member goes here.
#[derive(Serialize)]
pub(super) struct TermsView {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
}

impl TermsView {
    pub(super) fn of(terms: &Terms) -> Self {
        Self { mode: terms.mode.name(), limit: terms.mode.limit().map(Limit::get) }
    }
}

/// Who sent the request, for those who may see the locks of others.
#[derive(Serialize)]
pub(super) struct ClientView<'a> {
    client: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
}

impl<'a> ClientView<'a> {
    pub(super) fn of(terms: &'a Terms) -> Self {
        let Requester { address, user } = &terms.client;
        Self { client: address, user: user.as_deref() }
    }
}

/// What lists add.
#[derive(Serialize)]
struct ListedView<'a> {
    /// In line; 1 is next.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    converting_to: Option<&'static str>,
    #[serde(flatten)]
    client: ClientView<'a>,
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
        #[serde(serialize_with = "timestamp_some")]
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
            Lock::Waiting(Waiting { id, terms, since, expires }) => {
                let state = State::Waiting { wait_since: *since, wait_expires: *expires };
                Self::in_state(*id, terms, state, Links::of_lock(prefix, resource, *id))
            }
        }
    }

    fn held(prefix: &'a str, resource: &'a ResourceName, grant: &'a Grant) -> Self {
        let state = State::Active {
            active_since: grant.since,
            active_expires: grant.expires,
            fencing_token: grant.fencing_token,
        };
        Self::in_state(grant.id, &grant.terms, state, Links::of_lock(prefix, resource, grant.id))
    }

    fn in_state(id: LockId, terms: &'a Terms, state: State, links: Links<'a>) -> Self {
        Self {
            uid: Some(id),
            title: &terms.title,
            lifetime: terms.lifetime,
            wait: terms.wait,
            terms: TermsView::of(terms),
            active: matches!(state, State::Active { .. }),
            state,
            links,
            listed: None,
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

pub(super) fn display_some<S: Serializer>(
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

/// The same as [`timestamp`]; null if there is none.
pub(super) fn timestamp_some<S: Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => timestamp(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// RFC 3339 in UTC with microseconds.
pub(super) fn timestamp<S: Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_rfc3339_micros(*time))
}
