//! What advice is made from: numbers about one container of one workload, however they were come by.

use std::collections::BTreeSet;

use crate::model::{
    advice::{Facts, Kills, Startups, Steady},
    past_startup::{PastStartup, StartupOutcome, quantiles},
    usage_histogram::Levels,
};

/// Container time below which the levels seen say less than the start-ups do.
const LEVELS_SECONDS: f64 = 600.0;

impl Kills {
    /// By its own limit.
    pub fn by_limit(self) -> u64 {
        let others =
            [self.by_node, self.by_group_above, self.by_inside].into_iter().fold(0, u64::saturating_add);
        self.startup.saturating_add(self.steady).saturating_sub(others)
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
        self.oom_killed.saturating_add(self.cut_short)
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
        self.stable.saturating_add(self.drifting).saturating_add(self.oscillating)
    }

    /// Its memory goes on growing as a rule, so no level is its level.
    pub fn drifts(&self) -> bool {
        self.drifting.saturating_mul(2) >= self.judged().max(1)
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
