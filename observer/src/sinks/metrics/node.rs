//! The node as a whole: pressure, what the start-ups under way hold, and how long start-ups take.

use std::collections::BTreeMap;

use super::family::{Distribution, Metric, counter, counters, gauge, histograms};
use observer_core::model::{
    event::{Host, NodeReading, StalledBy},
    finding::{FindingKind, NodeMeasured, OomScope},
    kubernetes::ApiState,
};

/// From an eager native program (well under a second) to a JVM with a cache to fill (minutes); the upper end is the
/// start-up horizon, above which a change of level is not start-up. Factor 2: a class of time, not a measurement, which
/// the container's own series give.
static SECONDS: [f64; 12] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 600.0];

pub static METRICS: &[Metric<Node>] = &[
    gauge("observer_node_memory_total_bytes", "MemTotal.", |node| node.total),
    gauge(
        "observer_node_memory_available_bytes",
        "MemAvailable: what can be used without swapping.",
        |node| node.reading(|reading| reading.available),
    ),
    gauge(
        "observer_node_memory_headroom_bytes",
        "What start-ups can take: MemAvailable or, if that is less, what all pods together may still take below the limit of the kubelet's group (node allocatable and the eviction reserve).",
        |node| node.reading(NodeReading::headroom),
    ),
    gauge("observer_node_memory_free_bytes", "MemFree.", |node| node.reading(|reading| reading.free)),
    counter(
        "observer_node_pressure_memory_waiting_seconds_total",
        "Time at least one task was stalled on memory (PSI some); absent where the kernel has no PSI.",
        |node| node.grown(|reading| Some(reading.pressure?.some_ns)).map(|ns| ns / 1e9),
    ),
    counter(
        "observer_node_pressure_memory_stalled_seconds_total",
        "Time all tasks were stalled on memory (PSI full); absent where the kernel has no PSI.",
        |node| node.grown(|reading| Some(reading.pressure?.full_ns)).map(|ns| ns / 1e9),
    ),
    counter("observer_node_page_faults_total", "Page faults since the observer started.", |node| {
        node.grown(|reading| Some(reading.faults))
    }),
    counter(
        "observer_node_major_page_faults_total",
        "Page faults that read from a disk, since the observer started.",
        |node| node.grown(|reading| Some(reading.major_faults)),
    ),
    counter(
        "observer_node_oom_kills_total",
        "OOM kills the kernel counted since the observer started, seen or not.",
        |node| node.grown(|reading| Some(reading.oom_kills)),
    ),
    counters(
        "observer_node_oom_kills_by_scope_total",
        &["scope"],
        "OOM kills seen, by whose limit it was; host processes included.",
        |node, each| {
            for scope in OomScope::ALL {
                each(&[scope.name()], node.oom_scopes.get(&scope).copied().unwrap_or_default());
            }
        },
    ),
    counter(
        "observer_node_direct_reclaim_scanned_pages_total",
        "Pages scanned by tasks that had to free memory themselves.",
        |node| node.grown(|reading| Some(reading.direct_scanned_pages)),
    ),
    counters(
        "observer_node_reclaim_stall_seconds_total",
        &["reason"],
        "Time tasks of all containers spent freeing memory, for a limit or for the node.",
        |node, each| {
            for by in [StalledBy::Limit, StalledBy::Node] {
                each(&[by.name()], node.stall_seconds.get(&by).copied().unwrap_or_default());
            }
        },
    ),
    gauge("observer_node_cgroups", "Memory cgroups known.", |node| node.measured(|node| node.cgroups)),
    gauge("observer_node_containers", "Containers alive.", |node| node.measured(|node| node.containers)),
    gauge("observer_node_containers_starting", "Containers whose memory has no verdict yet.", |node| {
        node.measured(|node| node.starting)
    }),
    gauge("observer_node_starting_memory_bytes", "What the containers starting now hold together.", |node| {
        node.measured(|node| node.starting_usage)
    }),
    gauge(
        "observer_node_startup_forecast_bytes",
        "What those starting now are expected to take beyond what they hold, at the worst moment of the next two minutes, from their workloads' histories.",
        |node| node.measured(|node| node.forecast.growth),
    ),
    gauge(
        "observer_node_startup_forecast_unknown_containers",
        "Containers starting now whose workload has no history: not in the forecast.",
        |node| node.measured(|node| node.forecast.unknown),
    ),
    counter(
        "observer_node_memory_shortage_forecasts_total",
        "Times the forecast exceeded the headroom less the kubelet's eviction reserve of 100 MiB.",
        |node| Some(node.shortages),
    ),
    counter(
        "observer_node_stampedes_total",
        "Times three or more overlapping start-ups took at least half of the headroom they started into.",
        |node| Some(node.stampedes),
    ),
    gauge("observer_node_stampede_active", "1 while a stampede is under way.", |node| {
        node.measured(|node| u64::from(node.stampede))
    }),
    histograms(
        "observer_node_time_to_stable_seconds",
        &SECONDS,
        &["cause"],
        "Time to stable of each start-up on this node, when first confirmed, by cause of the start.",
        |node, each| node.time_to_stable.iter().for_each(|(cause, seconds)| each(&[cause], seconds)),
    ),
    gauge(
        "observer_kubernetes_up",
        "1 while the Kubernetes API answers; absent outside Kubernetes.",
        |node| node.kubernetes_up,
    ),
    gauge(
        "observer_api_clock_ahead_seconds",
        "How far the API server's clock is ahead of this node's, as far as its answers prove it: 0 where both may be the same; absent outside Kubernetes.",
        |node| node.clock_ahead,
    ),
];

