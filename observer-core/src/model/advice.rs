//! What is advised for a workload, and the facts that it is made from.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};
use strum::EnumCount;

use crate::model::{
    container::Workload,
    kubernetes::{Autoscaler, Role},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, EnumCount)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    Unknown,
    Pass,
    Warn,
    Fail,
}

impl Grade {
    pub const ALL: [Grade; Grade::COUNT] = [Grade::Unknown, Grade::Pass, Grade::Warn, Grade::Fail];

    pub fn name(self) -> &'static str {
        match self {
            Grade::Unknown => "unknown",
            Grade::Pass => "pass",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    Settles,
    StartupControlled,
    RequestIsSteady,
    LimitCoversPeak,
    PodLimitCoversPeaks,
    LimitSet,
    ScalingSignal,
    HpaVpaConflict,
    ScaleUpFits,
    ReadyAfterSettled,
    Predictable,
    VpaThrash,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    pub check: Check,
    pub grade: Grade,
    /// What was seen, with numbers; for `unknown`, what is missing.
    pub evidence: String,
}

/// Of one container of one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    #[serde(flatten)]
    pub workload: Workload,
    pub verdicts: Vec<CheckResult>,
    pub numbers: Numbers,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    pub request: Option<u64>,
    pub limit: Option<AdvisedLimit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_from: Option<LimitFrom>,
    /// Worst need seen: of a start-up, or later.
    pub worst: Option<u64>,
    /// Why a number is missing.
    pub missing: Option<String>,
    /// Request recommended less request of today, over all containers alive; negative: memory saved.
    pub request_change: Option<i64>,
    pub limit_change: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvisedLimit {
    /// `hold` in JSON, as scripts read it.
    #[serde(rename = "hold")]
    Firm(u64),
    /// Every start-up was cut off by its own limit: this is where to look next.
    Trial(u64),
}

impl AdvisedLimit {
    pub fn bytes(self) -> u64 {
        match self {
            AdvisedLimit::Firm(bytes) | AdvisedLimit::Trial(bytes) => bytes,
        }
    }
}

/// What decided the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitFrom {
    /// Worst need and headroom.
    Headroom,
    /// How much the start-ups differ.
    Spread,
    /// No container does with less.
    Least,
    /// A limit is not below its request.
    Request,
    /// Several start-ups were cut off above what the whole ones need: not lowered.
    CutOff,
    /// Usage fills it, and nothing was killed.
    Filled,
    /// Every start-up was cut off.
    Trial,
}

/// Bytes and seconds. Absent: not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    #[serde(flatten)]
    pub workload: Workload,
    pub startups: Startups,
    /// Their curves; `None` where only numbers are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub typical: Option<Typical>,
    pub steady: Option<Steady>,
    pub current: Current,
    pub kills: Kills,
    /// All autoscalers of the workload; `None`: the ledger was not queried.
    pub autoscalers: Option<Vec<Autoscaler>>,
    /// Pods a rollout may start at once, in the whole cluster (a Deployment's maxSurge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surge: Option<u64>,
    /// Start-ups that were ready before they were stable, of those where both were seen.
    pub ready_early: Option<(u64, u64)>,
    pub node: Option<Node>,
    /// How many can start together on the node.
    pub together: Option<StartConcurrency>,
    pub changes: Changes,
}

/// Over the start-ups remembered; each triple is p50, p95, maximum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Startups {
    pub count: u64,
    pub pods: u64,
    /// Unix time of the first and the last.
    pub from: f64,
    pub until: f64,
    pub stable: u64,
    pub drifting: u64,
    pub oscillating: u64,
    /// Ended before a verdict, of its own accord.
    pub ended: u64,
    /// Ended before a verdict by an exit code other than 0 or a signal.
    #[serde(default)]
    pub failed: u64,
    /// Ended by an OOM kill before a verdict.
    pub oom_killed: u64,
    /// Went on after an OOM kill of one of their processes; in none of the counts above.
    #[serde(default)]
    pub cut_short: u64,
    /// What a limit has to hold, of those that came through whole.
    pub need: Option<[u64; 3]>,
    /// Standard deviation of the logarithm of the same, and how many there were.
    pub need_spread: Option<f64>,
    pub need_mean_log: Option<f64>,
    pub whole: u64,
    /// Highest usage of those that were cut off: they wanted more.
    pub cut: Option<u64>,
    /// Level at which each settled.
    pub steady: Option<[u64; 3]>,
    pub overshoot: Option<[f64; 3]>,
    pub time_to_stable: Option<[f64; 3]>,
    /// Bytes a second where it grew fastest.
    pub growth: Option<[f64; 3]>,
}

