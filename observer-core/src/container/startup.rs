//! One start-up as it unfolds: samples in; peak, steady level, overshoot, time to stable and verdict out.
//!
//! The peak is raw usage, because that is what a limit is compared with. Verdict, level and overshoot are of what the
//! kernel cannot take back before it kills: usage without file cache and reclaimable slab. Reading files is neither a
//! spike nor a leak, whether the cache is on the active list or not. Fixed size. Knows nothing of containers, findings
//! or clocks; seconds count from the exec of the entry point.

use crate::{
    container::{
        curve::Curve,
        peaks::Peaks,
        stability::{BAND_MIN_BYTES, Settled, Stability, Swing, Verdict},
    },
    model::{
        event::Limit,
        past_startup::{PastStartup, SPANS, StartupOutcome},
        time::Time,
    },
};

pub use crate::container::peaks::{Peak, Sample};

/// Growth is measured over at least this long: below it one large allocation is an infinite rate.
const GROWTH_SECONDS: f64 = 0.5;

#[derive(Clone, Debug, Default)]
pub struct Startup {
    stability: Stability,
    last: Option<f64>,
    /// Peaks until the time to stable that is reported now.
    peaks: Peaks,
    /// Since then: the start-up's after all, if a later step moves the time to stable.
    later: Peaks,
    /// The time to stable the peaks belong to.
    dated: Option<f64>,
    /// A victim's pages leave the kernel's lists before the usage falls: until it has, kinds of memory that do not make
    /// up the usage are of a later moment.
    pages_leave: bool,
    /// Reclaimable memory, as last read.
    cache: u64,
    growth_from: Option<(f64, u64)>,
    fastest_growth: f64,
    curve: Curve<SPANS>,
}

impl Startup {
    /// Samples that are not later than the last one count for the peak only.
    pub fn sample(&mut self, mut sample: Sample) {
        let Sample { seconds, usage, unreclaimable, .. } = sample;
        self.pages_leave &= self.peaks.or(self.later).is_near(usage);
        if self.pages_leave && !sample.is_whole() {
            sample.anon = None;
        }
        let peaks = if self.dated.is_none() { &mut self.peaks } else { &mut self.later };
        peaks.raise(&sample, self.cache);
        self.cache = sample.cache();
        if self.stability.sample(seconds, unreclaimable as f64) {
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
        peaks.raise_to(seconds, bytes);
    }

    /// The limit as of the last sample and watermark. A peak keeps the one it was raised under.
    pub fn limited(&mut self, limit: Option<Limit>) {
        self.peaks.limited(limit);
        self.later.limited(limit);
    }

    /// The OOM killer took a process. `victim_anon`: the anonymous memory that it alone held, if the kernel said.
    pub fn killed(&mut self, seconds: f64, victim_anon: Option<u64>) {
        self.pages_leave = true;
        for peaks in [&mut self.peaks, &mut self.later] {
            peaks.drop_reading_without(victim_anon.unwrap_or(0), seconds);
        }
    }

    /// Memory was not read between the last sample and `seconds`: no hold spans the gap.
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
        self.reported_peaks().peak()
    }

    fn reported_peaks(&self) -> Peaks {
        if self.verdict() == Verdict::Stable { self.peaks } else { self.peaks.or(self.later) }
    }

    /// Where memory lives: the settled level, or the top of a swing. Unreclaimable bytes.
    pub fn steady(&self) -> Option<f64> {
        let settled = self.settled().map(|settled| settled.level);
        self.swing().map(|swing| swing.high).or(settled)
    }

    /// Highest unreclaimable memory on the way to stable; while it is not stable, so far. Bytes.
    pub fn unreclaimable_peak(&self) -> u64 {
        self.reported_peaks().highest_unreclaimable(self.cache)
    }

