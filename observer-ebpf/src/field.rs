//! The kernel struct fields the programs follow, as data.
//!
//! rustc emits no CO-RE relocations. Instead every offset is an entry of one read-only global array, which userland
//! fills from the running kernel's BTF before loading. The array is frozen, so the verifier knows each entry as a
//! constant and accepts a plain load through a BTF-typed pointer.

/// Where an offset comes from in BTF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Byte offset of `path` (dotted) inside `ty`.
    Member { ty: &'static str, path: &'static str },
    /// The same of a field that kernels have in different places: the first of the paths that is there.
    Moved { ty: &'static str, paths: &'static [&'static str] },
    /// Byte offset of `ty.member[enumerator]`, an array of 8-byte elements indexed by an enumerator of this kernel's
    /// `enumeration`.
    Element { ty: &'static str, member: &'static str, enumeration: &'static str, enumerator: &'static str },
    /// No offset but the value of an enumerator.
    Enumerator { enumeration: &'static str, enumerator: &'static str },
    /// Byte offset of the count of one kind of memory in `mm_struct.rss_stat`: an array of longs, or of per-CPU
    /// counters since v6.2. The kinds have no enumeration by name; their order is that of
    /// include/linux/mm_types_task.h.
    Rss { kind: u32 },
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $source:expr,)*) => {
        /// One offset; its discriminant is the index into the global `OFFSETS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Field { $($(#[$doc])* $name,)* }

        impl Field {
            pub const ALL: &'static [Field] = &[$(Field::$name,)*];

            pub const fn source(self) -> Source {
                match self { $(Field::$name => $source,)* }
            }
        }
    };
}

const fn member(ty: &'static str, path: &'static str) -> Source {
    Source::Member { ty, path }
}

/// The memory controller's entry of an array with one element per controller.
const fn of_memory(ty: &'static str, member: &'static str) -> Source {
    Source::Element { ty, member, enumeration: "cgroup_subsys_id", enumerator: "memory_cgrp_id" }
}

/// A counter of `mem_cgroup.<member>`, by the event's name.
const fn memory_event(member: &'static str, enumerator: &'static str) -> Source {
    Source::Element { ty: "mem_cgroup", member, enumeration: "memcg_memory_event", enumerator }
}

/// Nanoseconds of the first row of `psi_group.total`, which memory.pressure shows (kernel: kernel/sched/psi.c).
const fn pressure(enumerator: &'static str) -> Source {
    Source::Element { ty: "psi_group", member: "total", enumeration: "psi_states", enumerator }
}

