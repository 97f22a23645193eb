//! Every memory cgroup at once: one record each, without a file.
//!
//! *Sees* usage, peak, limits, event counters, pressure and the pages on the LRU lists of all memory cgroups. *Hooks*
//! iter/cgroup (kernel: kernel/bpf/cgroup_iter.c, v6.1), run by userland once a second. *Falls back to* the files of
//! each group. *Feeds* what is known of a container at rest.
//!
//! The iterator writes no output: the kernel cannot continue a walk of cgroups whose output buffer is full. Each group
//! is stored in a mapped array at a running index instead. The walk is in pre-order, so a group comes after its parent
//! and before its next sibling. As long as no group comes or goes each keeps its index, so the program compares with
//! what it stored there last, and lists what changed: of a group at rest userland touches nothing.
//!
//! Once a second a group's memory has left the processor's caches, and what a pass costs is how many cache lines it
//! fetches. So of a group at rest it reads only the memory counter, two lines, beside what says who it is. The rest
//! (page lists, swap, events, pressure) is read when the counter moved, near a limit, and once in [`WHOLE_EVERY`] runs.
//!
//! Fields are loaded through typed pointers; a helper takes some 60 ns, and is for kernels without casts (before v6.2).

use bytemuck::{Pod, Zeroable};

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, iter},
};

pub const PROBE: Probe = Probe {
    name: "cgroup_pass",
    sees: "usage, peak and limits of every memory cgroup once a second, the rest when that moves",
    intent: Intent::Optional,
    hooks: &[Hook { attachments: &[iter("cgroup_pass", "cgroup")] }],
    fallback: Fallback {
        by: Some("the files of each cgroup"),
        lost: "a container at rest is read every 15 seconds instead of every second, at some 300 times the cost",
    },
    needs: &[
        Field::CgroupKn,
        Field::KnId,
        Field::CgroupMemory,
        Field::CgroupLevel,
        Field::CgroupPopulatedCsets,
        Field::CssSerial,
        Field::CssParent,
        Field::CssCgroup,
        Field::MemcgCss,
        Field::MemcgUsage,
        Field::MemcgWatermark,
        Field::MemcgMax,
        Field::MemcgOomEvents,
        Field::MemcgOomKillsLocal,
        Field::MemcgEventsHigh,
        Field::MemcgEventsMax,
        Field::MemcgEventsOom,
        Field::MemcgEventsOomKill,
        Field::MemcgNodeinfo,
        Field::NodeLruSizes,
        Field::Zones,
        Field::LruLists,
    ],
    feeds: &[
        "observer_container_memory_usage_bytes",
        "observer_container_memory_peak_bytes",
        "observer_workload_memory_events_total",
    ],
};

/// One memory cgroup, as the pass found it. Amounts in pages; [`crate::abi::UNKNOWN`] where this kernel does not have a
/// field. 208 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct CgroupRecord {
    // Read in each run: 64 bytes.
    pub cgroup: u64,
    /// `serial_nr` of the css: never used twice, unlike the id.
    pub serial: u64,
    /// Depth below the root of the hierarchy.
    pub level: u32,
    /// Sets of tasks that are in this very group, not below it.
    pub populated: u32,
    pub usage: u64,
    pub watermark: u64,
    pub max: u64,
    pub high: u64,
    /// v1: times usage hit the limit.
    pub failcnt: u64,
    // Of a group at rest as it was at most `WHOLE_EVERY` runs ago.
    pub parent: u64,
    pub swap: u64,
    pub memsw: u64,
    /// `memory_events[]`: with what happened below (v2).
    pub events: EventCounts,
    pub oom_local: u64,
    pub oom_kill_local: u64,
    /// Of this very group: inactive_anon, active_anon, inactive_file, active_file, unevictable.
    pub lru: [u64; LRU_LISTS],
    /// Time some, and all, tasks were stalled, in nanoseconds; at most two seconds old.
    pub pressure_some_ns: u64,
    pub pressure_full_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct EventCounts {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// The only entry of the map `PASS_HEADER`: userland sets the mode and zero counts, runs the pass, and reads the
/// counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// [`mode`].
    pub mode: u64,
    /// Remainder of the indexes whose records are read whole; [`EVERY_ONE`]: all.
    pub whole: u64,
    /// Records of this run: the first so many of the table.
    pub stored: u64,
    /// Those that are not as the run before left them; the map `PASS_CHANGED` begins with their indexes, ascending.
    pub changed: u64,
    /// Groups for which there was no room.
    pub dropped: u64,
}

