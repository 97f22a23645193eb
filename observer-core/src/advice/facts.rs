//! What advice is made from: numbers about one container of one workload, however they were come by.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    advice::{concurrency::StartConcurrency, typical_curve::Typical},
    model::kubernetes::Autoscaler,
    workload::{
        history::{PastStartup, StartupOutcome, Workload, quantiles},
        usage_histogram::Levels,
    },
};

/// Container time below which the levels seen say less than the start-ups do.
const LEVELS_SECONDS: f64 = 600.0;

/// Bytes and seconds. Absent: nobody told.
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
    /// Everything that scales it; `None`: nobody who knows was asked (the ledger).
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
    /// Container time behind it; 0: the levels at which start-ups settled stand in.
    pub seconds: f64,
}

/// As it is set today. Of what may be unset, `Some(None)` is known to be so: null in JSON, where unknown is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Current {
    /// Alive now.
    pub containers: u64,
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
    /// Sum of what the pod's other containers that run beside it need, each at its worst; `None` if one is unknown.
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
    /// By its own limit before its entry point was executed: too low for the runtime to start it.
    #[serde(default)]
    pub before_exec: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Available less the kubelet's eviction reserve.
    pub headroom: u64,
    /// Times it was short, or a stampede was under way, since the observer started.
    pub shortages: u64,
}

impl Kills {
    /// By its own limit.
    pub fn by_limit(self) -> u64 {
        (self.startup + self.steady).saturating_sub(self.by_node + self.by_group_above)
    }
}

impl Facts {
    /// Within a twentieth of the limit: the kernel kills when it cannot reclaim below it, so usage stays just there.
    pub fn at_limit(&self, bytes: u64) -> bool {
        self.current.limit.flatten().is_some_and(|limit| bytes >= limit / 20 * 19)
    }

    /// The limit of today, where usage goes up to it (within a fiftieth: the width of a histogram's bucket) and neither
    /// a start-up nor a process was killed by it: what does not fit is reclaimed, as file cache is.
    pub fn limit_filled_by_cache(&self, worst: u64) -> Option<u64> {
        let killed = self.kills.by_limit() > 0 || self.startups.cut.is_some_and(|cut| self.at_limit(cut));
        self.current.limit.flatten().filter(|limit| !killed && worst.abs_diff(*limit) <= limit / 50)
    }
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

impl Startups {
    pub fn of(past: &[PastStartup]) -> Self {
        let count =
            |outcome| past.iter().filter(|past| past.outcome == outcome && !past.cut_short).count() as u64;
        let whole = || past.iter().filter(|past| past.came_through());
        let logs: Vec<f64> = whole().map(|past| (past.need().max(1) as f64).ln()).collect();
        let mean = (!logs.is_empty()).then(|| logs.iter().sum::<f64>() / logs.len() as f64);
        let spread = mean.filter(|_| logs.len() > 1).map(|mean| {
            (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (logs.len() - 1) as f64).sqrt()
        });
        let pods: BTreeSet<&str> = past.iter().map(|past| past.pod.as_str()).collect();
        let bytes = |quantiles: Option<[f64; 3]>| quantiles.map(|all| all.map(|one| one as u64));
        Self {
            count: past.len() as u64,
            pods: pods.len() as u64,
            from: past.iter().map(|past| past.started).fold(f64::INFINITY, f64::min).min(f64::MAX),
            until: past.iter().map(|past| past.started).fold(0.0, f64::max),
            stable: count(StartupOutcome::Stable),
            drifting: count(StartupOutcome::Drifting),
            oscillating: count(StartupOutcome::Oscillating),
            ended: count(StartupOutcome::Ended),
            failed: count(StartupOutcome::Failed),
            oom_killed: count(StartupOutcome::OomKilled),
            cut_short: past.iter().filter(|past| past.cut_short).count() as u64,
            need: bytes(quantiles(whole().map(|past| past.need() as f64))),
            need_spread: spread,
            need_mean_log: mean,
            whole: logs.len() as u64,
            cut: past.iter().filter(|past| past.cut_off()).map(|past| past.peak).max(),
            steady: bytes(quantiles(past.iter().filter_map(|past| Some(past.steady? as f64)))),
            overshoot: quantiles(past.iter().filter_map(|past| past.overshoot)),
            time_to_stable: quantiles(past.iter().filter_map(|past| past.time_to_stable)),
            growth: quantiles(whole().map(|past| past.growth)),
        }
    }

    /// Cut off by their own limit.
    pub fn cut_off(&self) -> u64 {
        self.oom_killed + self.cut_short
    }

    /// What became of those that did not come through, as the end of a sentence.
    pub fn broken_off(&self) -> String {
        let counts = [(self.cut_off(), "cut off by their limit"), (self.failed, "failed")];
        let some = counts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> =
            some.map(|(count, what)| format!("{count} of {} {what}", self.count)).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }

    pub fn outcomes(&self) -> [(&'static str, u64); 7] {
        [
            ("stable", self.stable),
            ("drifting", self.drifting),
            ("oscillating", self.oscillating),
            ("ended", self.ended),
            ("failed", self.failed),
            ("cut_short", self.cut_short),
            ("oom_killed", self.oom_killed),
        ]
    }

    /// Those that got a verdict.
    pub fn judged(&self) -> u64 {
        self.stable + self.drifting + self.oscillating
    }

    /// Its memory goes on growing as a rule, so no level is its level.
    pub fn drifts(&self) -> bool {
        self.drifting * 2 >= self.judged().max(1)
    }
}

impl Steady {
    pub fn of(levels: Option<&Levels>, startups: &Startups) -> Option<Self> {
        let seen = levels.filter(|levels| levels.seconds() >= LEVELS_SECONDS).and_then(|levels| {
            let at = |q| levels.quantile(q);
            Some(Self { p50: at(0.5)?, p95: at(0.95)?, max: at(1.0)?, seconds: levels.seconds() })
        });
        seen.or_else(|| {
            let [p50, p95, max] = startups.steady?;
            Some(Self { p50, p95, max, seconds: 0.0 })
        })
    }
}
