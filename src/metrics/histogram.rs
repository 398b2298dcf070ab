//! A histogram of durations without a mutex.
//!
//! The library's histogram takes a mutex for each observation. A request makes several, and if a
//! thread is preempted while it holds that mutex, all others queue behind it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A histogram of durations. A clone shares its counts.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Upper bounds in seconds, ascending; each with its own count, which is not cumulative.
    buckets: Box<[(f64, AtomicU64)]>,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Creates buckets with these upper bounds in seconds, and one without.
    pub(super) fn new(bounds: &[f64]) -> Self {
        let bounds = bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds.map(|bound| (bound, AtomicU64::new(0))).collect();
        Self(Arc::new(Counts { buckets, sum_us: AtomicU64::new(0) }))
    }

    /// Counts one.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.0.buckets.iter().find(|(bound, _)| seconds <= *bound);
        if let Some((_, count)) = bucket {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histogram {
    /// The sum and the counts may differ by observations made meanwhile.
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let buckets = self.0.buckets.iter();
        let buckets: Vec<_> =
            buckets.map(|(bound, count)| (*bound, count.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(self.0.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_it_fits_in() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for ms in [1, 100, 101, 5_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let mut registry = Registry::default();
        registry.register("t", "Histogram", histogram);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "t_bucket{le=\"0.1\"} 2",
            "t_bucket{le=\"1.0\"} 3",
            "t_bucket{le=\"+Inf\"} 4",
            "t_count 4",
            "t_sum 5.202",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
    }
}
