//! OOM kills: the victim, who asked for the memory, and whose limit it was.
//!
//! *Sees* each victim the OOM killer marks, with the usage, limit, peak and OOM count of every memory cgroup from the
//! victim's up to the root. *Hooks* oom:mark_victim (kernel: mm/oom_kill.c); its argument is the task since v6.8 and
//! a pid before, BTF tells which. *Falls back to* the oom_kill counters of the cgroup files. *Feeds* OOM kills by
//! victim and scope.
//!
//! The group whose limit was hit has raised `memory_events_local[MEMCG_OOM]` before its victim is marked (kernel:
//! mm/memcontrol.c, mem_cgroup_oom), on cgroup v1 too, where no file shows it. Userland compares with the last value;
//! where `oom_scope` is attached the kernel itself names the group.

use crate::{
    field::Field,
    probe::{ArgType, Fallback, Hook, Intent, Probe, tp_btf_if},
};

pub const PROBE: Probe = Probe {
    name: "oom_kill",
    sees: "every OOM victim: pid, command, container, who asked for the memory, whose limit was hit",
    intent: Intent::Required,
    hooks: &[
        Hook {
            attachments: &[tp_btf_if("oom_kill_task", "mark_victim", 0, ArgType::PointerTo("task_struct"))],
        },
        Hook { attachments: &[tp_btf_if("oom_kill_pid", "mark_victim", 0, ArgType::Integer)] },
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
        Field::TaskTgid,
        Field::TaskComm,
        Field::MemcgCss,
        Field::MemcgUsage,
        Field::MemcgWatermark,
        Field::MemcgMax,
    ],
    feeds: &["observer_container_oom_kills_total", "observer_workload_oom_kills_total"],
};

#[cfg(target_arch = "bpf")]
pub use program::{oom_kill_pid, oom_kill_task};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel},
        macros::btf_tracepoint,
        programs::BtfTracePointContext,
    };

    use crate::{
        abi::{self, COMM_LEN, OOM_LEVELS, OomLevel, kind},
        field::Field,
        maps::{self, KILLING_FOR, Urgency},
        walk::{self, Memcg, Ptr},
    };

    /// v6.8 and later: the argument is the victim's task.
    #[btf_tracepoint(function = "mark_victim")]
    pub fn oom_kill_task(ctx: BtfTracePointContext) -> i32 {
        let task: Ptr = ctx.arg(0);
        // SAFETY: a typed tracepoint argument.
        let (css, pid) = unsafe { (walk::memory_css(task), walk::load::<u32>(task, Field::TaskTgid)) };
        // SAFETY: the helper checks the address.
        let comm = unsafe {
            bpf_probe_read_kernel(
                (task as u64 + walk::offset(Field::TaskComm) as u64) as *const [u8; COMM_LEN],
            )
        };
        // SAFETY: typed by the walk.
        let victim = unsafe { walk::css_cgroup_id(css) };
        report(victim, pid, comm.unwrap_or([0; COMM_LEN]), css);
        0
    }

    /// Before v6.8 only the victim's pid is given: its cgroup and name come with its exit. The levels are the
    /// asker's; under a limit they share the group that hit it.
    #[btf_tracepoint(function = "mark_victim")]
    pub fn oom_kill_pid(ctx: BtfTracePointContext) -> i32 {
        let pid: i32 = ctx.arg(0);
        // SAFETY: the current task is a typed pointer.
        let css = unsafe { walk::memory_css(walk::current_task()) };
        report(0, pid as u32, [0; COMM_LEN], css);
        0
    }

    #[inline(always)]
    fn report(victim: u64, victim_pid: u32, victim_comm: [u8; COMM_LEN], from: Ptr) {
        let (asker_cgroup, _) = walk::current_cgroup();
        let header = maps::header(kind::OOM_KILL, walk::current_tgid(), victim);
        let asker_comm = bpf_get_current_comm().unwrap_or([0; COMM_LEN]);
        // SAFETY: only this thread writes its entry.
        let limit_cgroup = unsafe { KILLING_FOR.get(bpf_get_current_pid_tgid() as u32) }.copied();
        maps::emit(Urgency::Now, |kill: *mut abi::OomKill| {
            // SAFETY: reserved ring memory of this size; every field is written below.
            unsafe {
                (*kill).header = header;
                (*kill).asker_cgroup = asker_cgroup;
                (*kill).limit_cgroup = limit_cgroup.unwrap_or(abi::UNKNOWN);
                (*kill).victim_pid = victim_pid;
                (*kill).victim_comm = victim_comm;
                (*kill).asker_comm = asker_comm;
                let mut css = from;
                let mut levels = 0;
                for i in 0..OOM_LEVELS {
                    (*kill).level[i] = level(css);
                    if !css.is_null() {
                        levels += 1;
                        css = walk::load::<Ptr>(css, Field::CssParent);
                    }
                }
                (*kill).levels = levels;
            }
        });
    }

    #[inline(always)]
    fn level(css: Ptr) -> OomLevel {
        if css.is_null() {
            return OomLevel { cgroup: 0, usage_pages: 0, max_pages: 0, watermark_pages: 0, oom_events: 0 };
        }
        let memcg = Memcg::of(css);
        OomLevel {
            // SAFETY: typed by the walk.
            cgroup: unsafe { walk::css_cgroup_id(css) },
            usage_pages: memcg.read(Field::MemcgUsage),
            max_pages: memcg.read(Field::MemcgMax),
            watermark_pages: memcg.read(Field::MemcgWatermark),
            oom_events: if walk::has(Field::MemcgOomEvents) {
                memcg.read(Field::MemcgOomEvents)
            } else {
                abi::UNKNOWN
            },
        }
    }
}
