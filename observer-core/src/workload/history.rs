//! What the start-ups of each workload were like: the last few of each, kept over restarts of the observer. Pure; the
//! file is the app's business.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    attribution::cgroup_path::Labels,
    container::startup::{SPANS, Startup},
    model::{bounded, event::ExitStatus, finding::ContainerState, time::Time},
    workload::usage_histogram::Levels,
};

/// Start-ups kept per workload: enough for a p95 that is not the maximum, few enough to follow a new release.
pub const KEPT: usize = 24;
/// Of these, what a workload gives up last when memory is short.
const ENOUGH: usize = 6;
/// Workloads kept: far more than a node runs. The one that started longest ago goes first.
pub const WORKLOADS: usize = 1000;
/// Memory that all of it may take, bytes: 4 KiB for each workload.
pub const BYTES: usize = WORKLOADS * 4096;
/// No name in it is longer: a cgroup path is the longest there is. Bytes.
const NAME: usize = 4096;
/// Nothing that is real takes more: a petabyte.
const MOST_BYTES: u64 = 1 << 50;
/// No start-up, and no part of it, is longer than this: eleven days. Seconds.
const MOST_SECONDS: f64 = 1e6;
/// Unix time of the year 33,658, which no clock shows.
const LAST_TIME: f64 = 1e12;

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

impl Workload {
    /// Memory it takes, bytes.
    fn size(&self) -> usize {
        let Self { namespace, workload, workload_type, container } = self;
        size_of::<Self>() + namespace.len() + workload.len() + workload_type.len() + container.len()
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
    #[serde(serialize_with = "whole_bytes", deserialize_with = "bounded::first::<_, _, { SPANS + 1 }>")]
    pub curve: Vec<f32>,
}

/// As the curve of the start-up has them: no byte of a whole number is lost in this.
fn whole_bytes<S: Serializer>(curve: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(curve.iter().map(|bytes| *bytes as u64))
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
            curve: startup.curve().highest().to_vec(),
        }
    }

    /// Whether it can be a start-up that was seen: what comes from a file may be anything.
    pub fn is_sound(&self) -> bool {
        let bytes = |bytes: u64| bytes <= MOST_BYTES;
        let number = |number: f64, most: f64| (0.0..=most).contains(&number);
        self.pod.len() <= NAME
            && number(self.started, LAST_TIME)
            && [Some(self.peak), Some(self.unreclaimable_peak), self.steady].into_iter().flatten().all(bytes)
            && [Some(self.peak_seconds), self.time_to_stable]
                .into_iter()
                .flatten()
                .all(|seconds| number(seconds, MOST_SECONDS))
            && number(self.growth, MOST_BYTES as f64)
            && self.overshoot.is_none_or(|ratio| number(ratio, MOST_BYTES as f64))
            && self.curve.len() <= SPANS
            && self.curve.iter().all(|bytes| (0.0..=MOST_BYTES as f32).contains(bytes))
            && self.span > 0.0
            && self.span * SPANS as f64 <= MOST_SECONDS
    }

    /// Memory it takes, bytes.
    fn size(&self) -> usize {
        size_of::<Self>() + self.pod.len() + size_of_val(&self.curve[..])
    }

    /// What a limit has to hold: the peak, unless more than a fifth of it was file cache, which the kernel takes back
    /// before it kills anybody. Below that the exact peak is better than the sampled remainder.
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
        let within = self.curve.iter().skip(first).take(last.saturating_sub(first) + 1);
        let within = within.map(|bytes| *bytes as u64).max();
        let beyond = last >= self.curve.len();
        let after = match self.outcome {
            StartupOutcome::OomKilled => Some(self.peak),
            _ => self.curve.last().map(|bytes| *bytes as u64),
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

/// What is remembered of one workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    pub startups: Vec<PastStartup>,
    /// Unreclaimable memory after start-up.
    pub levels: Levels,
}

impl Remembered {
    fn started(&self) -> f64 {
        self.startups.last().map_or(0.0, |past| past.started)
    }

    fn size(&self) -> usize {
        self.startups.iter().map(PastStartup::size).sum::<usize>() + self.levels.size()
    }
}

/// Bounded in number and bytes. A clone is cheap, and is what is written to the file beside the work.
#[derive(Clone, Debug)]
pub struct Histories {
    by_workload: BTreeMap<Workload, Arc<Remembered>>,
    size: usize,
    most: usize,
    dropped: Dropped,
}

/// What the bounds did not leave room for, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub workloads: u64,
    /// Of workloads that are still remembered.
    pub startups: u64,
}

impl Default for Histories {
    fn default() -> Self {
        Self { by_workload: BTreeMap::new(), size: 0, most: BYTES, dropped: Dropped::default() }
    }
}

impl Histories {
    pub fn get(&self, workload: &Workload) -> &[PastStartup] {
        self.by_workload.get(workload).map_or(&[], |known| &known.startups)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Workload, &Remembered)> {
        self.by_workload.iter().map(|(workload, known)| (workload, &**known))
    }

    /// Hands out everything.
    pub fn drain(&mut self) -> impl Iterator<Item = (Workload, Remembered)> {
        self.size = 0;
        std::mem::take(&mut self.by_workload)
            .into_iter()
            .map(|(workload, known)| (workload, Arc::unwrap_or_clone(known)))
    }

    pub fn levels(&self, workload: &Workload) -> Option<&Levels> {
        self.by_workload.get(workload).map(|known| &known.levels)
    }

