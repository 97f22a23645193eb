//! The observer about itself: probes, losses, cost.

use std::collections::BTreeMap;

use super::family::{Metric, counter, counters, gauge, gauges};
use observer_core::model::{
    event::{AttachOutcome, CgroupVersion, Host, Loss, ObserverReading, ProgramCost},
    finding::FindingKind,
    probe_id::ProbeId,
};

pub static METRICS: &[Metric<Observer>] = &[
    gauges(
        "observer_build_info",
        &["version", "kernel", "cgroup"],
        "1; the observer's version, the kernel's release, and the cgroup version (v1 or v2) of the memory controller.",
        |observer, each| {
            if let Some(host) = &observer.host {
                let cgroup = match host.cgroup {
                    CgroupVersion::V1 => "v1",
                    CgroupVersion::V2 => "v2",
                };
                each(&[&host.observer_version, &host.kernel, cgroup], 1.0);
            }
        },
    ),
    gauges(
        "observer_probe_status",
        &["probe", "status"],
        "1 for the outcome of attaching each probe: attached, fallback, unsupported, broken, disabled. Details: /api/v1/probes.",
        |observer, each| {
            observer.probes.iter().for_each(|(probe, status)| each(&[&probe.to_string(), status], 1.0))
        },
    ),
    gauges(
        "observer_probe_attached",
        &["probe"],
        "1 while the probe is attached. Those that follow growth (page_fault, growth) are attached only while a container starts.",
        |observer, each| {
            for (probe, attached) in &observer.attached {
                each(&[&probe.to_string()], f64::from(u8::from(*attached)));
            }
        },
    ),
    counters(
        "observer_lost_records_total",
        &["reason"],
        "Records lost, by reason; docs/operating.md says what each costs.",
        |observer, each| {
            for loss in Loss::ALL {
                each(&[loss.name()], observer.lost.get(&loss).copied().unwrap_or_default());
            }
        },
    ),
    counter(
        "observer_unattributed_events_total",
        "Events dropped because their cgroup was not identified within 30 s.",
        |observer| Some(observer.unattributed),
    ),
    counter(
        "observer_workload_series_dropped_total",
        "Workloads that found no room among the 1,000 whose series are kept, or had to make room.",
        |observer| Some(observer.dropped_workloads),
    ),
    counters(
        "observer_history_dropped_total",
        &["what"],
        "Workloads, and single start-ups of workloads still known, that what is remembered had no room for.",
        |observer, each| {
            for (what, dropped) in ["workloads", "startups"].into_iter().zip(observer.dropped_history) {
                each(&[what], dropped);
            }
        },
    ),
    counters(
        "observer_program_runs_total",
        &["program"],
        "Runs of each eBPF program that ran. The kernel counts them only with sysctl kernel.bpf_stats_enabled=1, which costs each run two looks at the clock; absent without.",
        |observer, each| observer.programs.iter().for_each(|cost| each(&[&cost.program], cost.runs as f64)),
    ),
    counters(
        "observer_program_run_seconds_total",
        &["program"],
        "Time those runs took: what the programs cost others.",
        |observer, each| {
            observer.programs.iter().for_each(|cost| each(&[&cost.program], cost.ns as f64 / 1e9));
        },
    ),
    gauge("observer_resident_memory_bytes", "Resident memory of the observer.", |observer| {
        Some(observer.reading?.resident as f64)
    }),
    gauge(
        "observer_memory_limit_bytes",
        "Limit of the observer's own cgroup, or of one above it that has less room. Absent without one.",
        |observer| Some(observer.reading?.room?.limit as f64),
    ),
    gauge(
        "observer_memory_taken_bytes",
        "What counts against that limit and the kernel cannot take back; above 85 % of it the oldest histories are dropped.",
        |observer| Some(observer.reading?.room?.taken as f64),
    ),
    counter(
        "observer_cpu_seconds_total",
        "Processor time of the observer, without what its programs cost others.",
        |observer| Some(observer.reading?.cpu_ns as f64 / 1e9),
    ),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes: the same as observer_resident_memory_bytes, by the name every exporter uses.",
        |observer| Some(observer.reading?.resident as f64),
    ),
    counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds: the same as observer_cpu_seconds_total.",
        |observer| Some(observer.reading?.cpu_ns as f64 / 1e9),
    ),
    gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", |observer| {
        Some(observer.reading?.virtual_memory? as f64)
    }),
    gauge("process_open_fds", "Number of open file descriptors.", |observer| {
        Some(observer.reading?.open_files? as f64)
    }),
    gauge("process_max_fds", "Maximum number of open file descriptors.", |observer| {
        Some(observer.reading?.max_files? as f64)
    }),
    gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        |observer| observer.started,
    ),
];

#[derive(Debug, Default)]
pub struct Observer {
    host: Option<Host>,
    started: Option<f64>,
    probes: BTreeMap<ProbeId, &'static str>,
    attached: BTreeMap<ProbeId, bool>,
    lost: BTreeMap<Loss, f64>,
    unattributed: f64,
    pub dropped_workloads: f64,
    dropped_history: [f64; 2],
    reading: Option<ObserverReading>,
    programs: Vec<ProgramCost>,
}

impl Observer {
    pub fn apply(&mut self, unix_seconds: f64, finding: &FindingKind) {
        match finding {
            FindingKind::Host(host) => {
                self.started.get_or_insert(unix_seconds);
                self.host = Some(host.clone());
            }
            FindingKind::Probe(status) => {
                self.probes.insert(status.probe.clone(), status.outcome.name());
                let attached = matches!(status.outcome, AttachOutcome::Attached { .. });
                self.attached.insert(status.probe.clone(), status.attached.unwrap_or(attached));
            }
            FindingKind::ProbeAttached { probe, attached } => {
                self.attached.insert(probe.clone(), *attached);
            }
            FindingKind::Lost { loss, count } => {
                let lost = self.lost.entry(*loss).or_default();
                *lost = lost.max(*count as f64);
            }
            FindingKind::HistoryDropped { workloads, startups, .. } => {
                self.dropped_history = [*workloads as f64, *startups as f64];
            }
            FindingKind::Unattributed { .. } => self.unattributed += 1.0,
            FindingKind::Observer(reading) => self.reading = Some(*reading),
            FindingKind::Programs(programs) => self.programs.clone_from(programs),
            _ => {}
        }
    }
}
