//! Processes: when a container's entry point was executed, and how its processes ended.
//!
//! *Sees* exec, and the exit of a process, which is that of its last thread, with the status that wait(2) gives: a
//! first thread that leaves early ends nothing. *Hooks* sched:sched_process_exec and sched:sched_process_exit
//! (kernel: fs/exec.c, kernel/exit.c). *Falls back to* the first sight of the cgroup. *Feeds* the start-up clock's
//! zero and the reason a container ended. Two last threads that leave at once may both be reported the last: the same
//! process, the same status.

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, tp_btf},
};

pub const PROBE: Probe = Probe {
    name: "process",
    sees: "exec (zero of the start-up clock) and the exit of processes with the status that wait(2) gives",
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
        Field::TaskExitCode,
        Field::TaskLeader,
        Field::TaskStart,
        Field::TaskSignal,
        Field::TaskThreadPid,
        Field::PidLevel,
        Field::PidNumbers,
        Field::SignalLive,
        Field::SignalFlags,
        Field::SignalExitCode,
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
        walk::{self, peek, peek_at},
    };

    /// `SIGNAL_GROUP_EXIT` (kernel: include/linux/sched/signal.h).
    const GROUP_EXIT: u32 = 4;
    /// `struct upid`: a number and the namespace it is of (include/linux/pid.h).
    const NUMBER_SIZE: u64 = 16;

    #[btf_tracepoint(function = "sched_process_exec")]
    pub fn process_exec(_ctx: BtfTracePointContext) -> i32 {
        report(kind::EXEC, 0);
        0
    }

    #[btf_tracepoint(function = "sched_process_exit")]
    pub fn process_exit(_ctx: BtfTracePointContext) -> i32 {
        maps::next_generation();
        let task = walk::current_task() as u64;
        // SAFETY: fields of the types that are read.
        unsafe {
            let signal = peek::<u64>(task, Field::TaskSignal);
            if peek::<u32>(signal, Field::SignalLive) == 0 {
                report(kind::EXIT, exit_code(task, signal));
            }
        }
        0
    }

    /// As wait(2) has it (kernel: kernel/exit.c, wait_task_zombie).
    #[inline(always)]
    unsafe fn exit_code(task: u64, signal: u64) -> u32 {
        // SAFETY: as above.
        unsafe {
            if peek::<u32>(signal, Field::SignalFlags) & GROUP_EXIT != 0 {
                return peek::<u32>(signal, Field::SignalExitCode);
            }
            peek::<u32>(peek::<u64>(task, Field::TaskLeader), Field::TaskExitCode)
        }
    }

    #[inline(always)]
    fn report(kind: u32, exit_code: u32) {
        let (cgroup, memcg) = walk::current_cgroup();
        let header = maps::header(kind, walk::current_tgid(), cgroup);
        let watermark_pages = memcg.read(Field::MemcgWatermark);
        let comm = bpf_get_current_comm().unwrap_or([0; abi::COMM_LEN]);
        // SAFETY: fields of the types that are read; the address of a level is inside the structure, which ends with
        // them.
        let (start_ns, namespace_level, namespace_pid) = unsafe {
            let leader = peek::<u64>(walk::current_task() as u64, Field::TaskLeader);
            let pid = peek::<u64>(leader, Field::TaskThreadPid);
            let level = peek::<u32>(pid, Field::PidLevel);
            let number = pid + walk::offset(Field::PidNumbers) as u64 + u64::from(level) * NUMBER_SIZE;
            (peek::<u64>(leader, Field::TaskStart), level, peek_at::<u32>(number))
        };
        maps::emit_life(Urgency::Routine, |process: *mut abi::Process| {
            // SAFETY: reserved ring memory of this size.
            unsafe {
                process.write(abi::Process {
                    header,
                    watermark_pages,
                    exit_code,
                    namespace_pid,
                    namespace_level,
                    _reserved: 0,
                    start_ns,
                    comm,
                })
            }
        });
    }
}
