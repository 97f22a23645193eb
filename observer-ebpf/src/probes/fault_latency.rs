//! How long page faults take, per container: what a cold cache, reclaim or a slow disk makes of them.
//!
//! *Sees* one fault in 64, from entry to return of handle_mm_fault (kernel: mm/memory.c). *Hooks* fentry and fexit,
//! which cost every fault two trampolines, so only on request. *Falls back to* nothing. *Feeds* the latency
//! histogram.

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, fentry, fexit},
};

pub const PROBE: Probe = Probe {
    name: "fault_latency",
    sees: "how long page faults take, one in 64, as a histogram per container",
    intent: Intent::OnRequest,
    hooks: &[Hook {
        attachments: &[fentry("fault_begin", "handle_mm_fault"), fexit("fault_end", "handle_mm_fault")],
    }],
    fallback: Fallback { by: None, lost: "page-fault latencies" },
    needs: &[Field::TaskCgroups, Field::CssSetMemory, Field::CssCgroup, Field::CgroupKn, Field::KnId],
    feeds: &["observer_container_page_fault_seconds"],
};

#[cfg(target_arch = "bpf")]
pub use program::{fault_begin, fault_end};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        helpers::{bpf_get_current_pid_tgid, bpf_get_prandom_u32, bpf_ktime_get_ns},
        macros::{fentry, fexit},
        programs::{FEntryContext, FExitContext},
    };

    use crate::{
        abi::{LATENCY_BUCKETS, LATENCY_SAMPLE, LATENCY_SHIFT, Latency, lost},
        maps::{self, FAULTING, GlobalCounter, LATENCIES},
        walk,
    };

    /// Faults being timed now: while there is none, the return costs a load.
    static TIMED: GlobalCounter = GlobalCounter::new();

    #[fentry(function = "handle_mm_fault")]
    pub fn fault_begin(_ctx: FEntryContext) -> i32 {
        // By chance, not by count: programs that fault in step would always, or never, be caught.
        // SAFETY: no preconditions.
        if u64::from(unsafe { bpf_get_prandom_u32() }) % LATENCY_SAMPLE != 0 {
            return 0;
        }
        // SAFETY: no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if FAULTING.insert(bpf_get_current_pid_tgid() as u32, now, 0).is_ok() {
            TIMED.add(1);
        }
        0
    }

    #[fexit(function = "handle_mm_fault")]
    pub fn fault_end(_ctx: FExitContext) -> i32 {
        if TIMED.get() == 0 {
            return 0;
        }
        let thread = bpf_get_current_pid_tgid() as u32;
        let Some(since) = FAULTING.get_ptr(thread) else { return 0 };
        // SAFETY: points into the table; only this thread writes its entry.
        let took = unsafe { bpf_ktime_get_ns() - *since };
        let _ = FAULTING.remove(thread);
        TIMED.add(u64::MAX); // one less
        let (cgroup, _) = walk::current_cgroup();
        let Some(latency) = latencies(cgroup) else { return 0 };
        let bucket = bucket(took);
        // SAFETY: both point into the table; `bucket` is below the number of buckets.
        unsafe {
            maps::add(&raw mut (*latency).buckets[bucket], 1);
            maps::add(&raw mut (*latency).total_ns, took);
        }
        0
    }

    /// How often 2 us can be doubled before it holds so many ns.
    #[inline(always)]
    fn bucket(ns: u64) -> usize {
        let mut bucket = 0;
        while bucket < LATENCY_BUCKETS - 1 && ns >> (LATENCY_SHIFT + 1 + bucket as u32) != 0 {
            bucket += 1;
        }
        bucket
    }

    #[inline(always)]
    fn latencies(cgroup: u64) -> Option<*mut Latency> {
        if LATENCIES.get_ptr_mut(cgroup).is_none() {
            const BPF_NOEXIST: u64 = 1;
            let empty = Latency { buckets: [0; LATENCY_BUCKETS], total_ns: 0 };
            // Another CPU may have been first.
            let _ = LATENCIES.insert(cgroup, empty, BPF_NOEXIST);
        }
        let found = LATENCIES.get_ptr_mut(cgroup);
        if found.is_none() {
            maps::count_lost(lost::CGROUP_TABLE_FULL);
        }
        found
    }
}
