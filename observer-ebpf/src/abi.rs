//! Records and map values: what the programs write and userland reads, byte for byte.
//!
//! Everything is `repr(C)` without padding (`bytemuck::Pod` proves it at compile time), sizes are asserted below.
//! Memory amounts are in pages, as the kernel's `page_counter` keeps them (include/linux/page_counter.h); times are
//! `bpf_ktime_get_ns`, that is CLOCK_MONOTONIC.

use bytemuck::{Pod, Zeroable};

pub const COMM_LEN: usize = 16;
/// Longest cgroup path carried in a record. A longer one is cut and userland finds it in the tree by its id.
pub const PATH_LEN: usize = 384;
/// Levels of the victim's ancestry reported with an OOM kill. A group of systemd inside a container of a node that is a
/// container itself sits ten deep; a way that is longer is marked as cut.
pub const OOM_LEVELS: usize = 32;
/// How far below its container a nested cgroup may sit and still be counted as that container.
pub const MAX_NESTING: u32 = 8;

/// The first word of every record in the ring.
pub mod kind {
    pub const POINT: u32 = 1;
    pub const CGROUP_MADE: u32 = 2;
    pub const CGROUP_REMOVED: u32 = 3;
    pub const CGROUP_ATTACHED: u32 = 4;
    pub const CGROUP_POPULATED: u32 = 5;
    pub const CGROUP_EMPTIED: u32 = 6;
    pub const EXEC: u32 = 7;
    pub const EXIT: u32 = 8;
    pub const OOM_KILL: u32 = 9;
}

/// Starts every record. Written by all probes, read by `kernel/ring.rs`. 24 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    pub kind: u32,
    /// Thread group of the current task, 0 where it does not matter.
    pub pid: u32,
    pub time_ns: u64,
    /// The memory controller's cgroup id (`kernfs_node.id`, equal to the directory's inode number).
    pub cgroup: u64,
}

/// A point of the usage curve. Written by `page_fault`, 40 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Point {
    pub header: Header,
    pub usage_pages: u64,
    pub watermark_pages: u64,
}

/// Life of a cgroup: made, removed, attached, populated, emptied. Written by `cgroup_life`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Cgroup {
    pub header: Header,
    pub parent: u64,
    pub usage_pages: u64,
    pub watermark_pages: u64,
    /// As [`OomLevel::oom_kills`]: when the last process has left it is the whole count.
    pub oom_kills: u64,
    /// Bytes of `path` that are meaningful; `PATH_LEN` means it was cut.
    pub path_len: u64,
    pub path: [u8; PATH_LEN],
}

/// A process replaced its image, or its last thread exited. Written by `process`, 72 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct Process {
    pub header: Header,
    /// Exec: the cgroup's watermark. Exit: likewise, the last look before the group may empty.
    pub watermark_pages: u64,
    /// What wait(2) reports of the whole process: status in bits 8..16, signal in bits 0..7. 0 for exec.
    pub exit_code: u32,
    /// Its number in its own pid namespace, and how deep that is: 1 in a nested one is the namespace's init.
    pub namespace_pid: u32,
    pub namespace_level: u32,
    pub _reserved: u32,
    /// When its first thread began, CLOCK_MONOTONIC: with the pid it names a process for good.
    pub start_ns: u64,
    pub comm: [u8; COMM_LEN],
}

/// One memory cgroup on the way from the victim to the root. 56 bytes.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct OomLevel {
    pub cgroup: u64,
    pub usage_pages: u64,
    pub max_pages: u64,
    pub watermark_pages: u64,
    /// `memory_events_local[MEMCG_OOM]`: raised once at the group whose limit was hit, before a victim is chosen
    /// (kernel: mm/memcontrol.c, mem_cgroup_oom). [`UNKNOWN`] where the kernel does not have the field.
    pub oom_events: u64,
    /// `memory_events[MEMCG_OOM_KILL]`, the number that memory.events and memory.oom_control show: raised for every
    /// process killed here or, on v2, below, before it is marked (mm/oom_kill.c, __oom_kill_process). [`UNKNOWN`] as
    /// above.
    pub oom_kills: u64,
    /// 1: the OOM killer takes all of this group or nothing (memory.oom.group).
    pub kills_as_one: u64,
}

/// The OOM killer marked a victim. Written by `oom_kill`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct OomKill {
    /// `header.cgroup` is the victim's cgroup, `header.pid` the one who asked.
    pub header: Header,
    pub invoker_cgroup: u64,
    /// The group whose limit could not be kept, 0 for the node, by `oom_scope`; [`UNKNOWN`] where that is not attached.
    pub limit_cgroup: u64,
    /// Of that group.
    pub limit_pages: u64,
    pub limit_usage_pages: u64,
    /// When the victim's first thread began, CLOCK_MONOTONIC.
    pub victim_start_ns: u64,
    /// `mm->rss_stat` of the victim. From v6.2 a per-CPU counter, whose parts that are not yet added are left out.
    pub anon_pages: u64,
    pub file_pages: u64,
    pub shmem_pages: u64,
    /// The process, not the thread that was marked.
    pub victim_pid: u32,
    pub oom_score_adj: i32,
    /// How many of `level` are filled; [`OOM_LEVELS`] + 1: there are more.
    pub levels: u32,
    /// What the invoker was last held up by, see [`reclaim`]: a limit or the node.
    pub invoker_reclaim: u32,
    /// 1: the marked thread was exiting already.
    pub exiting: u32,
    /// The process that owns the victim's memory (`mm->owner`); 0 where the kernel does not say. All that share it are
    /// killed with the victim, and are not marked.
    pub owner_pid: u32,
    pub victim_comm: [u8; COMM_LEN],
    pub invoker_comm: [u8; COMM_LEN],
    pub level: [OomLevel; OOM_LEVELS],
}

