//! What is known of the host and of the probes that run on it.

use std::time::Duration;

use crate::model::{
    event::{AttachOutcome, CgroupVersion, Event, EventKind, Host, ProbeStatus},
    finding::{Finding, FindingKind},
    probe_id::ProbeId,
};

/// What is known of the host and of the probes that run on it.
#[derive(Debug, Default)]
pub struct HostFacts {
    host: Option<Host>,
    /// Kills are counted from files while no probe sees them.
    pub oom_probe: bool,
    /// Without it the exec of the entry point is never observed.
    pub process_probe: bool,
}

impl HostFacts {
    /// Unix time less event time.
    pub fn wall_ns(&self) -> i64 {
        self.host.as_ref().map_or(0, |host| host.wall_offset_ns)
    }

    /// For how long a container that ended is reported.
    pub fn retention(&self) -> Duration {
        self.host.as_ref().map_or(Duration::MAX, |host| Duration::from_nanos(host.retention_ns))
    }

    /// Cgroup v1: each group counts its own kills, and not those of the groups inside.
    pub fn counts_apart(&self) -> bool {
        self.host.as_ref().is_some_and(|host| host.cgroup == CgroupVersion::V1)
    }

    /// Unix time of the host's boot.
    pub fn booted(&self) -> Option<f64> {
        self.host.as_ref()?.booted
    }

    pub fn observe(&mut self, event: &Event, findings: &mut Vec<Finding>) {
        let finding = match &event.what {
            EventKind::Host(host) => {
                self.host = Some(host.clone());
                FindingKind::Host(host.clone())
            }
            EventKind::Probe(status) => {
                self.probe(status);
                FindingKind::Probe(status.clone())
            }
            EventKind::ProbeAttached { probe, attached } => {
                FindingKind::ProbeAttached { probe: probe.clone(), attached: *attached }
            }
            EventKind::Api(state) => FindingKind::Api(state.clone()),
            EventKind::ClockSet { wall_offset_ns } => {
                let Some(host) = &mut self.host else { return };
                let moved_ns = wall_offset_ns.saturating_sub(host.wall_offset_ns);
                host.wall_offset_ns = *wall_offset_ns;
                FindingKind::ClockSet { moved_seconds: moved_ns as f64 / 1e9 }
            }
            EventKind::Observer(reading) => FindingKind::Observer(*reading),
            EventKind::Programs(programs) => FindingKind::Programs(programs.clone()),
            EventKind::Lost { at: loss, count } => FindingKind::Lost { loss: *loss, count: *count },
            _ => return,
        };
        findings.push(Finding { at: event.at, what: finding });
    }

    fn probe(&mut self, status: &ProbeStatus) {
        let attached = matches!(status.outcome, AttachOutcome::Attached { .. });
        match status.probe {
            ProbeId::OomKill => self.oom_probe = attached,
            ProbeId::Process => self.process_probe = attached,
            _ => {}
        }
    }
}
