//! What the start-ups of each workload were like: the last few of each, kept over restarts of the observer. Pure; the file
//! is the app's business.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    attribution::cgroup_path::Labels,
    container::startup::Startup,
    model::{event::ExitStatus, finding::ContainerState, time::Time},
    workload::usage_histogram::Levels,
};

/// Start-ups kept per workload: enough for a p95 that is not the maximum, few enough to follow a new release.
pub const KEPT: usize = 24;
/// Workloads kept: far more than a node runs. The one that started longest ago goes first.
pub const WORKLOADS: usize = 1000;

/// What start-ups are compared within: one container of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    /// Name in the pod's template; empty outside Kubernetes, where a workload has one container.
    pub container: String,
}

impl Workload {
    pub fn of(labels: &Labels) -> Self {
        Self {
            namespace: labels.namespace.clone(),
            workload: labels.workload.clone(),
            workload_type: labels.workload_type.clone(),
            container: if labels.pod.is_empty() { String::new() } else { labels.container.clone() },
        }
    }
}

impl std::fmt::Display for Workload {
    /// `shop/deployment/web:app`; outside Kubernetes the workload alone.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { namespace, workload, workload_type, container } = self;
        match namespace.is_empty() {
            true => write!(f, "{workload}"),
            false => write!(f, "{namespace}/{workload_type}/{workload}:{container}"),
        }
    }
}

/// One start-up that is over, or told so far. Bytes, seconds since its exec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastStartup {
    /// Unix time of the exec.
    pub started: f64,
    /// Empty outside Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    pub outcome: StartupOutcome,
    /// A process of it was killed by its own limit on the way: it went on, with less than it wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut_short: bool,
    pub peak: u64,
    pub peak_seconds: f64,
    /// Highest memory that the kernel could not take back; 0 from a state file that did not keep it.
    #[serde(default, alias = "working_set_peak")]
    pub unreclaimable_peak: u64,
    /// Bytes per second where it grew fastest.
    #[serde(default)]
    pub growth: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_stable: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steady: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overshoot: Option<f64>,
    /// Highest usage in each span of this many seconds, from the exec on.
    pub span: f64,
    pub curve: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartupOutcome {
    Stable,
    Drifting,
    Oscillating,
    /// Exited with code 0 before a verdict, or in a way that was not seen.
    Ended,
    /// Ended before a verdict by another exit code or a signal: what it would have needed was not seen.
    Failed,
    /// Killed before a verdict: the curve is cut off by a limit.
    OomKilled,
}

impl StartupOutcome {
    /// Of one that lives on. `None`: nothing to remember yet.
    pub fn reached(state: ContainerState) -> Option<Self> {
        match state {
            ContainerState::Stable => Some(Self::Stable),
            ContainerState::Drifting => Some(Self::Drifting),
            ContainerState::Oscillating => Some(Self::Oscillating),
            ContainerState::Ended | ContainerState::Starting | ContainerState::Running => None,
        }
    }

    /// Of one that ended before a verdict.
    pub fn ended(status: Option<ExitStatus>, by_own_limit: bool) -> Self {
        match status {
            _ if by_own_limit => Self::OomKilled,
            Some(ExitStatus::Code(0)) | None => Self::Ended,
            Some(_) => Self::Failed,
        }
    }
}

impl PastStartup {
    pub fn of(startup: &Startup, pod: &str, zero: Time, wall_ns: i64, outcome: StartupOutcome) -> Self {
        let peak = startup.peak();
        Self {
            started: zero.unix_seconds(wall_ns),
            pod: pod.to_owned(),
            outcome,
            cut_short: false,
            peak: peak.bytes,
            peak_seconds: peak.seconds,
            unreclaimable_peak: startup.unreclaimable_peak(),
            growth: startup.fastest_growth(),
            time_to_stable: startup.time_to_stable(),
            steady: startup.steady().map(|bytes| bytes as u64),
            overshoot: startup.overshoot(),
            span: startup.curve().width(),
            curve: startup.curve().highest().iter().map(|bytes| *bytes as u64).collect(),
        }
    }

    /// What a limit has to hold: the peak, unless more than a fifth of it was file cache, which the kernel takes back before
    /// it kills anybody. Below that the exact peak is better than the sampled remainder.
    pub fn need(&self) -> u64 {
        let mostly_cache = self.unreclaimable_peak > 0 && self.unreclaimable_peak < self.peak / 5 * 4;
        if mostly_cache { self.unreclaimable_peak } else { self.peak }
    }

    /// Its own limit kept it from what it wanted.
    pub fn cut_off(&self) -> bool {
        self.cut_short || self.outcome == StartupOutcome::OomKilled
    }

    /// All that it needs was seen.
    pub fn came_through(&self) -> bool {
        !self.cut_off() && self.outcome != StartupOutcome::Failed
    }

    /// Whether it was not killed and did not fail before this age, in seconds.
    pub fn reached(&self, age: f64) -> bool {
        let broke_off = matches!(self.outcome, StartupOutcome::OomKilled | StartupOutcome::Failed);
        !broke_off || self.span * self.curve.len() as f64 >= age
    }

    /// Highest usage between two moments of a start-up; after the end of the curve, what it ended at, or, where it was
    /// cut off, its peak: it would have grown on.
    pub fn highest_between(&self, from: f64, until: f64) -> u64 {
        let span = |seconds: f64| (seconds / self.span.max(1e-3)) as usize;
        let (first, last) = (span(from), span(until));
        let within = self.curve.iter().skip(first).take(last.saturating_sub(first) + 1).copied().max();
        let beyond = last >= self.curve.len();
        let after = match self.outcome {
            StartupOutcome::OomKilled => Some(self.peak),
            _ => self.curve.last().copied(),
        };
        within.max(after.filter(|_| beyond)).unwrap_or(0)
    }
}