pub mod mode {
    pub const ALL: u64 = 0;
    /// After a run that had no room for all: only those that are containers, or in one.
    pub const CONTAINERS: u64 = 1;
}

/// Runs after which a group at rest is read whole again: page lists change by ageing, too.
pub const WHOLE_EVERY: u64 = 16;
pub const EVERY_ONE: u64 = u64::MAX; // of `Header::whole`
/// Pages by which usage may be short of a limit that is hit: `MEMCG_CHARGE_BATCH` (include/linux/memcontrol.h).
pub const CHARGE_BATCH: u64 = 64;

/// `NR_LRU_LISTS` of every kernel so far; another number is a kernel this program does not know.
pub const LRU_LISTS: usize = 5;
/// At most: `MAX_NR_ZONES` is 3 to 6.
pub const MAX_ZONES: usize = 8;
/// Generations of the multi-gen LRU, and how many of the newest are active: `MAX_NR_GENS` and `MIN_NR_GENS` (kernel:
/// include/linux/mmzone.h, v6.1 to v7.2).
pub const GENERATIONS: usize = 4;
pub const ACTIVE_GENERATIONS: usize = 2;
/// NUMA nodes, at most.
pub const MAX_NODES: u32 = 64;
/// Records the table holds unless userland says otherwise.
pub const CAPACITY: u32 = 8192;

pub mod lru {
    pub const INACTIVE_ANON: usize = 0;
    pub const ACTIVE_ANON: usize = 1;
    pub const INACTIVE_FILE: usize = 2;
    pub const ACTIVE_FILE: usize = 3;
    pub const UNEVICTABLE: usize = 4;
}

const _: () = {
    assert!(size_of::<Header>() == 40);
    assert!(size_of::<CgroupRecord>() == 208);
};

