//! One start-up as it unfolds: samples in; peak, steady level, overshoot, time to stable and verdict out.
//!
//! The peak is raw usage, because that is what a limit is compared with. Verdict, level and overshoot are of the working
//! set (usage - inactive_file): reading files is not a spike. Fixed size. Knows nothing of containers, findings or clocks;
//! seconds count from the exec of the entry point.

use crate::container::{
    curve::Curve,
    stability::{BAND_MIN_BYTES, Settled, Stability, Swing, Verdict},
};

/// Spans of the curve kept for the workload's history.
pub const SPANS: usize = 64;
/// Growth is measured over at least this long: below it one large allocation is an infinite rate.
const GROWTH_SECONDS: f64 = 0.5;

#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub seconds: f64,
    pub usage: u64,
    /// Usage without inactive file cache.
    pub working_set: u64,
    /// Anonymous memory, as last read.
    pub anon: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    pub bytes: u64,
    pub seconds: f64,
    /// Anonymous memory at the peak: the rest is page cache and kernel memory.
    pub anon: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct Startup {
    stability: Stability,
    last: Option<f64>,
    /// Until the time to stable that is told now.
    peaks: Peaks,
    /// Since then: the start-up's after all, if a later step moves the time to stable.
    later: Peaks,
    /// The time to stable the peaks belong to.
    dated: Option<f64>,
    /// Inactive file cache, as last told.
    cache: u64,
    growth_from: Option<(f64, u64)>,
    fastest_growth: f64,
    curve: Curve<SPANS>,
}

/// The kernel tells the cache later than the usage (memory.stat is flushed every two seconds), so a burst of file reads
/// looks like working set until then. The highest usage is therefore held back until the cache is told anew, and the
/// larger cache of the two counts.
#[derive(Clone, Copy, Debug, Default)]
struct Peaks {
    usage: Peak,
    working_set: u64,
    /// Highest usage since the cache was last told.
    pending: u64,
}

impl Peaks {
    fn raise(&mut self, sample: &Sample, cache_before: u64) {
        let Sample { seconds, usage, anon, .. } = *sample;
        if usage > self.usage.bytes {
            self.usage = Peak { bytes: usage, seconds, anon };
        }
        let cache = sample.cache();
        if cache != cache_before {
            self.working_set = self.highest_working_set(cache.max(cache_before));
            self.pending = 0;
        }
        self.pending = self.pending.max(usage);
    }

    fn highest_working_set(&self, cache: u64) -> u64 {
        self.working_set.max(self.pending.saturating_sub(cache))
    }

    fn or(self, other: Self) -> Self {
        Self {
            usage: if other.usage.bytes > self.usage.bytes { other.usage } else { self.usage },
            working_set: self.working_set.max(other.working_set),
            pending: self.pending.max(other.pending),
        }
    }
}

impl Sample {
    fn cache(&self) -> u64 {
        self.usage.saturating_sub(self.working_set)
    }
}

impl Startup {
    /// Samples that are not later than the last one count for the peak only.
    pub fn sample(&mut self, sample: Sample) {
        let Sample { seconds, usage, working_set, .. } = sample;
        let peaks = if self.dated.is_none() { &mut self.peaks } else { &mut self.later };
        peaks.raise(&sample, self.cache);
        self.cache = sample.cache();
        if self.stability.sample(seconds, working_set as f64) {
            self.last = Some(seconds);
            self.curve.push(seconds, usage as f64);
            self.grow(seconds, usage);
        }
        let dated = self.stability.settled().map(|settled| settled.at);
        if dated != self.dated {
            self.dated = dated;
            self.peaks = self.peaks.or(self.later);
            self.later = Peaks::default();
        }
    }

    /// The kernel's watermark catches what lies between two samples.
    pub fn watermark(&mut self, seconds: f64, bytes: u64) {
        let peaks = if self.dated.is_none() { &mut self.peaks } else { &mut self.later };
        if bytes > peaks.usage.bytes {
            peaks.usage = Peak { bytes, seconds, anon: None };
        }
    }

    /// Nobody looked between the last sample and `seconds`: no hold reaches across.
    pub fn unseen_until(&mut self, seconds: f64) {
        self.stability.unseen_until(seconds);
        self.growth_from = None;
    }

    fn grow(&mut self, seconds: f64, usage: u64) {
        let (from, before) = *self.growth_from.get_or_insert((seconds, usage));
        if seconds - from >= GROWTH_SECONDS {
            self.fastest_growth = self.fastest_growth.max((usage as f64 - before as f64) / (seconds - from));
            self.growth_from = Some((seconds, usage));
        }
    }

