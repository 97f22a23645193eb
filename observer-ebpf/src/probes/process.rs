//! Processes: when a container's entry point was executed, and how its processes ended.
//!
//! *Sees* exec and the exit of thread group leaders. *Hooks* sched:sched_process_exec and sched:sched_process_exit
//! (kernel: fs/exec.c, kernel/exit.c). *Falls back to* the first sight of the cgroup. *Feeds* the start-up clock's
//! zero and the reason a container ended.

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, tp_btf},
};

pub const PROBE: Probe = Probe {
    name: "process",
    sees: "exec (zero of the start-up clock) and exit with its code or signal",
    intent: Intent::Optional,
    hooks: &[Hook {
        attachments: &[
            tp_btf("process_exec", "sched_process_exec"),
            tp_btf("process_exit", "sched_process_exit"),
        ],
    }],
    fallback: Fallback {
        by: Some("the moment the cgroup was first seen with a process"),
        lost: "start-up times count from the container runtime's first sign, not from exec; exit codes are unknown",
    },
    needs: &[
        Field::TaskCgroups,
        Field::CssSetMemory,
        Field::CssCgroup,
        Field::CgroupKn,
        Field::KnId,
        Field::TaskPid,
        Field::TaskTgid,
        Field::TaskExitCode,
        Field::MemcgCss,
        Field::MemcgWatermark,
    ],
    feeds: &["observer_container_start_time_seconds", "observer_workload_starts_total"],
};

#[cfg(target_arch = "bpf")]
pub use program::{process_exec, process_exit};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{helpers::bpf_get_current_comm, macros::btf_tracepoint, programs::BtfTracePointContext};

    use crate::{
        abi::{self, kind},
        field::Field,
        maps::{self, Urgency},
        walk,
    };

    #[btf_tracepoint(function = "sched_process_exec")]
    pub fn process_exec(_ctx: BtfTracePointContext) -> i32 {
        report(kind::EXEC, 0);
        0
    }

    #[btf_tracepoint(function = "sched_process_exit")]
    pub fn process_exit(_ctx: BtfTracePointContext) -> i32 {
        maps::next_generation();
        let task = walk::current_task();
        // SAFETY: the current task is a typed pointer; these are its u32 fields.
        let (pid, tgid, code) = unsafe {
            (
                walk::load::<u32>(task, Field::TaskPid),
                walk::load::<u32>(task, Field::TaskTgid),
                walk::load::<u32>(task, Field::TaskExitCode),
            )
        };
        if pid == tgid {
            report(kind::EXIT, code);
        }
        0
    }

    #[inline(always)]
    fn report(kind: u32, exit_code: u32) {
        let (cgroup, memcg) = walk::current_cgroup();
        let header = maps::header(kind, walk::current_tgid(), cgroup);
        let watermark_pages = memcg.read(Field::MemcgWatermark);
        let comm = bpf_get_current_comm().unwrap_or([0; abi::COMM_LEN]);
        maps::emit(Urgency::Routine, |process: *mut abi::Process| {
            // SAFETY: reserved ring memory of this size.
            unsafe { process.write(abi::Process { header, watermark_pages, exit_code, _reserved: 0, comm }) }
        });
    }
}
