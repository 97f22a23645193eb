//! Per container. What it uses goes at its end; the rest stays for the retention after it, then goes.

use std::collections::BTreeMap;

use super::family::{Distribution, Metric, counter, counters, gauge, gauges, histograms};
use observer_core::model::{
    container::{CgroupId, ContainerState},
    event::MemoryLevels,
    finding::{FindingKind, LimitKind, Measured, OomScope},
};

/// 2 us to 32 ms, powers of two: what the probe counts in.
static FAULT_SECONDS: [f64; observer_ebpf::abi::LATENCY_BUCKETS - 1] = {
    let mut bounds = [2e-6; observer_ebpf::abi::LATENCY_BUCKETS - 1];
    let mut i = 1;
    while i < bounds.len() {
        bounds[i] = bounds[i - 1] * 2.0;
        i += 1;
    }
    bounds
};

pub static METRICS: &[Metric<Container>] = &[
    gauge(
        "observer_container_memory_usage_bytes",
        "Memory charged to the container, page cache and kernel memory included.",
        |container| container.level(|levels| Some(levels.usage)),
    ),
    gauge(
        "observer_container_memory_anonymous_bytes",
        "Anonymous memory: heaps, stacks, shared memory not backed by files.",
        |container| container.level(|levels| Some(levels.stat?.anon)),
    ),
    gauge(
        "observer_container_memory_limit_bytes",
        "The container's own memory limit; absent without one.",
        |container| container.level(|levels| levels.limit?.bytes()),
    ),
    gauge(
        "observer_container_memory_high_bytes",
        "memory.high, above which the kernel slows the container down; absent without one and on cgroup v1.",
        |container| container.level(|levels| levels.high?.bytes()),
    ),
    gauge(
        "observer_container_memory_swap_bytes",
        "Memory of the container swapped out: a start-up that swaps shows its peak here too. Absent while there is none.",
        |container| container.level(|levels| levels.swap.filter(|swap| *swap > 0)),
    ),
    gauge(
        "observer_container_drift_bytes_per_second",
        "Growth of the working set's floor while the container is drifting; absent otherwise.",
        |container| container.drift,
    ),
    gauge(
        "observer_container_memory_peak_bytes",
        "Highest usage since the container's cgroup was made, from the kernel's own watermark: exact between any two scrapes.",
        |container| container.start.peak,
    ),
    gauge(
        "observer_container_startup_peak_bytes",
        "Highest usage from first exec until the first verdict.",
        |container| container.start.startup_peak,
    ),
    gauge(
        "observer_container_startup_time_to_peak_seconds",
        "From first exec until the start-up peak was reached.",
        |container| container.start.time_to_peak,
    ),
    gauge(
        "observer_container_memory_steady_bytes",
        "Level of the working set where it settled; absent until it has.",
        |container| container.start.steady,
    ),
    gauge(
        "observer_container_startup_overshoot_ratio",
        "Highest working set before the verdict over steady level; never below 1.",
        |container| container.start.overshoot,
    ),
    gauge(
        "observer_container_time_to_stable_seconds",
        "From first exec until memory stayed in its band (5 % or 4 MiB); dated when the hold began, reported when it ended.",
        |container| container.start.time_to_stable,
    ),
    gauge(
        "observer_container_start_time_seconds",
        "Unix time of the first exec of the container's entry point.",
        |container| container.start.time,
    ),
    gauges(
        "observer_container_state",
        &["state"],
        "1 for the state the container is in: starting, stable, drifting, oscillating, running (older than the observer), ended. The other states have no series.",
        |container, each| {
            if let Some(state) = container.start.state {
                each(&[state.name()], 1.0);
            }
        },
    ),
    gauges(
        "observer_container_limit_in_seconds",
        &["limit"],
        "Seconds until the container's memory, without what the kernel can take back, is foreseen to meet a limit: its own, its pod's, or the node's room, whichever is first. Absent while no approach is seen (docs/forecast.md).",
        |container, each| {
            if let Some((limit, seconds)) = container.limit_ahead {
                each(&[limit.name()], seconds);
            }
        },
    ),
    counter(
        "observer_container_page_faults_total",
        "User page faults, counted one by one by the probe.",
        |container| Some(container.page_faults),
    ),
    counter(
        "observer_container_pressure_memory_waiting_seconds_total",
        "Time at least one task of the container was stalled on memory (PSI some; cgroup v2). Absent before the first.",
        |container| Some(container.waiting_seconds).filter(|seconds| *seconds > 0.0),
    ),
    counters(
        "observer_container_oom_kills_total",
        &["scope"],
        "Processes of the container killed for want of memory, by whose limit it was: container, inside (of a group inside it), parent, ancestor, node, unknown. Absent before the first; the workload's begin at 0.",
        |container, each| container.oom_kills.iter().for_each(|(scope, kills)| each(&[scope.name()], *kills)),
    ),
    histograms(
        "observer_container_page_fault_seconds",
        &FAULT_SECONDS,
        &[],
        "How long page faults took, of one in 64; only with --enable-probe fault_latency. The sum is made of bucket bounds.",
        |container, each| {
            if let Some(latency) = &container.fault_latency {
                each(&[], latency);
            }
        },
    ),
];

