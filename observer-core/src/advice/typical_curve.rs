//! What a start-up of a workload looks like: those remembered, laid over each other. Pure.

use crate::model::{advice::Typical, past_startup::PastStartup};

/// Spans of the picture: what a terminal and a small drawing can show.
const SPANS: usize = 60;
/// How much longer than the slowest took to settle the picture goes on, so that the level after it is seen.
const BEYOND: f64 = 1.5;

impl Typical {
    pub fn of(past: &[PastStartup]) -> Option<Self> {
        let end = past.iter().map(shown).fold(0.0, f64::max);
        if end <= 0.0 {
            return None;
        }
        let span = end / SPANS as f64;
        let (mut median, mut highest) = (Vec::with_capacity(SPANS), Vec::with_capacity(SPANS));
        for i in 0..SPANS {
            let from = i as f64 * span;
            let mut all: Vec<u64> = past.iter().map(|past| past.highest_between(from, from + span)).collect();
            all.sort_unstable();
            median.push(all[all.len() / 2]);
            highest.push(all[all.len() - 1]);
        }
        Some(Self { span, median, highest })
    }
}

/// Seconds of it worth showing.
fn shown(past: &PastStartup) -> f64 {
    let whole = past.span * past.curve.len() as f64;
    past.time_to_stable.map_or(whole, |stable| (stable.max(past.peak_seconds) * BEYOND).min(whole))
}
