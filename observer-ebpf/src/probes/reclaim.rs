//! Reclaim stalls: time tasks spend freeing memory instead of running.
//!
//! *Sees* each direct reclaim, apart for a cgroup's own limit (`memcg`) and for the node (`direct`). *Hooks* vmscan:
//! mm_vmscan_memcg_reclaim_begin/end and mm_vmscan_direct_reclaim_begin/end (kernel: mm/vmscan.c). *Falls back to*
//! memory.pressure. *Feeds* stall counts and seconds per container, and whether an OOM kill was for a limit or for the
//! node. A stall is charged to the container of the task that had to wait, which need not be the one that filled the
//! memory.

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, tp_btf},
};

pub const PROBE: Probe = Probe {
    name: "reclaim",
    sees: "tasks stalled in reclaim, count and time, by the container's limit or by the node",
    intent: Intent::Optional,
    hooks: &[Hook {
        attachments: &[
            tp_btf("memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_begin"),
            tp_btf("memcg_reclaim_end", "mm_vmscan_memcg_reclaim_end"),
            tp_btf("direct_reclaim_begin", "mm_vmscan_direct_reclaim_begin"),
            tp_btf("direct_reclaim_end", "mm_vmscan_direct_reclaim_end"),
        ],
    }],
    fallback: Fallback {
        by: Some("memory.pressure of the cgroup, where the kernel has PSI"),
        lost: "stalls are not counted and not split by limit and node",
    },
    needs: &[Field::TaskCgroups, Field::CssSetMemory, Field::CssCgroup, Field::CgroupKn, Field::KnId],
    feeds: &["observer_workload_reclaim_stall_seconds_total"],
};

#[cfg(target_arch = "bpf")]
pub use program::{direct_reclaim_begin, direct_reclaim_end, memcg_reclaim_begin, memcg_reclaim_end};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
        macros::btf_tracepoint,
        programs::BtfTracePointContext,
    };

    use crate::{
        abi::{CgroupTotals, lost, reclaim},
        maps::{self, LAST_RECLAIM, RECLAIMING},
        walk,
    };

    #[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_begin")]
    pub fn memcg_reclaim_begin(_ctx: BtfTracePointContext) -> i32 {
        begin(reclaim::LIMIT);
        0
    }

    #[btf_tracepoint(function = "mm_vmscan_memcg_reclaim_end")]
    pub fn memcg_reclaim_end(_ctx: BtfTracePointContext) -> i32 {
        // SAFETY: the pointers stay inside the map value.
        end(|totals| unsafe { (&raw mut (*totals).memcg_stalls, &raw mut (*totals).memcg_stall_ns) });
        0
    }

    #[btf_tracepoint(function = "mm_vmscan_direct_reclaim_begin")]
    pub fn direct_reclaim_begin(_ctx: BtfTracePointContext) -> i32 {
        begin(reclaim::NODE);
        0
    }

    #[btf_tracepoint(function = "mm_vmscan_direct_reclaim_end")]
    pub fn direct_reclaim_end(_ctx: BtfTracePointContext) -> i32 {
        // SAFETY: the pointers stay inside the map value.
        end(|totals| unsafe { (&raw mut (*totals).direct_stalls, &raw mut (*totals).direct_stall_ns) });
        0
    }

    #[inline(always)]
    fn begin(kind: u32) {
        let thread = bpf_get_current_pid_tgid() as u32;
        // SAFETY: no preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        if RECLAIMING.insert(thread, now, 0).is_err() {
            maps::count_lost(lost::RECLAIM_TABLE_FULL);
        }
        // Without room an OOM kill is judged by the counts of the groups alone.
        let _ = LAST_RECLAIM.insert(thread, kind, 0);
    }

    #[inline(always)]
    fn end(counters: impl FnOnce(*mut CgroupTotals) -> (*mut u64, *mut u64)) {
        let thread = bpf_get_current_pid_tgid() as u32;
        let Some(since) = RECLAIMING.get_ptr(thread) else {
            maps::count_lost(lost::RECLAIM_UNMATCHED);
            return;
        };
        // SAFETY: points into the table; only this thread writes its entry.
        let stalled = unsafe { bpf_ktime_get_ns() - *since };
        let _ = RECLAIMING.remove(thread);
        let (own, _) = walk::current_cgroup();
        if let Some(totals) = maps::totals(own) {
            let (stalls, stall_ns) = counters(totals);
            // SAFETY: both point into the table.
            unsafe {
                maps::add(stalls, 1);
                maps::add(stall_ns, stalled);
            }
        }
    }
}
