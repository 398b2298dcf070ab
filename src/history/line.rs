//! A line of the history.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The events of locks that had been held before: they tell since when.
pub const HOLDS: [&str; 9] = [
    "released",
    "expired",
    "deleted",
    "abandoned",
    "forgotten",
    "renewed",
    "converting",
    "unconverted",
    "converted",
];

/// What a reader needs of a line; the rest is for those who are shown it.
#[derive(Debug, Deserialize)]
pub struct Line<'a> {
    /// The number of the event.
    pub id: Option<u64>,
    /// Its name.
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    /// RFC 3339 in UTC with microseconds, so texts compare as times do.
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    /// On which resource.
    pub resource: Option<Cow<'a, str>>,
    /// Of the lock or request.
    pub uid: Option<Cow<'a, str>>,
    /// Since when the lock was held, in the form of `time`.
    pub active_since: Option<Cow<'a, str>>,
    /// The whole line.
    #[serde(skip)]
    pub text: &'a str,
}

impl<'a> Line<'a> {
    /// `None` if it is damaged.
    pub fn parse(text: &'a str) -> Option<Self> {
        let line: Line<'_> = serde_json::from_str(text).ok()?;
        Some(Self { text, ..line })
    }

    /// Whether the lock was held before this event, and since when.
    pub fn held_since(&self) -> Option<&str> {
        self.active_since.as_deref().filter(|_| HOLDS.contains(&&*self.event))
    }

    /// Whether the lock is not held any more after this event.
    pub fn ends_lock(&self) -> bool {
        HOLDS[..5].contains(&&*self.event) && self.active_since.is_some()
    }

    /// Whether the lock is held after this event.
    pub fn begins_or_goes_on(&self) -> bool {
        self.event == "granted" || HOLDS[5..].contains(&&*self.event)
    }

    /// The data of the event, as subscribers see it.
    pub fn data(&self) -> Map<String, Value> {
        let mut data: Map<_, _> = serde_json::from_str(self.text).unwrap_or_default();
        data.remove("id");
        data.remove("event");
        data
    }
}

/// The data of a lock, without what an event adds.
pub fn without_times(mut data: Map<String, Value>) -> Map<String, Value> {
    for of_event in ["held", "waited", "converting_to", "by", "reason"] {
        data.remove(of_event);
    }
    data
}
