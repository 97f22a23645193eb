//! What the pipeline concludes. Metrics, log lines, /api and the page are written from findings, never from events.
//!
//! Spans are in seconds since the container's start-up clock began, amounts in bytes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strum::EnumCount;

use crate::model::{
    advice::{Advice, Facts},
    cause::{Cause, Decision},
    container::{CgroupId, Container, ContainerState, ExitStatus, Labels, Workload},
    event::{
        Host, Limit, Loss, MemoryEvents, MemoryLevels, NodeReading, ObserverReading, ProbeStatus,
        ProgramCost, StalledBy, VictimMemory,
    },
    kubernetes::{ApiState, By, Loan},
    past_startup::Summary,
    probe_id::ProbeId,
    time::Time,
};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    pub at: Time,
    #[serde(flatten)]
    pub what: FindingKind,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum FindingKind {
    Host(Host),
    Probe(ProbeStatus),
    /// See [`super::event::EventKind::ProbeAttached`].
    ProbeAttached {
        probe: ProbeId,
        attached: bool,
    },
    /// A container that ran before the observer did: measured, but its start-up was not seen.
    Seen {
        container: Container,
    },
    Started(Started),
    /// The wall clock was set; so this is when it started.
    StartDated {
        container: Container,
        unix_seconds: f64,
    },
    /// The wall clock was set by so much, forward if positive.
    ClockSet {
        moved_seconds: f64,
    },
    /// Why it started, once that is sure enough; again when better evidence came.
    Caused(Caused),
    /// The API identified a container late: what was reported of it as `before` belongs to `container`. `whole`: so
    /// does all that was reported of the workload of `before`, which is no other's.
    Identified {
        container: Container,
        before: Arc<Labels>,
        whole: bool,
    },
    /// How the Kubernetes API answers.
    Api(ApiState),
    ScaleEventBegan(ScaleEvent),
    ScaleEventEnded(ScaleEventEnded),
    OomLinked(OomLinked),
    /// A point of the usage curve.
    Point {
        container: Container,
        usage: u64,
    },
    Measured(Measured),
    Faulted {
        container: Container,
        faults: u64,
    },
    MajorFaulted {
        container: Container,
        faults: u64,
    },
    /// Page faults that were timed: how many took less than `2 us << index`, the last one without end.
    FaultsTimed {
        container: Container,
        buckets: Vec<u64>,
    },
    /// A counter of memory.events grew.
    LimitMet {
        container: Container,
        event: LimitEvent,
        times: u64,
    },
    /// Time some, or all, of its tasks were stalled on memory.
    Pressed {
        container: Container,
        waiting_seconds: f64,
        stalled_seconds: f64,
    },
    Stalled {
        container: Container,
        by: StalledBy,
        stalls: u64,
        seconds: f64,
    },
    /// The verdict on a container changed.
    State {
        container: Container,
        from: ContainerState,
        to: ContainerState,
    },
    StartupPeak(StartupPeak),
    Stable(Stable),
    /// A new plateau inside the start-up horizon moved the time to stable.
    LateStep {
        container: Container,
        stable: Stable,
        before_seconds: f64,
    },
    Drifting {
        container: Container,
        bytes_per_second: f64,
    },
    Oscillating {
        container: Container,
        low: u64,
        high: u64,
        period_seconds: f64,
        since_seconds: f64,
    },
    OomKilled(OomKilled),
    Ended(Ended),
    /// A start-up was added to its workload's history.
    Learned {
        #[serde(flatten)]
        workload: Workload,
        summary: Summary,
    },
    /// What the histories had no room for, since the start: workloads, and start-ups of those that are still known.
    HistoryDropped {
        workloads: u64,
        startups: u64,
        /// Because the observer's own memory is short.
        short: bool,
    },
    /// What is advised for a workload, when it has become another; and what it is made from.
    Advised(Box<Advised>),
    /// Nothing of it has run for long, or there was no room: what was advised for it is no longer kept.
    AdviceDropped {
        #[serde(flatten)]
        workload: Workload,
    },
    /// A container was ready for the first time, this long after its exec.
    Ready {
        container: Container,
        seconds: f64,
    },
    StampedeBegan(StampedeBegan),
    StampedeEnded(StampedeEnded),
    /// The starting containers will take more memory than is available; reported once until that is over.
    ShortageForecast(ShortageForecast),
    /// A container will meet a limit; again while that lasts.
    LimitAhead(LimitAhead),
    /// It will not after all, or has.
    LimitAheadOver {
        container: Container,
    },
    /// What a container requests beyond its steady request while it starts changed; `None`: it was given back.
    Lent {
        container: Container,
        lent: Option<Lent>,
    },
    /// The retention of an ended container is over: its series go.
    Forgotten {
        container: Container,
    },
    Node(NodeMeasured),
    Observer(ObserverReading),
    Programs(Vec<ProgramCost>),
    Lost {
        loss: Loss,
        count: u64,
    },
    /// An event's cgroup was not identified in time.
    Unattributed {
        cgroup: CgroupId,
    },
}

