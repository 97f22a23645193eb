//! The observer about itself: probes, losses, cost.

use prometheus::{CounterVec, GaugeVec, Registry};

use crate::sinks::metrics::family::{Declaration, Kind};
use observer_core::model::{
    event::{AttachOutcome, Loss, ObserverReading},
    finding::{Finding, FindingKind},
};

static BUILD: Declaration = Declaration {
    name: "observer_build_info",
    kind: Kind::Gauge,
    labels: &["version", "kernel", "cgroup"],
    help: "1; the observer's version, the kernel's release, and the cgroup version (v1 or v2) of the memory controller.",
};
static PROBE: Declaration = Declaration {
    name: "observer_probe_status",
    kind: Kind::Gauge,
    labels: &["probe", "status"],
    help: "1 for the outcome of attaching each probe: attached, fallback, unsupported, broken, disabled. Details: /api/v1/probes.",
};
static ATTACHED: Declaration = Declaration {
    name: "observer_probe_attached",
    kind: Kind::Gauge,
    labels: &["probe"],
    help: "1 while the probe is attached. Those that follow growth (page_fault, growth) are attached only while a container starts.",
};
static LOST: Declaration = Declaration {
    name: "observer_lost_total",
    kind: Kind::Counter,
    labels: &["where"],
    help: "Data lost, by where; docs/operating.md says what each costs.",
};
static UNATTRIBUTED: Declaration = Declaration {
    name: "observer_unattributed_events_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Events of a cgroup nobody could tell within 30 s.",
};
static RESIDENT: Declaration = Declaration {
    name: "observer_resident_memory_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Resident memory of the observer.",
};
static CPU: Declaration = Declaration {
    name: "observer_cpu_seconds_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Processor time of the observer, without what its programs cost others.",
};

/// The names every exporter has them under.
static PROCESS_RESIDENT: Declaration = Declaration {
    name: "process_resident_memory_bytes",
    kind: Kind::Gauge,
    labels: &[],
    help: "Resident memory of the observer, under the name every exporter has.",
};
static PROCESS_CPU: Declaration = Declaration {
    name: "process_cpu_seconds_total",
    kind: Kind::Counter,
    labels: &[],
    help: "Processor time of the observer, under the name every exporter has.",
};

pub static ALL: &[&Declaration] =
    &[&BUILD, &PROBE, &ATTACHED, &LOST, &UNATTRIBUTED, &RESIDENT, &CPU, &PROCESS_RESIDENT, &PROCESS_CPU];

pub struct Families {
    build: GaugeVec,
    probe: GaugeVec,
    attached: GaugeVec,
    lost: CounterVec,
    unattributed: CounterVec,
    resident: GaugeVec,
    cpu: CounterVec,
    process_resident: GaugeVec,
    process_cpu: CounterVec,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        let families = Self {
            build: BUILD.gauges(registry),
            probe: PROBE.gauges(registry),
            attached: ATTACHED.gauges(registry),
            lost: LOST.counters(registry),
            unattributed: UNATTRIBUTED.counters(registry),
            resident: RESIDENT.gauges(registry),
            cpu: CPU.counters(registry),
            process_resident: PROCESS_RESIDENT.gauges(registry),
            process_cpu: PROCESS_CPU.counters(registry),
        };
        for loss in Loss::ALL {
            families.lost.with_label_values(&[loss.name()]);
        }
        families.unattributed.with_label_values(&[] as &[&str]);
        families
    }

    pub fn apply(&mut self, finding: &Finding) {
        match &finding.what {
            FindingKind::Host(host) => {
                let cgroup = match host.cgroup {
                    observer_core::model::event::CgroupVersion::V1 => "v1",
                    observer_core::model::event::CgroupVersion::V2 => "v2",
                };
                self.build.with_label_values(&[&host.observer_version, &host.kernel, cgroup]).set(1.0);
            }
            FindingKind::Probe(status) => {
                self.probe.with_label_values(&[status.probe.as_str(), status.outcome.name()]).set(1.0);
                let attached =
                    status.attached.unwrap_or(matches!(status.outcome, AttachOutcome::Attached { .. }));
                self.attached.with_label_values(&[&status.probe]).set(f64::from(attached));
            }
            FindingKind::ProbeAttached { probe, attached } => {
                self.attached.with_label_values(&[probe]).set(f64::from(*attached));
            }
            FindingKind::Lost { loss, count } => {
                let series = self.lost.with_label_values(&[loss.name()]);
                series.inc_by((*count as f64 - series.get()).max(0.0));
            }
            FindingKind::Unattributed { .. } => self.unattributed.with_label_values(&[] as &[&str]).inc(),
            FindingKind::Observer(ObserverReading { resident, cpu_ns, .. }) => {
                self.resident.with_label_values(&[] as &[&str]).set(*resident as f64);
                self.process_resident.with_label_values(&[] as &[&str]).set(*resident as f64);
                for cpu in [&self.cpu, &self.process_cpu] {
                    let cpu = cpu.with_label_values(&[] as &[&str]);
                    cpu.inc_by((*cpu_ns as f64 / 1e9 - cpu.get()).max(0.0));
                }
            }
            _ => {}
        }
    }
}