/// What is exported of one set of container labels. A restarted container takes it over: counters go on.
#[derive(Debug, Default)]
pub struct Container {
    /// Cgroup of the present container: the end of the previous one must not remove it.
    pub holder: Option<CgroupId>,
    /// Of the living container.
    levels: Option<MemoryLevels>,
    drift: Option<f64>,
    limit_ahead: Option<(LimitKind, f64)>,
    start: Start,
    page_faults: f64,
    waiting_seconds: f64,
    oom_kills: BTreeMap<OomScope, f64>,
    fault_latency: Option<Box<Distribution>>,
}

/// What its start-up was like.
#[derive(Debug, Default)]
struct Start {
    state: Option<ContainerState>,
    time: Option<f64>,
    peak: Option<f64>,
    startup_peak: Option<f64>,
    time_to_peak: Option<f64>,
    steady: Option<f64>,
    overshoot: Option<f64>,
    time_to_stable: Option<f64>,
}

impl Container {
    /// A new holder: what was said of the previous one's start-up is not about it.
    pub fn take_over(&mut self, cgroup: CgroupId) {
        self.holder = Some(cgroup);
        (self.levels, self.drift, self.limit_ahead, self.start) = (None, None, None, Start::default());
    }

    pub fn is_unseen(&self) -> bool {
        self.start.state.is_none()
    }

    /// Of `cgroup`; what is counted of an earlier holder still counts.
    pub fn apply(&mut self, cgroup: CgroupId, finding: &FindingKind) {
        if self.holder.is_none_or(|holder| holder == cgroup) {
            self.gauge(finding);
        }
        self.count(finding);
    }

    fn gauge(&mut self, finding: &FindingKind) {
        let start = &mut self.start;
        match finding {
            FindingKind::Started(started) => start.time = Some(started.unix_seconds),
            FindingKind::StartDated { unix_seconds, .. } => start.time = Some(*unix_seconds),
            FindingKind::Point { usage, .. } if start.state != Some(ContainerState::Ended) => {
                self.levels.get_or_insert_default().usage = *usage;
            }
            FindingKind::Measured(Measured { levels, .. }) => self.measured(levels),
            FindingKind::StartupPeak(peak) => {
                start.startup_peak = Some(peak.bytes as f64);
                start.time_to_peak = Some(peak.seconds);
            }
            FindingKind::Stable(stable) | FindingKind::LateStep { stable, .. } => {
                start.time_to_stable = Some(stable.seconds);
                start.steady = Some(stable.level as f64);
                start.overshoot = Some(stable.overshoot.max(1.0));
            }
            FindingKind::Drifting { bytes_per_second, .. } => self.drift = Some(*bytes_per_second),
            FindingKind::LimitAhead(ahead) => self.limit_ahead = Some((ahead.limit, ahead.in_seconds)),
            FindingKind::LimitAheadOver { .. } => self.limit_ahead = None,
            FindingKind::State { to, .. } => {
                start.state = Some(*to);
                match to {
                    ContainerState::Ended => (self.levels, self.drift, self.limit_ahead) = (None, None, None),
                    ContainerState::Drifting => {}
                    _ => self.drift = None,
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, finding: &FindingKind) {
        match finding {
            FindingKind::Faulted { faults, .. } => self.page_faults += *faults as f64,
            FindingKind::FaultsTimed { buckets, .. } => {
                let latency = self.fault_latency.get_or_insert_default();
                for (index, count) in buckets.iter().enumerate() {
                    // Each is counted as the middle of its bucket.
                    let seconds = 1.5e-6 * f64::from(1u32 << index.min(31));
                    latency.observe(&FAULT_SECONDS, seconds, *count);
                }
            }
            FindingKind::Pressed { waiting_seconds, .. } => self.waiting_seconds += waiting_seconds,
            FindingKind::OomKilled(killed) => {
                *self.oom_kills.entry(killed.scope).or_default() += killed.kills as f64;
            }
            _ => {}
        }
    }

    fn measured(&mut self, levels: &MemoryLevels) {
        self.start.peak = levels.watermark.map(|bytes| bytes as f64);
        if self.start.state != Some(ContainerState::Ended) {
            self.levels = Some(*levels);
        }
    }

    fn level(&self, read: impl Fn(&MemoryLevels) -> Option<u64>) -> Option<f64> {
        read(self.levels.as_ref()?).map(|bytes| bytes as f64)
    }

    /// What was reported under other labels is of this one.
    pub fn merge(&mut self, before: Self) {
        (self.levels, self.drift, self.limit_ahead) = (before.levels, before.drift, before.limit_ahead);
        (self.start, self.holder) = (before.start, before.holder);
        self.page_faults += before.page_faults;
        self.waiting_seconds += before.waiting_seconds;
        before
            .oom_kills
            .into_iter()
            .for_each(|(scope, kills)| *self.oom_kills.entry(scope).or_default() += kills);
        if let Some(latency) = before.fault_latency {
            self.fault_latency.get_or_insert_default().merge(&latency);
        }
    }
}