/// What memory.events counts, by its own names (Documentation/admin-guide/cgroup-v2.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, EnumCount)]
#[serde(rename_all = "snake_case")]
pub enum LimitEvent {
    Low,
    High,
    Max,
    Oom,
    OomKill,
    OomGroupKill,
}

impl LimitEvent {
    pub const ALL: [LimitEvent; LimitEvent::COUNT] = [
        LimitEvent::Low,
        LimitEvent::High,
        LimitEvent::Max,
        LimitEvent::Oom,
        LimitEvent::OomKill,
        LimitEvent::OomGroupKill,
    ];

    pub fn name(self) -> &'static str {
        match self {
            LimitEvent::Low => "low",
            LimitEvent::High => "high",
            LimitEvent::Max => "max",
            LimitEvent::Oom => "oom",
            LimitEvent::OomKill => "oom_kill",
            LimitEvent::OomGroupKill => "oom_group_kill",
        }
    }

    /// Its counter; `None`: this kernel does not have it.
    pub fn of(self, events: &MemoryEvents) -> Option<u64> {
        match self {
            LimitEvent::Low => events.low,
            LimitEvent::High => events.high,
            LimitEvent::Max => Some(events.max),
            LimitEvent::Oom => events.oom,
            LimitEvent::OomKill => Some(events.oom_kill),
            LimitEvent::OomGroupKill => events.oom_group_kill,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Started {
    pub container: Container,
    pub unix_seconds: f64,
    /// The command of the entry point; absent where exec was not seen.
    pub command: Option<String>,
    pub cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Caused {
    pub container: Container,
    pub started: Time,
    pub decision: Decision,
    /// The previously reported decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Decision>,
}

/// A change of a workload's number of replicas that placed pods on this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScaleEvent {
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    /// When, on the API server's clock.
    pub unix_seconds: f64,
    /// Absent: only the outcome was seen.
    pub from: Option<u64>,
    pub to: u64,
    pub by: By,
}

/// What it did to this node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScaleEventEnded {
    #[serde(flatten)]
    pub event: ScaleEvent,
    /// Containers of it started here.
    pub pods: u64,
    /// Most of them starting at one time.
    pub starting_max: u64,
    pub peak_sum: u64,
    /// Sum of what each took beyond its steady level, of those that got stable.
    pub overshoot_sum: u64,
    /// Kills among its own containers.
    pub oom_kills: u64,
    /// Kills of others while its containers were starting.
    pub bystander_kills: u64,
    pub stall_seconds: f64,
    /// From its first start until every container had a verdict; absent if one has none within the horizon.
    pub settled_seconds: Option<f64>,
}

/// An OOM kill, or those of one container that were reconciled at once, and a scale event that had a part in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OomLinked {
    /// The victim's.
    pub container: Container,
    pub killed: Time,
    pub kills: u64,
    pub role: OomRole,
    pub scale_event: ScaleEvent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OomRole {
    /// It made the victim.
    Victim,
    /// Containers of the scale-up were starting on the node at the time of the kill.
    UnderWay,
}

impl OomRole {
    pub fn name(self) -> &'static str {
        match self {
            OomRole::Victim => "victim",
            OomRole::UnderWay => "under_way",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub container: Container,
    #[serde(flatten)]
    pub levels: MemoryLevels,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StartupPeak {
    pub container: Container,
    pub bytes: u64,
    pub seconds: f64,
    /// Anonymous memory at the look nearest to the peak, within 2 % of it: the rest is page cache and kernel memory.
    pub anon: Option<u64>,
    /// That held at the peak.
    pub limit: Option<Limit>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stable {
    pub container: Container,
    pub seconds: f64,
    pub confirmed_seconds: f64,
    pub level: u64,
    /// Highest working set on the way over steady level.
    pub overshoot: f64,
    pub plateaus: u32,
    /// Of this start.
    pub cause: Cause,
}

/// The limit that led to an OOM kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, EnumCount)]
#[serde(rename_all = "snake_case")]
pub enum OomScope {
    /// A limit inside the container, which its own processes set.
    Inside,
    /// The container's own limit.
    Container,
    /// The pod, or the cgroup right above.
    Parent,
    /// A group further up: QoS class, kubepods, a slice.
    Ancestor,
    /// The node ran out of memory.
    Node,
    /// The kill is known from the kernel's count only (reconciled), or the limit is not known.
    #[serde(other)]
    Unknown,
}

impl OomScope {
    /// Whether the kill is evidence about the container's own limit; at a parent's limit or the node's, any may be hit.
    pub fn is_own(self) -> bool {
        matches!(self, OomScope::Inside | OomScope::Container | OomScope::Unknown)
    }

    pub const ALL: [OomScope; OomScope::COUNT] = [
        OomScope::Inside,
        OomScope::Container,
        OomScope::Parent,
        OomScope::Ancestor,
        OomScope::Node,
        OomScope::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            OomScope::Inside => "inside",
            OomScope::Container => "container",
            OomScope::Parent => "parent",
            OomScope::Ancestor => "ancestor",
            OomScope::Node => "node",
            OomScope::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OomKilled {
    /// Absent: a process in no container, or of an unknown cgroup.
    pub container: Option<Container>,
    pub scope: OomScope,
    pub victim_pid: u32,
    pub victim_command: String,
    /// Victim's container at the moment of the kill.
    pub usage: u64,
    pub peak: u64,
    /// The limit that was hit; absent for the node.
    pub limit: Option<u64>,
    /// The container's own limit, where another one was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_limit: Option<u64>,
    /// What the victim itself held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victim_memory: Option<VictimMemory>,
    /// The kill is evidence about the container's own limit: that limit was exceeded; or the container had reached it
    /// when a parent's limit was exceeded, as the only container of a pod does, or when the exceeded limit is unknown.
    pub at_own_limit: bool,
    /// Before the entry point was executed: the limit is too low for the runtime to start it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub before_exec: bool,
    pub invoker_pid: u32,
    pub invoker_command: String,
    /// Who asked for the memory that was not there; absent if it is the victim's own container or the host.
    pub invoker: Option<Container>,
    /// Whether the victim's container was still starting, and for how long it had run.
    pub starting: bool,
    pub age_seconds: Option<f64>,
    /// Kills counted by this finding: more than one only where it was reconciled from the kernel's count.
    pub kills: u64,
    /// No probe saw it: the kernel's count had risen by more than was reported.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reconciled: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ended {
    pub container: Container,
    /// How its first process ended, if seen.
    pub status: Option<ExitStatus>,
    /// That process was the OOM killer's victim.
    pub oom_killed: bool,
    /// And by the container's own limit, or one inside it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_own_limit: bool,
    /// The state it was in.
    pub was: ContainerState,
    pub age_seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeMeasured {
    pub reading: Option<NodeReading>,
    pub cgroups: u64,
    pub containers: u64,
    pub starting: u64,
    /// What those starting hold now.
    pub starting_usage: u64,
    /// What they are expected to take yet, at the worst moment ahead.
    pub forecast: Forecast,
    /// Whether a stampede is under way.
    pub stampede: bool,
}

/// Overlapping start-ups that consume the node's headroom (see [`crate::node::stampede`]).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StampedeBegan {
    pub members: Vec<Container>,
    /// What they hold, will take by forecast, and what is available.
    pub held: u64,
    pub growth: u64,
    pub available: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StampedeEnded {
    /// Everybody who started while it lasted.
    pub members: Vec<Container>,
    pub seconds: f64,
    /// Highest sum of what those starting held at one time.
    pub highest_sum: u64,
    /// What those of them that live hold now: the rest of the sum was overshoot.
    pub held_now: u64,
    pub lowest_available: u64,
    pub oom_kills: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advised {
    pub facts: Facts,
    /// With the default settings.
    pub advice: Advice,
    /// Something fails that did not, or a number is another.
    #[serde(default)]
    pub news: bool,
}

/// Requested for a start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lent {
    pub steady: u64,
    pub loan: Loan,
    /// Unix time: its pod was created, or its container started again.
    pub since: f64,
}

/// What those starting will take yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Bytes more than now, at the worst moment.
    pub growth: u64,
    /// When that is, seconds from now.
    pub in_seconds: f64,
    /// Starting containers of workloads without a history.
    pub unknown: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShortageForecast {
    pub forecast: Forecast,
    pub available: u64,
    pub starting: u64,
}

/// A container's memory, without what the kernel can take back, on its way to a limit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitAhead {
    pub container: Container,
    pub limit: LimitKind,
    /// The level of the container's own memory at which that limit is met.
    pub bytes: u64,
    pub in_seconds: f64,
    /// 0 to 1.
    pub confidence: f64,
    pub by: ForeseenBy,
    /// The approach begins; otherwise it was reported before.
    pub news: bool,
}

/// Which limit is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    Container,
    Pod,
    Node,
}

impl LimitKind {
    pub fn name(self) -> &'static str {
        match self {
            LimitKind::Container => "container",
            LimitKind::Pod => "pod",
            LimitKind::Node => "node",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeseenBy {
    /// Its own memory grows towards it.
    Trend,
    /// Its workload's earlier start-ups met it.
    History,
}

impl Finding {
    /// Whether an operator should look at it.
    pub fn is_alarm(&self) -> bool {
        matches!(
            self.what,
            FindingKind::OomKilled(_)
                | FindingKind::StampedeBegan(_)
                | FindingKind::ShortageForecast(_)
                | FindingKind::LimitAhead(LimitAhead { news: true, .. })
                | FindingKind::Lost { .. }
        )
    }
}
