//! The events that sources send to the pipeline: the one stream that is also the recording.
//!
//! Amounts are in bytes, spans in nanoseconds, counters cumulative since the observer started. One event is one line of
//! a recording: `{"at":<ns>,"what":{"usage":{...}}}`.

use serde::{Deserialize, Serialize};
use strum::EnumCount;

use crate::model::{
    container::{CgroupId, ExitStatus, Workload},
    kubernetes::{ApiState, ChangeRecord, Owner, Pod, Uid},
    past_startup::PastStartup,
    probe_id::ProbeId,
    time::Time,
    usage_histogram::Levels,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    pub at: Time,
    pub what: EventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// First event of every stream.
    Host(Host),
    /// The outcome of attaching one probe.
    Probe(ProbeStatus),
    /// A probe that follows growth was attached because a container starts, or detached because none does.
    ProbeAttached {
        probe: ProbeId,
        attached: bool,
    },
    /// A memory cgroup that was there before us; `populated` if it has processes of its own.
    CgroupSeeded {
        cgroup: CgroupId,
        path: String,
        populated: bool,
    },
    /// What an earlier run of the observer kept of one workload's start-ups.
    History {
        workload: Workload,
        startups: Vec<PastStartup>,
        #[serde(default)]
        levels: Levels,
    },
    /// What an earlier run since the boot reported of OOM kills.
    KillsKept(KillsKept),
    CgroupMade {
        cgroup: CgroupId,
        path: String,
    },
    /// A process moved in.
    CgroupAttached {
        cgroup: CgroupId,
        path: String,
        pid: u32,
    },
    /// The first process arrived here or below.
    CgroupPopulated {
        cgroup: CgroupId,
        path: String,
    },
    /// The last process left, here and below.
    CgroupEmptied {
        cgroup: CgroupId,
        usage: u64,
        watermark: u64,
        /// What the kernel counted here (and below, on v2) in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oom_kills: Option<u64>,
    },
    CgroupRemoved {
        cgroup: CgroupId,
    },
    /// A point of the curve, pushed by the kernel when usage moved by a step. `watermark` is the highest usage since
    /// the cgroup was made.
    Usage {
        cgroup: CgroupId,
        usage: u64,
        watermark: u64,
    },
    /// The cgroup's files, read while it is starting, moving, or every few seconds.
    Memory {
        cgroup: CgroupId,
        reading: MemoryReading,
    },
    /// The kernel's totals of one cgroup.
    Totals {
        cgroup: CgroupId,
        totals: Totals,
    },
    /// How long its page faults took, those that were timed.
    FaultLatency {
        cgroup: CgroupId,
        latency: FaultLatency,
    },
    Exec {
        cgroup: CgroupId,
        pid: u32,
        comm: String,
        watermark: u64,
        /// The first process of a pid namespace of its own.
        #[serde(default, skip_serializing_if = "is_false")]
        init: bool,
    },
    /// The last thread of a process exited.
    Exit {
        cgroup: CgroupId,
        pid: u32,
        comm: String,
        status: ExitStatus,
        watermark: u64,
        #[serde(default, skip_serializing_if = "is_false")]
        init: bool,
        /// Of an init: how many pid namespaces below the host's. 0 in older recordings.
        #[serde(default, skip_serializing_if = "is_zero")]
        depth: u32,
    },
    OomKill(OomKill),
    /// The Kubernetes API began to answer, stopped, or refuses something.
    Api(ApiState),
    /// A pod of this node as it is now.
    Pod(Box<Pod>),
    PodGone {
        uid: Uid,
    },
    /// The metadata of a pod's owner.
    Owner(Box<Owner>),
    /// What the ledger knows of a workload.
    Record(Box<ChangeRecord>),
    Node(NodeReading),
    Observer(ObserverReading),
    /// What the programs cost so far, where the kernel counts it.
    Programs(Vec<ProgramCost>),
    /// Something was dropped; `count` is the total since start.
    Lost {
        #[serde(rename = "where")]
        at: Loss,
        count: u64,
    },
    /// The wall clock was set: from now on this is its distance from the monotonic clock.
    ClockSet {
        wall_offset_ns: i64,
    },
    /// Time passes: drives every timeout of the core.
    Tick,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub observer_version: String,
    pub kernel: String,
    pub cgroup: CgroupVersion,
    /// Wall clock minus monotonic clock.
    pub wall_offset_ns: i64,
    pub page_size: u64,
    pub cpus: u64,
    pub memory_total: u64,
    /// Unix time of the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub booted: Option<f64>,
    /// How long the series of an ended container stay.
    pub retention_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupVersion {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    pub probe: ProbeId,
    pub required: bool,
    pub outcome: AttachOutcome,
    /// Of a probe that is attached only while a container starts: whether it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<bool>,
}

/// How attaching a probe ended. Degraded is not an error: each says what is lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachOutcome {
    Attached {
        hook: String,
    },
    /// A less preferred hook, or files, feed the same metrics.
    Fallback {
        by: String,
        why: String,
        lost: String,
    },
    /// This kernel does not have it.
    Unsupported {
        missing: String,
        lost: String,
    },
    /// It should work and does not.
    Broken {
        error: String,
        lost: String,
    },
    Disabled {
        lost: String,
    },
}

