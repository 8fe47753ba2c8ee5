//! What models count themselves, read when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use terrace_engine::Runs;

use crate::registry::{ModelKey, Served};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    model: String,
    provider: String,
}

/// How many runs had how many rows.
#[derive(Debug, Default)]
struct BatchSizes(Vec<(Labels, BTreeMap<usize, Runs>)>);

/// Of the models that serve.
pub fn registry<'a>(serving: impl Iterator<Item = (&'a ModelKey, &'a Served)>) -> Registry {
    let mut registry = Registry::with_prefix("terrace_model");
    let mut count = |name: &str, help: &str| {
        let family = Family::<Labels, Counter>::default();
        registry.register(name, help, family.clone());
        family
    };
    let runs = count("runs", "Runs, each of one or several requests");
    let rows = count("rows", "Rows that ran; a private request counts as one");
    let failures = count("failures", "Requests whose run failed");
    let stopped = count("stopped", "Requests whose run was stopped, because nobody waited for it any more");
    let mut bytes = |name: &str, help: &str| {
        let family = Family::<Labels, Counter>::default();
        registry.register_with_unit(name, help, Unit::Bytes, family.clone());
        family
    };
    let input = bytes("input", "Bytes of the inputs that ran, but for private requests");
    let output = bytes("output", "Bytes of the outputs that came of it, but for private requests");
    let mut time = |name: &str, help: &str| {
        let family = Family::<Labels, Counter<f64, AtomicU64>>::default();
        registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    };
    let ran = time("run", "Time spent running");
    let waited = time("queue", "Time that requests waited to run");
    let mut now = |name: &str, help: &str| {
        let family = Family::<Labels, Gauge>::default();
        registry.register(name, help, family.clone());
        family
    };
    let queued = now("queued", "Requests that wait to run");
    let running = now("running", "Requests that run");
    let most_rows = Family::<Labels, Gauge>::default();
    registry.register_with_unit(
        "max_batch",
        "The most rows that are run at once; 1 where requests run alone",
        unit_of_rows(),
        most_rows.clone(),
    );
    let mut batches = BatchSizes::default();
    for (model, served) in serving {
        let (done, busy) = (served.model.statistics(), served.model.load_figures());
        let provider = served.model.signature().provider.clone();
        let labels = Labels { model: model.to_string(), provider };
        runs.get_or_create(&labels).inc_by(done.runs.values().map(|runs| runs.count).sum());
        rows.get_or_create(&labels).inc_by(done.rows);
        failures.get_or_create(&labels).inc_by(done.failed);
        stopped.get_or_create(&labels).inc_by(done.stopped);
        input.get_or_create(&labels).inc_by(done.input_bytes);
        output.get_or_create(&labels).inc_by(done.output_bytes);
        ran.get_or_create(&labels).inc_by(done.runs.values().map(|runs| runs.time.as_secs_f64()).sum());
        waited.get_or_create(&labels).inc_by(done.waited.as_secs_f64());
        for (gauge, number) in
            [(&queued, busy.queued), (&running, busy.running), (&most_rows, served.model.most_rows())]
        {
            gauge.get_or_create(&labels).set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        batches.0.push((labels, done.runs));
    }
    registry.register_collector(Box::new(batches));
    registry
}

impl Collector for BatchSizes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let unit = unit_of_rows();
        let mut family =
            encoder.encode_descriptor("batch", "Rows of a run", Some(&unit), MetricType::Histogram)?;
        for (labels, runs) in &self.0 {
            let rows: f64 =
                runs.iter().map(|(rows, runs)| as_float(*rows as u64) * as_float(runs.count)).sum();
            let count = runs.values().map(|runs| runs.count).sum();
            family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
                rows,
                count,
                &buckets(runs),
                None,
            )?;
        }
        Ok(())
    }
}

fn unit_of_rows() -> Unit {
    Unit::Other("rows".to_owned())
}

/// A count as metrics have it.
#[allow(clippy::cast_precision_loss)] // counters of requests do not come near 2^53
const fn as_float(count: u64) -> f64 {
    count as f64
}

/// Runs by the power of two that their rows do not exceed.
fn buckets(runs: &BTreeMap<usize, Runs>) -> Vec<(f64, u64)> {
    const LARGEST: u32 = 9;
    let within = |low: usize, high: usize| {
        runs.iter().filter(|(rows, _)| (low..=high).contains(*rows)).map(|(_, runs)| runs.count).sum()
    };
    let mut buckets = Vec::new();
    let mut low = 0;
    for power in 0..=LARGEST {
        let high = 1_usize << power;
        buckets.push((f64::from(1_u32 << power), within(low, high)));
        low = high + 1;
    }
    buckets.push((f64::INFINITY, within(low, usize::MAX)));
    buckets
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_run_is_in_the_bucket_of_its_rows() {
        let runs = [(1, 5), (2, 3), (3, 2), (4, 1), (512, 7), (513, 1), (1024, 4)];
        let runs = runs.map(|(rows, count)| (rows, Runs { count, time: Duration::ZERO }));
        let filled: Vec<(f64, u64)> =
            buckets(&BTreeMap::from(runs)).into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(1.0, 5), (2.0, 3), (4.0, 3), (512.0, 7), (f64::INFINITY, 5)]);
    }
}
