//! What is remembered of each workload's start-ups: what requests, limits and advice are made from.

use prometheus::{GaugeVec, Registry};

use crate::sinks::metrics::family::{Declaration, Kind};
use observer_core::{
    model::finding::{Finding, FindingKind},
    workload::history::Workload,
};

pub(super) const LABELS: &[&str] = &["namespace", "workload", "workload_type", "workload_container"];
pub(super) const WITH_STATISTIC: &[&str] =
    &["namespace", "workload", "workload_type", "workload_container", "statistic"];

/// Names of [`observer_core::workload::history::QUANTILES`]; a label `quantile` belongs to summaries.
pub(super) const STATISTICS: [&str; 3] = ["p50", "p95", "max"];

static STARTUPS: Declaration = Declaration {
    name: "observer_history_startups",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Start-ups of the workload remembered on this node (at most 24), earlier runs of the observer included. workload_container is the container's name in the pod template, empty outside Kubernetes.",
};
static PEAK: Declaration = Declaration {
    name: "observer_history_startup_peak_bytes",
    kind: Kind::Gauge,
    labels: WITH_STATISTIC,
    help: "Start-up peak over the start-ups remembered: statistic p50, p95 and max.",
};
static TIME: Declaration = Declaration {
    name: "observer_history_time_to_stable_seconds",
    kind: Kind::Gauge,
    labels: WITH_STATISTIC,
    help: "Time to stable over the start-ups remembered that got stable.",
};
static STEADY: Declaration = Declaration {
    name: "observer_history_steady_bytes",
    kind: Kind::Gauge,
    labels: WITH_STATISTIC,
    help: "Steady working set over the start-ups remembered that got stable.",
};

pub static ALL: &[&Declaration] = &[&STARTUPS, &PEAK, &TIME, &STEADY];

pub struct Families {
    startups: GaugeVec,
    peak: GaugeVec,
    time: GaugeVec,
    steady: GaugeVec,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        Self {
            startups: STARTUPS.gauges(registry),
            peak: PEAK.gauges(registry),
            time: TIME.gauges(registry),
            steady: STEADY.gauges(registry),
        }
    }

    pub fn apply(&mut self, finding: &Finding) {
        let FindingKind::Learned { workload, summary } = &finding.what else { return };
        let labels = values(workload);
        self.startups.with_label_values(&labels).set(summary.startups as f64);
        let bytes = |of: [u64; 3]| of.map(|bytes| bytes as f64);
        let told = [
            (&self.peak, Some(bytes(summary.peak))),
            (&self.time, summary.time_to_stable),
            (&self.steady, summary.steady.map(bytes)),
        ];
        for (family, values) in told {
            for (statistic, value) in STATISTICS.into_iter().zip(values.into_iter().flatten()) {
                let [a, b, c, d] = labels;
                family.with_label_values(&[a, b, c, d, statistic]).set(value);
            }
        }
    }
}

/// Of [`LABELS`].
pub(super) fn values(workload: &Workload) -> [&str; 4] {
    let Workload { namespace, workload, workload_type, container } = workload;
    [namespace, workload, workload_type, container]
}
