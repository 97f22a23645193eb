//! Rows -> the starts in them, each with its analysis.
//!
//! A new start begins where memory fell to zero and returned; where another instance of the container continues the
//! series; and where usage fell nearly to zero from one sample to the next, or across a gap, and then rose again to
//! half of its former level (until then it may be one process that freed its memory).
//!
//! **Known wrong answers.** A process that regularly frees all but 5 % of its memory at once looks like one that is
//! restarted. A restart between two samples is not noticed if memory never returns to half.

use super::{Analysis, Row};
use observer_core::container::{
    stability::{Swing, Verdict, band},
    startup::{Sample, Startup},
};

/// An emptied cgroup keeps only kernel memory: less than this share of its peak, and less than a band.
const GONE_SHARE: f64 = 0.02;
/// A process that was started a moment ago has less than this share of what the one before had: where nothing is
/// missing between two samples, and across a hole.
const ANEW_SHARE: f64 = 0.05;
const ANEW_AFTER_HOLE_SHARE: f64 = 0.1;
/// What it must come back to, so that it is taken for another start.
const BACK_SHARE: f64 = 0.5;
/// So many usual spacings without a sample are a hole.
const HOLE_SPACINGS: f64 = 3.0;
/// Longer than this, and ten times the usual spacing, is a gap without knowledge of memory. 15 s is the shortest
/// hold, so a shorter gap cannot confirm anything by itself.
const GAP_SECONDS: f64 = 15.0;
const GAP_SPACINGS: f64 = 10.0;
/// Samples that are further apart than this are coarse.
const COARSE_SECONDS: f64 = 0.49;
/// What the filter averages over.
const HELD_UNTIL_SECONDS: f64 = 0.1;
/// Starts that are kept: a crash loop of a day with five minutes of back-off. Further ones are counted.
const KEPT: usize = 288;

pub struct Starts {
    limit: Option<u64>,
    current: Option<Start>,
    /// What may turn out to be another start, and the one before it as it was then.
    candidate: Option<(Start, Analysis)>,
    done: Vec<Analysis>,
    total: u64,
    /// The last row, and the first in an unbroken run of rows without memory.
    last: Option<Row>,
}

impl Starts {
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit, current: None, candidate: None, done: Vec::new(), total: 0, last: None }
    }

    pub fn row(&mut self, row: Row) {
        let before = self.last.replace(row);
        let Some(current) = &mut self.current else {
            // Rows of 0 bytes before the first start belong to no start: time zero is the last of them.
            if row.usage > 0 {
                let mut start = Start::at(before.unwrap_or(row).seconds.min(row.seconds), 0.0);
                if before.is_none() {
                    start.origin = if row.seconds > 0.0 { 0.0 } else { row.seconds };
                }
                start.extend(before.into_iter().chain([row]));
                self.current = Some(start);
            }
            return;
        };
        if row.begins {
            let ended = before.map(|before| before.seconds);
            self.begin(row, ended);
            return;
        }
        if current.is_gone(row.usage) {
            current.gone(row);
            return;
        }
        if current.gone_since.is_some() {
            self.begin(row, None);
            return;
        }
        if let Some(before) = before
            && self.candidate.is_none()
            && current.may_be_anew(before, row)
        {
            let mut start = Start::at(row.seconds, current.spacing);
            start.highest_before = current.highest;
            self.candidate = Some((start, current.analysis(self.limit, Some(before.seconds))));
        }
        current.sample(row);
        if let Some((start, _)) = &mut self.candidate {
            start.sample(row);
            if start.is_back()
                && let Some((start, ended)) = self.candidate.take()
            {
                self.keep(ended);
                self.current = Some(start);
            }
        }
    }

    /// The current start is over, another begins with this row.
    fn begin(&mut self, row: Row, ended: Option<f64>) {
        self.candidate = None;
        let spacing = self.current.as_ref().map_or(0.0, |start| start.spacing);
        let mut next = Start::at(row.seconds, spacing);
        next.sample(row);
        if let Some(current) = self.current.replace(next) {
            self.keep(current.analysis(self.limit, ended));
        }
    }

    fn keep(&mut self, analysis: Analysis) {
        self.total += 1;
        if self.done.len() < KEPT {
            self.done.push(analysis);
        }
    }

    /// How many there were, and the first of them.
    pub fn finish(mut self, ended: bool) -> (u64, Vec<Analysis>) {
        let last = self.last.filter(|_| ended).map(|row| row.seconds);
        if let Some(current) = self.current.take() {
            self.keep(current.analysis(self.limit, last));
        }
        (self.total, self.done)
    }
}

