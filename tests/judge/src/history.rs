//! What tests/torture writes, as far as it matters here.

use std::time::Duration;

use serde::Deserialize;

/// Of one server or more, and of many locks. Times are nanoseconds of one monotonic clock.
#[derive(Debug, Clone, Deserialize)]
pub struct History {
    pub calls: Vec<Call>,
    pub faults: Vec<Fault>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    pub client: u32,
    pub resource: String,
    pub action: Action,
    pub sent: u64,
    pub returned: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Deserialize)]
pub enum Action {
    Acquire(Wish),
    Get { uid: String },
    Release { uid: String },
    List,
}

/// All requests have titles of their own and do not wait.
#[derive(Debug, Clone, Deserialize)]
pub struct Wish {
    pub title: String,
    pub lifetime: Duration,
}

#[derive(Debug, Clone, Deserialize)]
pub enum Outcome {
    Granted { uid: String, token: u64 },
    Shown(Vec<Seen>),
    Done,
    Refused(u16),
    Unknown,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Seen {
    pub uid: String,
    pub title: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Fault {
    pub span: Span,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Span {
    pub from: u64,
    pub to: u64,
}
