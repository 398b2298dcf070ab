//! Events of locks, as server-sent events.

use std::io::{BufRead, BufReader, Read};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

/// The longest line of an event, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// An event of a lock.
#[derive(Debug, Default)]
pub struct Event {
    /// Following resumes after it when given this.
    pub id: String,
    /// What happened, such as `granted`.
    pub name: String,
    /// The lock, the time and so on.
    pub data: Value,
}

/// A stream of events.
pub struct Following {
    stream: BufReader<Box<dyn Read + Send>>,
    known_since: Option<String>,
    is_whole: bool,
}

/// A span of time, in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What was held then is the beginning.
    pub since: String,
    /// The end; `None`: now.
    pub until: Option<String>,
    /// How many events at most.
    pub limit: Option<usize>,
    /// Whether to go on with new events.
    pub follow: bool,
}

impl Span {
    /// Its part of a query.
    pub(super) fn query(&self) -> String {
        let Self { since, until, limit, follow } = self;
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut query = format!("since={}", encoded(since));
        if let Some(until) = until {
            query += &format!("&until={}", encoded(until));
        }
        if let Some(limit) = limit {
            query += &format!("&limit={limit}");
        }
        query + if *follow { "" } else { "&follow=no" }
    }
}

impl Following {
    pub(super) fn new(stream: impl Read + Send + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)), known_since: None, is_whole: false }
    }

    pub(super) fn known_since(self, known_since: Option<String>) -> Self {
        Self { known_since, ..self }
    }

    /// Since when the server knows everything, if it was asked for the past.
    pub fn knows_since(&self) -> Option<&str> {
        self.known_since.as_deref()
    }

    /// Whether the server has sent all, now that there is no more.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let len = (&mut self.stream).take(MAX_LINE).read_line(&mut line).ok()?;
        self.is_whole = len == 0;
        line.strip_suffix('\n').map(String::from)
    }
}

/// Waits for each event, until the stream ends.
impl Iterator for Following {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let mut event = Event::default();
        loop {
            let line = self.line()?;
            match line.split_once(": ").unwrap_or((&line, "")) {
                ("id", id) => event.id = id.into(),
                ("event", name) => event.name = name.into(),
                ("data", data) => event.data = serde_json::from_str(data).ok()?,
                ("", "") if !event.name.is_empty() => return Some(event),
                // Comments, and fields of later servers.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_from_comments_and_from_an_end() {
        let stream: &[u8] =
            b": events\n\nid: 1\nevent: granted\ndata: {\"a\":1}\n\n: still here\n\n\
            id: 2\nevent: reset\ndata: {}\n\nid: 3\nevent: gran";
        let mut following = Following::new(stream);
        let event = following.next().unwrap();
        assert_eq!((event.id.as_str(), event.name.as_str()), ("1", "granted"));
        assert_eq!(event.data["a"], 1);
        assert_eq!(following.next().unwrap().name, "reset");
        assert!(following.next().is_none());
    }
}
