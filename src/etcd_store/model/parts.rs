//! What the model consists of: servers, their store, and the messages between them.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::cluster::term::Pace;
use crate::etcd_store::failover::{ClusterClock, Silence, SwapAnswer};
use crate::etcd_store::history::{History, Version};

#[derive(Debug, Clone)]
pub(super) struct Write {
    /// The `head` that it replaces.
    pub(super) expected: Option<Version>,
    pub(super) number: u64,
    pub(super) id: u64,
    /// The `--failover-after` of the term.
    pub(super) failover_after: Duration,
    /// The term.
    pub(super) by: u64,
    pub(super) clock: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Message {
    Read { server: usize, number: u64 },
    Shown { server: usize, number: u64, revision: i64, head: Option<Write> },
    Swap { server: usize, write: Write, sent: Duration },
    Answered { server: usize, id: u64, sent: Duration, answer: SwapAnswer },
}

impl Message {
    pub(super) fn server(&self) -> usize {
        match self {
            Self::Read { server, .. }
            | Self::Shown { server, .. }
            | Self::Swap { server, .. }
            | Self::Answered { server, .. } => *server,
        }
    }
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) write: Write,
    pub(super) first_sent: Duration,
    pub(super) latest_sent: Duration,
}

#[derive(Debug)]
pub(super) enum Doing {
    Standby {
        silence: Silence,
        /// The number of the read that is awaited, and when it was sent.
        awaited: Option<(u64, Duration)>,
        /// The revision at which it has read the rows.
        ahead: Option<i64>,
    },
    Active {
        by: u64,
        /// See above; `None`: it reads them when it has taken over.
        ahead: Option<i64>,
        /// The latest `head`.
        stored: Option<Version>,
        clock: ClusterClock,
        confirmed: Option<Duration>,
        in_flight: Option<InFlight>,
    },
}

impl Write {
    pub(super) fn version(&self, revision: i64) -> Version {
        Version { number: self.number, revision, id: self.id.to_string() }
    }

    pub(super) fn after(
        expected: Option<Version>,
        id: u64,
        by: u64,
        pace: Pace,
        clock: Duration,
    ) -> Self {
        let number = expected.as_ref().map_or(0, |expected| expected.number) + 1;
        Self { expected, number, id, failover_after: pace.failover_after, by, clock }
    }
}

#[derive(Debug)]
pub(super) struct Server {
    /// Of its clock, in thousandths of the real rate.
    pub(super) rate: u32,
    pub(super) pace: Pace,
    pub(super) doing: Doing,
    pub(super) history: History,
    /// What it has seen, which the real ones need not remember.
    pub(super) seen: BTreeSet<u64>,
}

impl Server {
    pub(super) fn standby(rate: u32, pace: Pace) -> Self {
        let doing = Doing::standby(pace);
        Self { rate, pace, doing, history: History::default(), seen: BTreeSet::new() }
    }

    pub(super) fn local(&self, real: Duration) -> Duration {
        real * self.rate / 1000
    }
}

impl Doing {
    pub(super) fn standby(pace: Pace) -> Self {
        Self::Standby { silence: Silence::new(pace), awaited: None, ahead: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct Store {
    /// The writes in order, each at a revision of its own.
    pub(super) history: Vec<Write>,
}

impl Store {
    pub(super) fn revision(&self) -> i64 {
        i64::try_from(self.history.len()).unwrap()
    }

    /// Replaces exactly the `head` that is expected.
    pub(super) fn swap(&mut self, write: Write) -> SwapAnswer {
        let current = self.history.last().map(|head| head.version(self.revision()));
        if current != write.expected {
            return SwapAnswer::Other(current);
        }
        self.history.push(write);
        SwapAnswer::Swapped(self.revision())
    }
}