#[derive(Debug, Default)]
pub struct Node {
    total: Option<f64>,
    measured: Option<NodeMeasured>,
    /// The first reading is the zero of what it counts.
    first: Option<NodeReading>,
    reading: Option<NodeReading>,
    oom_scopes: BTreeMap<OomScope, f64>,
    stall_seconds: BTreeMap<StalledBy, f64>,
    shortages: f64,
    stampedes: f64,
    time_to_stable: BTreeMap<&'static str, Distribution>,
    kubernetes_up: Option<f64>,
    clock_ahead: Option<f64>,
}

impl Node {
    fn reading(&self, read: impl Fn(&NodeReading) -> u64) -> Option<f64> {
        Some(read(self.reading.as_ref()?) as f64)
    }

    fn grown(&self, read: impl Fn(&NodeReading) -> Option<u64>) -> Option<f64> {
        let (first, now) = (read(self.first.as_ref()?)?, read(self.reading.as_ref()?)?);
        Some(now.saturating_sub(first) as f64)
    }

    fn measured(&self, read: impl Fn(&NodeMeasured) -> u64) -> Option<f64> {
        Some(read(self.measured.as_ref()?) as f64)
    }

    pub fn apply(&mut self, finding: &FindingKind) {
        match finding {
            FindingKind::Host(Host { memory_total, .. }) => self.total = Some(*memory_total as f64),
            FindingKind::Stalled { by, seconds, .. } => {
                *self.stall_seconds.entry(*by).or_default() += seconds
            }
            FindingKind::OomKilled(killed) => {
                *self.oom_scopes.entry(killed.scope).or_default() += killed.kills as f64;
            }
            FindingKind::ShortageForecast(_) => self.shortages += 1.0,
            FindingKind::StampedeBegan(_) => self.stampedes += 1.0,
            FindingKind::Stable(stable) => {
                let seconds = self.time_to_stable.entry(stable.cause.name()).or_default();
                seconds.observe(&SECONDS, stable.seconds, 1);
            }
            FindingKind::Node(node) => {
                if let Some(reading) = &node.reading {
                    self.first.get_or_insert_with(|| reading.clone());
                    self.reading = Some(reading.clone());
                }
                self.measured = Some(NodeMeasured { reading: None, ..node.clone() });
            }
            FindingKind::Api(state) => self.api(state),
            _ => {}
        }
    }

    fn api(&mut self, state: &ApiState) {
        match state {
            ApiState::Watching { .. } => {
                self.kubernetes_up = Some(0.0);
                self.clock_ahead = Some(0.0);
            }
            ApiState::Away { .. } | ApiState::Forbidden { blind: true, .. } => self.kubernetes_up = Some(0.0),
            ApiState::Synced => self.kubernetes_up = Some(1.0),
            ApiState::Clock { ahead_seconds } => self.clock_ahead = Some(*ahead_seconds),
            ApiState::Forbidden { blind: false, .. } => {}
        }
    }
}
