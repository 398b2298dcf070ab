//! What happens to locks, as a stream of server-sent events and as lines of JSON.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use humantime::format_rfc3339_micros;
use log::warn;
use serde::Serialize;

use super::call::{Call, HandlerResult};
use super::door::{AnsweredBy, Door, Handler, Operation, Path, at_once};
use super::gone::ActorView;
use super::hal::{ClientView, TermsView, display_some, timestamp, timestamp_some};
use super::identity::Permissions;
use super::past::{Answer, Span};
use super::refusals::refused;
use super::rights::Requirement;
use super::subscribers::SubscriberSlot;
use crate::http::query::Query;
use crate::http::{BodyWriter, Problem, Response, Status};
use crate::lock::{Event, Grant, KEPT, Kind, LockId, Received, Refusal, ResourceName, Subscriber};

/// A comment is sent after so long without an event: proxies close silent connections.
const SILENCE: Duration = Duration::from_secs(15);

/// The shortest time between two writes to a subscriber.
const PACE: Duration = Duration::from_millis(100);

/// How many events are read at a time with `follow=no`.
const BATCH: usize = 64;

pub(super) const DOOR: Door = Door::new(&[Path::new(
    "/events",
    AnsweredBy::Active,
    &[Operation::new(
        "GET",
        Requirement::SEE,
        "admin",
        Handler::Plain(|call| at_once(subscribe(call))),
    )
    .stream()],
)]);

/// `GET /events`
fn subscribe(call: &Call<'_>) -> HandlerResult {
    let wanted = Wanted::parse(&call.request.target.query())?;
    let last = call.request.headers.only("Last-Event-ID")?;
    let last = last.map(|id| {
        // An id that is not a number is none of ours: send all that is kept.
        id.parse().unwrap_or(0)
    });
    let permissions = call.caller.permissions.clone();
    if let Some(span) = Span::parse(&call.request.target.query())? {
        return since(call, span, wanted, last.is_some());
    }
    let events = call.context.locks.events();
    let after = last.or_else(|| {
        let latest = wanted.latest?;
        Some(events.before_latest(latest, |event| {
            wanted.has(&event.resource) && permissions.sees(&event.resource)
        }))
    });
    if call.request.method == "HEAD" {
        return Ok(stream(|_| Ok(())));
    }
    if !wanted.follow {
        let subscriber = events.subscribe(after);
        return Ok(stream(move |out| write_kept(out, &wanted, &permissions, subscriber)));
    }
    let slot = enter(call)?;
    let subscriber = events.subscribe(after);
    Ok(stream(move |out| Subscription { wanted, permissions, slot, subscriber }.send(out)))
}

/// Takes a place among the subscribers.
fn enter(call: &Call<'_>) -> Result<SubscriberSlot, Problem> {
    if !call.caller.may_wait {
        return Err(refused(Refusal::TooManyWaiting));
    }
    call.context.subscribers.enter(call.caller.subscriber())
}

/// `GET /events?since=…`. Such an answer reads files, so that it takes a place even if it has an end.
fn since(call: &Call<'_>, span: Span, wanted: Wanted, continues: bool) -> HandlerResult {
    if continues || wanted.latest.is_some() {
        let why = "since does not go with latest or Last-Event-ID";
        return Err(Problem::bad_request(why));
    }
    let slot = enter(call)?;
    let permissions = call.caller.permissions.clone();
    let locks = Arc::clone(&call.context.locks);
    let events = Arc::clone(locks.events());
    let follow = wanted.follow && !span.has_end();
    let past = call.context.past.clone();
    let answer = Answer::prepare(span, wanted.clone(), permissions.clone(), locks, past);
    let answer = answer.map_err(|error| {
        let why = format!("the history cannot be read: {error}");
        Problem::new(Status::ServiceUnavailable, why)
    })?;
    let known_since = answer.known_since.clone();
    let is_head = call.request.method == "HEAD";
    let response = stream(move |out| {
        if is_head {
            return Ok(());
        }
        let last = answer.write(out)?;
        out.flush()?;
        if !follow {
            return Ok(());
        }
        let subscriber = events.subscribe(last);
        drop(answer);
        Subscription { wanted, permissions, slot, subscriber }.send(out)
    });
    Ok(response.header("RDLM-Known-Since", known_since))
}

/// Events as they happen. The header keeps nginx from buffering them.
fn stream(events: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static) -> Response {
    let response = Response::new(Status::Ok).header("X-Accel-Buffering", "no");
    response.stream("text/event-stream", events)
}