/// Working set after start-up, over time and pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    pub p50: u64,
    pub p95: u64,
    pub max: u64,
    /// Container time behind it; 0: the levels at which start-ups settled are used instead.
    pub seconds: f64,
}

/// As it is set today. Of what may be unset, `Some(None)` is known to be so: null in JSON, where unknown is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// Alive now.
    pub containers: u64,
    /// Of the container in its pod; none for a main one, and where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Of them, still starting.
    #[serde(default)]
    pub starting: u64,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub request: Option<Option<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub limit: Option<Option<u64>>,
    /// Of the whole pod.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub pod_limit: Option<Option<u64>>,
    /// Sum of the worst needs of the containers that run together with it in the pod; `None` if one is unknown.
    pub siblings_need: Option<u64>,
    /// The most that the pod needs while its init containers run.
    #[serde(default)]
    pub init_need: Option<u64>,
    pub startup_probe: Option<bool>,
    pub readiness_probe: Option<bool>,
}

/// What is there is known, null too.
fn known<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// OOM kills since the observer started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kills {
    pub startup: u64,
    pub steady: u64,
    /// Of both: for want of memory on the node.
    pub by_node: u64,
    /// Of both: by a limit above the container's own.
    #[serde(default)]
    pub by_group_above: u64,
    /// Of both: by a limit inside the container.
    #[serde(default)]
    pub by_inside: u64,
    /// By its own limit before its entry point was executed: too low for the runtime to start it.
    #[serde(default)]
    pub before_exec: u64,
}

impl AddAssign for Kills {
    fn add_assign(&mut self, more: Self) {
        let Self { startup, steady, by_node, by_group_above, by_inside, before_exec } = more;
        self.startup = self.startup.saturating_add(startup);
        self.steady = self.steady.saturating_add(steady);
        self.by_node = self.by_node.saturating_add(by_node);
        self.by_group_above = self.by_group_above.saturating_add(by_group_above);
        self.by_inside = self.by_inside.saturating_add(by_inside);
        self.before_exec = self.before_exec.saturating_add(before_exec);
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Available less the kubelet's eviction reserve.
    pub headroom: u64,
    /// Times it was short, or a stampede was under way, since the observer started.
    pub shortages: u64,
}

/// Since the observer started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Times the limit of a running container changed.
    pub resizes: u64,
    pub restarts_after_resize: u64,
    /// Starts in place of a pod that was evicted or deleted.
    pub rescheduled: u64,
    /// Most containers of it starting at one time.
    pub starting_max: u64,
}

impl AddAssign for Changes {
    fn add_assign(&mut self, more: Self) {
        let Self { resizes, restarts_after_resize, rescheduled, starting_max } = more;
        self.resizes = self.resizes.saturating_add(resizes);
        self.restarts_after_resize = self.restarts_after_resize.saturating_add(restarts_after_resize);
        self.rescheduled = self.rescheduled.saturating_add(rescheduled);
        self.starting_max = self.starting_max.max(starting_max);
    }
}

/// Highest usage in each span of `span` seconds since exec, bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Typical {
    pub span: f64,
    /// Half of the start-ups were below it.
    pub median: Vec<u64>,
    /// None was above it.
    pub highest: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartConcurrency {
    /// Fit when settled.
    pub settled: u64,
    /// May start at the same moment.
    pub at_once: u64,
    /// Seconds between starts with which as many as fit may start; absent: none of those tried is enough.
    pub gap: Option<f64>,
    /// Highest sum of their usage when the curves seen are replayed so.
    pub highest: u64,
}
