//! The programs' counters -> events: per-cgroup totals, losses, programs skipped while running.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap as TableMap, MapData, PerCpuArray},
};
use observer_ebpf::abi::{self, CgroupTotals, Latency, Slot};

use observer_core::model::{
    container::CgroupId,
    event::{Event, EventKind, FaultLatency, Loss, Totals},
    time::Time,
};

#[derive(Clone, Copy)]
#[repr(transparent)]
struct TableValue(CgroupTotals);
// SAFETY: repr(transparent) over a bytemuck::Pod type.
unsafe impl Pod for TableValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct SlotValue(Slot);
// SAFETY: repr(transparent) over a bytemuck::Pod type.
unsafe impl Pod for SlotValue {}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct LatencyValue(Latency);
// SAFETY: repr(transparent) over a bytemuck::Pod type.
unsafe impl Pod for LatencyValue {}

/// What was kept of a cgroup that is gone.
pub struct Freed {
    /// Set if they changed since they were last reported.
    pub totals: Option<Totals>,
    /// In the kernel's tables.
    pub entries: usize,
}

pub struct Counters {
    cgroups: TableMap<MapData, u64, TableValue>,
    containers: TableMap<MapData, u64, u32>,
    slots: PerCpuArray<MapData, SlotValue>,
    latencies: TableMap<MapData, u64, LatencyValue>,
    lost: PerCpuArray<MapData, u64>,
    /// The last reported values, so that only changes are reported.
    reported: HashMap<CgroupId, Totals>,
    reported_latencies: HashMap<CgroupId, u64>,
    reported_lost: HashMap<Loss, u64>,
    /// Descriptors of the loaded programs; the owning `Ebpf` lives as long as this.
    programs: Vec<RawFd>,
}

impl Counters {
    pub fn take(programs: &mut Ebpf) -> Result<Self, String> {
        fn map<T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>>(
            programs: &mut Ebpf,
            name: &str,
        ) -> Result<T, String> {
            let map = programs.take_map(name).ok_or_else(|| format!("the eBPF object has no map {name}"))?;
            T::try_from(map).map_err(|error| format!("cannot use map {name}: {error}"))
        }
        let loaded = programs.programs().filter_map(|(_, program)| program.fd().ok());
        let loaded = loaded.map(|fd| fd.as_fd().as_raw_fd()).collect();
        Ok(Self {
            programs: loaded,
            cgroups: map(programs, "CGROUPS")?,
            containers: map(programs, "CONTAINERS")?,
            slots: map(programs, "SLOTS")?,
            latencies: map(programs, "LATENCIES")?,
            lost: map(programs, "LOST")?,
            reported: HashMap::new(),
            reported_latencies: HashMap::new(),
            reported_lost: HashMap::new(),
        })
    }

    /// Totals and losses that changed since the last call.
    ///
    /// The table is read before the slots: a slot flushed in between makes a total too small once, never too large;
    /// totals are reported only when they grow.
    pub fn read(&mut self, at: Time, undecodable: u64, swept: u64, events: &mut Vec<Event>) {
        let table: Vec<(u64, TableValue)> = self.cgroups.iter().filter_map(Result::ok).collect();
        let in_slots = self.in_slots();
        for (cgroup, TableValue(value)) in table {
            let now = total_of(&value, in_slots.get(&cgroup).copied().unwrap_or(0));
            let reported = self.reported.entry(cgroup).or_default();
            if now.faults >= reported.faults && now != *reported {
                *reported = now;
                events.push(Event { at, what: EventKind::Totals { cgroup, totals: now } });
            }
        }
        self.latencies(at, events);
        self.losses(at, undecodable, swept, events);
    }

    /// Empty unless the probe was asked for.
    fn latencies(&mut self, at: Time, events: &mut Vec<Event>) {
        for (cgroup, LatencyValue(value)) in self.latencies.iter().filter_map(Result::ok) {
            if self.reported_latencies.insert(cgroup, value.total_ns) != Some(value.total_ns) {
                let latency = FaultLatency { buckets: value.buckets.to_vec(), total_ns: value.total_ns };
                events.push(Event { at, what: EventKind::FaultLatency { cgroup, latency } });
            }
        }
    }

