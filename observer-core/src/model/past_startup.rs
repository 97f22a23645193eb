//! What is kept of a start-up that is over.

use serde::{Deserialize, Serialize, Serializer};

use crate::model::{
    bounded,
    container::{ContainerState, ExitStatus},
};

/// Spans of the curve kept for the workload's history.
pub const SPANS: usize = 64;
/// No name in it is longer: a cgroup path is the longest there is. Bytes.
pub const NAME: usize = 4096;
/// Nothing that is real takes more: a petabyte.
const MOST_BYTES: u64 = 1 << 50;
/// No start-up, and no part of it, is longer than this: eleven days. Seconds.
const MOST_SECONDS: f64 = 1e6;
/// Unix time of the year 33,658, which no clock shows.
const LAST_TIME: f64 = 1e12;

/// One start-up, complete or as recorded so far. Bytes, seconds since its exec.
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
    /// Ended before a verdict by another exit code or a signal that does not ask to stop: what it would have needed was
    /// not seen.
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

    /// Of one that ended before a verdict. `None`: it was asked to stop, which is no failure, and what it would have
    /// needed was not seen.
    pub fn ended(status: Option<ExitStatus>, by_own_limit: bool) -> Option<Self> {
        match status {
            _ if by_own_limit => Some(Self::OomKilled),
            Some(ExitStatus::Code(0)) | None => Some(Self::Ended),
            Some(status) if status.was_stopped() => None,
            Some(_) => Some(Self::Failed),
        }
    }
}

impl PastStartup {
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
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.pod.len() + size_of_val(&self.curve[..])
    }

    /// What a limit has to hold: the peak, unless more than a fifth of it was file cache, which the kernel reclaims
    /// before it kills a process. Below that the exact peak is better than the sampled remainder.
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

pub fn quantiles(values: impl Iterator<Item = f64>) -> Option<[f64; 3]> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(QUANTILES.map(|q| values[(last as f64 * q).ceil() as usize]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_before_a_verdict_is_a_failure_unless_it_was_asked_for() {
        use ExitStatus::{Code, Signal};
        use StartupOutcome::{Ended, Failed, OomKilled};
        for (status, by_own_limit, expected) in [
            (Some(Code(0)), false, Some(Ended)),
            (None, false, Some(Ended)),
            (Some(Code(1)), false, Some(Failed)),
            (Some(Signal(11)), false, Some(Failed)),
            (Some(Signal(9)), true, Some(OomKilled)),
            (Some(Signal(9)), false, Some(Failed)),
            (Some(Code(137)), false, Some(Failed)),
            (Some(Code(143)), false, None),
            (Some(Signal(15)), false, None),
            (Some(Signal(2)), false, None),
        ] {
            assert_eq!(StartupOutcome::ended(status, by_own_limit), expected, "{status:?}");
        }
    }
}
