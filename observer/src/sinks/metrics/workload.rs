//! Per workload: what must not be lost with a container that dies before it is scraped.

use std::collections::HashMap;

use prometheus::{CounterVec, GaugeVec, HistogramVec, Registry};

use crate::sinks::metrics::family::{Declaration, Kind, carry};
use observer_core::{
    attribution::cgroup_path::Labels,
    cause::Cause,
    model::{
        event::Limit,
        finding::{
            Caused, Container, ContainerState, Finding, FindingKind, LimitEvent, OomScope, StartupPeak,
        },
    },
};

const LABELS: &[&str] = &["namespace", "workload", "workload_type"];
const WITH_CAUSE: &[&str] = &["namespace", "workload", "workload_type", "cause"];
const WITH_SCOPE: &[&str] = &["namespace", "workload", "workload_type", "scope"];
const WITH_EVENT: &[&str] = &["namespace", "workload", "workload_type", "event"];
const WITH_PHASE: &[&str] = &["namespace", "workload", "workload_type", "phase"];

/// From an eager native program (well under a second) to a JVM with a cache to fill (minutes); the upper end is the
/// start-up horizon, above which a change of level is not start-up. Factor 2: a class of time, not a measurement, which
/// the container's own series give.
const SECONDS: &[f64] = &[0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0];
/// 1.05 is the band: below it there is no overshoot. 1.2 and 1.5 are the headrooms people set; 5 is the worst seen in
/// public reports (kube-state-metrics#958).
const RATIO: &[f64] = &[1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0];

/// At 0.95 reclaim starts to bite, at 1 the limit was hit; below half, the limit is generous.
const OF_LIMIT: &[f64] = &[0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];

static CONTAINERS: Declaration = Declaration {
    name: "observer_workload_containers",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Containers of the workload alive on this node.",
};
static STARTS: Declaration = Declaration {
    name: "observer_workload_starts_total",
    kind: Kind::Counter,
    labels: WITH_CAUSE,
    help: "Container starts seen, by cause (docs/causes.md), counted once the cause is sure or will not become surer.",
};
static REVISED: Declaration = Declaration {
    name: "observer_workload_cause_revisions_total",
    kind: Kind::Counter,
    labels: LABELS,
    help: "Starts whose cause was counted, and turned out to be another when better evidence came.",
};
static FAULTS: Declaration = Declaration {
    name: "observer_workload_page_faults_total",
    kind: Kind::Counter,
    labels: LABELS,
    help: "User page faults of all its containers, living and dead.",
};
static STALL_SECONDS: Declaration = Declaration {
    name: "observer_workload_reclaim_stall_seconds_total",
    kind: Kind::Counter,
    labels: LABELS,
    help: "Time tasks of its containers spent freeing memory instead of running.",
};
static OOM_KILLS: Declaration = Declaration {
    name: "observer_workload_oom_kills_total",
    kind: Kind::Counter,
    labels: WITH_SCOPE,
    help: "Processes of its containers killed for want of memory, by whose limit it was; outlives the containers.",
};
static OOM_PHASES: Declaration = Declaration {
    name: "observer_workload_oom_kills_by_phase_total",
    kind: Kind::Counter,
    labels: WITH_PHASE,
    help: "The same kills by when they struck: startup (no verdict yet) or steady.",
};
static EVENTS: Declaration = Declaration {
    name: "observer_workload_memory_events_total",
    kind: Kind::Counter,
    labels: WITH_EVENT,
    help: "memory.events of all its containers, living and dead, by the kernel's names: low, high, max, oom, oom_kill, oom_group_kill.",
};
static PEAK: Declaration = Declaration {
    name: "observer_workload_memory_peak_bytes",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Highest usage of any one of its containers since the observer started.",
};
static TIME_TO_STABLE: Declaration = Declaration {
    name: "observer_workload_time_to_stable_seconds",
    kind: Kind::Histogram(SECONDS),
    labels: WITH_CAUSE,
    help: "Time to stable of each start-up, when first confirmed, by cause of the start.",
};
static PEAK_OF_LIMIT: Declaration = Declaration {
    name: "observer_workload_startup_peak_limit_ratio",
    kind: Kind::Histogram(OF_LIMIT),
    labels: LABELS,
    help: "Start-up peak over the container's own limit, of each start-up of a container that has one.",
};
static OVERSHOOT: Declaration = Declaration {
    name: "observer_workload_startup_overshoot_ratio",
    kind: Kind::Histogram(RATIO),
    labels: WITH_CAUSE,
    help: "Highest working set over steady level of each start-up, by cause of the start.",
};

