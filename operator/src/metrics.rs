//! What the operator counts, in Prometheus' text format. Labels are bounded: all are enumerations.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The counters of one operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciliations: Family<ReconcileLabels, Counter>,
    durations: Family<ControllerLabels, Histogram, fn() -> Histogram>,
    writes: Counter,
    leading: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("terrace_operator");
        let reconciliations = Family::default();
        registry.register("reconciliations", "Looks at an object, by outcome", reconciliations.clone());
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register_with_unit(
            "reconcile_duration",
            "Time that a look takes",
            Unit::Seconds,
            durations.clone(),
        );
        let writes = Counter::default();
        registry.register("api_writes", "Writes to the API server, leases aside", writes.clone());
        let leading = Gauge::default();
        registry.register("leading", "1 where this replica leads", leading.clone());
        Self { registry, reconciliations, durations, writes, leading }
    }
}

impl Metrics {
    /// Counts one look at an object.
    pub fn reconciled(&self, controller: &'static str, outcome: &'static str, took: Duration) {
        self.reconciliations.get_or_create(&ReconcileLabels { controller, outcome }).inc();
        self.durations.get_or_create(&ControllerLabels { controller }).observe(took.as_secs_f64());
    }

    /// Counts one write.
    pub fn write(&self) {
        self.writes.inc();
    }

    /// This replica leads, or does not.
    pub fn leads(&self, leads: bool) {
        self.leading.set(leads.into());
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn histogram() -> Histogram {
    Histogram::new([0.000_1, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0])
}
