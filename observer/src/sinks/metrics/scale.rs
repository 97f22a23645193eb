//! Scale events: who scaled, and what it did to this node.

use prometheus::{CounterVec, GaugeVec, Registry};

use crate::sinks::metrics::family::{Declaration, Kind};
use observer_core::model::{
    finding::{Finding, FindingKind, OomRole, ScaleEvent, ScaleEventEnded},
    kubernetes::ApiState,
};

const LABELS: &[&str] = &["namespace", "workload", "workload_type"];
const WITH_BY: &[&str] = &["namespace", "workload", "workload_type", "by"];
const WITH_ROLE: &[&str] = &["namespace", "workload", "workload_type", "by", "role"];

const fn last(name: &'static str, help: &'static str) -> Declaration {
    Declaration { name, kind: Kind::Gauge, labels: LABELS, help }
}

static EVENTS: Declaration = Declaration {
    name: "observer_scale_events_total",
    kind: Kind::Counter,
    labels: WITH_BY,
    help: "Scale-ups that brought containers of the workload to this node, by who scaled: hpa, keda, manual, unknown.",
};
static OOM_KILLS: Declaration = Declaration {
    name: "observer_scale_event_oom_kills_total",
    kind: Kind::Counter,
    labels: WITH_ROLE,
    help: "OOM kills tied to a scale-up of the workload: role victim (it made the victim) or under_way (its containers were starting when somebody was killed).",
};
static PODS: Declaration = last(
    "observer_scale_event_containers",
    "Last scale-up of the workload: containers of it that started here.",
);
static STARTING: Declaration = last(
    "observer_scale_event_starting_max",
    "Last scale-up of the workload: most of its containers starting here at one time.",
);
static PEAKS: Declaration = last(
    "observer_scale_event_peak_sum_bytes",
    "Last scale-up of the workload: sum of its containers' start-up peaks here.",
);
static OVERSHOOT: Declaration = last(
    "observer_scale_event_overshoot_sum_bytes",
    "Last scale-up of the workload: sum of what its containers took beyond their steady level here.",
);
static STALLS: Declaration = last(
    "observer_scale_event_stall_seconds",
    "Last scale-up of the workload: time its tasks spent freeing memory here.",
);
static SETTLED: Declaration = last(
    "observer_scale_event_settled_seconds",
    "Last scale-up of the workload: from its first start here until all had a verdict; absent if one never got one.",
);
static API: Declaration = Declaration {
    name: "observer_kubernetes_up",
    kind: Kind::Gauge,
    labels: &[],
    help: "1 while the Kubernetes API answers; absent outside Kubernetes.",
};
static CLOCK: Declaration = Declaration {
    name: "observer_api_clock_ahead_seconds",
    kind: Kind::Gauge,
    labels: &[],
    help: "How far the API server's clock is ahead of this node's, as far as its answers prove it: 0 where both may be the same; absent outside Kubernetes.",
};

pub static ALL: &[&Declaration] =
    &[&EVENTS, &OOM_KILLS, &PODS, &STARTING, &PEAKS, &OVERSHOOT, &STALLS, &SETTLED, &API, &CLOCK];

pub struct Families {
    events: CounterVec,
    oom_kills: CounterVec,
    pods: GaugeVec,
    starting: GaugeVec,
    peaks: GaugeVec,
    overshoot: GaugeVec,
    stalls: GaugeVec,
    settled: GaugeVec,
    api: GaugeVec,
    clock: GaugeVec,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        Self {
            events: EVENTS.counters(registry),
            oom_kills: OOM_KILLS.counters(registry),
            pods: PODS.gauges(registry),
            starting: STARTING.gauges(registry),
            peaks: PEAKS.gauges(registry),
            overshoot: OVERSHOOT.gauges(registry),
            stalls: STALLS.gauges(registry),
            settled: SETTLED.gauges(registry),
            api: API.gauges(registry),
            clock: CLOCK.gauges(registry),
        }
    }

    pub fn apply(&mut self, finding: &Finding) {
        match &finding.what {
            FindingKind::ScaleEventBegan(event) => {
                let [namespace, workload, workload_type] = values(event);
                let by = event.by.kind.name();
                self.events.with_label_values(&[namespace, workload, workload_type, by]).inc();
                for role in [OomRole::Victim, OomRole::UnderWay] {
                    self.oom_kills.with_label_values(&with_role(event, role));
                }
            }
            FindingKind::OomLinked(linked) => {
                self.oom_kills.with_label_values(&with_role(&linked.scale_event, linked.role)).inc();
            }
            FindingKind::ScaleEventEnded(ended) => self.ended(ended),
            FindingKind::Api(ApiState::Clock { ahead_seconds }) => {
                self.clock.with_label_values(&[] as &[&str]).set(*ahead_seconds);
            }
            FindingKind::Api(state) => {
                let up = match state {
                    ApiState::Watching { .. }
                    | ApiState::Away { .. }
                    | ApiState::Forbidden { blind: true, .. } => 0.0,
                    ApiState::Synced => 1.0,
                    ApiState::Forbidden { blind: false, .. } | ApiState::Clock { .. } => return,
                };
                if matches!(state, ApiState::Watching { .. }) {
                    self.clock.with_label_values(&[] as &[&str]).set(0.0);
                }
                self.api.with_label_values(&[] as &[&str]).set(up);
            }
            _ => {}
        }
    }

    fn ended(&self, ended: &ScaleEventEnded) {
        let values = values(&ended.event);
        let set = |family: &GaugeVec, value: f64| family.with_label_values(&values).set(value);
        set(&self.pods, ended.pods as f64);
        set(&self.starting, ended.starting_max as f64);
        set(&self.peaks, ended.peak_sum as f64);
        set(&self.overshoot, ended.overshoot_sum as f64);
        set(&self.stalls, ended.stall_seconds);
        match ended.settled_seconds {
            Some(seconds) => set(&self.settled, seconds),
            None => {
                let _ = self.settled.remove_label_values(&values); // of the one before
            }
        }
    }
}

fn values(event: &ScaleEvent) -> [&str; 3] {
    [&event.namespace, &event.workload, &event.workload_type]
}

fn with_role(event: &ScaleEvent, role: OomRole) -> [&str; 5] {
    let [namespace, workload, workload_type] = values(event);
    [namespace, workload, workload_type, event.by.kind.name(), role.name()]
}
