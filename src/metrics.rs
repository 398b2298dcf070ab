//! What is counted for operators, in the OpenMetrics text format.
//!
//! No label has the name of a resource: there may be any number of them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::lock::{End, Observer, Totals};

/// The media type of [`Metrics::to_text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counts, since the start of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    acquisitions: Family<Outcome, Counter>,
    renewals: Counter,
    releases: Counter,
    expiries: Counter,
    admin_deletions: Counter,
    abandoned: Counter,
    wait: Histogram,
    hold: Histogram,
    requests: Family<Kind, Histogram, fn() -> Histogram>,
    active: Gauge,
    waiting: Gauge,
    resources: Gauge,
    connections: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// Seconds that waiting for a lock and holding it take: from milliseconds to a day.
const LONG: [f64; 12] =
    [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

/// Seconds that a request takes, from its last byte in to its answer.
const SHORT: [f64; 10] = [0.0001, 0.000_25, 0.0005, 0.001, 0.005, 0.025, 0.1, 1.0, 10.0, 60.0];

impl Metrics {
    /// Everything is zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let locks = Family::<State, Gauge>::default();
        let [active, waiting] =
            ["active", "waiting"].map(|state| locks.get_or_create_owned(&State { state }));
        let metrics = Self {
            acquisitions: Family::default(),
            renewals: Counter::default(),
            releases: Counter::default(),
            expiries: Counter::default(),
            admin_deletions: Counter::default(),
            abandoned: Counter::default(),
            wait: Histogram::new(LONG),
            hold: Histogram::new(LONG),
            requests: Family::new_with_constructor(|| Histogram::new(SHORT)),
            active,
            waiting,
            resources: Gauge::default(),
            connections: Gauge::default(),
            registry: Registry::default(),
        };
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("rdlm_build", "The running server", version);
        registry.register("rdlm_locks", "Locks that are held, and requests that wait", locks);
        registry.register(
            "rdlm_resources",
            "Resources that have a lock or a waiting request",
            metrics.resources.clone(),
        );
        registry.register("rdlm_connections", "Open connections", metrics.connections.clone());
        metrics.register_counters(&mut registry);
        metrics.register_times(&mut registry);
        Self { registry, ..metrics }
    }

    fn register_counters(&self, registry: &mut Registry) {
        let help = "Requests for locks, by what became of them";
        registry.register("rdlm_acquisitions", help, self.acquisitions.clone());
        for (name, help, counter) in [
            ("rdlm_renewals", "Locks that were renewed", &self.renewals),
            ("rdlm_releases", "Locks that were released by their URL", &self.releases),
            ("rdlm_expiries", "Locks that nobody released in their lifetime", &self.expiries),
            ("rdlm_admin_deletions", "Locks that an administrator deleted", &self.admin_deletions),
            (
                "rdlm_abandoned_grants",
                "Locks that were given up because their client was gone before it heard of them",
                &self.abandoned,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn register_times(&self, registry: &mut Registry) {
        let seconds = || Unit::Seconds;
        let help = "How long granted requests had waited";
        registry.register_with_unit("rdlm_wait", help, seconds(), self.wait.clone());
        let help = "How long locks had been held when they ended";
        registry.register_with_unit("rdlm_hold", help, seconds(), self.hold.clone());
        let help = "How long requests took; those for a lock with their waiting";
        registry.register_with_unit("rdlm_request", help, seconds(), self.requests.clone());
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = ConstGauge::new(start.as_secs_f64());
        let help = "Start of the process since the epoch";
        registry.register_with_unit("process_start_time", help, seconds(), start);
    }

    /// A request for a lock has ended like this, after so long.
    pub fn acquisition(&self, outcome: &'static str, waited: Option<Duration>) {
        self.acquisitions.get_or_create(&Outcome { outcome }).inc();
        if let Some(waited) = waited {
            self.wait.observe(waited.as_secs_f64());
        }
    }

    /// A request was answered.
    pub fn request(&self, kind: &'static str, took: Duration) {
        self.requests.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    /// One more connection is open.
    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    /// One less is.
    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// All counts as text.
    ///
    /// # Errors
    /// None that is known: it is written into memory.
    pub fn to_text(&self, totals: Totals) -> Result<String, fmt::Error> {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.active.set(number(totals.active));
        self.waiting.set(number(totals.waiting));
        self.resources.set(number(totals.resources));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn ended(&self, end: End, held: Duration) {
        match end {
            End::Released => self.releases.inc(),
            End::Expired => self.expiries.inc(),
            End::Deleted => self.admin_deletions.inc(),
            End::Abandoned => self.abandoned.inc(),
            End::Renewed => {
                self.renewals.inc();
                return;
            }
        };
        self.hold.observe(held.as_secs_f64());
    }
}
