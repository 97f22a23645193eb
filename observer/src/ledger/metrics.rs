//! The ledger's own series: what happened in the cluster, and what watching it takes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{CounterVec, Encoder, GaugeVec, Registry, TextEncoder};

use crate::sinks::metrics::{Declaration, Kind};
use observer_core::{
    ledger::{News, Sizes},
    model::kubernetes::{ByKind, Changed},
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

/// Workloads with series; that which changed longest ago makes room. Names of Deployments may be made by the hour.
const MOST: usize = 10_000;
const DIRECTIONS: [&str; 2] = ["up", "down"];

/// Namespace, name and type of a workload.
type Key = [String; 3];

/// The workloads that have series, by when they changed last.
#[derive(Default)]
struct Latest {
    turn: u64,
    turns: HashMap<Key, u64>,
    by_turn: BTreeMap<u64, Key>,
}

impl Latest {
    /// It changed now. Returns which has to make room for it.
    fn changed(&mut self, key: Key) -> Option<Key> {
        self.turn += 1;
        if let Some(before) = self.turns.insert(key.clone(), self.turn) {
            self.by_turn.remove(&before);
        }
        self.by_turn.insert(self.turn, key);
        if self.turns.len() <= MOST {
            return None;
        }
        let (_, oldest) = self.by_turn.pop_first()?;
        self.turns.remove(&oldest);
        Some(oldest)
    }
}

#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    latest: Arc<Mutex<Latest>>,
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
            latest: Arc::default(),
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
            if matches!(change.what, Changed::Scaled { .. } | Changed::RolledOut { .. }) {
                self.make_room(labels);
            }
            match &change.what {
                Changed::Scaled { from, to, by } => {
                    let direction = DIRECTIONS[usize::from(to <= from)];
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

    fn make_room(&self, of: [&str; 3]) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some([namespace, name, kind]) = latest.changed(of.map(str::to_owned)) else { return };
        // A series that is not there is what is wanted.
        let _ = self.rollouts.remove_label_values(&[&namespace, &name, &kind]);
        for by in [ByKind::Hpa, ByKind::Keda, ByKind::Manual, ByKind::Unknown] {
            for direction in DIRECTIONS {
                let _ = self.scalings.remove_label_values(&[&namespace, &name, &kind, by.name(), direction]);
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

#[cfg(test)]
mod tests {
    use super::*;
    use observer_core::model::kubernetes::{By, Change, Reference};

    #[test]
    fn series_of_workloads_that_come_and_go_are_bounded() {
        let metrics = Metrics::default();
        let news = |name: usize, what: Changed| {
            let workload =
                Reference { kind: "Deployment".into(), name: format!("w{name}"), ..Reference::default() };
            metrics.news(&vec![(workload, "ci".to_owned(), Change { at: 0.0, what })]);
        };
        for n in 0..MOST + 500 {
            news(n, Changed::Scaled { from: 1, to: 2, by: By::default() });
            news(n, Changed::RolledOut { revision: "1".into(), stepped: 0.0 });
            news(0, Changed::Scaled { from: 2, to: 1, by: By::default() }); // it goes on
        }
        let text = metrics.render(Sizes::default(), 0.0);
        let of = |name: &str| text.lines().filter(|line| line.starts_with(name)).count();
        assert_eq!(of("observer_ledger_rollouts_total{"), MOST);
        assert_eq!(of("observer_ledger_scale_events_total{"), MOST + 1);
        assert!(text.contains(&format!("\"w{}\"", MOST + 499)) && text.contains("\"w0\""));
    }
}
