//! The node's last day and each container's, in a fixed size: fine for the last minutes, coarse for the rest. What
//! would be missed by a coarse look is kept: highs of what is taken, lows of what is left, sums of what is counted.

use std::collections::VecDeque;

use serde::Serialize;

/// Width of a sample and how many are kept: a quarter of an hour, three hours, a day.
const NODE_TIERS: [(u32, usize); 3] = [(1, 900), (10, 1080), (60, 1440)];
/// Of a recording besides: ten days, sixty.
const RECORDING_TIERS: [(u32, usize); 2] = [(600, 1440), (3600, 1440)];
/// Of a container after its start-up: an hour, a day. 2.1 KiB each.
const CONTAINER_TIERS: [(u32, usize); 2] = [(15, 240), (300, 288)];

/// What the node was like in a span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Lowest.
    pub available: Option<u64>,
    pub pods_available: Option<u64>,
    /// Highest.
    pub starting: u32,
    pub starting_bytes: u64,
    pub forecast_bytes: u64,
    pub stampede: bool,
    /// Sums.
    pub waiting_seconds: f32,
    pub stalled_seconds: f32,
    pub oom_kills: u32,
}

impl Sample {
    fn merge(&mut self, other: &Sample) {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.available = least(self.available, other.available);
        self.pods_available = least(self.pods_available, other.pods_available);
        self.starting = self.starting.max(other.starting);
        self.starting_bytes = self.starting_bytes.max(other.starting_bytes);
        self.forecast_bytes = self.forecast_bytes.max(other.forecast_bytes);
        self.stampede |= other.stampede;
        self.waiting_seconds += other.waiting_seconds;
        self.stalled_seconds += other.stalled_seconds;
        self.oom_kills = self.oom_kills.saturating_add(other.oom_kills);
    }
}

/// Samples of equal width; each is of `(span + 1) * width` seconds at most.
#[derive(Debug)]
struct Tier<T> {
    width_seconds: u32,
    keep: usize,
    /// The number of the span since 1970, and what was in it. Spans without a sample are absent.
    samples: VecDeque<(u32, T)>,
}

impl<T: Copy> Tier<T> {
    fn new((width_seconds, keep): (u32, usize)) -> Self {
        Self { width_seconds, keep, samples: VecDeque::new() }
    }

    fn push(&mut self, unix_seconds: f64, sample: T, merge: impl FnOnce(&mut T)) {
        let span = (unix_seconds / f64::from(self.width_seconds)) as u32;
        match self.samples.back_mut() {
            // A clock that went back: what is late belongs to the last span.
            Some((last, held)) if *last >= span => merge(held),
            _ => {
                if self.samples.len() == self.keep {
                    self.samples.pop_front();
                }
                self.samples.push_back((span, sample));
            }
        }
        let oldest = span.saturating_sub(self.keep as u32);
        while self.samples.front().is_some_and(|(span, _)| *span < oldest) {
            self.samples.pop_front();
        }
    }

    fn begins(&self) -> Option<f64> {
        self.samples.front().map(|(span, _)| f64::from(*span) * f64::from(self.width_seconds))
    }
}

/// The finest tier that goes back to `from`, or to `first`, where anything is known.
fn tier<T: Copy>(tiers: &[Tier<T>], from: f64, first: f64) -> Option<&Tier<T>> {
    tiers
        .iter()
        .find(|tier| tier.begins().is_some_and(|begins| begins <= from || begins <= first))
        .or(tiers.last())
}

#[derive(Debug)]
pub struct NodeHistory {
    /// Unix time of the first sample of all.
    first: Option<f64>,
    tiers: Vec<Tier<Sample>>,
}

impl Default for NodeHistory {
    fn default() -> Self {
        Self { first: None, tiers: NODE_TIERS.into_iter().map(Tier::new).collect() }
    }
}

