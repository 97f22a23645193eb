//! Counters, told by how much they grew: faults and stalls of the probes, and what the kernel's files count.

use std::collections::HashMap;

use crate::{
    model::{
        event::{CgroupId, Event, FaultLatency, MemoryEvents, MemoryReading, MemoryStat, Pressure, Totals},
        finding::{Finding, FindingKind, LimitEvent, StalledBy},
        time::Time,
    },
    pipeline::Pipeline,
};

/// As they were at the last look.
#[derive(Debug, Default)]
pub(super) struct Counters {
    totals: HashMap<CgroupId, Totals>,
    latencies: HashMap<CgroupId, Vec<u64>>,
    files: HashMap<CgroupId, FileCounters>,
}

impl Counters {
    /// All that a new group's files count happened under our eyes.
    pub fn made(&mut self, cgroup: CgroupId) {
        self.files.entry(cgroup).or_insert_with(FileCounters::zero);
    }

    pub fn removed(&mut self, cgroup: CgroupId) {
        self.totals.remove(&cgroup);
        self.latencies.remove(&cgroup);
        self.files.remove(&cgroup);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct FileCounters {
    stat: Option<MemoryStat>,
    events: Option<MemoryEvents>,
    pressure: Option<Pressure>,
}

impl FileCounters {
    fn zero() -> Self {
        Self {
            stat: Some(MemoryStat::default()),
            events: Some(MemoryEvents::default()),
            pressure: Some(Pressure::default()),
        }
    }
}

impl Pipeline {
    pub(super) fn totals(
        &mut self,
        at: Time,
        event: &Event,
        cgroup: CgroupId,
        now: Totals,
        out: &mut Vec<Finding>,
    ) {
        let Some(life) = self.owner_or_hold(cgroup, event, out) else { return };
        let container = life.container().clone();
        let before = self.counters.totals.insert(cgroup, now).unwrap_or_default();
        let faults = now.faults.saturating_sub(before.faults);
        if faults > 0 {
            out.push(Finding { at, what: FindingKind::Faulted { container: container.clone(), faults } });
        }
        let stalls = [
            (
                StalledBy::Limit,
                (now.memcg_stalls, before.memcg_stalls),
                (now.memcg_stall_ns, before.memcg_stall_ns),
            ),
            (
                StalledBy::Node,
                (now.direct_stalls, before.direct_stalls),
                (now.direct_stall_ns, before.direct_stall_ns),
            ),
        ];
        for (by, count, ns) in stalls {
            let stalls = count.0.saturating_sub(count.1);
            let seconds = ns.0.saturating_sub(ns.1) as f64 / 1e9;
            if stalls > 0 {
                out.push(Finding {
                    at,
                    what: FindingKind::Stalled { container: container.clone(), by, stalls, seconds },
                });
            }
        }
    }

    /// What the files count and no probe does: major faults, limits met and pressure always, faults and kills where a probe
    /// is missing.
    pub(super) fn file_counters(
        &mut self,
        at: Time,
        cgroup: CgroupId,
        reading: &MemoryReading,
        out: &mut Vec<Finding>,
    ) {
        let (stat, events) = (reading.stat, reading.events);
        let Some(life) = self.lives.get(&cgroup) else { return };
        let container = life.container().clone();
        let entry = self.counters.files.entry(cgroup).or_default();
        let before = *entry;
        entry.stat = stat.or(before.stat);
        entry.events = events.or(before.events);
        entry.pressure = reading.pressure.or(before.pressure);
        if let (Some(now), Some(before)) = (reading.pressure, before.pressure) {
            let seconds = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9;
            let (waiting_seconds, stalled_seconds) =
                (seconds(now.some_ns, before.some_ns), seconds(now.full_ns, before.full_ns));
            let container = container.clone();
            out.push(Finding {
                at,
                what: FindingKind::Pressed { container, waiting_seconds, stalled_seconds },
            });
        }
        if let (Some(now), Some(before)) = (stat, before.stat) {
            let major = now.major_faults.saturating_sub(before.major_faults);
            if major > 0 {
                out.push(Finding {
                    at,
                    what: FindingKind::MajorFaulted { container: container.clone(), faults: major },
                });
            }
            let faults = now.faults.saturating_sub(before.faults);
            if faults > 0 && !self.fault_probe {
                out.push(Finding { at, what: FindingKind::Faulted { container: container.clone(), faults } });
            }
        }
        if let (Some(now), Some(before)) = (events, before.events) {
            for event in LimitEvent::ALL {
                // A counter this kernel has, but an older reading did not, begins now.
                let (Some(now), before) = (event.of(&now), event.of(&before)) else { continue };
                let times = now.saturating_sub(before.unwrap_or(0));
                if times > 0 {
                    let container = container.clone();
                    out.push(Finding { at, what: FindingKind::LimitMet { container, event, times } });
                }
            }
            let kills = now.oom_kill.saturating_sub(before.oom_kill);
            if kills > 0 && !self.oom_probe {
                self.kills_by_files(at, cgroup, kills, out);
            }
        }
        if let Some(local) = events.and_then(|events| events.oom_local) {
            self.baselines.read(at, cgroup, local);
        }
    }

    pub(super) fn latency(
        &mut self,
        at: Time,
        event: &Event,
        cgroup: CgroupId,
        latency: &FaultLatency,
        out: &mut Vec<Finding>,
    ) {
        let Some(life) = self.owner_or_hold(cgroup, event, out) else { return };
        let container = life.container().clone();
        let now = latency.buckets.clone();
        let before = self.counters.latencies.insert(cgroup, now).unwrap_or_default();
        let grew = |(index, now): (usize, &u64)| now - before.get(index).unwrap_or(&0).min(now);
        let buckets = latency.buckets.iter().enumerate().map(grew).collect();
        out.push(Finding { at, what: FindingKind::FaultsTimed { container, buckets } });
    }
}