fields! {
    TaskCgroups = member("task_struct", "cgroups"),
    TaskPid = member("task_struct", "pid"),
    TaskTgid = member("task_struct", "tgid"),
    TaskComm = member("task_struct", "comm"),
    TaskExitCode = member("task_struct", "exit_code"),
    TaskFlags = member("task_struct", "flags"),
    TaskLeader = member("task_struct", "group_leader"),
    TaskStart = member("task_struct", "start_time"),
    TaskMm = member("task_struct", "mm"),
    TaskSignal = member("task_struct", "signal"),
    TaskThreadPid = member("task_struct", "thread_pid"),
    PidLevel = member("pid", "level"),
    PidNumbers = member("pid", "numbers"),
    SignalLive = member("signal_struct", "live"),
    SignalFlags = member("signal_struct", "flags"),
    SignalExitCode = member("signal_struct", "group_exit_code"),
    SignalOomScoreAdj = member("signal_struct", "oom_score_adj"),
    /// The thread whose cgroup a process's memory, and its OOM kill, is charged to.
    MmOwner = member("mm_struct", "owner"),
    MmFile = Source::Rss { kind: 0 },
    MmAnon = Source::Rss { kind: 1 },
    MmShmem = Source::Rss { kind: 3 },
    /// The task's memory controller state, right on cgroup v1, hybrid and v2 alike.
    CssSetMemory = of_memory("css_set", "subsys"),
    CgroupMemory = of_memory("cgroup", "subsys"),
    CgroupKn = member("cgroup", "kn"),
    CgroupRoot = member("cgroup", "root"),
    RootHierarchy = member("cgroup_root", "hierarchy_id"),
    KnId = member("kernfs_node", "id"),
    CssCgroup = member("cgroup_subsys_state", "cgroup"),
    CssParent = member("cgroup_subsys_state", "parent"),
    CssSerial = member("cgroup_subsys_state", "serial_nr"),
    CssFlags = member("cgroup_subsys_state", "flags"),
    MemcgCss = member("mem_cgroup", "css"),
    MemcgUsage = member("mem_cgroup", "memory.usage"),
    MemcgWatermark = member("mem_cgroup", "memory.watermark"),
    MemcgMax = member("mem_cgroup", "memory.max"),
    /// The group whose limit is the reason of an OOM kill; null for the node.
    OomControlMemcg = member("oom_control", "memcg"),
    /// Optional: without it the scope of an OOM kill is inferred from usage and limits.
    MemcgOomEvents = memory_event("memory_events_local", "MEMCG_OOM"),
    MemcgOomKillsLocal = memory_event("memory_events_local", "MEMCG_OOM_KILL"),
    MemcgEventsLow = memory_event("memory_events", "MEMCG_LOW"),
    MemcgEventsHigh = memory_event("memory_events", "MEMCG_HIGH"),
    MemcgEventsMax = memory_event("memory_events", "MEMCG_MAX"),
    MemcgEventsOom = memory_event("memory_events", "MEMCG_OOM"),
    MemcgEventsOomKill = memory_event("memory_events", "MEMCG_OOM_KILL"),
    /// Since v5.17.
    MemcgEventsOomGroupKill = memory_event("memory_events", "MEMCG_OOM_GROUP_KILL"),
    MemcgHigh = member("mem_cgroup", "memory.high"),
    MemcgFailcnt = member("mem_cgroup", "memory.failcnt"),
    /// v2: swap alone.
    MemcgSwap = member("mem_cgroup", "swap.usage"),
    /// v1: memory and swap together.
    MemcgMemsw = member("mem_cgroup", "memsw.usage"),
    MemcgOomGroup = member("mem_cgroup", "oom_group"),
    /// One pointer for each NUMA node.
    MemcgNodeinfo = member("mem_cgroup", "nodeinfo"),
    /// Pages on the lists of each zone: `[MAX_NR_ZONES][NR_LRU_LISTS]`, kept exactly (kernel: mm_inline.h, v6.18).
    NodeLruSizes = member("mem_cgroup_per_node", "lru_zone_size"),
    /// Pages by generation, kind and zone (v6.1 with CONFIG_LRU_GEN): while the multi-gen LRU is on, the pages that it
    /// ages are counted here and not in `lru_zone_size`.
    NodeGenPages = member("mem_cgroup_per_node", "lruvec.lrugen.nr_pages"),
    NodeGenEnabled = member("mem_cgroup_per_node", "lruvec.lrugen.enabled"),
    NodeGenNewest = member("mem_cgroup_per_node", "lruvec.lrugen.max_seq"),
    Zones = Source::Enumerator { enumeration: "zone_type", enumerator: "__MAX_NR_ZONES" },
    LruLists = Source::Enumerator { enumeration: "lru_list", enumerator: "NR_LRU_LISTS" },
    FolioMemcg = member("folio", "memcg_data"),
    PageMemcg = Source::Moved { ty: "page", paths: &["memcg_data", "mem_cgroup"] },
    /// There where folios name an object cgroup, which moves to the parent of a removed group (not in v6.18, in v7.2).
    NodeObjcg = member("mem_cgroup_per_node", "orig_objcg"),
    ObjcgMemcg = member("obj_cgroup", "memcg"),
    CgroupPsi = member("cgroup", "psi"),
    PsiMemSome = pressure("PSI_MEM_SOME"),
    PsiMemFull = pressure("PSI_MEM_FULL"),
    CgroupLevel = member("cgroup", "level"),
    /// In the cgroup's own controller state in v7.2, not yet in v6.18.
    CgroupPopulatedCsets =
        Source::Moved { ty: "cgroup", paths: &["nr_populated_csets", "self.nr_populated_csets"] },
}

pub const COUNT: usize = Field::ALL.len();
/// Entry of `OFFSETS` for a field this kernel does not have.
pub const ABSENT: u32 = u32::MAX;
