//! The ledger's own series: what happened in the cluster, and what watching it takes.

use prometheus::{CounterVec, Encoder, GaugeVec, Registry, TextEncoder};

use crate::sinks::metrics::{Declaration, Kind};
use observer_core::{
    ledger::{News, Sizes},
    model::kubernetes::Changed,
};

static SCALINGS: Declaration = Declaration {
    name: "observer_ledger_scale_events_total",
    kind: Kind::Counter,
    labels: &["namespace", "workload", "workload_type", "by", "direction"],
    help: "Changes of a workload's replicas in the whole cluster, by who made them and direction (up, down).",
};
static ROLLOUTS: Declaration = Declaration {
    name: "observer_ledger_rollouts_total",
    kind: Kind::Counter,
    labels: &["namespace", "workload", "workload_type"],
    help: "New revisions begun, in the whole cluster.",
};
static OBJECTS: Declaration = Declaration {
    name: "observer_ledger_objects_seen_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Objects the API server sent, by kind: what the ledger's watches cost.",
};
static FAILURES: Declaration = Declaration {
    name: "observer_ledger_watch_failures_total",
    kind: Kind::Counter,
    labels: &["kind"],
    help: "Times a watch failed and was begun again.",
};
static UP: Declaration = Declaration {
    name: "observer_ledger_watch_up",
    kind: Kind::Gauge,
    labels: &["kind"],
    help: "1 while the API server feeds this watch; 0 while it does not answer, or forbids it.",
};
static SKEW: Declaration = Declaration {
    name: "observer_ledger_api_clock_ahead_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "How far the API server's clock is ahead of the ledger's, as far as its answers prove it: 0 where both may be the same. Changes are dated by the API server's.",
};
static ASKED: Declaration = Declaration {
    name: "observer_ledger_requests_total",
    kind: Kind::Counter,
    labels: &["result"],
    help: "Questions of agents: answered, refused (no right token), failed.",
};
static WORKLOADS: Declaration = Declaration {
    name: "observer_ledger_workloads",
    kind: Kind::Gauge,
    labels: &[],
    help: "Workloads whose changes are kept.",
};
static CHANGES: Declaration = Declaration {
    name: "observer_ledger_changes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Changes kept, of two hours at the most.",
};
static REFUSED: Declaration = Declaration {
    name: "observer_ledger_workloads_refused_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Objects of workloads that found no room in the book.",
};

pub static ALL: &[&Declaration] =
    &[&SCALINGS, &ROLLOUTS, &OBJECTS, &FAILURES, &UP, &SKEW, &ASKED, &WORKLOADS, &CHANGES, &REFUSED];

#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    scalings: CounterVec,
    rollouts: CounterVec,
    objects: CounterVec,
    failures: CounterVec,
    up: GaugeVec,
    skew: GaugeVec,
    asked: CounterVec,
    workloads: GaugeVec,
    changes: GaugeVec,
    refused: CounterVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        Self {
            scalings: SCALINGS.counters(&registry),
            rollouts: ROLLOUTS.counters(&registry),
            objects: OBJECTS.counters(&registry),
            failures: FAILURES.counters(&registry),
            up: UP.gauges(&registry),
            skew: SKEW.gauges(&registry),
            asked: ASKED.counters(&registry),
            workloads: WORKLOADS.gauges(&registry),
            changes: CHANGES.gauges(&registry),
            refused: REFUSED.counters(&registry),
            registry,
        }
    }
}

impl Metrics {
    pub fn seen(&self, kind: &str) {
        self.objects.with_label_values(&[kind]).inc();
    }

    pub fn failed(&self, kind: &str) {
        self.failures.with_label_values(&[kind]).inc();
    }

    pub fn up(&self, kind: &str, up: bool) {
        self.up.with_label_values(&[kind]).set(f64::from(up));
    }

    pub fn asked(&self, result: &str) {
        self.asked.with_label_values(&[result]).inc();
    }

    pub fn news(&self, news: &News) {
        for (workload, namespace, change) in news {
            let kind = workload.kind.label();
            let labels = [namespace.as_str(), &workload.name, &kind];
            match &change.what {
                Changed::Scaled { from, to, by } => {
                    let direction = if to > from { "up" } else { "down" };
                    let [namespace, name, kind] = labels;
                    self.scalings
                        .with_label_values(&[namespace, name, kind, by.kind.name(), direction])
                        .inc();
                }
                Changed::RolledOut { .. } => self.rollouts.with_label_values(&labels).inc(),
                Changed::Created | Changed::Disrupted { .. } => {}
            }
        }
    }

    pub fn render(&self, sizes: Sizes, api_clock_ahead_seconds: f64) -> String {
        let none = &[] as &[&str];
        self.skew.with_label_values(none).set(api_clock_ahead_seconds);
        self.workloads.with_label_values(none).set(sizes.workloads as f64);
        self.changes.with_label_values(none).set(sizes.changes as f64);
        let refused = self.refused.with_label_values(none);
        refused.inc_by((sizes.refused as f64 - refused.get()).max(0.0));
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            // Encoding fails only for a family without series, which gather leaves out.
            Err(error) => format!("# cannot encode: {error}\n"),
        }
    }
}