/// Which events are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) resource: Option<ResourceName>,
    prefix: Option<String>,
    /// Begin with so many past events.
    latest: Option<usize>,
    /// Go on with new ones.
    follow: bool,
}

impl Wanted {
    fn parse(query: &Query<'_>) -> Result<Self, Problem> {
        let resource = query.parsed("resource", |name| {
            name.parse().map_err(|_| "the name of a resource".to_string())
        })?;
        let prefix = query.parsed("prefix", |text| {
            let fits = text.len() <= ResourceName::MAX_LEN;
            let most = ResourceName::MAX_LEN;
            fits.then(|| text.to_string()).ok_or_else(|| format!("at most {most} characters"))
        })?;
        let latest = query.parsed("latest", |text| {
            let latest = text.parse().ok().filter(|latest| *latest <= KEPT);
            latest.ok_or_else(|| format!("a whole number from 0 to {KEPT}"))
        })?;
        let follow = query.parsed("follow", |text| match text {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err("yes or no".into()),
        })?;
        Ok(Self { resource, prefix, latest, follow: follow.unwrap_or(true) })
    }

    pub(super) fn has(&self, resource: &ResourceName) -> bool {
        self.resource.as_ref().is_none_or(|wanted| wanted == resource)
            && self.prefix.as_ref().is_none_or(|prefix| resource.as_str().starts_with(prefix))
    }
}

struct Subscription {
    wanted: Wanted,
    permissions: Permissions,
    slot: SubscriberSlot,
    subscriber: Subscriber,
}

impl Subscription {
    /// Sends what happens until the client leaves or the server ends.
    fn send(mut self, out: &mut BodyWriter<'_>) -> io::Result<()> {
        let canceller = self.subscriber.canceller();
        let watch = out.client().watch_stream(move || canceller.cancel());
        if let Err(error) = &watch {
            warn!("a client follows events and would not be noticed if it left: {error}");
        }
        // So the client sees that it is subscribed.
        out.write_all(b": events\n\n")?;
        out.flush()?;
        let mut silent_until = Instant::now() + SILENCE;
        loop {
            let left = silent_until.saturating_duration_since(Instant::now());
            let received = self.subscriber.receive(self.slot.batch(), left);
            // The rules have changed: the client has to subscribe again under the new ones.
            if !self.permissions.is_current() {
                return Ok(());
            }
            let sent = match received {
                Received::Events(events) => {
                    let has =
                        |resource| self.wanted.has(resource) && self.permissions.sees(resource);
                    let wanted = events.iter().filter(|event| has(&event.resource));
                    let mut any = false;
                    for event in wanted {
                        write_event(out, event, self.permissions.shows_uids(&event.resource))?;
                        any = true;
                    }
                    any
                }
                Received::Missed { last, .. } => {
                    write_reset(out, last)?;
                    true
                }
                Received::TimedOut => {
                    out.write_all(b": still here\n\n")?;
                    true
                }
                Received::Closed => return Ok(()),
            };
            if sent {
                out.flush()?;
                silent_until = Instant::now() + SILENCE;
            }
            // At the end there is nothing to wait for, but perhaps something to send.
            let _ = self.subscriber.pause(PACE);
        }
    }
}

/// Sends the events that are kept, and ends.
fn write_kept(
    out: &mut BodyWriter<'_>,
    wanted: &Wanted,
    permissions: &Permissions,
    mut subscriber: Subscriber,
) -> io::Result<()> {
    let mut count = 0;
    while count < KEPT {
        match subscriber.receive(BATCH, Duration::ZERO) {
            Received::Events(events) => {
                count += events.len();
                let has = |resource| wanted.has(resource) && permissions.sees(resource);
                let mut wanted = events.iter().filter(|event| has(&event.resource));
                wanted.try_for_each(|event| {
                    write_event(out, event, permissions.shows_uids(&event.resource))
                })?;
            }
            Received::Missed { last, .. } => write_reset(out, last)?,
            Received::TimedOut | Received::Closed => break,
        }
    }
    Ok(())
}

fn write_reset(out: &mut impl Write, number: u64) -> io::Result<()> {
    write!(out, "id: {number}\nevent: reset\ndata: {{}}\n\n")
}