/// Columns of equal length; absent spans are left out of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeHistoryView {
    pub width_seconds: u32,
    /// Unix time at which each span begins.
    pub at: Vec<u64>,
    pub available_bytes: Vec<Option<u64>>,
    pub pods_available_bytes: Vec<Option<u64>>,
    pub starting: Vec<u32>,
    pub starting_bytes: Vec<u64>,
    pub forecast_bytes: Vec<u64>,
    pub stampede: Vec<bool>,
    pub waiting_seconds: Vec<f32>,
    pub stalled_seconds: Vec<f32>,
    pub oom_kills: Vec<u32>,
}

impl NodeHistory {
    pub fn of_recording() -> Self {
        Self { first: None, tiers: NODE_TIERS.into_iter().chain(RECORDING_TIERS).map(Tier::new).collect() }
    }

    /// Views that go back ever further, each as fine as it is known so far back: of the last quarter of an hour, of
    /// three hours and so on, to everything.
    pub fn views(&self, now: f64) -> Vec<(f64, NodeHistoryView)> {
        let mut views: Vec<(f64, NodeHistoryView)> = Vec::new();
        for tier in &self.tiers {
            let from = now - f64::from(tier.width_seconds) * tier.keep as f64;
            let view = self.view(from, f64::INFINITY);
            if views.last().is_some_and(|(_, finer)| finer.width_seconds == view.width_seconds) {
                views.pop(); // it begins no later, and is as fine
            }
            views.push((from, view));
        }
        views
    }

    pub fn first(&self) -> Option<f64> {
        self.first
    }

    pub fn push(&mut self, unix_seconds: f64, sample: Sample) {
        self.first.get_or_insert(unix_seconds);
        for tier in &mut self.tiers {
            tier.push(unix_seconds, sample, |held| held.merge(&sample));
        }
    }

    /// From `from` to `until`, as fine as it is known that far back.
    pub fn view(&self, from: f64, until: f64) -> NodeHistoryView {
        let first = self.first.unwrap_or(f64::NEG_INFINITY);
        let Some(tier) = tier(&self.tiers, from, first) else { return NodeHistoryView::default() };
        let width = tier.width_seconds;
        let mut view = NodeHistoryView { width_seconds: width, ..Default::default() };
        for (span, sample) in &tier.samples {
            let at = u64::from(*span) * u64::from(width);
            if (at + u64::from(width)) as f64 <= from || at as f64 > until {
                continue;
            }
            view.at.push(at);
            view.available_bytes.push(sample.available);
            view.pods_available_bytes.push(sample.pods_available);
            view.starting.push(sample.starting);
            view.starting_bytes.push(sample.starting_bytes);
            view.forecast_bytes.push(sample.forecast_bytes);
            view.stampede.push(sample.stampede);
            view.waiting_seconds.push(sample.waiting_seconds);
            view.stalled_seconds.push(sample.stalled_seconds);
            view.oom_kills.push(sample.oom_kills);
        }
        view
    }
}

/// Highest usage of a container, KiB.
#[derive(Debug)]
pub struct UsageHistory {
    tiers: [Tier<u32>; 2],
}

