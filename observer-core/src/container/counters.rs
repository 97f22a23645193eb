//! Deltas of cumulative counters: faults and stalls that probes count, and what the kernel's files count.

use crate::{
    container::{lifecycle::Lifecycle, page_faults::PageFaults},
    model::{
        container::Container,
        event::{FaultLatency, MemoryEvents, MemoryReading, Pressure, StalledBy, Totals},
        finding::{Finding, FindingKind, LimitEvent},
        time::Time,
    },
};

/// As they were at the last reading of one cgroup.
#[derive(Debug, Default)]
pub struct Counters {
    faults: PageFaults,
    totals: Totals,
    latency_buckets: Vec<u64>,
    files: FileCounters,
}

#[derive(Clone, Copy, Debug, Default)]
struct FileCounters {
    major_faults: Option<u64>,
    events: Option<MemoryEvents>,
    pressure: Option<Pressure>,
}

impl Counters {
    /// All that a new cgroup's files count happened while the observer ran.
    pub fn of_a_new_cgroup() -> Self {
        let files = FileCounters {
            major_faults: Some(0),
            events: Some(MemoryEvents::default()),
            pressure: Some(Pressure::default()),
        };
        Self { files, faults: PageFaults::of_a_new_cgroup(), ..Self::default() }
    }

    pub fn totals(&mut self, at: Time, container: &Container, now: Totals, out: &mut Vec<Finding>) {
        let before = std::mem::replace(&mut self.totals, now);
        let faults = self.faults.by_program(now.faults);
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
                let container = container.clone();
                out.push(Finding { at, what: FindingKind::Stalled { container, by, stalls, seconds } });
            }
        }
    }

    pub fn latency(
        &mut self,
        at: Time,
        container: &Container,
        latency: &FaultLatency,
        out: &mut Vec<Finding>,
    ) {
        let before = std::mem::replace(&mut self.latency_buckets, latency.buckets.clone());
        let grew = |(index, now): (usize, &u64)| now - before.get(index).unwrap_or(&0).min(now);
        let buckets = latency.buckets.iter().enumerate().map(grew).collect();
        out.push(Finding { at, what: FindingKind::FaultsTimed { container: container.clone(), buckets } });
    }

    /// What the kernel itself counts: faults, major faults, limits met and pressure.
    pub fn files(&mut self, at: Time, life: &Lifecycle, reading: &MemoryReading, out: &mut Vec<Finding>) {
        let container = life.container();
        let events = reading.events;
        let major_faults = reading.levels.stat.and_then(|stat| stat.major_faults);
        let before = self.files;
        self.files.major_faults = major_faults.or(before.major_faults);
        self.files.events = events.or(before.events);
        self.files.pressure = reading.pressure.or(before.pressure);
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
        if let (Some(now), Some(before)) = (major_faults, before.major_faults) {
            let faults = now.saturating_sub(before);
            if faults > 0 {
                let container = container.clone();
                out.push(Finding { at, what: FindingKind::MajorFaulted { container, faults } });
            }
        }
        if let Some(count) = reading.levels.stat.and_then(|stat| stat.faults) {
            let faults = self.faults.by_kernel(count);
            if faults > 0 {
                out.push(Finding { at, what: FindingKind::Faulted { container: container.clone(), faults } });
            }
        }
        let (Some(now), Some(before)) = (events, before.events) else { return };
        for event in LimitEvent::ALL {
            // A counter this kernel has, but an older reading did not, begins now.
            let (Some(now), before) = (event.of(&now), event.of(&before)) else { continue };
            let times = now.saturating_sub(before.unwrap_or(0));
            if times > 0 {
                let container = container.clone();
                out.push(Finding { at, what: FindingKind::LimitMet { container, event, times } });
            }
        }
    }
}