/// One start-up under way; its own seconds count from `origin`.
struct Start {
    origin: f64,
    startup: Startup,
    /// The same of anonymous memory alone.
    anon: Startup,
    /// Rows with memory, and those of them that have the part.
    measured: u64,
    anon_samples: u64,
    active_file_samples: u64,
    samples: u64,
    first: f64,
    last: f64,
    spacing: f64,
    gaps: u64,
    longest_gap: f64,
    highest: u64,
    highest_before: u64,
    gone_since: Option<f64>,
    held: Option<Sample>,
    fastest_coarse_growth: f64,
}

impl Start {
    fn at(origin: f64, spacing: f64) -> Self {
        Self {
            origin,
            startup: Startup::default(),
            anon: Startup::default(),
            measured: 0,
            anon_samples: 0,
            active_file_samples: 0,
            samples: 0,
            first: 0.0,
            last: 0.0,
            spacing,
            gaps: 0,
            longest_gap: 0.0,
            highest: 0,
            highest_before: 0,
            gone_since: None,
            held: None,
            fastest_coarse_growth: 0.0,
        }
    }

    fn extend(&mut self, rows: impl Iterator<Item = Row>) {
        rows.for_each(|row| self.sample(row));
    }

    fn sample(&mut self, row: Row) {
        let gaps = self.gaps;
        let seconds = self.space(row);
        let (Row { usage, anon, .. }, unreclaimable) = (row, row.unreclaimable());
        self.highest = self.highest.max(usage);
        // A sample holds until the next. Where they are far apart that has to be said, or the filter takes a lone one,
        // which stands for seconds, for an outlier of a tenth.
        if let Some(before) = self.held
            && seconds - before.seconds > COARSE_SECONDS
            && gaps == self.gaps
        {
            let held = Sample { seconds: seconds - HELD_UNTIL_SECONDS, ..before };
            self.startup.sample(held);
            self.sample_anon(held);
            // Within the whole step: nothing says that it was faster.
            let growth = (usage as f64 - before.usage as f64) / (seconds - before.seconds);
            self.fastest_coarse_growth = self.fastest_coarse_growth.max(growth);
        }
        let sample = Sample { seconds, usage, unreclaimable, anon };
        self.startup.sample(sample);
        self.sample_anon(sample);
        self.measured += 1;
        self.anon_samples += u64::from(anon.is_some());
        self.active_file_samples += u64::from(row.active_file.is_some());
        self.held = Some(sample);
    }

    fn sample_anon(&mut self, sample: Sample) {
        if let Some(anon) = sample.anon {
            self.anon.sample(Sample { usage: anon, unreclaimable: anon, ..sample });
        }
    }

    /// A row without memory.
    fn gone(&mut self, row: Row) {
        let seconds = self.space(row);
        self.gone_since.get_or_insert(seconds);
    }

    /// Learns the usual spacing, and notices gaps. Returns the row's seconds since this start.
    fn space(&mut self, row: Row) -> f64 {
        let seconds = (row.seconds - self.origin).max(0.0);
        let step = seconds - self.last;
        self.last = seconds;
        self.samples += 1;
        if self.samples == 1 {
            self.first = seconds;
            if seconds > 0.0 {
                // What was before the first row is not known: no hold reaches back into it.
                self.startup.unseen_until(seconds);
                self.anon.unseen_until(seconds);
            }
        } else if self.spacing == 0.0 {
            self.spacing = step;
        } else if step > GAP_SECONDS && step > GAP_SPACINGS * self.spacing {
            self.gaps += 1;
            self.longest_gap = self.longest_gap.max(step);
            self.startup.unseen_until(seconds);
            self.anon.unseen_until(seconds);
        } else {
            // An average that forgets: samplers slow down when nothing happens.
            self.spacing += (step - self.spacing) / 16.0;
        }
        seconds
    }