/// Quantiles over the start-ups remembered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub startups: u64,
    /// p50, p95, maximum. Bytes.
    pub peak: [u64; 3],
    /// p50, p95, maximum of those that got stable. Seconds.
    pub time_to_stable: Option<[f64; 3]>,
    /// p50, p95, maximum of those that got stable. Bytes.
    pub steady: Option<[u64; 3]>,
}

pub const QUANTILES: [f64; 3] = [0.5, 0.95, 1.0];

#[derive(Clone, Debug, Default)]
pub struct Histories {
    by_workload: BTreeMap<Workload, Vec<PastStartup>>,
    /// Unreclaimable memory after start-up; of workloads that have a history.
    levels: BTreeMap<Workload, Levels>,
}

impl Histories {
    pub fn get(&self, workload: &Workload) -> &[PastStartup] {
        self.by_workload.get(workload).map_or(&[], Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Workload, &[PastStartup])> {
        self.by_workload.iter().map(|(workload, past)| (workload, past.as_slice()))
    }

    pub fn levels(&self, workload: &Workload) -> Option<&Levels> {
        self.levels.get(workload)
    }

    /// A container of it was at `bytes` for `seconds` until `now` (Unix time).
    pub fn was_at(&mut self, workload: &Workload, bytes: u64, seconds: f64, now: f64) {
        if let Some(levels) = self.levels.get_mut(workload) {
            levels.add(bytes, seconds, now);
        } else if self.by_workload.contains_key(workload) {
            self.levels.entry(workload.clone()).or_default().add(bytes, seconds, now);
        }
    }

    /// Takes what an earlier run kept.
    pub fn restore(&mut self, workload: Workload, mut startups: Vec<PastStartup>, levels: Levels) {
        startups.drain(..startups.len().saturating_sub(KEPT));
        self.levels.insert(workload.clone(), levels);
        self.by_workload.insert(workload, startups);
    }

    /// Adds a start-up, or replaces what was told of it before.
    pub fn remember(&mut self, workload: &Workload, past: PastStartup) {
        if !self.by_workload.contains_key(workload) && self.by_workload.len() >= WORKLOADS {
            let started = |startups: &[PastStartup]| startups.last().map_or(0.0, |past| past.started);
            let oldest = self.by_workload.iter().min_by(|a, b| started(a.1).total_cmp(&started(b.1)));
            if let Some(oldest) = oldest.map(|(workload, _)| workload.clone()) {
                self.by_workload.remove(&oldest);
                self.levels.remove(&oldest);
            }
        }
        let startups = self.by_workload.entry(workload.clone()).or_default();
        match startups.iter_mut().find(|known| known.started == past.started) {
            Some(known) => *known = past,
            None => {
                if startups.len() == KEPT {
                    startups.remove(0);
                }
                startups.push(past);
            }
        }
    }

    pub fn summary(&self, workload: &Workload) -> Option<Summary> {
        let past = self.get(workload);
        let peaks = quantiles(past.iter().map(|past| past.peak as f64))?;
        let bytes = |quantiles: [f64; 3]| quantiles.map(|bytes| bytes as u64);
        Some(Summary {
            startups: past.len() as u64,
            peak: bytes(peaks),
            time_to_stable: quantiles(past.iter().filter_map(|past| past.time_to_stable)),
            steady: quantiles(past.iter().filter_map(|past| Some(past.steady? as f64))).map(bytes),
        })
    }
}

pub fn quantiles(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(QUANTILES.map(|q| values[(last as f64 * q).ceil() as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(started: f64, peak: u64) -> PastStartup {
        PastStartup {
            started,
            pod: String::new(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak,
            peak_seconds: 1.0,
            unreclaimable_peak: 0,
            growth: 0.0,
            time_to_stable: Some(2.0),
            steady: Some(peak / 2),
            overshoot: Some(2.0),
            span: 1.0,
            curve: vec![peak / 2, peak, peak / 2],
        }
    }

    fn web() -> Workload {
        let labels = Labels { workload: "web".into(), ..Labels::default() };
        Workload::of(&labels)
    }

    #[test]
    fn the_last_start_ups_are_kept_and_one_is_told_anew_not_twice() {
        let mut histories = Histories::default();
        for i in 0..100 {
            histories.remember(&web(), past(f64::from(i), 100 + i as u64));
        }
        histories.remember(&web(), past(99.0, 500));
        let summary = histories.summary(&web()).unwrap();
        assert_eq!((summary.startups, summary.peak[2]), (KEPT as u64, 500));
        assert_eq!(histories.get(&web()).first().unwrap().started, 76.0);
    }

    #[test]
    fn the_number_of_workloads_is_bounded() {
        let mut histories = Histories::default();
        for i in 0..WORKLOADS + 5 {
            let labels = Labels { workload: format!("w{i}"), ..Labels::default() };
            histories.remember(&Workload::of(&labels), past(i as f64, 1));
        }
        assert_eq!(histories.iter().count(), WORKLOADS);
        assert!(
            histories.get(&Workload::of(&Labels { workload: "w0".into(), ..Labels::default() })).is_empty()
        );
    }

    #[test]
    fn a_curve_is_read_between_two_moments_and_held_after_its_end() {
        let past = past(0.0, 100);
        assert_eq!(past.highest_between(0.0, 0.5), 50);
        assert_eq!(past.highest_between(0.5, 1.5), 100);
        assert_eq!(past.highest_between(2.0, 9.0), 50);
        let killed = PastStartup { outcome: StartupOutcome::OomKilled, ..past };
        assert_eq!(killed.highest_between(5.0, 9.0), 100);
    }
}
