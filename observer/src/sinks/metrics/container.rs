//! Per container. Series stay for the retention after its end, then go; what must outlive it is per workload.

use std::{collections::HashMap, sync::Arc};

use prometheus::{CounterVec, GaugeVec, HistogramVec, Registry};

use crate::sinks::metrics::family::{Declaration, Kind, carry};
use observer_core::{
    attribution::cgroup_path::Labels,
    model::{
        event::{CgroupId, Limit},
        finding::{Container, ContainerState, Finding, FindingKind, LimitEvent, OomScope, StalledBy},
    },
};

const LABELS: &[&str] = &["namespace", "pod", "container", "workload", "workload_type"];
const WITH_STATE: &[&str] = &["namespace", "pod", "container", "workload", "workload_type", "state"];
const WITH_SCOPE: &[&str] = &["namespace", "pod", "container", "workload", "workload_type", "scope"];
const WITH_EVENT: &[&str] = &["namespace", "pod", "container", "workload", "workload_type", "event"];
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
static HIGH: Declaration = gauge(
    "observer_container_memory_high_bytes",
    "memory.high, above which the kernel slows the container down; absent without one and on cgroup v1.",
);
static SWAP: Declaration = gauge(
    "observer_container_memory_swap_bytes",
    "Memory of the container swapped out: a start-up that swaps shows its peak here too.",
);
static EVENTS: Declaration = counter(
    "observer_container_memory_events_total",
    WITH_EVENT,
    "memory.events by its own names: low, high (throttled), max (limit hit), oom, oom_kill, oom_group_kill; cgroup v1 has max and oom_kill.",
);
static WAITING: Declaration = counter(
    "observer_container_pressure_memory_waiting_seconds_total",
    LABELS,
    "Time at least one task of the container was stalled on memory (PSI some; cgroup v2).",
);
static STALLED: Declaration = counter(
    "observer_container_pressure_memory_stalled_seconds_total",
    LABELS,
    "Time all its tasks were stalled on memory (PSI full; cgroup v2).",
);
/// 2 us to 65 ms, powers of two: what the probe counts in.
const FAULT_SECONDS: &[f64] = &[
    2e-6, 4e-6, 8e-6, 16e-6, 32e-6, 64e-6, 128e-6, 256e-6, 512e-6, 1.024e-3, 2.048e-3, 4.096e-3, 8.192e-3,
    16.384e-3, 32.768e-3,
];
static FAULT_LATENCY: Declaration = Declaration {
    name: "observer_container_page_fault_seconds",
    kind: Kind::Histogram(FAULT_SECONDS),
    labels: LABELS,
    help: "How long page faults took, of one in 64; only with --enable-probe fault_latency. The sum is made of bucket bounds.",
};

pub static ALL: &[&Declaration] = &[
    &USAGE,
    &WORKING_SET,
    &ANON,
    &LIMIT,
    &HIGH,
    &SWAP,
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
    &EVENTS,
    &WAITING,
    &STALLED,
    &FAULT_LATENCY,
];