    /// The cgroups that have an entry in one of the tables.
    pub fn tabled(&self) -> HashSet<CgroupId> {
        let containers = self.containers.keys().filter_map(Result::ok);
        let latencies = self.latencies.keys().filter_map(Result::ok);
        self.cgroups.keys().filter_map(Result::ok).chain(containers).chain(latencies).collect()
    }

    /// Frees everything that is kept of a cgroup that is gone.
    pub fn free(&mut self, cgroup: CgroupId) -> Freed {
        let value = self.cgroups.get(&cgroup, 0).ok();
        let in_tables =
            [self.containers.remove(&cgroup), self.latencies.remove(&cgroup), self.cgroups.remove(&cgroup)];
        self.reported_latencies.remove(&cgroup);
        let reported = self.reported.remove(&cgroup).unwrap_or_default();
        let totals = value
            .map(|TableValue(value)| total_of(&value, self.in_slots().get(&cgroup).copied().unwrap_or(0)));
        Freed {
            totals: totals.filter(|totals| totals.faults >= reported.faults && *totals != reported),
            entries: in_tables.iter().filter(|removed| removed.is_ok()).count(),
        }
    }

    /// How many parents up the container of this cgroup is; 0: it is one. A full table shows in the programs' count.
    pub fn mark(&mut self, cgroup: CgroupId, up: u32) {
        if self.containers.insert(cgroup, up, 0).is_err() {
            tracing::debug!(
                cgroup,
                "the map of containers is full: faults of nested cgroups stay with those"
            );
        }
    }

    /// Faults still in the per-CPU slots.
    fn in_slots(&self) -> HashMap<CgroupId, u64> {
        let mut faults = HashMap::new();
        if let Ok(slots) = self.slots.get(&abi::slot::FAULT, 0) {
            for SlotValue(slot) in slots.iter() {
                *faults.entry(slot.cgroup).or_default() += slot.faults;
            }
        }
        faults
    }

    fn losses(&mut self, at: Time, undecodable: u64, swept: u64, events: &mut Vec<Event>) {
        let count = |index: u32| self.lost.get(&index, 0).map_or(0, |values| values.iter().sum::<u64>());
        let now = [
            (Loss::RingFull, count(abi::lost::RING_FULL)),
            (Loss::LifeRingFull, count(abi::lost::LIFE_RING_FULL)),
            (Loss::CgroupTableFull, count(abi::lost::CGROUP_TABLE_FULL)),
            (Loss::ReclaimTableFull, count(abi::lost::RECLAIM_TABLE_FULL)),
            (Loss::ReclaimUnmatched, count(abi::lost::RECLAIM_UNMATCHED)),
            (Loss::Undecodable, undecodable),
            (Loss::EntrySwept, swept),
            (Loss::ProgramReentered, self.programs.iter().map(|fd| recursion_misses(*fd)).sum()),
        ];
        for (loss, count) in now {
            // They only rise: less is what could be read of them now.
            let reported = self.reported_lost.entry(loss).or_default();
            if count > *reported {
                *reported = count;
                events.push(Event { at, what: EventKind::Lost { at: loss, count } });
            }
        }
    }
}

/// How often the kernel skipped a program because it was running on that CPU already (kernel/bpf/syscall.c,
/// bpf_prog_show_fdinfo; since Linux 5.12, 0 before).
fn recursion_misses(program: RawFd) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{program}")).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

fn total_of(totals: &CgroupTotals, in_slots: u64) -> Totals {
    Totals {
        faults: totals.faults + in_slots,
        memcg_stalls: totals.memcg_stalls,
        memcg_stall_ns: totals.memcg_stall_ns,
        direct_stalls: totals.direct_stalls,
        direct_stall_ns: totals.direct_stall_ns,
    }
}
