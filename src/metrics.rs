//! Metrics for operators, in the format of Prometheus.
//!
//! Resource names are never labels, as there may be any number of them.

mod cluster;
mod histogram;
mod text;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::current_locks::CurrentLocks;
use crate::lock::{End, Reason};
use crate::logging;
pub use cluster::{ClusterMetrics, ClusterState};
pub use histogram::Histogram;
pub use text::Format;

/// Counts, since the start of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    granted: Counter,
    refused: Refused,
    renewals: Counter,
    failed_renewals: Refused,
    converted: Counter,
    unconverted: Refused,
    releases: Counter,
    expiries: Counter,
    admin_deletions: Counter,
    abandoned: Counter,
    wait: Histogram,
    hold: Histogram,
    requests: Requests,
    active: Gauge,
    waiting: Gauge,
    resources: Gauge,
    longest_wait: Seconds,
    longest_hold: Seconds,
    writable: Gauge,
    connections: Gauge,
    max_connections: Gauge,
    idle_connections: Gauge,
    count_idle: CountIdle,
    log_lines_lost: Counter,
    event_log_lost: Counter,
    history: HistoryCounters,
    cluster: Option<Arc<ClusterMetrics>>,
}

/// What is wrong with the history.
#[derive(Debug, Clone)]
pub struct HistoryCounters {
    /// Events that could not be written.
    pub lost: Counter,
    /// Lines that could not be read.
    pub damaged: Counter,
}

/// Counters of the refusals of one operation, one per [`Reason`].
#[derive(Debug)]
struct Refused([Counter; Reason::ALL.len()]);

impl Refused {
    /// `series` makes the counter of a reason from its name.
    fn new(series: impl Fn(&'static str) -> Counter) -> Self {
        Self(Reason::ALL.map(|reason| series(reason.name())))
    }

    fn count(&self, reason: Reason) {
        self.0[reason as usize].inc();
    }
}

/// Counts the idle connections, once the server has set how.
#[derive(Default)]
struct CountIdle(OnceLock<Box<dyn Fn() -> usize + Send + Sync>>);

impl fmt::Debug for CountIdle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CountIdle")
    }
}

type Seconds = Gauge<f64, AtomicU64>;

type Requests = Family<KindLabel, Histogram, fn() -> Histogram>;

