//! `rdlm events`: what happens to locks, a line each.

use std::time::Duration;

use crossbeam_channel::{Sender, after};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::table::{printable, requester, short};
use super::{Ending, Error, print, say};
use crate::client::Client;
use crate::client::raw::{Event, Failure, Span};

/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_secs(1);

/// Which events are printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// So many that have happened already, then new ones.
    Latest(usize),
    /// What was held at a time, and what happened then.
    Of(Span),
}

/// Prints what has happened and what happens, until a signal ends it.
pub(super) fn events(
    client: &Client,
    resource: Option<&str>,
    json: bool,
    which: Which,
) -> Result<Ending, Error> {
    let print = |event: &Event| print(&if json { json_line(event) } else { line(event) });
    let (mut last, latest) = match which {
        Which::Latest(latest) => (None, latest),
        Which::Of(span) => {
            let last = past(client, resource, &span, print)?;
            if !span.follow {
                return Ok(Ending::Done);
            }
            (last, 0)
        }
    };
    loop {
        let failure = match client.follow(resource, latest, last.as_deref()) {
            Ok(following) => {
                for event in following {
                    print(&event)?;
                    last = Some(event.id);
                }
                Error::from(Failure::Dropped("the server has ended the connection".into()))
            }
            Err(failure) if last.is_none() || !failure.is_passing() => return Err(failure.into()),
            Err(failure) => failure.into(),
        };
        say(&format!("{failure}; trying again"));
        let _ = after(PAUSE).recv();
    }
}

/// Prints what was held and what happened; returns the id of the last event.
fn past(
    client: &Client,
    resource: Option<&str>,
    span: &Span,
    print: impl Fn(&Event) -> Result<(), Error>,
) -> Result<Option<String>, Error> {
    let mut answer = client.past(resource, span)?;
    if let Some(known) = answer.knows_since().filter(|known| is_later(known, &span.since)) {
        say(&format!("the server knows everything only since {}", local(known)));
    }
    let (mut last, mut is_empty) = (None, true);
    for event in &mut answer {
        print(&event)?;
        is_empty = false;
        last = Some(event.id).filter(|id| !id.is_empty()).or(last);
    }
    if !span.follow && !answer.is_whole() {
        return Err(Failure::Dropped("the answer was cut off".into()).into());
    }
    if !span.follow && is_empty {
        say("nothing was held then, and nothing has happened");
    }
    Ok(last)
}

/// Whether one time is after another, both in RFC 3339.
fn is_later(time: &str, other: &str) -> bool {
    let times = time.parse::<Timestamp>().ok().zip(other.parse::<Timestamp>().ok());
    times.is_some_and(|(time, other)| time > other)
}

/// A time in RFC 3339 in the time zone of this host, without the fraction of a second.
fn local(time: &str) -> String {
    let Ok(timestamp) = time.parse::<Timestamp>() else { return printable(time) };
    let local = timestamp.to_zoned_datetime(TimeZone::system());
    let offset = if local.offset().is_zero() { "Z" } else { "%:z" };
    local.strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string()
}

/// Sends a message for each event, and whenever some may have been missed.
pub(super) fn tell_of_changes(client: &Client, resource: Option<&str>, changed: &Sender<bool>) {
    let mut last = None;
    loop {
        let following = client.follow(resource, 0, last.as_deref());
        // If the channel is full, the message in it does as well.
        let tell = |live| {
            let _ = changed.try_send(live);
        };
        tell(following.is_ok());
        if let Ok(following) = following {
            for event in following {
                last = Some(event.id);
                tell(true);
            }
            tell(false);
        }
        let _ = after(PAUSE).recv();
    }
}

fn json_line(event: &Event) -> String {
    let mut line = serde_json::Map::new();
    line.insert("id".into(), event.id.parse::<u64>().map_or(Value::Null, Value::from));
    line.insert("event".into(), event.name.clone().into());
    line.extend(event.data.as_object().cloned().into_iter().flatten());
    format!("{}\n", Value::Object(line))
}

fn line(event: &Event) -> String {
    if event.name == "reset" {
        return "(some events are missing here)\n".into();
    }
    let text = |name: &str| printable(event.data[name].as_str().unwrap_or("-"));
    if event.name == "truncated" {
        return "(there is more: name a resource, a shorter time, or -n)\n".into();
    }
    let (time, name) = (local(&text("time")), printable(&event.name));
    let lasted = |what: &str| {
        let seconds = event.data[what].as_f64()?;
        let span = Duration::try_from_secs_f64(seconds).ok()?;
        Some(format!(", {what} for {}", short(span)))
    };
    let since = || event.data["active_since"].as_str().map(|it| format!(", since {}", local(it)));
    let lasted = lasted("held").or_else(|| lasted("waited")).or_else(since).unwrap_or_default();
    let (resource, title, client) = (text("resource"), text("title"), requester(&event.data));
    let by = Some(&event.data["by"]).filter(|by| by.is_object() && event.name == "deleted");
    let by = by.map(|by| format!(", by {}", requester(by))).unwrap_or_default();
    let reason = event.data["reason"].as_str().map(|why| format!(": {}", printable(why)));
    let why = reason.unwrap_or_default();
    format!("{time}  {name:<11}  {resource}  {title} ({client}){lasted}{by}{why}\n")
}