/// The kinds of reclaim a thread may have been in; values of the map `LAST_RECLAIM`.
pub mod reclaim {
    pub const UNKNOWN: u32 = 0;
    /// For a group's limit. The OOM killer is called for a limit only after it.
    pub const LIMIT: u32 = 1;
    /// For the node, likewise.
    pub const NODE: u32 = 2;
}

/// "This kernel does not say": offsets and counters that BTF does not have.
pub const UNKNOWN: u64 = u64::MAX;

/// Per-cgroup totals, key: cgroup id. Made on the first fault or stall, deleted by userland after the last read. 48
/// bytes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct CgroupTotals {
    /// Page faults flushed from the per-CPU slots; a reader adds what still sits in [`Slot::faults`].
    pub faults: u64,
    /// Usage at the last curve point of this cgroup, any CPU.
    pub last_pages: u64,
    /// Stalls in limit reclaim (`memcg`) and in global direct reclaim (`direct`).
    pub memcg_stalls: u64,
    pub memcg_stall_ns: u64,
    pub direct_stalls: u64,
    pub direct_stall_ns: u64,
}

/// The one-entry cache of each CPU: the cgroup that faulted, or read into the page cache, last. One each for
/// `page_fault` and `growth`, since one may interrupt the other. 64 bytes: one cache line.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Slot {
    /// Address of the `struct pt_regs` of the task that faulted last, or of the task (0: always look), valid in one
    /// generation: a stack is used again only after its task's exit, and a task changes its cgroup only by being
    /// attached to another.
    pub registers: u64,
    pub generation: u64,
    /// `cgroup_subsys_state.serial_nr`: unlike the address it is never used again.
    pub serial: u64,
    /// The container's cgroup id and `struct mem_cgroup` address.
    pub cgroup: u64,
    pub memcg: u64,
    pub faults: u64,
    pub last_pages: u64,
    /// Usage must move by more than this for the next point.
    pub step_pages: u64,
}

/// Entries of the map `SLOTS`.
pub mod slot {
    pub const FAULT: u32 = 0;
    pub const GROWTH: u32 = 1;
    pub const COUNT: u32 = 2;
}

/// Page-fault latencies of one cgroup, key: cgroup id. Written by `fault_latency`. 136 bytes.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct Latency {
    /// Faults sampled that took less than `1 << (LATENCY_SHIFT + 1 + index)` ns; the last entry has no upper end.
    pub buckets: [u64; LATENCY_BUCKETS],
    pub total_ns: u64,
}

/// From 2 us, an ordinary fault, to 67 ms, one that waited for a disk or for reclaim: powers of two.
pub const LATENCY_BUCKETS: usize = 16;
pub const LATENCY_SHIFT: u32 = 10;
/// One fault in this many is timed: the others pay a counter.
pub const LATENCY_SAMPLE: u64 = 64;

/// Reasons for which the programs lose data; index into the map `LOST`.
pub mod lost {
    pub const RING_FULL: u32 = 0;
    pub const CGROUP_TABLE_FULL: u32 = 1;
    pub const RECLAIM_TABLE_FULL: u32 = 2;
    pub const RECLAIM_UNMATCHED: u32 = 3;
    /// The ring of kills and lives.
    pub const LIFE_RING_FULL: u32 = 4;
    pub const COUNT: u32 = 5;
    pub const NAMES: [&str; COUNT as usize] =
        ["ring_full", "cgroup_table_full", "reclaim_table_full", "reclaim_unmatched", "life_ring_full"];
}

/// Helper number that stands for the kfunc `bpf_rdonly_cast` in the object file: no helper has it.
pub const CAST_PLACEHOLDER: i32 = 0x7ca5_7000;

/// A point is pushed when usage moved by more than `max(MIN_STEP_PAGES, last / STEP_RATIO)`: 1 MiB or 1/128.
/// Small groups would otherwise report every allocation, large ones every percent of noise.
pub const MIN_STEP_BYTES: u64 = 1 << 20;
pub const STEP_RATIO_SHIFT: u32 = 7;

/// Usage is read at a fault of another task than the one before, and then at every so many: at every fourth it is near
/// half of what a fault pays (`cargo xtask bench faults`). Faults in a row without a look bring at most 60 KiB in pages
/// of the smallest size, which the kernel charges 64 at a time anyway (mm/memcontrol.c, MEMCG_CHARGE_BATCH), and 30 MiB
/// in huge ones, which take milliseconds to clear.
pub const LOOK_EVERY: u64 = 16;

const _: () = {
    assert!(size_of::<Header>() == 24);
    assert!(size_of::<Point>() == 40);
    assert!(size_of::<Cgroup>() == 64 + PATH_LEN);
    assert!(size_of::<Process>() == 72);
    assert!(size_of::<OomKill>() == 144 + 56 * OOM_LEVELS);
    assert!(size_of::<Latency>() == 8 * (LATENCY_BUCKETS + 1));
    assert!(size_of::<CgroupTotals>() == 48);
    assert!(size_of::<Slot>() == 64);
};