#[cfg(target_arch = "bpf")]
pub use program::cgroup_pass;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{Global, macros::map, maps::Array};

    use super::{
        ACTIVE_GENERATIONS, CAPACITY, CHARGE_BATCH, CgroupRecord, EVERY_ONE, GENERATIONS, Header, LRU_LISTS,
        MAX_NODES, MAX_ZONES, WHOLE_EVERY, lru, mode,
    };
    use crate::{
        abi::UNKNOWN,
        field::Field,
        maps::CONTAINERS,
        walk::{self, Memcg, Ptr, Typed},
    };

    const BPF_F_MMAPABLE: u32 = 1 << 10;

    #[map]
    pub static PASS: Array<CgroupRecord> = Array::with_max_entries(CAPACITY, BPF_F_MMAPABLE);
    /// 8 bytes each: the kernel rounds an entry up to that, which shows where it is mapped.
    #[map]
    pub static PASS_CHANGED: Array<u64> = Array::with_max_entries(CAPACITY, BPF_F_MMAPABLE);
    #[map]
    pub static PASS_HEADER: Array<Header> = Array::with_max_entries(1, BPF_F_MMAPABLE);
    /// NUMA nodes of this host.
    #[unsafe(no_mangle)]
    pub static NUMA_NODES: Global<u32> = Global::new(1);

    /// `struct bpf_iter__cgroup` (kernel: kernel/bpf/cgroup_iter.c).
    #[repr(C)]
    pub struct Context {
        meta: *const u8,
        cgroup: Ptr,
    }

    #[unsafe(no_mangle)]
    #[unsafe(link_section = "iter/cgroup")]
    pub extern "C" fn cgroup_pass(context: *const Context) -> i32 {
        // SAFETY: the verifier knows the context's type.
        let cgroup = unsafe { (*context).cgroup };
        if !cgroup.is_null() {
            let _ = visit(cgroup);
        }
        0
    }

    #[inline(always)]
    fn visit(cgroup: Ptr) -> Option<()> {
        // SAFETY: a typed context field. Null on v2 where the controller is not enabled for this cgroup.
        let css = unsafe { walk::load::<Ptr>(cgroup, Field::CgroupMemory) };
        if css.is_null() {
            return None;
        }
        // SAFETY: one entry; userland writes it only between two runs.
        let header = unsafe { &mut *PASS_HEADER.get_ptr_mut(0)? };
        // SAFETY: typed by the context; entries are written whole and only removed after the cgroup is gone.
        if header.mode == mode::CONTAINERS && unsafe { CONTAINERS.get(walk::cgroup_id(cgroup)) }.is_none() {
            header.dropped += 1;
            return None;
        }
        let index = header.stored as u32;
        let Some(record) = PASS.get_ptr_mut(index) else {
            header.dropped += 1;
            return None;
        };
        // SAFETY: an entry of the table, which no other run writes.
        let record = unsafe { &mut *record };
        // SAFETY: typed pointers.
        let (serial, populated) = unsafe {
            (walk::load::<u64>(css, Field::CssSerial), walk::load::<u32>(cgroup, Field::CgroupPopulatedCsets))
        };
        let memcg = Memcg::of(css);
        let populates = core::mem::replace(&mut record.populated, populated) ^ populated;
        let mut differs = u64::from(populates) | put(&mut record.serial, serial) | counter(record, memcg);
        let is_due = header.whole == EVERY_ONE || u64::from(index) % WHOLE_EVERY == header.whole;
        let near = record.usage + CHARGE_BATCH;
        if differs != 0 || is_due || near >= record.max || near >= record.high {
            differs |= whole(record, cgroup, css, memcg);
        }
        if differs != 0 {
            // SAFETY: as many entries as the table has, written by this run alone.
            unsafe { *PASS_CHANGED.get_ptr_mut(header.changed as u32)? = index.into() };
            header.changed += 1;
        }
        header.stored += 1;
        Some(())
    }

    /// What is not read of a group at rest in each run.
    #[inline(always)]
    fn whole(record: &mut CgroupRecord, cgroup: Ptr, css: Ptr, memcg: Memcg) -> u64 {
        // SAFETY: typed pointers.
        let mut differs = unsafe {
            record.level = walk::load::<u32>(cgroup, Field::CgroupLevel); // never changes
            let parent = walk::load::<Ptr>(css, Field::CssParent);
            let parent = if parent.is_null() { 0 } else { walk::css_cgroup_id(parent) };
            put(&mut record.cgroup, walk::cgroup_id(cgroup)) | put(&mut record.parent, parent)
        };
        // Pages leave their lists before they are uncharged, so the counter is read again, after the lists.
        differs |= pages(record, memcg) | counter(record, memcg);
        differs | events(record, memcg) | pressure(record, cgroup)
    }

    /// Stores a value; the bits in which it is another than the one before.
    #[inline(always)]
    fn put(stored: &mut u64, value: u64) -> u64 {
        core::mem::replace(stored, value) ^ value
    }

    /// The memory counter: two cache lines (kernel: include/linux/page_counter.h).
    #[inline(always)]
    fn counter(record: &mut CgroupRecord, memcg: Memcg) -> u64 {
        let typed = memcg.typed();
        put(&mut record.usage, typed.word(walk::offset(Field::MemcgUsage)))
            | put(&mut record.watermark, typed.word(walk::offset(Field::MemcgWatermark)))
            | put(&mut record.max, typed.word(walk::offset(Field::MemcgMax)))
            | put(&mut record.high, optional(typed, Field::MemcgHigh))
            | put(&mut record.failcnt, optional(typed, Field::MemcgFailcnt))
    }

    #[inline(always)]
    fn events(record: &mut CgroupRecord, memcg: Memcg) -> u64 {
        let typed = memcg.typed();
        let read = |field| typed.word(walk::offset(field));
        let events = &mut record.events;
        put(&mut record.swap, optional(typed, Field::MemcgSwap))
            | put(&mut record.memsw, optional(typed, Field::MemcgMemsw))
            | put(&mut events.low, optional(typed, Field::MemcgEventsLow))
            | put(&mut events.high, read(Field::MemcgEventsHigh))
            | put(&mut events.max, read(Field::MemcgEventsMax))
            | put(&mut events.oom, read(Field::MemcgEventsOom))
            | put(&mut events.oom_kill, read(Field::MemcgEventsOomKill))
            | put(&mut events.oom_group_kill, optional(typed, Field::MemcgEventsOomGroupKill))
            | put(&mut record.oom_local, read(Field::MemcgOomEvents))
            | put(&mut record.oom_kill_local, read(Field::MemcgOomKillsLocal))
    }

    #[inline(always)]
    fn optional(typed: Typed, field: Field) -> u64 {
        if walk::has(field) { typed.word(walk::offset(field)) } else { UNKNOWN }
    }

    /// Absent on v1, and where PSI is off.
    #[inline(always)]
    fn pressure(record: &mut CgroupRecord, cgroup: Ptr) -> u64 {
        let (mut some, mut full) = (UNKNOWN, UNKNOWN);
        if walk::has(Field::CgroupPsi) && walk::has(Field::PsiMemSome) && walk::has(Field::PsiMemFull) {
            // SAFETY: cgroup -> psi_group, typed.
            unsafe {
                let psi = walk::load::<Ptr>(cgroup, Field::CgroupPsi);
                if !psi.is_null() {
                    some = walk::load::<u64>(psi, Field::PsiMemSome);
                    full = walk::load::<u64>(psi, Field::PsiMemFull);
                }
            }
        }
        put(&mut record.pressure_some_ns, some) | put(&mut record.pressure_full_ns, full)
    }

    /// Sum of the LRU lists over zones and nodes.
    #[inline(always)]
    fn pages(record: &mut CgroupRecord, memcg: Memcg) -> u64 {
        let mut sums = [0u64; LRU_LISTS];
        for node in 0..MAX_NODES {
            if node >= NUMA_NODES.load() {
                break;
            }
            let entry = memcg.address() + walk::offset(Field::MemcgNodeinfo) as u64 + 8 * u64::from(node);
            let address = walk::word(entry);
            if address == 0 {
                continue;
            }
            let of_node = walk::typed_node(address);
            for zone in 0..MAX_ZONES {
                if zone >= walk::offset(Field::Zones) {
                    break;
                }
                let lists = walk::offset(Field::NodeLruSizes) + zone * LRU_LISTS * size_of::<u64>();
                for (sum, pages) in sums.iter_mut().zip(of_node.words::<LRU_LISTS>(lists, LRU_LISTS)) {
                    *sum += pages;
                }
            }
            generations(of_node, &mut sums);
        }
        let mut differs = 0;
        for (stored, sum) in record.lru.iter_mut().zip(sums) {
            differs |= put(stored, sum);
        }
        differs
    }

    /// Adds the pages that the multi-gen LRU ages, where it is on.
    #[inline(always)]
    fn generations(of_node: Typed, sums: &mut [u64; LRU_LISTS]) {
        let known = walk::has(Field::NodeGenPages)
            && walk::has(Field::NodeGenEnabled)
            && walk::has(Field::NodeGenNewest);
        if !known || of_node.byte(walk::offset(Field::NodeGenEnabled)) & 1 == 0 {
            return;
        }
        let newest = of_node.word(walk::offset(Field::NodeGenNewest));
        for generation in 0..GENERATIONS {
            let age = newest.wrapping_sub(generation as u64) % GENERATIONS as u64;
            let is_active = age < ACTIVE_GENERATIONS as u64;
            let anon = generation_pages(of_node, 2 * generation);
            let file = generation_pages(of_node, 2 * generation + 1);
            if is_active {
                sums[lru::ACTIVE_ANON] += anon;
                sums[lru::ACTIVE_FILE] += file;
            } else {
                sums[lru::INACTIVE_ANON] += anon;
                sums[lru::INACTIVE_FILE] += file;
            }
        }
    }

    /// One row of `nr_pages[MAX_NR_GENS][ANON_AND_FILE][MAX_NR_ZONES]`, summed. An element may be below zero for a
    /// moment.
    #[inline(always)]
    fn generation_pages(of_node: Typed, row: usize) -> u64 {
        let zones = walk::offset(Field::Zones);
        let row = walk::offset(Field::NodeGenPages) + row * zones * size_of::<u64>();
        let pages = of_node.words::<MAX_ZONES>(row, zones);
        let mut sum = 0i64;
        for (zone, pages) in pages.iter().enumerate() {
            if zone >= zones {
                break;
            }
            sum += *pages as i64;
        }
        if sum > 0 { sum as u64 } else { 0 }
    }
}