    /// Highest unreclaimable memory over the steady level, never below 1. A level below the band's 4 MiB counts as 4
    /// MiB: ratios of next to nothing say nothing.
    pub fn overshoot(&self) -> Option<f64> {
        Some((self.unreclaimable_peak() as f64 / self.steady()?.max(BAND_MIN_BYTES)).max(1.0))
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

    /// As its workload's history keeps it.
    pub fn past(&self, pod: &str, zero: Time, wall_ns: i64, outcome: StartupOutcome) -> PastStartup {
        let peak = self.peak();
        PastStartup {
            started: zero.unix_seconds(wall_ns),
            pod: pod.to_owned(),
            outcome,
            cut_short: false,
            peak: peak.bytes,
            peak_seconds: peak.seconds,
            unreclaimable_peak: self.unreclaimable_peak(),
            growth: self.fastest_growth(),
            time_to_stable: self.time_to_stable(),
            steady: self.steady().map(|bytes| bytes as u64),
            overshoot: self.overshoot(),
            span: self.curve().width(),
            curve: self.curve().highest().to_vec(),
        }
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
            startup.sample(Sample { seconds: at, usage, unreclaimable: usage, anon: None });
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
    fn neither_file_cache_that_grows_nor_memory_given_back_is_a_leak() {
        let verdict = |usage: fn(f64) -> f64, cache: fn(f64) -> f64| {
            let mut startup = Startup::default();
            for tenth in 0..6000 {
                let seconds = f64::from(tenth) / 10.0;
                let usage = usage(seconds) as u64 * MIB;
                let unreclaimable = usage - cache(seconds) as u64 * MIB;
                startup.sample(Sample { seconds, usage, unreclaimable, anon: None });
            }
            startup.verdict()
        };
        assert_eq!(verdict(|t| 50.0 + t, |_| 0.0), Verdict::Drifting);
        assert_eq!(verdict(|t| 50.0 + t, |t| t), Verdict::Stable, "all growth is file cache");
        assert_ne!(verdict(|t| 800.0 - t, |_| 0.0), Verdict::Drifting, "it is given back");
        assert_ne!(verdict(|t| 800.0 - t, |t| (500.0 - t).max(0.0)), Verdict::Drifting);
    }

    #[test]
    fn the_anonymous_part_of_a_peak_is_of_its_own_moment_or_absent() {
        let anon = |at_usage: u64, anon: u64| {
            let mut startup = Startup::default();
            let unreclaimable = at_usage * MIB;
            startup.sample(Sample {
                seconds: 0.1,
                usage: unreclaimable,
                unreclaimable,
                anon: Some(anon * MIB),
            });
            startup.sample(Sample { seconds: 0.2, usage: 100 * MIB, unreclaimable: 100 * MIB, anon: None });
            startup.watermark(0.2, 101 * MIB);
            startup.peak().anon.map(|anon| anon / MIB)
        };
        assert_eq!(anon(100, 90), Some(90));
        assert_eq!(anon(60, 55), None, "read before the spike");
    }

    #[test]
    fn the_anonymous_part_of_a_peak_is_not_read_while_a_victims_pages_leave() {
        let read = |seconds, usage, anon: u64| {
            let usage = usage * MIB;
            Sample { seconds, usage, unreclaimable: usage, anon: Some(anon * MIB) }
        };
        /// Read before the kill at 1.0 s, what the victim held, read after it, and the anonymous part then.
        type Row<'a> = (&'a [Sample], Option<u64>, &'a [Sample], Option<u64>);
        let table: [Row; 9] = [
            (&[], Some(60), &[read(1.01, 64, 0)], None),
            (&[], None, &[read(1.01, 64, 0)], None),
            (&[], None, &[read(1.01, 64, 63), read(1.02, 64, 20)], Some(63)),
            (&[read(0.9, 64, 63)], Some(62), &[read(1.01, 64, 0)], Some(63)),
            (&[read(0.9, 63, 62)], Some(62), &[read(1.01, 64, 0)], Some(62)),
            (&[read(0.5, 50, 49)], Some(62), &[read(1.01, 64, 0)], None),
            // As of before the kill, made after it.
            (&[read(0.99, 64, 1)], Some(62), &[], None),
            // A process goes, the container reaches its limit again.
            (&[], Some(40), &[read(1.01, 64, 24), read(1.1, 24, 24), read(2.0, 64, 60)], Some(60)),
            (&[], Some(40), &[read(1.01, 64, 24), read(1.1, 24, 24), read(2.0, 40, 39)], None),
        ];
        for (before, victim, after, expected) in table {
            let mut startup = Startup::default();
            before.iter().for_each(|sample| startup.sample(*sample));
            startup.watermark(1.0, 64 * MIB);
            startup.killed(1.0, victim.map(|held| held * MIB));
            after.iter().for_each(|sample| startup.sample(*sample));
            let reported = startup.peak().anon.map(|anon| anon / MIB);
            assert_eq!(reported, expected, "{before:?} {after:?}");
        }
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
                unreclaimable: 100 * MIB,
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