impl AttachOutcome {
    /// Why it is not attached as it should be.
    pub fn why(&self) -> Option<String> {
        match self {
            AttachOutcome::Fallback { why, .. } => Some(why.clone()),
            AttachOutcome::Unsupported { missing, .. } => Some(format!("no {missing}")),
            AttachOutcome::Broken { error, .. } => Some(error.clone()),
            AttachOutcome::Attached { .. } | AttachOutcome::Disabled { .. } => None,
        }
    }

    /// Label value of `observer_probe_status`.
    pub fn name(&self) -> &'static str {
        match self {
            AttachOutcome::Attached { .. } => "attached",
            AttachOutcome::Fallback { .. } => "fallback",
            AttachOutcome::Unsupported { .. } => "unsupported",
            AttachOutcome::Broken { .. } => "broken",
            AttachOutcome::Disabled { .. } => "disabled",
        }
    }
}

/// A limit of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Unlimited,
    Bytes(u64),
}

impl Limit {
    pub fn bytes(self) -> Option<u64> {
        match self {
            Limit::Unlimited => None,
            Limit::Bytes(bytes) => Some(bytes),
        }
    }
}

/// One look at a cgroup. Absent: this kernel or this look did not have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryReading {
    #[serde(flatten)]
    pub levels: MemoryLevels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<MemoryEvents>,
    /// memory.pressure (v2 with PSI).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// How much memory there is of each kind and what bounds it, in bytes. A container keeps the last of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryLevels {
    pub usage: u64,
    /// Highest usage since the cgroup was made, by the kernel's own watermark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat: Option<MemoryStat>,
    /// memory.high, above which the kernel slows the group down (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<u64>,
}

impl MemoryLevels {
    /// Usage without inactive file cache, as the kubelet and the HPA see it.
    pub fn working_set(&self) -> u64 {
        self.usage.saturating_sub(self.stat.map_or(0, |stat| stat.inactive_file))
    }

    /// What the kernel cannot take back before it kills: usage without file cache and reclaimable slab.
    pub fn unreclaimable(&self) -> u64 {
        self.usage.saturating_sub(self.stat.map_or(0, |stat| stat.reclaimable()))
    }

    /// Takes over what `newer` has. Usage and watermark stay: points that are pushed bring them too.
    pub fn update(&mut self, newer: &Self) {
        let Self { usage: _, watermark: _, limit, stat, high, swap } = *newer;
        *self = Self {
            limit: limit.or(self.limit),
            stat: stat.map(|stat| stat.over(self.stat.unwrap_or_default())).or(self.stat),
            high: high.or(self.high),
            swap: swap.or(self.swap),
            ..*self
        };
    }
}

/// Kinds of memory of the group and those below it, from the kernel's page lists or from memory.stat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryStat {
    /// What reclaim cannot drop without swap: anonymous memory, tmpfs, and what is locked.
    pub anon: u64,
    pub inactive_file: u64,
    /// Of memory.stat, which is read seldom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// File cache, active and inactive; shared memory is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<u64>,
    /// Shared memory and tmpfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shmem: Option<u64>,
    /// Kernel memory that can be taken back: dentries, inodes (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slab_reclaimable: Option<u64>,
}

impl MemoryStat {
    /// With what only memory.stat holds, which is read more seldom than the rest, of `before`.
    fn over(self, before: Self) -> Self {
        Self {
            shmem: self.shmem.or(before.shmem),
            slab_reclaimable: self.slab_reclaimable.or(before.slab_reclaimable),
            ..self
        }
    }

    /// What the kernel takes back before it kills. Of a recording without the whole cache, its inactive part.
    pub fn reclaimable(&self) -> u64 {
        self.file.unwrap_or(self.inactive_file).saturating_add(self.slab_reclaimable.unwrap_or(0))
    }
}

