//! OOM kills: the victim, who asked for the memory, and whose limit it was.
//!
//! *Sees* each process the OOM killer kills, with its own memory, and the usage, limit, peak and OOM counts of every
//! memory cgroup from the victim's up to the root. *Hooks* oom:mark_victim (kernel: mm/oom_kill.c); its argument is
//! the task since v6.8 and a thread id before, BTF reports which. Before v6.8 signal:signal_generate reports the task:
//! the kill sends SIGKILL right before it marks. *Falls back to* the oom_kill counters of the cgroup files. *Feeds*
//! OOM kills by victim and scope.
//!
//! A mark is no kill: each thread of a dying process that asks for memory is marked too, and so is a process that a
//! signal of somebody else is ending (task_will_free_mem). The kernel counts a kill before it marks
//! (__oom_kill_process), all under one lock, so a mark is a kill exactly if the count of the victim's group rose since
//! the one before.
//!
//! The group whose limit was hit has raised `memory_events_local[MEMCG_OOM]` before its victim is marked (kernel:
//! mm/memcontrol.c, mem_cgroup_oom), on cgroup v1 too, where no file shows it. Userland compares with the last value;
//! where `oom_scope` is attached the kernel itself names the group, and the invoker's last reclaim says whether it was
//! for a limit at all.

use crate::{
    field::Field,
    probe::{ArgType, Fallback, Hook, Intent, Probe, tp_btf, tp_btf_if},
};

pub const PROBE: Probe = Probe {
    name: "oom_kill",
    sees: "every OOM kill: the process, its own memory, its container, who asked for the memory, whose limit was hit",
    intent: Intent::Required,
    hooks: &[
        Hook {
            attachments: &[tp_btf_if("oom_kill_task", "mark_victim", 0, ArgType::PointerTo("task_struct"))],
        },
        Hook {
            attachments: &[
                tp_btf("kill_sent", "signal_generate"),
                tp_btf_if("oom_kill_pid", "mark_victim", 0, ArgType::Integer),
            ],
        },
    ],
    fallback: Fallback {
        by: Some("the oom_kill counter of the cgroup files, read every tick"),
        lost: "kills are counted but victims are unnamed, and a kill in a cgroup removed within a tick is missed",
    },
    needs: &[
        Field::TaskCgroups,
        Field::CssSetMemory,
        Field::CssCgroup,
        Field::CssParent,
        Field::CgroupKn,
        Field::KnId,
        Field::TaskPid,
        Field::TaskTgid,
        Field::TaskComm,
        Field::TaskFlags,
        Field::TaskLeader,
        Field::TaskStart,
        Field::TaskMm,
        Field::TaskSignal,
        Field::SignalOomScoreAdj,
        Field::MmAnon,
        Field::MmFile,
        Field::MmShmem,
        Field::MemcgCss,
        Field::MemcgUsage,
        Field::MemcgWatermark,
        Field::MemcgMax,
    ],
    feeds: &["observer_container_oom_kills_total", "observer_workload_oom_kills_total"],
};

