//! Events of locks, as server-sent events.

use std::io::{BufRead, BufReader, Read};

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
}

impl Following {
    pub(super) fn new(stream: impl Read + Send + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (&mut self.stream).take(MAX_LINE).read_line(&mut line).ok()?;
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
