//! The log's lines about locks that have ended.

use std::time::Duration;

use log::{Level, info, log_enabled};

use crate::events::Event;
use crate::{End, EventDetails, Kind, Terms};

/// Logs the end of a lock, and who is `next`.
pub(super) fn log_end<'a>(event: &Event, end: End, next: impl FnOnce() -> &'a str) {
    if end == End::Renewed || !log_enabled!(Level::Info) {
        return;
    }
    let (resource, held) = (&event.resource, seconds(event.lasted()));
    let EventDetails { kind, id, terms: Terms { title, client, .. }, by, .. } = &event.details;
    let by = by.as_ref().filter(|by| end == End::Deleted || by.reason.is_some());
    let by = by.map_or_else(String::new, |by| format!(", by {by}"));
    let how = kind.name();
    info!("{how}: {resource}/{id} {title:?} of {client}, held for {held} s{by}{}", next());
}

/// Who was granted the lock, if anybody was: the same for all locks that ended with one change.
pub(super) fn next(events: &[Event]) -> String {
    let mut granted = events.iter().filter(|event| event.details.kind == Kind::Granted);
    let Some(event) = granted.next() else { return String::new() };
    let Terms { title, client, .. } = &event.details.terms;
    let more = match granted.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("; next: {title:?} of {client}, after {} s{more}", seconds(event.lasted()))
}

/// With milliseconds.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
