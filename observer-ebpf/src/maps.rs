//! The maps, wrapped in verbs: the ring for rare records, the per-CPU slots and the per-cgroup table for counts, and
//! the loss counters.

use core::cell::UnsafeCell;

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, RingBuf},
};

use crate::abi::{self, CgroupTotals, Header, Latency, Slot};

/// Curve points: 1 MiB is 21,000 of them between two drains.
#[map]
pub static POINTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Kills, cgroups and processes, apart from the points so that a storm of those cannot push out a kill. 1 MiB: 500
/// kills, 2,300 cgroup paths or 13,000 execs between two drains.
#[map]
pub static LIVES: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
#[map]
pub static CGROUPS: HashMap<u64, CgroupTotals> = HashMap::with_max_entries(8192, 0);
/// Cgroup -> how many parents up its container is (0: it is one). Written by userland, inherited at mkdir; a cgroup
/// without an entry speaks for itself.
#[map]
pub static CONTAINERS: HashMap<u64, u32> = HashMap::with_max_entries(8192, 0);
#[map]
pub static SLOTS: PerCpuArray<Slot> = PerCpuArray::with_max_entries(abi::slot::COUNT, 0);
#[map]
pub static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::lost::COUNT, 0);
/// Thread id -> start of the reclaim it is in.
#[map]
pub static RECLAIMING: HashMap<u32, u64> = HashMap::with_max_entries(8192, 0);
/// Thread id -> the kind of reclaim it was in last (`abi::reclaim`). Old entries make room by themselves.
#[map]
pub static LAST_RECLAIM: LruHashMap<u32, u32> = LruHashMap::with_max_entries(4096, 0);
/// Thread id -> the limit it is killing for. As many as can be in the OOM killer at once, which is a handful: they hold
/// its lock in turn.
#[map]
pub static KILLING_FOR: HashMap<u32, Exceeded> = HashMap::with_max_entries(256, 0);
/// Thread id -> address of the task it sent SIGKILL to last (before v6.8, where the mark names only a thread id).
#[map]
pub static SENT_KILL: LruHashMap<u32, u64> = LruHashMap::with_max_entries(1024, 0);
/// Cgroup id -> the kernel's count of its OOM kills at the last mark. Old entries make room by themselves: userland
/// looks once more.
#[map]
pub static KILLS_COUNTED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(8192, 0);
/// Thread id -> start of the fault that is being timed.
#[map]
pub static FAULTING: HashMap<u32, u64> = HashMap::with_max_entries(8192, 0);
#[map]
pub static LATENCIES: HashMap<u64, Latency> = HashMap::with_max_entries(8192, 0);

/// See [`Slot::registers`].
static GENERATION: GlobalCounter = GlobalCounter(UnsafeCell::new(1));

/// A counter all CPUs share.
pub struct GlobalCounter(UnsafeCell<u64>);
// SAFETY: read and written by single instructions only.
unsafe impl Sync for GlobalCounter {}

impl GlobalCounter {
    pub const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    #[inline(always)]
    pub fn get(&self) -> u64 {
        // SAFETY: an aligned load.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    pub fn add(&self, n: u64) {
        // SAFETY: a static.
        unsafe { add(self.0.get(), n) }
    }
}

#[inline(always)]
pub fn generation() -> u64 {
    GENERATION.get()
}

/// Which cgroup a task stands for may have changed: every CPU looks again.
#[inline(always)]
pub fn next_generation() {
    GENERATION.add(1);
}

const BPF_RB_NO_WAKEUP: u64 = 1;
const BPF_RB_FORCE_WAKEUP: u64 = 2;
const BPF_RB_AVAIL_DATA: u64 = 0;

/// A limit that could not be kept; group 0 is the node.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Exceeded {
    pub cgroup: u64,
    pub max_pages: u64,
    pub usage_pages: u64,
}

/// How soon userland should look.
#[derive(Clone, Copy)]
pub enum Urgency {
    /// At its next regular drain, or when a quarter of the ring is full.
    Routine,
    Now,
}

/// Writes one curve point; a full ring is counted.
#[inline(always)]
pub fn emit_point<T: 'static>(fill: impl FnOnce(*mut T)) {
    emit(&POINTS, abi::lost::RING_FULL, Urgency::Routine, fill);
}

/// Writes one record of a kill or a life; a full ring is counted.
#[inline(always)]
pub fn emit_life<T: 'static>(urgency: Urgency, fill: impl FnOnce(*mut T)) {
    emit(&LIVES, abi::lost::LIFE_RING_FULL, urgency, fill);
}

#[inline(always)]
fn emit<T: 'static>(ring: &RingBuf, full: u32, urgency: Urgency, fill: impl FnOnce(*mut T)) {
    let Some(mut entry) = ring.reserve::<T>(0) else {
        count_lost(full);
        return;
    };
    fill(entry.as_mut_ptr());
    let flags = match urgency {
        Urgency::Now => BPF_RB_FORCE_WAKEUP,
        Urgency::Routine if ring.query(BPF_RB_AVAIL_DATA) > (1 << 18) => BPF_RB_FORCE_WAKEUP,
        Urgency::Routine => BPF_RB_NO_WAKEUP,
    };
    entry.submit(flags);
}

#[inline(always)]
pub fn header(kind: u32, pid: u32, cgroup: u64) -> Header {
    // SAFETY: no preconditions.
    Header { kind, pid, time_ns: unsafe { bpf_ktime_get_ns() }, cgroup }
}

#[inline(always)]
pub fn count_lost(reason: u32) {
    if let Some(n) = LOST.get_ptr_mut(reason) {
        // SAFETY: a per-CPU value, only this CPU writes it.
        unsafe { *n += 1 }
    }
}

/// The totals of a cgroup, made if absent. `None`: the table is full, which is counted.
#[inline(always)]
pub fn totals(cgroup: u64) -> Option<*mut CgroupTotals> {
    if let Some(totals) = CGROUPS.get_ptr_mut(cgroup) {
        return Some(totals);
    }
    let empty = CgroupTotals {
        faults: 0,
        last_pages: 0,
        memcg_stalls: 0,
        memcg_stall_ns: 0,
        direct_stalls: 0,
        direct_stall_ns: 0,
    };
    const BPF_NOEXIST: u64 = 1;
    // Another CPU may have been first; then this fails and the look-up finds its entry.
    let _ = CGROUPS.insert(cgroup, empty, BPF_NOEXIST);
    let found = CGROUPS.get_ptr_mut(cgroup);
    if found.is_none() {
        count_lost(abi::lost::CGROUP_TABLE_FULL);
    }
    found
}

/// Adds to a counter that several CPUs share.
///
/// # Safety
/// `counter` points into a map value.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, n: u64) {
    // The target has no stable atomics; this is the one instruction an atomic add would be.
    // SAFETY: valid and aligned by contract.
    unsafe { core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) n) }
}
