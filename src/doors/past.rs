//! `GET /events?since=…`: who held what at a time, and what happened then.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_micros;
use serde_json::{Map, Value};

use super::events::{Wanted, write_gap, write_grant, write_line};
use super::identity::Permissions;
use crate::current_locks::CurrentLocks;
use crate::history::{Line, read, without_times};
use crate::http::Problem;
use crate::http::query::Query;
use crate::lock::{Lock, Received, ResourceName};

/// The most events of one answer, and how many there are if the client does not say.
pub(super) const MAX_EVENTS: usize = 10_000;

/// How many events of memory, resources and locks are taken at a time.
const BATCH: usize = 128;

/// What the server knows of the past.
#[derive(Debug, Clone)]
pub struct Past {
    /// The directory of the history.
    pub history: Option<PathBuf>,
    /// Since when the process has been running.
    pub started: SystemTime,
    /// Whether other servers may have the locks in between.
    pub is_shared: bool,
}

/// A span of time that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// RFC 3339 in UTC with microseconds, so texts compare as times do.
    since: String,
    until: Option<String>,
    /// How many events at most.
    limit: usize,
}

impl Span {
    pub(super) fn parse(query: &Query<'_>) -> Result<Option<Self>, Problem> {
        let since = query.parsed("since", time)?;
        let until = query.parsed("until", time)?;
        let limit = query.parsed("limit", |text| {
            let limit = text.parse().ok().filter(|limit| (1..=MAX_EVENTS).contains(limit));
            limit.ok_or_else(|| format!("a whole number from 1 to {MAX_EVENTS}"))
        })?;
        let Some(since) = since else {
            let alone = until.map(|_| "until").or(limit.map(|_| "limit"));
            let why = |name| Problem::bad_request(format!("{name} goes with since"));
            return alone.map_or(Ok(None), |name| Err(why(name)));
        };
        if until.as_ref().is_some_and(|until| *until < since) {
            return Err(Problem::bad_request("until is before since"));
        }
        Ok(Some(Self { since, until, limit: limit.unwrap_or(MAX_EVENTS) }))
    }

    /// Whether the answer has an end.
    pub(super) fn has_end(&self) -> bool {
        self.until.is_some()
    }

    fn has(&self, time: &str) -> bool {
        time >= &*self.since && self.until.as_deref().is_none_or(|until| time <= until)
    }
}

fn time(text: &str) -> Result<String, String> {
    let time = text.parse::<jiff::Timestamp>().ok();
    // humantime goes up to the year 9999.
    let shown = time.filter(|time| (0..253_402_300_000).contains(&time.as_second()));
    let since_epoch = shown.and_then(|time| Duration::try_from(time.as_duration()).ok());
    let shown =
        since_epoch.map(|it| format_rfc3339_micros(SystemTime::UNIX_EPOCH + it).to_string());
    shown.ok_or_else(|| "a time such as 2026-11-25T02:55:00Z".into())
}

/// An answer to such a question.
pub(super) struct Answer {
    span: Span,
    wanted: Wanted,
    permissions: Permissions,
    locks: Arc<dyn CurrentLocks>,
    past: Past,
    /// `since`, or the first time that is known if that is later.
    begin: String,
    held: Held,
    /// Since when the server knows everything.
    pub(super) known_since: String,
}

/// The locks that were held at the beginning.
#[derive(Default)]
struct Held {
    uids: HashSet<String>,
    data: Vec<Map<String, Value>>,
}

impl Answer {
    /// Finds what was held at the beginning. What is held now since before is in the table, and what
    /// has ended since has an event; the table first, or a lock that ends meanwhile would be in neither.
    pub(super) fn prepare(
        span: Span,
        wanted: Wanted,
        permissions: Permissions,
        locks: Arc<dyn CurrentLocks>,
        past: Past,
    ) -> io::Result<Self> {
        let (held, known_since) =
            (Held::default(), format_rfc3339_micros(past.started).to_string());
        let begin = span.since.clone();
        let mut answer = Self { span, wanted, permissions, locks, past, begin, held, known_since };
        if let Some(first) = answer.first_time().filter(|first| *first > answer.begin)
            && answer.is_cut()
        {
            answer.begin = first;
        }
        let mut held = Held::default();
        answer.look_at_table(&mut held)?;
        let mut gap = None;
        answer.each(|line| {
            if line.event == "reset" || gap.is_none() {
                gap = Some(line.time.to_string());
            }
            let began = line.held_since().is_some_and(|since| since < &*answer.begin);
            if began && *line.time >= *answer.begin && answer.resource(line).is_some() {
                answer.add(&mut held, line);
            }
            Ok(())
        })?;
        answer.known_since = gap.filter(|_| answer.is_cut()).unwrap_or(answer.known_since);
        answer.held = held;
        Ok(answer)
    }

