//! One run of a container as the lender has seen it, beside its earlier start-ups. Pure.
//!
//! What is still to come is read where the run is, and not at its age ([`remaining`]): pods that start together start
//! slower than those before them, and a spike that a slow one has not had yet would look past.

use crate::{
    foreseen::remaining::{UnderWay, remaining},
    loan::Earlier,
    model::past_startup::PastStartup,
};

/// The lender looks as often.
const SPAN: f64 = 0.25;
/// A longer run is kept in wider spans.
const SPANS: usize = 256;

#[derive(Clone, Debug)]
pub struct Course {
    past: Vec<PastStartup>,
    span: f64,
    /// Highest usage in each span. Bytes.
    levels: Vec<f32>,
}

impl Course {
    pub fn new(past: Vec<PastStartup>) -> Self {
        Self { past, span: SPAN, levels: Vec::new() }
    }

    /// It held so much at this age, in seconds since its exec.
    pub fn note(&mut self, age: f64, bytes: u64) {
        // No start-up of a month is followed; what is no number is its first moment.
        let mut at = (age.clamp(0.0, 3e6) / self.span) as usize;
        while at >= SPANS {
            self.levels =
                self.levels.chunks(2).map(|pair| pair.iter().copied().fold(0.0, f32::max)).collect();
            self.span *= 2.0;
            at /= 2;
        }
        if at >= self.levels.len() {
            self.levels.resize(at + 1, 0.0);
        }
        if let Some(level) = self.levels.get_mut(at) {
            *level = level.max(bytes as f32);
        }
    }

    /// Its peak so far: it was had by now, at whatever age.
    pub fn note_peak(&mut self, age: f64, bytes: u64) {
        if self.levels.iter().all(|level| *level < bytes as f32) {
            self.note(age, bytes);
        }
    }

    /// `None`: no earlier start-up came through.
    pub fn earlier(&self, age: f64, usage: u64) -> Option<Earlier> {
        let now = UnderWay { age, usage, span: self.span, curve: &self.levels };
        // As sure as the earlier start-ups can make it.
        let still = remaining(&now, &self.past, 1.0)?.bytes;
        let through = self.past.iter().filter(|past| past.came_through());
        Some(Earlier { peak: through.map(PastStartup::need).min()?, still })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::past_startup::StartupOutcome;

    const MIB: u64 = 1 << 20;

    /// MiB, each held for half a second.
    fn past(levels: &[u64]) -> PastStartup {
        let peak = levels.iter().copied().max().unwrap_or(0) * MIB;
        PastStartup {
            started: 0.0,
            pod: String::new(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak,
            peak_seconds: 0.0,
            unreclaimable_peak: 0,
            growth: 0.0,
            time_to_stable: None,
            steady: None,
            overshoot: None,
            span: 0.5,
            curve: levels.iter().map(|mib| (mib * MIB) as f32).collect(),
        }
    }

    #[test]
    fn a_spike_that_a_slow_start_has_not_had_yet_is_still_to_come() {
        let mut course = Course::new(vec![past(&[20, 160, 60, 60]), past(&[20, 150, 60, 60])]);
        // It waits for ten times as long as those before took for all.
        for look in 0..80 {
            let age = f64::from(look) * 0.25;
            course.note(age, 20 * MIB);
            let earlier = course.earlier(age, 20 * MIB).unwrap();
            assert_eq!((earlier.peak / MIB, earlier.still / MIB), (150, 160), "{age}");
        }
        course.note_peak(20.5, 160 * MIB);
        course.note(21.0, 60 * MIB);
        // All of it may be as slow as its wait: then the spike is not over for as long. And it is larger than the
        // smaller of those before, by a fifteenth.
        for (age, still) in [(21.5, 160), (40.0, 64)] {
            assert_eq!(course.earlier(age, 60 * MIB).unwrap().still / MIB, still, "{age}");
        }
        assert_eq!(Course::new(Vec::new()).earlier(1.0, MIB), None);
    }

    #[test]
    fn a_run_of_any_length_is_kept_in_few_spans() {
        let mut course = Course::new(Vec::new());
        for age in [0.0, 0.1, 63.9, 64.0, 1e4, f64::MAX, f64::NAN, -1.0] {
            course.note(age, 7);
            assert!(course.levels.len() <= SPANS, "{age}");
        }
        assert_eq!(course.levels.iter().copied().fold(0.0, f32::max), 7.0);
    }
}