pub struct Families {
    usage: GaugeVec,
    working_set: GaugeVec,
    anon: GaugeVec,
    limit: GaugeVec,
    high: GaugeVec,
    swap: GaugeVec,
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
    events: CounterVec,
    waiting: CounterVec,
    stalled: CounterVec,
    fault_latency: HistogramVec,
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
            high: HIGH.gauges(registry),
            swap: SWAP.gauges(registry),
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
            events: EVENTS.counters(registry),
            waiting: WAITING.counters(registry),
            stalled: STALLED.counters(registry),
            fault_latency: FAULT_LATENCY.histograms(registry),
            holders: HashMap::new(),
        }
    }

    pub fn apply(&mut self, finding: &Finding) {
        match &finding.what {
            FindingKind::Seen { container } => self.take_over(container),
            FindingKind::StartDated { container, unix_seconds } => {
                self.start_time.with_label_values(&values(container)).set(*unix_seconds);
            }
            FindingKind::Started(started) => {
                self.take_over(&started.container);
                self.start_time.with_label_values(&values(&started.container)).set(started.unix_seconds);
            }
            FindingKind::Point { container, usage } => set(&self.usage, container, *usage as f64),
            FindingKind::Measured(measured) => {
                let container = &measured.container;
                set(&self.usage, container, measured.usage as f64);
                set(&self.working_set, container, measured.working_set as f64);
                set(&self.peak, container, measured.peak as f64);
                if let Some(anon) = measured.anon {
                    set(&self.anon, container, anon as f64);
                }
                if let Some(swap) = measured.swap {
                    set(&self.swap, container, swap as f64);
                }
                for (family, limit) in [(&self.limit, measured.limit), (&self.high, measured.high)] {
                    match limit {
                        Some(Limit::Bytes(limit)) => set(family, container, limit as f64),
                        _ => remove(family, container),
                    }
                }
            }
            FindingKind::StartupPeak(peak) => {
                set(&self.startup_peak, &peak.container, peak.bytes as f64);
                set(&self.startup_peak_at, &peak.container, peak.seconds);
            }
            FindingKind::Stable(stable) | FindingKind::LateStep { stable, .. } => {
                set(&self.time_to_stable, &stable.container, stable.seconds);
                set(&self.steady, &stable.container, stable.level as f64);
                set(&self.overshoot, &stable.container, stable.overshoot);
            }
            FindingKind::Drifting { container, bytes_per_second } => {
                set(&self.drift, container, *bytes_per_second)
            }
            FindingKind::State { container, to, .. } => {
                for state in ContainerState::ALL {
                    let value = if state == *to { 1.0 } else { 0.0 };
                    self.state.with_label_values(&with(container, state.name())).set(value);
                }
                if *to != ContainerState::Drifting {
                    remove(&self.drift, container);
                }
            }
            FindingKind::Faulted { container, faults } => {
                self.faults.with_label_values(&values(container)).inc_by(*faults as f64);
            }
            FindingKind::MajorFaulted { container, faults } => {
                self.major_faults.with_label_values(&values(container)).inc_by(*faults as f64);
            }
            FindingKind::FaultsTimed { container, buckets } => {
                let family = self.fault_latency.with_label_values(&values(container));
                for (index, count) in buckets.iter().enumerate() {
                    // The library takes single observations; a bucket's faults are observed at its middle.
                    let seconds = 1.5e-6 * f64::from(1u32 << index.min(31));
                    (0..*count).for_each(|_| family.observe(seconds));
                }
            }
            FindingKind::LimitMet { container, event, times } => {
                self.events.with_label_values(&with(container, event.name())).inc_by(*times as f64);
            }
            FindingKind::Pressed { container, waiting_seconds, stalled_seconds } => {
                self.waiting.with_label_values(&values(container)).inc_by(*waiting_seconds);
                self.stalled.with_label_values(&values(container)).inc_by(*stalled_seconds);
            }
            FindingKind::Stalled { container, by, stalls, seconds } => {
                self.stalls.with_label_values(&with(container, by.name())).inc_by(*stalls as f64);
                self.stall_seconds.with_label_values(&with(container, by.name())).inc_by(*seconds);
            }
            FindingKind::OomKilled(killed) => {
                if let Some(container) = &killed.container {
                    let series = self.oom_kills.with_label_values(&with(container, killed.scope.name()));
                    series.inc_by(killed.kills as f64);
                }
            }
            FindingKind::Identified { container, before } => self.rename(container, before),
            FindingKind::Forgotten { container } => self.forget(container),
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

    /// The next look sets the gauges; what was counted moves along.
    fn rename(&mut self, container: &Container, before: &Arc<Labels>) {
        let old = Container { cgroup: container.cgroup, labels: Arc::clone(before) };
        for family in [&self.faults, &self.major_faults, &self.waiting, &self.stalled] {
            carry(family, &values(&old), &values(container));
        }
        for scope in OomScope::ALL {
            carry(&self.oom_kills, &with(&old, scope.name()), &with(container, scope.name()));
        }
        for by in [StalledBy::Limit, StalledBy::Node] {
            carry(&self.stalls, &with(&old, by.name()), &with(container, by.name()));
            carry(&self.stall_seconds, &with(&old, by.name()), &with(container, by.name()));
        }
        for event in LimitEvent::ALL {
            carry(&self.events, &with(&old, event.name()), &with(container, event.name()));
        }
        for family in self.of_the_instance() {
            if let Ok(series) = family.get_metric_with_label_values(&values(&old)) {
                let value = series.get();
                if value != 0.0 {
                    set(family, container, value);
                }
            }
        }
        for state in ContainerState::ALL {
            let value = self.state.with_label_values(&with(&old, state.name())).get();
            self.state.with_label_values(&with(container, state.name())).set(value);
        }
        self.forget(&old);
        self.holders.insert((*container.labels).clone(), container.cgroup);
    }

    fn of_the_instance(&self) -> [&GaugeVec; 14] {
        [
            &self.usage,
            &self.working_set,
            &self.anon,
            &self.limit,
            &self.high,
            &self.swap,
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
        for state in ContainerState::ALL {
            let _ = self.state.remove_label_values(&with(container, state.name()));
        }
        for family in [&self.faults, &self.major_faults, &self.waiting, &self.stalled] {
            let _ = family.remove_label_values(&values(container));
        }
        let _ = self.fault_latency.remove_label_values(&values(container));
        for event in LimitEvent::ALL {
            let _ = self.events.remove_label_values(&with(container, event.name()));
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
