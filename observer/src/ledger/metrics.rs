//! The ledger's own series: what happened in the cluster, and what watching it takes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::sinks::metrics::family::{registered, text};
use observer_core::{
    ledger::{News, Sizes},
    model::kubernetes::{ByKind, Changed},
};

registered! {
    scalings: counters "observer_ledger_scale_events_total", ["namespace", "workload", "workload_type", "by", "direction"],
        "Changes of a workload's replicas in the whole cluster, by who made them and direction (up, down).";
    rollouts: counters "observer_ledger_rollouts_total", ["namespace", "workload", "workload_type"],
        "New revisions begun, in the whole cluster.";
    objects: counters "observer_ledger_objects_seen_total", ["kind"],
        "Objects the API server sent, by kind: what the ledger's watches cost.";
    unreadable: counters "observer_ledger_objects_unreadable_total", ["kind"],
        "Objects the API server sent that could not be read, by kind: the log names them. What was known of them stays.";
    failures: counters "observer_ledger_watch_failures_total", ["kind"],
        "Times a watch failed and was begun again.";
    up: gauges "observer_ledger_watch_up", ["kind"],
        "1 while the API server feeds this watch; 0 while it does not answer, or forbids it.";
    skew: gauges "observer_ledger_api_clock_ahead_seconds", [],
        "How far the API server's clock is ahead of the ledger's, as far as its answers prove it: 0 where both may be the same. Changes are dated by the API server's.";
    asked: counters "observer_ledger_requests_total", ["result"],
        "Questions of agents: answered, refused (no right token), failed.";
    workloads: gauges "observer_ledger_workloads", [],
        "Workloads whose changes are kept.";
    changes: gauges "observer_ledger_changes", [],
        "Changes kept, of two hours at the most.";
    refused: counters "observer_ledger_workloads_refused_total", [],
        "Objects of workloads that found no room in the book.";
}

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

#[derive(Clone, Default)]
pub struct Metrics {
    families: Families,
    latest: Arc<Mutex<Latest>>,
}

impl Metrics {
    pub fn seen(&self, kind: &str) {
        self.families.objects.with_label_values(&[kind]).inc();
    }

    pub fn unreadable(&self, kind: &str) {
        self.families.unreadable.with_label_values(&[kind]).inc();
    }

    pub fn failed(&self, kind: &str) {
        self.families.failures.with_label_values(&[kind]).inc();
    }

    pub fn up(&self, kind: &str, up: bool) {
        self.families.up.with_label_values(&[kind]).set(f64::from(up));
    }

    pub fn asked(&self, result: &str) {
        self.families.asked.with_label_values(&[result]).inc();
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
                    self.families
                        .scalings
                        .with_label_values(&[namespace, name, kind, by.kind.name(), direction])
                        .inc();
                }
                Changed::RolledOut { .. } => self.families.rollouts.with_label_values(&labels).inc(),
                Changed::Created | Changed::Disrupted { .. } => {}
            }
        }
    }

    fn make_room(&self, of: [&str; 3]) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some([namespace, name, kind]) = latest.changed(of.map(str::to_owned)) else { return };
        // A series that is not there is what is wanted.
        let _ = self.families.rollouts.remove_label_values(&[&namespace, &name, &kind]);
        for by in [ByKind::Hpa, ByKind::Keda, ByKind::Manual, ByKind::Unknown] {
            for direction in DIRECTIONS {
                let _ = self.families.scalings.remove_label_values(&[
                    &namespace,
                    &name,
                    &kind,
                    by.name(),
                    direction,
                ]);
            }
        }
    }

    pub fn render(&self, sizes: Sizes, api_clock_ahead_seconds: f64) -> String {
        let none = &[] as &[&str];
        self.families.skew.with_label_values(none).set(api_clock_ahead_seconds);
        self.families.workloads.with_label_values(none).set(sizes.workloads as f64);
        self.families.changes.with_label_values(none).set(sizes.changes as f64);
        let refused = self.families.refused.with_label_values(none);
        refused.inc_by((sizes.refused as f64 - refused.get()).max(0.0));
        text(&self.families.registry)
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