fn write_event(out: &mut impl Write, event: &Event, shows_uid: bool) -> io::Result<()> {
    write!(out, "id: {}\nevent: {}\ndata: ", event.number, event.details.kind.name())?;
    serde_json::to_writer(&mut *out, &Data::of(event, shows_uid))?;
    out.write_all(b"\n\n")
}

/// Writes an event as a line of JSON.
pub(super) fn write_line(out: &mut impl Write, event: &Event, shows_uid: bool) -> io::Result<()> {
    let kind = event.details.kind.name();
    serde_json::to_writer(
        &mut *out,
        &Line { id: Some(event.number), event: kind, data: Data::of(event, shows_uid) },
    )?;
    out.write_all(b"\n")
}

/// Writes a lock that is held, as a line of JSON.
pub(super) fn write_grant(
    out: &mut impl Write,
    resource: &ResourceName,
    grant: &Grant,
) -> io::Result<()> {
    let Grant { id, terms, since, fencing_token, .. } = grant;
    let data = Data {
        time: *since,
        resource: resource.as_str(),
        uid: Some(*id),
        title: &terms.title,
        client: ClientView::of(terms),
        terms: TermsView::of(terms),
        converting_to: None,
        fencing_token: Some(*fencing_token),
        active_since: Some(*since),
        waited: None,
        held: None,
        by: None,
        reason: None,
    };
    Ok(serde_json::to_writer(&mut *out, &Line { id: None, event: "held", data })?)
}

/// Writes a line that says that some events are missing.
#[expect(clippy::disallowed_methods, reason = "it is shown")]
pub(super) fn write_gap(out: &mut impl Write) -> io::Result<()> {
    let time = format_rfc3339_micros(SystemTime::now());
    writeln!(out, "{{\"event\":\"reset\",\"time\":\"{time}\"}}")
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    event: &'static str,
    #[serde(flatten)]
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(serialize_with = "timestamp")]
    time: SystemTime,
    resource: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "display_some")]
    uid: Option<LockId>,
    title: &'a str,
    #[serde(flatten)]
    client: ClientView<'a>,
    #[serde(flatten)]
    terms: TermsView,
    #[serde(skip_serializing_if = "Option::is_none")]
    converting_to: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fencing_token: Option<u64>,
    /// Of a lock that was held before.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "timestamp_some")]
    active_since: Option<SystemTime>,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<ActorView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> Data<'a> {
    fn of(event: &'a Event, shows_uid: bool) -> Self {
        let details = &event.details;
        // With milliseconds.
        let lasted = (event.lasted().as_secs_f64() * 1000.0).round() / 1000.0;
        let (was_held, has_waited) = match details.kind {
            Kind::Waiting => (false, false),
            Kind::Granted | Kind::Deleted | Kind::TimedOut | Kind::Withdrawn => (false, true),
            Kind::Ended(_) | Kind::Converted | Kind::Converting(_) | Kind::Unconverted => {
                (true, false)
            }
        };
        let converting_to = match details.kind {
            Kind::Converting(mode) => Some(mode.name()),
            _ => None,
        };
        Self {
            time: event.time,
            resource: event.resource.as_str(),
            uid: shows_uid.then_some(details.id),
            title: &details.terms.title,
            client: ClientView::of(&details.terms),
            terms: TermsView::of(&details.terms),
            converting_to,
            fencing_token: details.fencing_token,
            active_since: was_held.then_some(details.since),
            waited: has_waited.then_some(lasted),
            held: was_held.then_some(lasted),
            by: details.by.as_deref().map(ActorView::of),
            reason: details.by.as_ref().and_then(|by| by.reason.as_deref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(query: &str) -> Result<Wanted, Problem> {
        Wanted::parse(&Query::new(query))
    }

    #[test]
    fn what_is_wanted_is_in_the_query() {
        let has =
            |query: &str, resource: &str| wanted(query).unwrap().has(&resource.parse().unwrap());
        assert!(has("", "a"));
        assert!(has("resource=a", "a") && !has("resource=a", "ab"));
        assert!(has("prefix=a%3A", "a:b") && !has("prefix=a%3A", "ab"));
        assert!(!has("prefix=a&resource=b", "b"));
        let long = |len| format!("prefix={}", "a".repeat(len));
        assert!(wanted(&long(255)).is_ok());
        for query in ["resource=", "resource=a/", "latest=4097", "latest=-1", "prefix=%ff"] {
            assert!(wanted(query).is_err(), "{query}");
        }
        assert!(wanted(&long(256)).is_err());
    }
}