impl Default for UsageHistory {
    fn default() -> Self {
        Self { tiers: CONTAINER_TIERS.map(Tier::new) }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UsageHistoryView {
    pub width_seconds: u32,
    pub at: Vec<u64>,
    pub kib: Vec<u32>,
}

impl UsageHistory {
    pub fn push(&mut self, unix_seconds: f64, usage: u64) {
        let kib = kib(usage);
        for tier in &mut self.tiers {
            tier.push(unix_seconds, kib, |held| *held = (*held).max(kib));
        }
    }

    #[cfg(test)]
    pub fn heap_bytes(&self) -> usize {
        self.tiers.iter().map(|tier| tier.samples.capacity() * size_of::<(u32, u32)>()).sum()
    }

    pub fn view(&self, from: f64) -> UsageHistoryView {
        let earliest = self.tiers.iter().filter_map(Tier::begins).fold(f64::INFINITY, f64::min);
        let widest = self.tiers.last().map_or(0.0, |tier| f64::from(tier.width_seconds));
        let Some(tier) = tier(&self.tiers, from, earliest + widest) else {
            return UsageHistoryView::default();
        };
        let width = tier.width_seconds;
        let at = |span: &u32| u64::from(*span) * u64::from(width);
        let samples = tier.samples.iter().filter(|(span, _)| (at(span) + u64::from(width)) as f64 > from);
        let (at, kib) = samples.map(|(span, kib)| (at(span), *kib)).unzip();
        UsageHistoryView { width_seconds: width, at, kib }
    }
}

/// Up to 4 TiB.
pub fn kib(bytes: u64) -> u32 {
    (bytes >> 10).min(u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn two_days_of_seconds_fit_in_the_room_of_one_and_a_peak_of_a_second_is_kept() {
        let mut history = NodeHistory::default();
        let began = 1_700_000_040;
        for second in 0..2 * DAY {
            let high = second == 2 * DAY - 80_000;
            let sample = Sample {
                starting_bytes: if high { 900 } else { 5 },
                oom_kills: high.into(),
                ..Default::default()
            };
            history.push((began + second) as f64, sample);
        }
        let room: usize =
            history.tiers.iter().map(|tier| tier.samples.capacity() * size_of::<(u32, Sample)>()).sum();
        assert!(room < 512 << 10, "{room}");
        let now = (began + 2 * DAY) as f64;
        let day = history.view(now - DAY as f64, now);
        assert_eq!((day.width_seconds, day.at.len()), (60, 1440));
        assert_eq!(day.starting_bytes.iter().max(), Some(&900));
        assert_eq!(day.oom_kills.iter().sum::<u32>(), 1);
        let minutes = history.view(now - 600.0, now);
        assert_eq!((minutes.width_seconds, minutes.at.len()), (1, 600));
    }

    #[test]
    fn a_recording_of_two_days_is_kept_whole_with_the_peak_of_a_second() {
        let mut history = NodeHistory::of_recording();
        let began = 1_700_000_100;
        for second in 0..2 * DAY {
            let starting_bytes = if second == 77 { 900 } else { 5 };
            history.push((began + second) as f64, Sample { starting_bytes, ..Default::default() });
        }
        let views = history.views((began + 2 * DAY) as f64);
        let widths: Vec<u32> = views.iter().map(|(_, view)| view.width_seconds).collect();
        assert_eq!(widths, [1, 10, 60, 600]);
        let (from, whole) = views.last().unwrap();
        assert!(*from <= began as f64 && whole.at[0] <= began && whole.starting_bytes[0] == 900, "{from}");
        assert!(views.iter().map(|(_, view)| view.at.len()).sum::<usize>() < 900 + 1080 + 1440 + 300);
    }

    #[test]
    fn a_short_history_is_shown_as_finely_as_it_is_known() {
        let mut history = NodeHistory::default();
        for second in 0..30 {
            history.push(f64::from(1_000_000 + second), Sample::default());
        }
        assert_eq!(history.view(0.0, 2e9).width_seconds, 1);
    }

    proptest! {
        #[test]
        fn a_container_history_is_bounded_and_keeps_its_peak(
            steps in proptest::collection::vec((0.0..900.0_f64, 0_u64..1 << 34), 1..600)
        ) {
            let mut history = UsageHistory::default();
            let (mut at, mut all) = (1e9, Vec::new());
            for (step, usage) in steps {
                at += step;
                history.push(at, usage);
                all.push((at, usage));
            }
            let view = history.view(at - 3600.0);
            prop_assert!(view.kib.len() <= 288);
            let peak = all.iter().filter(|(time, _)| *time > at - 3500.0).map(|(_, usage)| kib(*usage)).max();
            prop_assert!(view.kib.iter().max() >= peak.as_ref());
        }
    }
}
