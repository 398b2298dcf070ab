//! The metrics of one of several servers.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::histogram::Histogram;
use super::{KindLabel, SHORT};

/// Counts, since the start of the process.
#[derive(Debug)]
pub struct ClusterMetrics {
    active: Gauge,
    tenures: Counter,
    commit: Histogram,
    unconfirmed: Gauge<f64, std::sync::atomic::AtomicU64>,
    cut_off: Gauge,
    refused: Family<KindLabel, Gauge>,
    bad_rows: Family<KindLabel, Counter>,
    etcd_errors: Family<KindLabel, Counter>,
    source: Source,
}

/// What is read at the time of a scrape.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// How long ago etcd last confirmed this active server; `None` on a standby.
    pub unconfirmed: Option<Duration>,
    /// Whether the latest request could not be forwarded to the active server.
    pub is_cut_off: bool,
    /// For each kind of reason, whether the server rejects the contents of etcd for that reason.
    pub refused: Vec<(&'static str, bool)>,
    /// Failed requests to etcd, by kind.
    pub etcd_errors: Vec<(&'static str, u64)>,
}

#[derive(Default)]
struct Source(OnceLock<Box<dyn Fn() -> ClusterState + Send + Sync>>);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

impl ClusterMetrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (active, unconfirmed) = (Gauge::default(), Gauge::default());
        registry.register("rdlm_active", "Whether this server is the active one", active.clone());
        let tenures = Counter::default();
        let help = "How many times this server has taken over";
        registry.register("rdlm_tenures", help, tenures.clone());
        let commit = Histogram::new(&SHORT);
        let help = "How long etcd took to write changes";
        registry.register_with_unit("rdlm_commit", help, Unit::Seconds, commit.clone());
        let help = "How long ago the active server was last confirmed by etcd; 0 on a standby";
        registry.register_with_unit("rdlm_unconfirmed", help, Unit::Seconds, unconfirmed.clone());
        let cut_off = Gauge::default();
        let help = "Whether this standby could not reach the active server with its latest request";
        registry.register("rdlm_active_unreachable", help, cut_off.clone());
        let refused = Family::default();
        let help = "Whether what etcd contains cannot be used, by why";
        registry.register("rdlm_etcd_refused", help, Family::clone(&refused));
        let bad_rows = Family::<KindLabel, Counter>::default();
        let help = "Rows in etcd that are not of this version: places in line, which are skipped, \
                    and locks, which are refused";
        registry.register("rdlm_etcd_bad_rows", help, bad_rows.clone());
        for kind in ["lock", "place"] {
            let _ = bad_rows.get_or_create_owned(&KindLabel { kind });
        }
        let etcd_errors = Family::<KindLabel, Counter>::default();
        let help = "Attempts at etcd that have failed, by how";
        registry.register("rdlm_etcd_errors", help, etcd_errors.clone());
        let source = Source::default();
        Self {
            active,
            tenures,
            commit,
            unconfirmed,
            cut_off,
            refused,
            bad_rows,
            etcd_errors,
            source,
        }
    }

    /// Sets where the state comes from; only the first call has an effect.
    pub fn read_from(&self, source: impl Fn() -> ClusterState + Send + Sync + 'static) {
        let _ = self.source.0.set(Box::new(source));
    }

    /// This server has taken over.
    pub fn tenure(&self) {
        self.tenures.inc();
    }

    /// A commit took this long.
    pub fn commit(&self, took: Duration) {
        self.commit.observe(took);
    }

    /// `count` rows of this kind (`lock`, `place`) could not be read.
    pub fn bad_rows(&self, kind: &'static str, count: usize) {
        self.bad_rows.get_or_create_owned(&KindLabel { kind }).inc_by(count as u64);
    }

    pub(super) fn refresh(&self) {
        let Some(source) = self.source.0.get() else { return };
        let ClusterState { unconfirmed, is_cut_off, refused, etcd_errors } = source();
        self.cut_off.set(i64::from(is_cut_off));
        self.active.set(i64::from(unconfirmed.is_some()));
        self.unconfirmed.set(unconfirmed.unwrap_or_default().as_secs_f64());
        for (kind, is_refused) in refused {
            let gauge = self.refused.get_or_create_owned(&KindLabel { kind });
            gauge.set(i64::from(is_refused));
        }
        for (kind, count) in etcd_errors {
            let counter = self.etcd_errors.get_or_create_owned(&KindLabel { kind });
            counter.inner().store(count, Ordering::Relaxed);
        }
    }
}