/// Counters of memory.events (v2) or memory.oom_control and memory.failcnt (v1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryEvents {
    /// Times usage was about to exceed the limit.
    pub max: u64,
    /// Times it was throttled and reclaimed for exceeding memory.high (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<u64>,
    /// Times it was reclaimed although below memory.low (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<u64>,
    /// Times an allocation was about to fail for want of memory here or below (v2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom: Option<u64>,
    /// Times the whole group was killed as one (v2, v5.17).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_group_kill: Option<u64>,
    /// Times the limit of this very group could not be kept by reclaim (memory.events.local; v2 only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_local: Option<u64>,
    pub oom_kill: u64,
}

/// Totals the programs keep per cgroup, since the observer started or the cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub faults: u64,
    pub memcg_stalls: u64,
    pub memcg_stall_ns: u64,
    pub direct_stalls: u64,
    pub direct_stall_ns: u64,
}

/// A sample of page faults; bucket `i` counts those below `2 us << i`, the last one all others. Since the observer
/// started or the cgroup was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultLatency {
    pub buckets: Vec<u64>,
    pub total_ns: u64,
}

fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OomKill {
    /// Of the process.
    pub victim_pid: u32,
    /// Empty until the victim's exit gives it (kernels before 6.8).
    pub victim_comm: String,
    /// The victim's own cgroup, if the kernel said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim_cgroup: Option<CgroupId>,
    #[serde(alias = "asker_pid")]
    pub invoker_pid: u32,
    #[serde(alias = "asker_comm")]
    pub invoker_comm: String,
    #[serde(alias = "asker_cgroup")]
    pub invoker_cgroup: CgroupId,
    /// The limit that was exceeded, where the kernel itself gives it.
    #[serde(alias = "whose", default, skip_serializing_if = "Option::is_none")]
    pub exceeded: Option<ExceededLimit>,
    /// That group's limit, and what it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceeded_group: Option<GroupLimit>,
    /// What the invoker reclaimed for right before: the OOM killer is called for a limit only after reclaim for one,
    /// and for the node only after the node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim: Option<StalledBy>,
    /// When the victim began: with its pid it names it for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim_started: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub victim_memory: Option<VictimMemory>,
    /// The process that owns the victim's memory, if it is another one: the kernel kills all processes that share it,
    /// and names and counts the victim alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_owner: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    /// It was exiting already.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exiting: bool,
    /// From the victim's cgroup to the root.
    pub levels: Vec<OomLevel>,
    /// There are more levels than were recorded.
    #[serde(default, skip_serializing_if = "is_false")]
    pub cut: bool,
    /// Settled when the kill came: a kill that is held until its container is known is not judged again by later
    /// counts.
    #[serde(skip)]
    pub judged: Option<Blame>,
    /// Kills without a record, known from the kernel's count only.
    #[serde(skip)]
    pub reconciled: u64,
}

impl OomKill {
    /// Kills in this group that are known from the kernel's count only.
    pub fn unseen(cgroup: CgroupId, kills: u64) -> Self {
        let judged = Some(Blame::Unknown);
        Self { victim_cgroup: Some(cgroup), judged, reconciled: kills, ..Self::default() }
    }
}

/// What one run of the observer leaves to the next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KillsKept {
    /// The newest group that was seen.
    pub newest: Option<CgroupId>,
    /// The kernel's count of each group up to which its kills were reported.
    pub reported: Vec<(CgroupId, u64)>,
}

/// What the victim itself held, by the kernel's per-process counts. Since Linux 6.2 they lag by what each processor has
/// not added yet: up to 32 pages, or two per processor, for each processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VictimMemory {
    pub anon: u64,
    pub file: u64,
    pub shmem: u64,
}

impl VictimMemory {
    pub fn all(&self) -> u64 {
        self.anon.saturating_add(self.file).saturating_add(self.shmem)
    }
}

/// A limit that could not be kept, and the usage of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLimit {
    pub limit: Limit,
    pub usage: u64,
}

/// Which group's limit could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    Node,
    Group(CgroupId),
    /// A group further up than was recorded.
    Above,
    /// Neither the kernel nor its counts give it.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StalledBy {
    /// The container's own limit, or one above it.
    Limit,
    /// The node ran short.
    Node,
}