    pub fn verdict(&self) -> Verdict {
        self.stability.verdict()
    }

    pub fn settled(&self) -> Option<Settled> {
        self.stability.settled()
    }

    pub fn swing(&self) -> Option<Swing> {
        self.stability.swing()
    }

    /// Highest usage on the way to stable; while it is not stable, so far.
    pub fn peak(&self) -> Peak {
        self.told_peaks().usage
    }

    fn told_peaks(&self) -> Peaks {
        if self.verdict() == Verdict::Stable { self.peaks } else { self.peaks.or(self.later) }
    }

    /// Where memory lives: the settled level, or the top of a swing. Bytes of working set.
    pub fn steady(&self) -> Option<f64> {
        let settled = self.settled().map(|settled| settled.level);
        self.swing().map(|swing| swing.high).or(settled)
    }

    /// Highest working set on the way to stable; while it is not stable, so far. Bytes.
    pub fn working_set_peak(&self) -> u64 {
        self.told_peaks().highest_working_set(self.cache)
    }

    /// Highest working set over the steady level, never below 1. A level below the band's 4 MiB counts as 4 MiB: ratios of
    /// next to nothing say nothing.
    pub fn overshoot(&self) -> Option<f64> {
        Some((self.working_set_peak() as f64 / self.steady()?.max(BAND_MIN_BYTES)).max(1.0))
    }

    /// Seconds; for a swing, until its envelope.
    pub fn time_to_stable(&self) -> Option<f64> {
        self.stability.time_to_stable()
    }

    pub fn plateaus(&self) -> u32 {
        self.stability.plateaus()
    }

    /// Bytes per second while drifting.
    pub fn drift_rate(&self) -> f64 {
        self.stability.drift_rate()
    }

    /// Bytes per second where it grew fastest, over at least half a second.
    pub fn fastest_growth(&self) -> f64 {
        self.fastest_growth
    }

    /// Seconds of the last sample.
    pub fn last(&self) -> Option<f64> {
        self.last
    }

    pub fn curve(&self) -> &Curve<SPANS> {
        &self.curve
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(usage: impl Fn(f64) -> u64, seconds: f64) -> Startup {
        let mut startup = Startup::default();
        let mut at = 0.0;
        while at < seconds {
            let usage = usage(at);
            startup.sample(Sample { seconds: at, usage, working_set: usage, anon: None });
            at += 0.1;
        }
        startup
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_spike_has_its_peak_level_and_overshoot() {
        let startup = run(|t| if t < 2.0 { 300 * MIB } else { 100 * MIB }, 30.0);
        assert_eq!(startup.verdict(), Verdict::Stable);
        assert_eq!(startup.peak().bytes, 300 * MIB);
        assert!((startup.overshoot().unwrap() - 3.0).abs() < 0.01);
        assert!((startup.time_to_stable().unwrap() - 2.0).abs() < 0.3);
    }

    #[test]
    fn a_second_cache_belongs_to_the_start_up_and_so_does_its_peak() {
        let usage = |t| match t {
            t if t < 40.0 => 100 * MIB,
            t if t < 41.0 => 280 * MIB,
            _ => 200 * MIB,
        };
        let early = run(usage, 39.0);
        assert_eq!((early.peak().bytes, early.plateaus()), (100 * MIB, 1));
        let startup = run(usage, 100.0);
        assert_eq!((startup.peak().bytes, startup.plateaus()), (280 * MIB, 2));
        assert!((startup.time_to_stable().unwrap() - 41.0).abs() < 0.5);
    }

    #[test]
    fn a_burst_after_the_start_up_is_not_its_peak() {
        let startup = run(|t| if (60.0..62.0).contains(&t) { 500 * MIB } else { 100 * MIB }, 120.0);
        assert_eq!(startup.peak().bytes, 100 * MIB);
    }

    #[test]
    fn reading_files_is_a_peak_of_usage_but_no_overshoot() {
        let mut startup = Startup::default();
        for i in 0..300_u64 {
            let usage = 100 * MIB + i * MIB;
            startup.sample(Sample {
                seconds: i as f64 / 10.0,
                usage,
                working_set: 100 * MIB,
                anon: Some(90 * MIB),
            });
        }
        assert_eq!(startup.verdict(), Verdict::Stable);
        assert!(startup.overshoot().unwrap() < 1.01);
        assert!(startup.peak().bytes > 200 * MIB);
    }

    #[test]
    fn the_fastest_growth_is_of_the_ramp() {
        let startup = run(|t| (t.min(4.0) * 50.0 * MIB as f64) as u64, 30.0);
        assert!((startup.fastest_growth() / (50.0 * MIB as f64) - 1.0).abs() < 0.05);
    }
}
