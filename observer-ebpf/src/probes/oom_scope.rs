//! Whose limit an OOM kill is about, from the kernel itself.
//!
//! *Sees* the control block the OOM killer works from, whose memcg is the group that could not keep its limit, or null
//! for the node. *Hooks* entry and return of oom_kill_process (kernel: mm/oom_kill.c). *Falls back to* the OOM counts
//! of every group above the victim, which `oom_kill` brings along. *Feeds* the scope of OOM kills.
//!
//! It writes no record: `oom_kill`, which runs inside the function, takes the answer along.

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, fentry, fexit},
};

pub const PROBE: Probe = Probe {
    name: "oom_scope",
    sees: "whose limit led to an OOM kill, as the kernel has it",
    intent: Intent::Optional,
    hooks: &[Hook {
        attachments: &[
            fentry("oom_kill_begin", "oom_kill_process"),
            fexit("oom_kill_end", "oom_kill_process"),
        ],
    }],
    fallback: Fallback {
        by: Some("the OOM count of every group above the victim"),
        lost: "the first kill in a group older than the observer that stands at its limit may be blamed on it \
               though the node ran out (cgroup v1 only)",
    },
    needs: &[
        Field::OomControlMemcg,
        Field::MemcgCss,
        Field::CssCgroup,
        Field::CgroupKn,
        Field::KnId,
        Field::MemcgMax,
        Field::MemcgUsage,
    ],
    feeds: &["observer_container_oom_kills_total", "observer_workload_oom_kills_total"],
};

#[cfg(target_arch = "bpf")]
pub use program::{oom_kill_begin, oom_kill_end};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        helpers::bpf_get_current_pid_tgid,
        macros::{fentry, fexit},
        programs::{FEntryContext, FExitContext},
    };

    use crate::{
        field::Field,
        maps::{Exceeded, KILLING_FOR},
        walk::{self, Memcg, Ptr},
    };

    #[fentry(function = "oom_kill_process")]
    pub fn oom_kill_begin(ctx: FEntryContext) -> i32 {
        let control: Ptr = ctx.arg(0);
        // SAFETY: a typed argument of the function.
        let memcg = unsafe { walk::load::<Ptr>(control, Field::OomControlMemcg) };
        // SAFETY: typed by the walk.
        let cgroup = if memcg.is_null() { 0 } else { unsafe { Memcg::cgroup_id(memcg) } };
        let mut exceeded = Exceeded { cgroup, max_pages: 0, usage_pages: 0 };
        if !memcg.is_null() {
            let memcg = Memcg::from_address(memcg as u64);
            exceeded.max_pages = memcg.read(Field::MemcgMax);
            exceeded.usage_pages = memcg.read(Field::MemcgUsage);
        }
        // Full only if 256 threads were in the OOM killer at once; then the fallback serves this kill.
        let _ = KILLING_FOR.insert(bpf_get_current_pid_tgid() as u32, exceeded, 0);
        0
    }

    #[fexit(function = "oom_kill_process")]
    pub fn oom_kill_end(_ctx: FExitContext) -> i32 {
        // Absent if there was no room for it.
        let _ = KILLING_FOR.remove(bpf_get_current_pid_tgid() as u32);
        0
    }
}