    /// Memory it takes, bytes; what the maps themselves take is not in it.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    /// Keeps to this many bytes from now on.
    pub fn keep_to(&mut self, bytes: usize) {
        self.most = bytes.min(BYTES);
        self.make_room(None);
    }

    /// A container of it was at `bytes` for `seconds` until `now` (Unix time).
    pub fn was_at(&mut self, workload: &Workload, bytes: u64, seconds: f64, now: f64) {
        if self.by_workload.contains_key(workload) {
            self.change(workload, |known| known.levels.add(bytes, seconds, now));
        }
    }

    /// Takes what an earlier run kept, as far as it can be true. Returns how many start-ups it did not take.
    pub fn restore(&mut self, workload: &Workload, mut startups: Vec<PastStartup>, levels: Levels) -> usize {
        let came = startups.len();
        startups.retain(PastStartup::is_sound);
        startups.drain(..startups.len().saturating_sub(KEPT));
        let refused = came - startups.len();
        if !startups.is_empty() && workload.size() <= NAME {
            let levels = levels.checked().unwrap_or_default();
            self.change(workload, |known| *known = Remembered { startups, levels });
        }
        refused
    }

    /// Adds a start-up, or replaces what was told of it before.
    pub fn remember(&mut self, workload: &Workload, past: PastStartup) {
        self.change(workload, |known| {
            let startups = &mut known.startups;
            match startups.iter_mut().find(|known| known.started == past.started) {
                Some(known) => *known = past,
                None => {
                    if startups.len() == KEPT {
                        startups.remove(0);
                    }
                    startups.push(past);
                }
            }
        });
    }

    fn change(&mut self, workload: &Workload, change: impl FnOnce(&mut Remembered)) {
        if !self.by_workload.contains_key(workload) {
            self.by_workload.insert(workload.clone(), Arc::default());
            self.size += workload.size();
        }
        let Some(known) = self.by_workload.get_mut(workload) else { return };
        let known = Arc::make_mut(known);
        let before = known.size();
        change(known);
        self.size = self.size + known.size() - before;
        self.make_room(Some(workload));
    }

    /// The oldest start-ups of those with the most go first; where none has more than enough, the workload that started
    /// longest ago, but not the one that was just changed.
    fn make_room(&mut self, changed: Option<&Workload>) {
        while self.by_workload.len() > WORKLOADS {
            self.drop_oldest(changed);
        }
        while self.size > self.most {
            let workloads = self.by_workload.len();
            let most = self.by_workload.values_mut().max_by_key(|known| known.startups.len());
            match most {
                Some(known) if known.startups.len() > ENOUGH => {
                    let known = Arc::make_mut(known);
                    self.size -= known.startups.remove(0).size();
                    self.dropped.startups += 1;
                }
                _ if workloads > 1 => self.drop_oldest(changed),
                _ => return,
            }
        }
    }

    fn drop_oldest(&mut self, but: Option<&Workload>) {
        let others = self.by_workload.iter().filter(|(workload, _)| Some(*workload) != but);
        let oldest = others.min_by(|a, b| a.1.started().total_cmp(&b.1.started()));
        let Some(oldest) = oldest.map(|(workload, _)| workload.clone()) else { return };
        if let Some(known) = self.by_workload.remove(&oldest) {
            self.size -= known.size() + oldest.size();
            self.dropped.workloads += 1;
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
            curve: [peak / 2, peak, peak / 2].map(|bytes| bytes as f32).to_vec(),
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
    fn memory_is_bounded_and_the_least_useful_goes_first() {
        let named = |i: usize| Workload { workload: format!("w{i}"), ..Workload::default() };
        let mut histories = Histories::default();
        for i in 0..WORKLOADS {
            for k in 0..KEPT {
                let past = PastStartup { curve: vec![1.0; SPANS], ..past((i * KEPT + k) as f64, 1) };
                histories.remember(&named(i), past);
            }
        }
        assert!(histories.size() <= BYTES);
        assert_eq!(
            histories.size(),
            histories.iter().map(|(w, known)| w.size() + known.size()).sum::<usize>()
        );
        assert!((0..WORKLOADS).all(|i| histories.get(&named(i)).len() >= ENOUGH));
        assert!(histories.dropped().startups > 0);
        histories.keep_to(100_000);
        assert!(histories.size() <= 100_000 && histories.dropped().workloads > 0);
        assert!(histories.get(&named(0)).is_empty() && !histories.get(&named(WORKLOADS - 1)).is_empty());
    }

    #[test]
    fn what_cannot_be_a_start_up_is_not_restored() {
        let sound = past(1.0, 100);
        for broken in [
            PastStartup { span: 1e9, ..sound.clone() },
            PastStartup { span: 0.0, ..sound.clone() },
            PastStartup { span: f64::NAN, ..sound.clone() },
            PastStartup { peak: u64::MAX, ..sound.clone() },
            PastStartup { started: 1e308, ..sound.clone() },
            PastStartup { time_to_stable: Some(-1.0), ..sound.clone() },
            PastStartup { growth: f64::INFINITY, ..sound.clone() },
            PastStartup { curve: vec![1.0; SPANS + 1], ..sound.clone() },
            PastStartup { curve: vec![-1.0], ..sound.clone() },
            PastStartup { pod: "p".repeat(NAME + 1), ..sound.clone() },
        ] {
            let mut histories = Histories::default();
            assert_eq!(histories.restore(&web(), vec![broken.clone(), sound.clone()], Levels::default()), 1);
            assert_eq!(histories.get(&web()), std::slice::from_ref(&sound), "{broken:?}");
        }
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
