//! `rdlm events`: what happens to locks, a line each.

use std::time::Duration;

use crossbeam_channel::{Sender, after};
use serde_json::Value;

use super::table::{printable, requester, short};
use super::{Ending, Error, print, say};
use crate::client::Client;
use crate::client::raw::{Event, Failure};

/// How many that have happened already are shown first.
const LATEST: usize = 20;

/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints what has happened of late and what happens, until a signal ends it.
pub(super) fn events(client: &Client, resource: Option<&str>, json: bool) -> Result<Ending, Error> {
    let mut last = None;
    loop {
        let failure = match client.follow(resource, LATEST, last.as_deref()) {
            Ok(following) => {
                for event in following {
                    print(&if json { json_line(&event) } else { line(&event) })?;
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
    let (time, name) = (text("time"), printable(&event.name));
    // Without the fraction of a second.
    let time: String = time.chars().take(19).collect();
    let lasted = |what: &str| {
        let seconds = event.data[what].as_f64()?;
        let span = Duration::try_from_secs_f64(seconds).ok()?;
        Some(format!(", {what} for {}", short(span)))
    };
    let lasted = lasted("held").or_else(|| lasted("waited")).unwrap_or_default();
    let (resource, title, client) = (text("resource"), text("title"), requester(&event.data));
    format!("{time}Z  {name:<11}  {resource}  {title} ({client}){lasted}\n")
}