pub static ALL: &[&Declaration] = &[
    &CONTAINERS,
    &STARTS,
    &REVISED,
    &FAULTS,
    &STALL_SECONDS,
    &OOM_KILLS,
    &OOM_PHASES,
    &EVENTS,
    &PEAK,
    &TIME_TO_STABLE,
    &OVERSHOOT,
    &PEAK_OF_LIMIT,
];

/// When a kill struck.
const PHASES: [&str; 2] = ["startup", "steady"];

pub struct Families {
    containers: GaugeVec,
    starts: CounterVec,
    revised: CounterVec,
    faults: CounterVec,
    stall_seconds: CounterVec,
    oom_kills: CounterVec,
    oom_phases: CounterVec,
    events: CounterVec,
    peak: GaugeVec,
    time_to_stable: HistogramVec,
    overshoot: HistogramVec,
    peak_of_limit: HistogramVec,
    peaks: HashMap<[String; 3], u64>,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        Self {
            containers: CONTAINERS.gauges(registry),
            starts: STARTS.counters(registry),
            revised: REVISED.counters(registry),
            faults: FAULTS.counters(registry),
            stall_seconds: STALL_SECONDS.counters(registry),
            oom_kills: OOM_KILLS.counters(registry),
            oom_phases: OOM_PHASES.counters(registry),
            events: EVENTS.counters(registry),
            peak: PEAK.gauges(registry),
            time_to_stable: TIME_TO_STABLE.histograms(registry),
            overshoot: OVERSHOOT.histograms(registry),
            peak_of_limit: PEAK_OF_LIMIT.histograms(registry),
            peaks: HashMap::new(),
        }
    }

    pub fn apply(&mut self, finding: &Finding) {
        match &finding.what {
            FindingKind::Seen { container } => self.appear(container),
            FindingKind::Started(started) => self.appear(&started.container),
            FindingKind::Caused(Caused { container, decision, before, .. }) => match before {
                None => self.starts.with_label_values(&caused(container, decision.cause)).inc(),
                Some(before) if before.cause != decision.cause => {
                    self.revised.with_label_values(&values(container)).inc();
                }
                Some(_) => {}
            },
            FindingKind::Identified { container, before } => self.carry(container, before),
            FindingKind::State { container, to: ContainerState::Ended, .. } => {
                self.containers.with_label_values(&values(container)).dec();
            }
            FindingKind::Faulted { container, faults } => {
                self.faults.with_label_values(&values(container)).inc_by(*faults as f64);
            }
            FindingKind::Stalled { container, seconds, .. } => {
                self.stall_seconds.with_label_values(&values(container)).inc_by(*seconds);
            }
            FindingKind::LimitMet { container, event, times } => {
                let [namespace, workload, workload_type] = values(container);
                self.events
                    .with_label_values(&[namespace, workload, workload_type, event.name()])
                    .inc_by(*times as f64);
            }
            FindingKind::Measured(measured) => self.raise_peak(&measured.container, measured.peak),
            FindingKind::OomKilled(killed) => {
                if let Some(container) = &killed.container {
                    self.raise_peak(container, killed.peak);
                    let [namespace, workload, workload_type] = values(container);
                    let kills = killed.kills as f64;
                    let phase = PHASES[usize::from(!killed.starting)];
                    let scope = killed.scope.name();
                    self.oom_kills
                        .with_label_values(&[namespace, workload, workload_type, scope])
                        .inc_by(kills);
                    self.oom_phases
                        .with_label_values(&[namespace, workload, workload_type, phase])
                        .inc_by(kills);
                }
            }
            FindingKind::StartupPeak(StartupPeak {
                container,
                bytes,
                limit: Some(Limit::Bytes(limit)),
                ..
            }) if *limit > 0 => {
                let ratio = *bytes as f64 / *limit as f64;
                self.peak_of_limit.with_label_values(&values(container)).observe(ratio);
            }
            FindingKind::Stable(stable) => {
                let labels = caused(&stable.container, stable.cause);
                self.time_to_stable.with_label_values(&labels).observe(stable.seconds);
                self.overshoot.with_label_values(&labels).observe(stable.overshoot);
            }
            _ => {}
        }
    }

    /// Counters begin at zero, so that the first kill is an increase Prometheus can see.
    fn appear(&self, container: &Container) {
        let [namespace, workload, workload_type] = values(container);
        self.containers.with_label_values(&values(container)).inc();
        for cause in [Cause::First, Cause::RestartAfterOomKill] {
            self.starts.with_label_values(&caused(container, cause));
        }
        for scope in [OomScope::Container, OomScope::Node] {
            self.oom_kills.with_label_values(&[namespace, workload, workload_type, scope.name()]);
        }
        for phase in PHASES {
            self.oom_phases.with_label_values(&[namespace, workload, workload_type, phase]);
        }
    }

    /// What was counted under a pod's uid, for want of a name, is the workload's.
    fn carry(&mut self, container: &Container, before: &Labels) {
        let [namespace, workload, workload_type] = values(container);
        let (old, new) = ([&*before.namespace, &before.workload, &before.workload_type], values(container));
        for family in [&self.faults, &self.stall_seconds, &self.revised] {
            carry(family, &old, &new);
        }
        let with =
            |last: &'static str| ([old[0], old[1], old[2], last], [namespace, workload, workload_type, last]);
        for cause in Cause::ALL {
            let (old, new) = with(cause.name());
            carry(&self.starts, &old, &new);
        }
        for scope in OomScope::ALL {
            let (old, new) = with(scope.name());
            carry(&self.oom_kills, &old, &new);
        }
        for phase in PHASES {
            let (old, new) = with(phase);
            carry(&self.oom_phases, &old, &new);
        }
        for event in LimitEvent::ALL {
            let (old, new) = with(event.name());
            carry(&self.events, &old, &new);
        }
        let alive = self.containers.with_label_values(&old).get();
        self.containers.with_label_values(&new).add(alive);
        let _ = self.containers.remove_label_values(&old);
        let peak = self.peaks.remove(&old.map(str::to_owned));
        let _ = self.peak.remove_label_values(&old); // there is none if nothing was measured
        if let Some(peak) = peak {
            self.raise_peak(container, peak);
        }
        // Histograms stay where they were: a start-up told under a uid is told.
    }

    fn raise_peak(&mut self, container: &Container, peak: u64) {
        let Labels { namespace, workload, workload_type, .. } = &*container.labels;
        let key = [namespace.clone(), workload.clone(), workload_type.clone()];
        let highest = self.peaks.entry(key).or_default();
        if peak > *highest {
            *highest = peak;
            self.peak.with_label_values(&values(container)).set(peak as f64);
        }
    }
}

fn caused(container: &Container, cause: Cause) -> [&str; 4] {
    let [namespace, workload, workload_type] = values(container);
    [namespace, workload, workload_type, cause.name()]
}

fn values(container: &Container) -> [&str; 3] {
    let labels = &container.labels;
    [&labels.namespace, &labels.workload, &labels.workload_type]
}