#[cfg(target_arch = "bpf")]
pub use program::{kill_sent, oom_kill_pid, oom_kill_task};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid},
        macros::btf_tracepoint,
        programs::BtfTracePointContext,
    };

    use crate::{
        abi::{self, COMM_LEN, OOM_LEVELS, OomLevel, UNKNOWN, kind},
        field::Field,
        maps::{self, Exceeded, KILLING_FOR, KILLS_COUNTED, LAST_RECLAIM, SENT_KILL, Urgency},
        walk::{self, Ptr, peek},
    };

    const SIGKILL: i32 = 9;
    /// `SEND_SIG_PRIV`: from the kernel itself (include/linux/sched/signal.h).
    const FROM_KERNEL: u64 = 1;
    /// `PF_EXITING` (include/linux/sched.h).
    const EXITING: u32 = 4;

    /// v6.8 and later: the argument is the marked task.
    #[btf_tracepoint(function = "mark_victim")]
    pub fn oom_kill_task(ctx: BtfTracePointContext) -> i32 {
        let task: Ptr = ctx.arg(0);
        marked(task as u64);
        0
    }

    /// Before v6.8: who is sent SIGKILL by the kernel, by which thread.
    #[btf_tracepoint(function = "signal_generate")]
    pub fn kill_sent(ctx: BtfTracePointContext) -> i32 {
        let signal: i32 = ctx.arg(0);
        if signal == SIGKILL && ctx.arg::<Ptr>(1) as u64 == FROM_KERNEL {
            let task: Ptr = ctx.arg(2);
            // The oldest entries make room.
            let _ = SENT_KILL.insert(bpf_get_current_pid_tgid() as u32, task as u64, 0);
        }
        0
    }

    /// Before v6.8 only the thread's id is given. It is the task that was just sent SIGKILL, or the invoker, which
    /// was dying and is only marked; any other was dying too, and was not killed.
    #[btf_tracepoint(function = "mark_victim")]
    pub fn oom_kill_pid(ctx: BtfTracePointContext) -> i32 {
        let pid: i32 = ctx.arg(0);
        // SAFETY: only this thread writes its entry.
        if let Some(task) = unsafe { SENT_KILL.get(bpf_get_current_pid_tgid() as u32) }.copied()
            // SAFETY: a u32 field.
            && unsafe { peek::<u32>(task, Field::TaskPid) } == pid as u32
        {
            marked(task);
        }
        0
    }

    #[inline(always)]
    fn marked(task: u64) {
        // SAFETY: all fields of the types that are read; addresses are checked by the helper.
        unsafe {
            let mm = peek::<u64>(task, Field::TaskMm);
            // The kernel counts the kill in the cgroup of the thread that owns the memory (memcg_memory_event_mm).
            let owner = if walk::has(Field::MmOwner) { peek::<u64>(mm, Field::MmOwner) } else { 0 };
            let owner = if owner == 0 { task } else { owner };
            let css = peek::<u64>(peek::<u64>(owner, Field::TaskCgroups), Field::CssSetMemory);
            let victim = cgroup_of(css);
            let count = level(css).oom_kills;
            if count != UNKNOWN {
                if KILLS_COUNTED.get_ptr(victim).is_some_and(|known| *known == count) {
                    return; // marked, not killed
                }
                // The oldest entries make room.
                let _ = KILLS_COUNTED.insert(victim, count, 0);
            }
            report(task, mm, owner, victim, css);
        }
    }

    #[inline(always)]
    unsafe fn report(task: u64, mm: u64, owner: u64, victim: u64, from: u64) {
        let (invoker_cgroup, _) = walk::current_cgroup();
        let header = maps::header(kind::OOM_KILL, walk::current_tgid(), victim);
        let invoker_comm = bpf_get_current_comm().unwrap_or([0; COMM_LEN]);
        let invoker = bpf_get_current_pid_tgid() as u32;
        // Not by way of Option: its payload is undefined when there is none, which the verifier does not let be copied.
        let mut exceeded = Exceeded { cgroup: UNKNOWN, max_pages: 0, usage_pages: 0 };
        if let Some(found) = KILLING_FOR.get_ptr(invoker) {
            // SAFETY: only this thread writes its entry.
            exceeded = unsafe { *found };
        }
        let mut reclaim = abi::reclaim::UNKNOWN;
        if let Some(found) = LAST_RECLAIM.get_ptr(invoker) {
            // SAFETY: as above.
            reclaim = unsafe { *found };
        }
        maps::emit_life(Urgency::Now, |kill: *mut abi::OomKill| {
            // SAFETY: reserved ring memory of this size; every field is written below.
            unsafe {
                let leader = peek::<u64>(task, Field::TaskLeader);
                let signal = peek::<u64>(task, Field::TaskSignal);
                (*kill).header = header;
                (*kill).invoker_cgroup = invoker_cgroup;
                (*kill).limit_cgroup = exceeded.cgroup;
                (*kill).limit_pages = exceeded.max_pages;
                (*kill).limit_usage_pages = exceeded.usage_pages;
                (*kill).victim_start_ns = peek::<u64>(leader, Field::TaskStart);
                (*kill).anon_pages = pages(mm, Field::MmAnon);
                (*kill).file_pages = pages(mm, Field::MmFile);
                (*kill).shmem_pages = pages(mm, Field::MmShmem);
                (*kill).victim_pid = peek::<u32>(task, Field::TaskTgid);
                (*kill).oom_score_adj = i32::from(peek::<i16>(signal, Field::SignalOomScoreAdj));
                (*kill).invoker_reclaim = reclaim;
                (*kill).exiting = u32::from(peek::<u32>(task, Field::TaskFlags) & EXITING != 0);
                (*kill).owner_pid = peek::<u32>(owner, Field::TaskTgid);
                // The name of the process, as ps shows it; threads may have others.
                (*kill).victim_comm = peek::<[u8; COMM_LEN]>(leader, Field::TaskComm);
                (*kill).invoker_comm = invoker_comm;
                let mut css = from;
                let mut levels = 0;
                for i in 0..OOM_LEVELS {
                    (*kill).level[i] = level(css);
                    if css != 0 {
                        levels += 1;
                        css = peek::<u64>(css, Field::CssParent);
                    }
                }
                (*kill).levels = levels + u32::from(css != 0);
            }
        });
    }

    /// A per-CPU counter may be below zero for a moment.
    #[inline(always)]
    unsafe fn pages(mm: u64, kind: Field) -> u64 {
        // SAFETY: by contract.
        let count = unsafe { peek::<i64>(mm, kind) };
        if count > 0 { count as u64 } else { 0 }
    }

    #[inline(always)]
    unsafe fn cgroup_of(css: u64) -> u64 {
        // SAFETY: css -> cgroup -> kernfs_node -> id.
        unsafe { peek::<u64>(peek::<u64>(peek::<u64>(css, Field::CssCgroup), Field::CgroupKn), Field::KnId) }
    }

    #[inline(always)]
    unsafe fn level(css: u64) -> OomLevel {
        if css == 0 {
            return OomLevel {
                cgroup: 0,
                usage_pages: 0,
                max_pages: 0,
                watermark_pages: 0,
                oom_events: 0,
                oom_kills: 0,
                kills_as_one: 0,
            };
        }
        let memcg = css - walk::offset(Field::MemcgCss) as u64;
        // SAFETY: fields of struct mem_cgroup.
        unsafe {
            let count = |field| if walk::has(field) { peek::<u64>(memcg, field) } else { UNKNOWN };
            let as_one = walk::has(Field::MemcgOomGroup) && peek::<u8>(memcg, Field::MemcgOomGroup) != 0;
            OomLevel {
                cgroup: cgroup_of(css),
                usage_pages: peek::<u64>(memcg, Field::MemcgUsage),
                max_pages: peek::<u64>(memcg, Field::MemcgMax),
                watermark_pages: peek::<u64>(memcg, Field::MemcgWatermark),
                oom_events: count(Field::MemcgOomEvents),
                oom_kills: count(Field::MemcgEventsOomKill),
                kills_as_one: u64::from(as_one),
            }
        }
    }
}
