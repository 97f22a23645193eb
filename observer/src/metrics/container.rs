//! Per container. Series stay for the retention after its end, then go; what must outlive it is per workload.

use std::collections::HashMap;

use prometheus::{CounterVec, GaugeVec, Registry};

use super::family::{Declaration, Kind};
use crate::{
    event::{CgroupId, Limit},
    finding::{Container, Finding, OomScope, StalledBy, State, What},
    identity::Labels,
};

const LABELS: &[&str] = &["namespace", "pod", "container", "workload", "workload_type"];
const WITH_STATE: &[&str] = &["namespace", "pod", "container", "workload", "workload_type", "state"];
const WITH_SCOPE: &[&str] = &["namespace", "pod", "container", "workload", "workload_type", "scope"];
const WITH_REASON: &[&str] = &["namespace", "pod", "container", "workload", "workload_type", "reason"];

const fn gauge(name: &'static str, help: &'static str) -> Declaration {
    Declaration { name, kind: Kind::Gauge, labels: LABELS, help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Declaration {
    Declaration { name, kind: Kind::Counter, labels, help }
}

static USAGE: Declaration = gauge(
    "observer_container_memory_usage_bytes",
    "Memory charged to the container, page cache and kernel memory included.",
);
static WORKING_SET: Declaration = gauge(
    "observer_container_memory_working_set_bytes",
    "Usage without inactive file cache, as the kubelet and the horizontal pod autoscaler see it.",
);
static ANON: Declaration = gauge(
    "observer_container_memory_anonymous_bytes",
    "Anonymous memory: heaps, stacks, shared memory not backed by files.",
);
static LIMIT: Declaration =
    gauge("observer_container_memory_limit_bytes", "The container's own memory limit; absent without one.");
static PEAK: Declaration = gauge(
    "observer_container_memory_peak_bytes",
    "Highest usage since the container's cgroup was made, from the kernel's own watermark: exact between any two scrapes.",
);
static STARTUP_PEAK: Declaration =
    gauge("observer_container_startup_peak_bytes", "Highest usage from first exec until the first verdict.");
static STARTUP_PEAK_AT: Declaration =
    gauge("observer_container_startup_peak_seconds", "When the start-up peak was reached, since first exec.");
static STEADY: Declaration = gauge(
    "observer_container_steady_bytes",
    "Level of the working set where it settled; absent until it has.",
);
static OVERSHOOT: Declaration =
    gauge("observer_container_startup_overshoot_ratio", "Start-up peak over steady level.");
static TIME_TO_STABLE: Declaration = gauge(
    "observer_container_time_to_stable_seconds",
    "From first exec until memory stayed in its band (5 % or 4 MiB); dated when the hold began, told when it ended.",
);
static DRIFT: Declaration = gauge(
    "observer_container_drift_bytes_per_second",
    "Growth of the working set's floor while the container is drifting; absent otherwise.",
);
static START_TIME: Declaration = gauge(
    "observer_container_start_time_seconds",
    "Unix time of the first exec of the container's entry point.",
);
static STATE: Declaration = Declaration {
    name: "observer_container_state",
    kind: Kind::Gauge,
    labels: WITH_STATE,
    help: "1 for the state the container is in: starting, stable, drifting, oscillating, running (older than the observer), ended.",
};
static FAULTS: Declaration = counter(
    "observer_container_page_faults_total",
    LABELS,
    "User page faults, counted one by one by the probe.",
);
static MAJOR_FAULTS: Declaration = counter(
    "observer_container_major_page_faults_total",
    LABELS,
    "Page faults that had to read from a disk.",
);
static STALLS: Declaration = counter(
    "observer_container_reclaim_stalls_total",
    WITH_REASON,
    "Times a task of the container had to free memory itself: reason limit (its own or its pod's) or node.",
);
static STALL_SECONDS: Declaration = counter(
    "observer_container_reclaim_stall_seconds_total",
    WITH_REASON,
    "Time tasks of the container spent freeing memory instead of running.",
);
static OOM_KILLS: Declaration = counter(
    "observer_container_oom_kills_total",
    WITH_SCOPE,
    "Processes of the container killed for want of memory, by whose limit it was: container, parent, ancestor, node, unknown.",
);

pub static ALL: &[&Declaration] = &[
    &USAGE,
    &WORKING_SET,
    &ANON,
    &LIMIT,
    &PEAK,
    &STARTUP_PEAK,
    &STARTUP_PEAK_AT,
    &STEADY,
    &OVERSHOOT,
    &TIME_TO_STABLE,
    &DRIFT,
    &START_TIME,
    &STATE,
    &FAULTS,
    &MAJOR_FAULTS,
    &STALLS,
    &STALL_SECONDS,
    &OOM_KILLS,
];

pub struct Families {
    usage: GaugeVec,
    working_set: GaugeVec,
    anon: GaugeVec,
    limit: GaugeVec,
    peak: GaugeVec,
    startup_peak: GaugeVec,
    startup_peak_at: GaugeVec,
    steady: GaugeVec,
    overshoot: GaugeVec,
    time_to_stable: GaugeVec,
    drift: GaugeVec,
    start_time: GaugeVec,
    state: GaugeVec,
    faults: CounterVec,
    major_faults: CounterVec,
    stalls: CounterVec,
    stall_seconds: CounterVec,
    oom_kills: CounterVec,
    /// Whose series these are now: a restarted container takes them over, and the old one's end must not remove them.
    holders: HashMap<Labels, CgroupId>,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        Self {
            usage: USAGE.gauges(registry),
            working_set: WORKING_SET.gauges(registry),
            anon: ANON.gauges(registry),
            limit: LIMIT.gauges(registry),
            peak: PEAK.gauges(registry),
            startup_peak: STARTUP_PEAK.gauges(registry),
            startup_peak_at: STARTUP_PEAK_AT.gauges(registry),
            steady: STEADY.gauges(registry),
            overshoot: OVERSHOOT.gauges(registry),
            time_to_stable: TIME_TO_STABLE.gauges(registry),
            drift: DRIFT.gauges(registry),
            start_time: START_TIME.gauges(registry),
            state: STATE.gauges(registry),
            faults: FAULTS.counters(registry),
            major_faults: MAJOR_FAULTS.counters(registry),
            stalls: STALLS.counters(registry),
            stall_seconds: STALL_SECONDS.counters(registry),
            oom_kills: OOM_KILLS.counters(registry),
            holders: HashMap::new(),
        }
    }

    pub fn apply(&mut self, finding: &Finding) {
        match &finding.what {
            What::Seen { container } => self.take_over(container),
            What::Started(started) => {
                self.take_over(&started.container);
                self.start_time.with_label_values(&values(&started.container)).set(started.unix_seconds);
            }
            What::Point { container, usage } => set(&self.usage, container, *usage as f64),
            What::Measured(measured) => {
                let container = &measured.container;
                set(&self.usage, container, measured.usage as f64);
                set(&self.working_set, container, measured.working_set as f64);
                set(&self.peak, container, measured.peak as f64);
                if let Some(anon) = measured.anon {
                    set(&self.anon, container, anon as f64);
                }
                match measured.limit {
                    Some(Limit::Bytes(limit)) => set(&self.limit, container, limit as f64),
                    _ => remove(&self.limit, container),
                }
            }
            What::StartupPeak(peak) => {
                set(&self.startup_peak, &peak.container, peak.bytes as f64);
                set(&self.startup_peak_at, &peak.container, peak.seconds);
            }
            What::Stable(stable) | What::LateStep { stable, .. } => {
                set(&self.time_to_stable, &stable.container, stable.seconds);
                set(&self.steady, &stable.container, stable.level as f64);
                set(&self.overshoot, &stable.container, stable.overshoot);
            }
            What::Drifting { container, bytes_per_second } => set(&self.drift, container, *bytes_per_second),
            What::State { container, to, .. } => {
                for state in State::ALL {
                    let value = if state == *to { 1.0 } else { 0.0 };
                    self.state.with_label_values(&with(container, state.name())).set(value);
                }
                if *to != State::Drifting {
                    remove(&self.drift, container);
                }
            }
            What::Faulted { container, faults } => {
                self.faults.with_label_values(&values(container)).inc_by(*faults as f64);
            }
            What::MajorFaulted { container, faults } => {
                self.major_faults.with_label_values(&values(container)).inc_by(*faults as f64);
            }
            What::Stalled { container, by, stalls, seconds } => {
                self.stalls.with_label_values(&with(container, by.name())).inc_by(*stalls as f64);
                self.stall_seconds.with_label_values(&with(container, by.name())).inc_by(*seconds);
            }
            What::OomKilled(killed) => {
                if let Some(container) = &killed.container {
                    let series = self.oom_kills.with_label_values(&with(container, killed.scope.name()));
                    series.inc_by(killed.kills as f64);
                }
            }
            What::Forgotten { container } => self.forget(container),
            _ => {}
        }
    }

    /// A new holder of these labels: what was said of the previous one's start-up is not about it.
    fn take_over(&mut self, container: &Container) {
        self.holders.insert((*container.labels).clone(), container.cgroup);
        for family in self.of_the_instance() {
            remove(family, container);
        }
        self.faults.with_label_values(&values(container));
        self.oom_kills.with_label_values(&with(container, OomScope::Container.name()));
    }

    fn of_the_instance(&self) -> [&GaugeVec; 12] {
        [
            &self.usage,
            &self.working_set,
            &self.anon,
            &self.limit,
            &self.peak,
            &self.startup_peak,
            &self.startup_peak_at,
            &self.steady,
            &self.overshoot,
            &self.time_to_stable,
            &self.drift,
            &self.start_time,
        ]
    }

    fn forget(&mut self, container: &Container) {
        if self.holders.get(&*container.labels) != Some(&container.cgroup) {
            return;
        }
        self.holders.remove(&*container.labels);
        for family in self.of_the_instance() {
            remove(family, container);
        }
        // A series that was never made is not there to remove: that is fine for all of these.
        for state in State::ALL {
            let _ = self.state.remove_label_values(&with(container, state.name()));
        }
        for family in [&self.faults, &self.major_faults] {
            let _ = family.remove_label_values(&values(container));
        }
        for by in [StalledBy::Limit, StalledBy::Node] {
            let _ = self.stalls.remove_label_values(&with(container, by.name()));
            let _ = self.stall_seconds.remove_label_values(&with(container, by.name()));
        }
        for scope in OomScope::ALL {
            let _ = self.oom_kills.remove_label_values(&with(container, scope.name()));
        }
    }
}

fn set(family: &GaugeVec, container: &Container, value: f64) {
    family.with_label_values(&values(container)).set(value);
}

fn remove(family: &GaugeVec, container: &Container) {
    let _ = family.remove_label_values(&values(container));
}

fn values(container: &Container) -> [&str; 5] {
    let labels = &container.labels;
    [&labels.namespace, &labels.pod, &labels.container, &labels.workload, &labels.workload_type]
}

fn with<'a>(container: &'a Container, last: &'a str) -> [&'a str; 6] {
    let [namespace, pod, name, workload, workload_type] = values(container);
    [namespace, pod, name, workload, workload_type, last]
}