    fn is_gone(&self, usage: u64) -> bool {
        (usage as f64) < (GONE_SHARE * self.highest as f64).min(band(0.0))
    }

    fn may_be_anew(&self, before: Row, row: Row) -> bool {
        const USUAL: u64 = 4;
        let hole = self.samples >= USUAL && row.seconds - before.seconds > HOLE_SPACINGS * self.spacing;
        let share = if hole { ANEW_AFTER_HOLE_SHARE } else { ANEW_SHARE };
        before.usage as f64 > 2.0 * band(0.0) && (row.usage as f64) < share * before.usage as f64
    }

    fn is_back(&self) -> bool {
        self.highest as f64 > BACK_SHARE * self.highest_before as f64
    }

    /// `ended`: in seconds of the file.
    fn analysis(&self, limit: Option<u64>, ended: Option<f64>) -> Analysis {
        let startup = &self.startup;
        let ended = self.gone_since.or(ended.map(|at| (at - self.origin).max(0.0)));
        let verdict = match startup.verdict() {
            Verdict::Stable => "stable",
            Verdict::Drifting => "drifting",
            Verdict::Oscillating => "oscillating",
            Verdict::Settling if ended.is_some() => "ended",
            Verdict::Settling => "settling",
        };
        let peak = startup.peak();
        let steady = startup.steady();
        let swing = startup.swing();
        let swing_of = |part: fn(Swing) -> f64| swing.map(part);
        let stable = self.time_to_stable();
        Analysis {
            verdict,
            started_seconds: self.origin,
            time_to_stable_seconds: stable,
            confirmed_seconds: startup
                .settled()
                .map(|settled| settled.confirmed_at.max(stable.unwrap_or(0.0))),
            peak_bytes: peak.bytes,
            peak_seconds: peak.seconds,
            peak_anon_bytes: peak.anon,
            steady_bytes: steady.map(|bytes| bytes as u64),
            overshoot_ratio: startup.overshoot(),
            plateaus: startup.plateaus(),
            drift_bytes_per_second: startup.drift_rate(),
            anonymous_memory_drifts: (self.anon_samples == self.measured)
                .then(|| self.anon.verdict() == Verdict::Drifting),
            without_active_file: self.active_file_samples == self.measured,
            fastest_growth_bytes_per_second: startup.fastest_growth().max(self.fastest_coarse_growth),
            swing_low_bytes: swing_of(|swing| swing.low).map(|bytes| bytes as u64),
            swing_high_bytes: swing_of(|swing| swing.high).map(|bytes| bytes as u64),
            swing_period_seconds: swing_of(|swing| swing.period),
            limit_bytes: limit,
            peak_of_limit_ratio: limit.map(|limit| peak.bytes as f64 / limit as f64),
            ended_seconds: ended,
            samples: self.samples,
            duration_seconds: self.last - self.first,
            spacing_seconds: self.spacing,
            gaps: self.gaps,
            longest_gap_seconds: (self.gaps > 0).then_some(self.longest_gap),
        }
    }

    /// A peak of one sample may not pass the filter; it is not stable before the next all the same.
    fn time_to_stable(&self) -> Option<f64> {
        let at = self.startup.time_to_stable()?;
        let (peak, Some(steady)) = (self.startup.peak(), self.startup.steady()) else { return Some(at) };
        let spike = self.startup.unreclaimable_peak() as f64 > steady + band(steady);
        let next = peak.seconds + self.spacing;
        Some(
            if spike && peak.seconds >= at && next <= at + 2.0 * self.spacing { next } else { at }
                .min(self.last),
        )
    }
}