    /// Writes what was held and what happened then; returns the number of the last event.
    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<Option<u64>> {
        for data in &self.held.data {
            write!(out, "event: held\ndata: {}\n\n", Value::Object(data.clone()))?;
        }
        let mut left = self.span.limit - self.held.data.len();
        let mut is_cut = self.held.uids.len() > self.held.data.len();
        let last = self.each(|line| {
            let is_gap = line.event == "reset";
            let resource = self.resource(line);
            // A lock that was granted in the moment of `since` is held already.
            let is_told = line.event == "granted"
                && line.uid.as_ref().is_some_and(|uid| self.held.uids.contains(&**uid));
            if !self.span.has(&line.time) || is_told || !is_gap && resource.is_none() {
                return Ok(());
            }
            if left == 0 {
                is_cut = true;
                return Ok(());
            }
            left -= 1;
            let mut data = line.data();
            if resource.is_none_or(|resource| !self.permissions.shows_uids(&resource)) {
                data.remove("uid");
            }
            if let Some(id) = line.id {
                writeln!(out, "id: {id}")?;
            }
            write!(out, "event: {}\ndata: {}\n\n", line.event, Value::Object(data))
        })?;
        if is_cut {
            out.write_all(b"event: truncated\ndata: {}\n\n")?;
        }
        Ok(last)
    }

    /// The resource of a line, if it is asked for and may be seen.
    fn resource(&self, line: &Line<'_>) -> Option<ResourceName> {
        let resource = line.resource.as_deref()?.parse().ok()?;
        (self.wanted.has(&resource) && self.permissions.sees(&resource)).then_some(resource)
    }

    fn look_at_table(&self, held: &mut Held) -> io::Result<()> {
        let table = self.locks.current().map_err(io::Error::other)?;
        let mut after = None;
        loop {
            let names = match &self.wanted.resource {
                Some(one) => vec![one.clone()],
                None => table.resources(after.as_ref(), BATCH),
            };
            let seen = names.iter().filter(|it| self.wanted.has(it) && self.permissions.sees(it));
            for resource in seen {
                let mut cursor = None;
                loop {
                    let page = table.locks(resource, cursor, BATCH);
                    for lock in &page.locks {
                        let Lock::Held(grant) = lock else { continue };
                        let mut text = Vec::new();
                        write_grant(&mut text, resource, grant)?;
                        let line = str::from_utf8(&text).ok().and_then(Line::parse);
                        let line = line.filter(|line| {
                            line.active_since.as_deref().is_some_and(|at| at < &*self.begin)
                        });
                        line.iter().for_each(|line| self.add(held, line));
                    }
                    cursor = page.next;
                    if cursor.is_none() {
                        break;
                    }
                }
            }
            match names.last() {
                Some(last) if self.wanted.resource.is_none() => after = Some(last.clone()),
                _ => return Ok(()),
            }
        }
    }

    fn add(&self, held: &mut Held, line: &Line<'_>) {
        let Some(uid) = &line.uid else { return };
        // One more than are shown, so that it is known that there are more.
        if held.uids.len() > self.span.limit || !held.uids.insert(uid.to_string()) {
            return;
        }
        if held.data.len() == self.span.limit {
            return;
        }
        let mut data = without_times(line.data());
        // It had another mode then.
        if line.event == "converted" {
            data.remove("mode");
        }
        let shows_uid = self.resource(line).is_some_and(|it| self.permissions.shows_uids(&it));
        if !shows_uid {
            data.remove("uid");
        }
        data.insert("time".into(), self.begin.as_str().into());
        held.data.push(data);
    }

    /// The time of the first line that is known.
    fn first_time(&self) -> Option<String> {
        let mut first = None;
        // Ends with the first line.
        let _ = self.each(|line| {
            first = Some(line.time.to_string());
            Err(io::ErrorKind::Interrupted.into())
        });
        first
    }

    /// Whether the first line is not the first event of all.
    fn is_cut(&self) -> bool {
        self.past.history.is_some() || self.past.is_shared || self.locks.events().is_full()
    }

    /// Calls `each` for each line that is known, and returns the number of the last one.
    fn each(&self, mut each: impl FnMut(&Line<'_>) -> io::Result<()>) -> io::Result<Option<u64>> {
        let history = self.past.history.as_ref();
        let mut last = history.map(|dir| read(dir, &mut each)).transpose()?.and_then(|it| it.last);
        let events = self.locks.events();
        let oldest = events.before_latest(crate::lock::KEPT, |_| true);
        let mut subscriber = events.subscribe(Some(last.map_or(oldest, |last| last.max(oldest))));
        let mut text = Vec::new();
        // What was written last is not in memory any more, and more has happened in between.
        if last.is_some_and(|last| last < oldest) && events.is_full() {
            write_gap(&mut text)?;
        }
        loop {
            match subscriber.receive(BATCH, Duration::ZERO) {
                Received::Events(happened) => {
                    happened.iter().try_for_each(|event| write_line(&mut text, event, true))?;
                    last = happened.last().map(|event| event.number).or(last);
                }
                Received::Missed { .. } => write_gap(&mut text)?,
                Received::TimedOut | Received::Closed => return Ok(last),
            }
            let lines = text.split(|byte| *byte == b'\n').filter_map(|it| str::from_utf8(it).ok());
            lines.filter_map(Line::parse).try_for_each(|line| each(&line))?;
            text.clear();
        }
    }
}
