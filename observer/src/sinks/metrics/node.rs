//! The node as a whole: pressure, and what the start-ups under way hold.

use prometheus::{CounterVec, GaugeVec, Registry};

use crate::sinks::metrics::family::{Declaration, Kind};
use observer_core::model::{
    event::{Host, NodeReading},
    finding::{Finding, FindingKind, OomScope, StalledBy},
};

const fn gauge(name: &'static str, help: &'static str) -> Declaration {
    Declaration { name, kind: Kind::Gauge, labels: &[], help }
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Declaration {
    Declaration { name, kind: Kind::Counter, labels, help }
}

static TOTAL: Declaration = gauge("observer_node_memory_total_bytes", "MemTotal.");
static AVAILABLE: Declaration =
    gauge("observer_node_memory_available_bytes", "MemAvailable: what can be used without swapping.");
static HEADROOM: Declaration = gauge(
    "observer_node_memory_headroom_bytes",
    "What start-ups can take: MemAvailable or, if that is less, what all pods together may still take below the limit of the kubelet's group (node allocatable and the eviction reserve).",
);
static FREE: Declaration = gauge("observer_node_memory_free_bytes", "MemFree.");
static WAITING: Declaration = counter(
    "observer_node_memory_pressure_waiting_seconds_total",
    &[],
    "Time at least one task was stalled on memory (PSI some); absent where the kernel has no PSI.",
);
static STALLED: Declaration = counter(
    "observer_node_memory_pressure_stalled_seconds_total",
    &[],
    "Time all tasks were stalled on memory (PSI full); absent where the kernel has no PSI.",
);
static FAULTS: Declaration =
    counter("observer_node_page_faults_total", &[], "Page faults since the observer started.");
static MAJOR_FAULTS: Declaration = counter(
    "observer_node_major_page_faults_total",
    &[],
    "Page faults that read from a disk, since the observer started.",
);
static OOM_KILLS: Declaration = counter(
    "observer_node_oom_kills_total",
    &[],
    "OOM kills the kernel counted since the observer started, seen or not.",
);
static OOM_SCOPES: Declaration = counter(
    "observer_node_oom_kills_by_scope_total",
    &["scope"],
    "OOM kills seen, by whose limit it was; host processes included.",
);
static DIRECT: Declaration = counter(
    "observer_node_direct_reclaim_scanned_pages_total",
    &[],
    "Pages scanned by tasks that had to free memory themselves.",
);
static STALL_SECONDS: Declaration = counter(
    "observer_node_reclaim_stall_seconds_total",
    &["reason"],
    "Time tasks of all containers spent freeing memory, for a limit or for the node.",
);
static CGROUPS: Declaration = gauge("observer_node_cgroups", "Memory cgroups known.");
static CONTAINERS: Declaration = gauge("observer_node_containers", "Containers alive.");
static STARTING: Declaration =
    gauge("observer_node_containers_starting", "Containers whose memory has no verdict yet.");
static STARTING_USAGE: Declaration =
    gauge("observer_node_starting_memory_bytes", "What the containers starting now hold together.");

static FORECAST: Declaration = gauge(
    "observer_node_startup_forecast_bytes",
    "What those starting now are expected to take beyond what they hold, at the worst moment of the next two minutes, from their workloads' histories.",
);
static FORECAST_UNKNOWN: Declaration = gauge(
    "observer_node_startup_forecast_unknown_containers",
    "Containers starting now whose workload has no history: not in the forecast.",
);
static SHORTAGES: Declaration = Declaration {
    name: "observer_node_shortages_ahead_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Times the forecast exceeded the headroom less the kubelet's eviction reserve of 100 MiB.",
};
static STAMPEDES: Declaration = Declaration {
    name: "observer_node_stampedes_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Times three or more overlapping start-ups took at least half of the headroom they started into.",
};
static STAMPEDE: Declaration = gauge("observer_node_stampede_active", "1 while a stampede is under way.");

pub static ALL: &[&Declaration] = &[
    &TOTAL,
    &AVAILABLE,
    &HEADROOM,
    &FREE,
    &WAITING,
    &STALLED,
    &FAULTS,
    &MAJOR_FAULTS,
    &OOM_KILLS,
    &OOM_SCOPES,
    &DIRECT,
    &STALL_SECONDS,
    &CGROUPS,
    &CONTAINERS,
    &STARTING,
    &STARTING_USAGE,
    &FORECAST,
    &FORECAST_UNKNOWN,
    &SHORTAGES,
    &STAMPEDES,
    &STAMPEDE,
];

pub struct Families {
    total: GaugeVec,
    available: GaugeVec,
    headroom: GaugeVec,
    free: GaugeVec,
    waiting: CounterVec,
    stalled: CounterVec,
    faults: CounterVec,
    major_faults: CounterVec,
    oom_kills: CounterVec,
    oom_scopes: CounterVec,
    direct: CounterVec,
    stall_seconds: CounterVec,
    cgroups: GaugeVec,
    containers: GaugeVec,
    starting: GaugeVec,
    starting_usage: GaugeVec,
    forecast: GaugeVec,
    forecast_unknown: GaugeVec,
    shortages: CounterVec,
    stampedes: CounterVec,
    stampede: GaugeVec,
    before: Option<NodeReading>,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        let families = Self {
            total: TOTAL.gauges(registry),
            available: AVAILABLE.gauges(registry),
            headroom: HEADROOM.gauges(registry),
            free: FREE.gauges(registry),
            waiting: WAITING.counters(registry),
            stalled: STALLED.counters(registry),
            faults: FAULTS.counters(registry),
            major_faults: MAJOR_FAULTS.counters(registry),
            oom_kills: OOM_KILLS.counters(registry),
            oom_scopes: OOM_SCOPES.counters(registry),
            direct: DIRECT.counters(registry),
            stall_seconds: STALL_SECONDS.counters(registry),
            cgroups: CGROUPS.gauges(registry),
            containers: CONTAINERS.gauges(registry),
            starting: STARTING.gauges(registry),
            starting_usage: STARTING_USAGE.gauges(registry),
            forecast: FORECAST.gauges(registry),
            forecast_unknown: FORECAST_UNKNOWN.gauges(registry),
            shortages: SHORTAGES.counters(registry),
            stampedes: STAMPEDES.counters(registry),
            stampede: STAMPEDE.gauges(registry),
            before: None,
        };
        for counter in [&families.shortages, &families.stampedes] {
            counter.with_label_values(&[] as &[&str]);
        }
        for by in [StalledBy::Limit, StalledBy::Node] {
            families.stall_seconds.with_label_values(&[by.name()]);
        }
        for scope in OomScope::ALL {
            families.oom_scopes.with_label_values(&[scope.name()]);
        }
        families
    }

    pub fn apply(&mut self, finding: &Finding) {
        match &finding.what {
            FindingKind::Host(Host { memory_total, .. }) => set(&self.total, *memory_total),
            FindingKind::Stalled { by, seconds, .. } => {
                self.stall_seconds.with_label_values(&[by.name()]).inc_by(*seconds);
            }
            FindingKind::OomKilled(killed) => {
                self.oom_scopes.with_label_values(&[killed.scope.name()]).inc_by(killed.kills as f64);
            }
            FindingKind::ShortageForecast(_) => self.shortages.with_label_values(&[] as &[&str]).inc(),
            FindingKind::StampedeBegan(_) => self.stampedes.with_label_values(&[] as &[&str]).inc(),
            FindingKind::Node(node) => {
                set(&self.cgroups, node.cgroups);
                set(&self.containers, node.containers);
                set(&self.starting, node.starting);
                set(&self.starting_usage, node.starting_usage);
                set(&self.forecast, node.forecast.growth);
                set(&self.forecast_unknown, node.forecast.unknown);
                set(&self.stampede, u64::from(node.stampede));
                if let Some(reading) = &node.reading {
                    self.read(reading);
                }
            }
            _ => {}
        }
    }

    fn read(&mut self, now: &NodeReading) {
        set(&self.available, now.available);
        set(&self.headroom, now.headroom());
        set(&self.free, now.free);
        // The first reading is the zero of these counters.
        let before = self.before.replace(now.clone()).unwrap_or_else(|| now.clone());
        let grow = |family: &CounterVec, now: u64, before: u64, unit: f64| {
            family.with_label_values(&[] as &[&str]).inc_by(now.saturating_sub(before) as f64 / unit);
        };
        grow(&self.faults, now.faults, before.faults, 1.0);
        grow(&self.major_faults, now.major_faults, before.major_faults, 1.0);
        grow(&self.oom_kills, now.oom_kills, before.oom_kills, 1.0);
        grow(&self.direct, now.direct_scanned_pages, before.direct_scanned_pages, 1.0);
        if let (Some(now), Some(before)) = (now.pressure, before.pressure) {
            grow(&self.waiting, now.some_ns, before.some_ns, 1e9);
            grow(&self.stalled, now.full_ns, before.full_ns, 1e9);
        }
    }
}

fn set(family: &GaugeVec, value: u64) {
    family.with_label_values(&[] as &[&str]).set(value as f64);
}