/// How long requests take, by kind. Avoids the lock that a look-up in the family takes.
pub struct RequestTimes(Box<[(&'static str, Histogram)]>);

impl RequestTimes {
    /// The histogram of one kind.
    pub fn of(&self, kind: &'static str) -> Histogram {
        let histogram = self.0.iter().find(|(known, _)| *known == kind);
        histogram.map_or_else(|| Histogram::new(&SHORT), |(_, histogram)| histogram.clone())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Buckets, in seconds, for waiting for a lock and holding it: from a millisecond to a day.
const LONG: [f64; 12] =
    [0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

/// Buckets, in seconds, for a request, from its last byte to its response.
const SHORT: [f64; 10] = [0.0001, 0.000_25, 0.0005, 0.001, 0.005, 0.025, 0.1, 1.0, 10.0, 60.0];

impl Metrics {
    /// Everything is zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let builds = Family::<VersionLabel, Gauge>::default();
        builds.get_or_create_owned(&VersionLabel { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("rdlm_build_info", "The running server", builds);
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = ConstGauge::new(start.as_secs_f64());
        let help = "Start of the process since the epoch";
        registry.register_with_unit("process_start_time", help, Unit::Seconds, start);

        let locks = Family::<StateLabel, Gauge>::default();
        let [active, waiting] =
            ["active", "waiting"].map(|state| locks.get_or_create_owned(&StateLabel { state }));
        registry.register("rdlm_locks", "Locks that are held, and requests that wait", locks);
        let acquisitions = Family::<OutcomeLabel, Counter>::default();
        let outcome = |outcome| acquisitions.get_or_create_owned(&OutcomeLabel { outcome });
        let (granted, refused) = (outcome("granted"), Refused::new(outcome));
        let help = "Requests for locks, by what became of them";
        registry.register("rdlm_acquisitions", help, acquisitions);
        let failures = Family::<ReasonLabel, Counter>::default();
        let reason = |reason| failures.get_or_create_owned(&ReasonLabel { reason });
        let failed_renewals = Refused::new(reason);
        let help = "Renewals that were refused, by the reason";
        registry.register("rdlm_failed_renewals", help, failures);
        let conversions = Family::<OutcomeLabel, Counter>::default();
        let outcome = |outcome| conversions.get_or_create_owned(&OutcomeLabel { outcome });
        let (converted, unconverted) = (outcome("converted"), Refused::new(outcome));
        let help = "Requests for another mode of a lock, by what became of them";
        registry.register("rdlm_conversions", help, conversions);
        let requests = Requests::new_with_constructor(|| Histogram::new(&SHORT));
        let help = "How long requests took; those for a lock with their waiting";
        registry.register_with_unit("rdlm_request", help, Unit::Seconds, requests.clone());

        let mut add = Adder(&mut registry);
        Self {
            active,
            waiting,
            granted,
            refused,
            failed_renewals,
            converted,
            unconverted,
            requests,
            resources: add
                .gauge("rdlm_resources", "Resources that have a lock or a waiting request"),
            longest_wait: add
                .seconds("rdlm_longest_wait", "How long the client waits that has waited longest"),
            longest_hold: add
                .seconds("rdlm_longest_hold", "How long the lock is held that is held longest"),
            writable: add.gauge(
                "rdlm_writable",
                "1: locks can be changed by requests to this server; 0: not",
            ),
            connections: add.gauge("rdlm_connections", "Open connections"),
            max_connections: add
                .gauge("rdlm_max_connections", "Connections that may be open at a time"),
            idle_connections: add.gauge(
                "rdlm_idle_connections",
                "Open connections that wait for the next request of their client",
            ),
            count_idle: CountIdle::default(),
            renewals: add.counter("rdlm_renewals", "Locks that were renewed"),
            releases: add.counter("rdlm_releases", "Locks that were released by their URL"),
            expiries: add.counter("rdlm_expiries", "Locks that nobody released in their lifetime"),
            admin_deletions: add
                .counter("rdlm_admin_deletions", "Locks that an administrator deleted"),
            abandoned: add.counter(
                "rdlm_abandoned_grants",
                "Locks that were given up because their client was gone before it heard of them",
            ),
            log_lines_lost: add.counter(
                "rdlm_log_lines_lost",
                "Lines of the log that standard error did not take in time",
            ),
            event_log_lost: add.counter(
                "rdlm_event_log_lost",
                "Events that are missing in the file of --event-log",
            ),
            history: HistoryCounters {
                lost: add.counter(
                    "rdlm_history_lost_events",
                    "Events that could not be written to the history",
                ),
                damaged: add.counter(
                    "rdlm_history_damaged_lines",
                    "Lines of the history that could not be read at the start",
                ),
            },
            wait: add.histogram("rdlm_wait", "How long granted requests had waited"),
            hold: add.histogram("rdlm_hold", "How long locks had been held when they ended"),
            cluster: None,
            registry,
        }
    }

    /// Adds the metrics of a cluster if this server belongs to one.
    pub fn with_cluster_if(several: bool) -> (Self, Option<Arc<ClusterMetrics>>) {
        let mut metrics = Self::new();
        if several {
            metrics.cluster = Some(Arc::new(ClusterMetrics::new(&mut metrics.registry)));
        }
        let cluster = metrics.cluster.clone();
        (metrics, cluster)
    }

    /// The counters of the history.
    pub fn history(&self) -> HistoryCounters {
        self.history.clone()
    }

    /// A request for a lock has ended. `waited` counts if it was granted.
    pub fn acquisition(&self, outcome: Result<(), Reason>, waited: Duration) {
        match outcome {
            Ok(()) => {
                self.granted.inc();
                self.wait.observe(waited);
            }
            Err(reason) => self.refused.count(reason),
        }
    }

    /// A renewal was refused.
    pub fn renewal_failed(&self, reason: Reason) {
        self.failed_renewals.count(reason);
    }

    /// A conversion has ended.
    pub fn conversion(&self, outcome: Result<(), Reason>) {
        match outcome {
            Ok(()) => {
                self.converted.inc();
            }
            Err(reason) => self.unconverted.count(reason),
        }
    }

    /// So many events are missing in their file.
    pub fn event_log_lost(&self, events: u64) {
        self.event_log_lost.inc_by(events);
    }

    /// A lock has ended, or was renewed, after it was `held` for this long.
    pub fn lock_ended(&self, end: End, held: Duration) {
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
        self.hold.observe(held);
    }

    /// The histograms of these kinds of request, which the output shows from now on.
    pub fn request_times(&self, kinds: &[&'static str]) -> RequestTimes {
        let histogram = |&kind| (kind, self.requests.get_or_create_owned(&KindLabel { kind }));
        RequestTimes(kinds.iter().map(histogram).collect())
    }

    /// Counts a connection as open until the result is dropped.
    #[must_use]
    pub fn connection_opened(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// How many connections may be open at a time.
    pub fn set_max_connections(&self, max: usize) {
        self.max_connections.set(number(max));
    }

    /// Sets how idle connections are counted.
    pub fn look_for_idle_connections(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        let first = self.count_idle.0.set(Box::new(count)).is_ok();
        debug_assert!(first);
    }

    /// All metrics as text; those about held locks are computed now.
    ///
    /// # Errors
    /// None in practice: it writes to memory.
    pub fn to_text(&self, locks: &dyn CurrentLocks, format: Format) -> Result<String, fmt::Error> {
        let table = locks.current().ok();
        let (totals, ages) = table.map(|table| (table.totals(), table.ages())).unwrap_or_default();
        self.active.set(number(totals.active));
        self.waiting.set(number(totals.waiting));
        self.resources.set(number(totals.resources));
        self.longest_wait.set(ages.longest_wait.as_secs_f64());
        self.longest_hold.set(ages.longest_hold.as_secs_f64());
        self.idle_connections.set(number(self.count_idle.0.get().map_or(0, |count| count())));
        self.writable.set(i64::from(locks.writable().is_ok()));
        self.log_lines_lost.inner().store(logging::lost_lines(), Ordering::Relaxed);
        if let Some(cluster) = &self.cluster {
            cluster.refresh();
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(format.of_openmetrics(text))
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Counts a connection as open until it is dropped, even by a panic of its thread.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Creates and registers metrics without labels.
struct Adder<'a>(&'a mut Registry);

impl Adder<'_> {
    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.0.register(name, help, gauge.clone());
        gauge
    }

    fn seconds(&mut self, name: &str, help: &str) -> Seconds {
        let gauge = Seconds::default();
        self.0.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        gauge
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.0.register(name, help, counter.clone());
        counter
    }

    fn histogram(&mut self, name: &str, help: &str) -> Histogram {
        let histogram = Histogram::new(&LONG);
        self.0.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        histogram
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn every_refusal_is_counted_for_every_operation() {
        let metrics = Metrics::new();
        for (place, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
            metrics.acquisition(Err(reason), Duration::ZERO);
            metrics.renewal_failed(reason);
            metrics.conversion(Err(reason));
        }
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        for reason in Reason::ALL {
            let name = reason.name();
            for series in [
                format!("rdlm_acquisitions_total{{outcome=\"{name}\"}} 1"),
                format!("rdlm_failed_renewals_total{{reason=\"{name}\"}} 1"),
                format!("rdlm_conversions_total{{outcome=\"{name}\"}} 1"),
            ] {
                assert!(text.lines().any(|line| line == series), "no {series} in {text}");
            }
        }
    }

    #[test]
    fn a_connection_whose_thread_panics_is_no_longer_counted() {
        let metrics = Metrics::new();
        let open = metrics.connection_opened();
        assert_eq!(metrics.connections.get(), 1);
        catch_unwind(move || {
            let _open = open;
            panic!("in a request");
        })
        .unwrap_err();
        assert_eq!(metrics.connections.get(), 0);
    }
}