impl StalledBy {
    pub fn name(self) -> &'static str {
        match self {
            StalledBy::Limit => "limit",
            StalledBy::Node => "node",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExceededLimit {
    Node,
    Group(CgroupId),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OomLevel {
    pub cgroup: CgroupId,
    pub usage: u64,
    pub watermark: u64,
    pub limit: Limit,
    /// How often this group's own limit led to the OOM killer, this time included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_events: Option<u64>,
    /// How many processes were killed here (and below, on v2), this one included: the number that memory.events shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// memory.oom.group: all of this group is killed, or nothing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub kills_as_one: bool,
}

/// The node as a whole. Absent: this kernel does not have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReading {
    pub available: u64,
    /// What pods may still take together: below the limit of the kubelet's group, which is capacity less what is
    /// reserved for the system (`enforceNodeAllocatable: [pods]`, the default). Absent where there is no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods_available: Option<u64>,
    pub free: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
    pub faults: u64,
    pub major_faults: u64,
    pub oom_kills: u64,
    pub direct_scanned_pages: u64,
}

impl NodeReading {
    /// Memory that start-ups can take before the kernel kills a process.
    pub fn headroom(&self) -> u64 {
        self.pods_available.map_or(self.available, |pods| pods.min(self.available))
    }
}

/// /proc/pressure/memory, or memory.pressure of a cgroup: time some, or all, tasks were stalled on memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub some_ns: u64,
    pub full_ns: u64,
}

/// The observer's own cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObserverReading {
    pub resident: u64,
    pub cpu_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_memory: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_files: Option<u64>,
    /// Absent where no cgroup limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Room>,
}

/// A limit on the observer's own memory: the kernel kills it where `taken` would pass `limit`. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub limit: u64,
    /// What the kernel cannot take back.
    pub taken: u64,
}

/// One eBPF program, since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProgramCost {
    pub program: String,
    pub runs: u64,
    pub ns: u64,
}

/// Where data can be lost. Every one is a series of `observer_lost_records_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EnumCount)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The kernel's ring of curve points was full: a point was not written.
    RingFull,
    /// The kernel's ring of kills, cgroups and processes was full.
    LifeRingFull,
    /// The per-cgroup table was full: faults and stalls of a cgroup are not counted.
    CgroupTableFull,
    ReclaimTableFull,
    /// A reclaim ended without a recorded begin: it was under way when the probe was attached.
    ReclaimUnmatched,
    /// A record was not understood.
    Undecodable,
    /// A program was entered again on a CPU where it ran, and the kernel skipped it.
    ProgramReentered,
    /// There were more cgroups than the pass's table holds: containers came first, the others were not read.
    PassTableFull,
    /// A directory or file of a cgroup could not be read although the cgroup exists.
    CgroupUnreadable,
    /// A path longer than a record, of a cgroup that was gone when it was looked for.
    PathNotFound,
    /// meminfo, vmstat, PSI or the observer's own cost could not be read.
    NodeUnreadable,
    /// A cgroup's removal was not seen; its entries in the kernel's tables were freed by the next walk of the tree.
    EntrySwept,
    /// Seconds for which the thread that reads the host did not answer.
    HostStalled,
    /// The disk did not keep up, or was full: an event is in no recording of an incident.
    IncidentRing,
    /// A pod that the API server sent could not be read.
    ObjectUnreadable,
}

impl Loss {
    pub const ALL: [Loss; Loss::COUNT] = [
        Loss::RingFull,
        Loss::LifeRingFull,
        Loss::CgroupTableFull,
        Loss::ReclaimTableFull,
        Loss::ReclaimUnmatched,
        Loss::Undecodable,
        Loss::ProgramReentered,
        Loss::PassTableFull,
        Loss::CgroupUnreadable,
        Loss::PathNotFound,
        Loss::NodeUnreadable,
        Loss::EntrySwept,
        Loss::HostStalled,
        Loss::IncidentRing,
        Loss::ObjectUnreadable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Loss::RingFull => "ring_full",
            Loss::LifeRingFull => "life_ring_full",
            Loss::CgroupTableFull => "cgroup_table_full",
            Loss::ReclaimTableFull => "reclaim_table_full",
            Loss::ReclaimUnmatched => "reclaim_unmatched",
            Loss::Undecodable => "undecodable",
            Loss::ProgramReentered => "program_reentered",
            Loss::PassTableFull => "pass_table_full",
            Loss::CgroupUnreadable => "cgroup_unreadable",
            Loss::PathNotFound => "path_not_found",
            Loss::NodeUnreadable => "node_unreadable",
            Loss::EntrySwept => "entry_swept",
            Loss::HostStalled => "host_stalled",
            Loss::IncidentRing => "incident_ring",
            Loss::ObjectUnreadable => "object_unreadable",
        }
    }
}
