//! How many can start together: recorded start-ups replayed on top of each other. Pure.

use crate::model::{advice::StartConcurrency, past_startup::PastStartup};

/// Pods of one workload on one node: the kubelet's default is 110 of all.
const MOST: u64 = 110;
/// Seconds between two starts that are tried.
const GAPS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0];
/// Seconds between two looks at the curves; doubled for long ones until there are few enough.
const STEP: f64 = 0.25;
const STEPS: f64 = 2048.0;

/// `headroom`: bytes they may take together. Each is taken for the worst of the start-ups seen at every moment, so that
/// no order in which they come can be worse.
pub fn together(past: &[PastStartup], headroom: u64) -> Option<StartConcurrency> {
    let settled_level = past.iter().filter_map(|past| past.steady).max()?;
    let length = past.iter().map(|past| past.span * past.curve.len() as f64).fold(0.0, f64::max);
    let mut step = STEP;
    while length / step > STEPS && step < length {
        step *= 2.0;
    }
    // The gaps are multiples of the finest step only: beyond it, ages between two looks count with the next one.
    let seen = if step > STEP { 2.0 * step } else { step };
    let worst: Vec<u64> = (0..=(length / step) as usize)
        .map(|i| i as f64 * step)
        .map(|from| past.iter().map(|past| past.highest_between(from, from + seen)).max().unwrap_or(0))
        .collect();
    let worst = Worst { step, highest: worst, settled: settled_level };
    let highest_one = worst.highest.iter().copied().max()?.max(settled_level);
    let settled = (headroom / settled_level.max(1)).min(MOST);
    let at_once = (headroom / highest_one.max(1)).min(settled);
    let sum = |gap: f64| worst.highest_sum(settled, gap);
    let gap = if at_once == settled { Some(0.0) } else { GAPS.into_iter().find(|gap| sum(*gap) <= headroom) };
    Some(StartConcurrency { settled, at_once, gap, highest: gap.map_or(0, sum) })
}

/// The worst of the start-ups seen at every moment, and the level after it.
struct Worst {
    step: f64,
    highest: Vec<u64>,
    settled: u64,
}

impl Worst {
    /// Of `count` start-ups that begin `gap` seconds apart. Reached once the last has begun: a gap later the same ages
    /// are there again, and one start-up more.
    fn highest_sum(&self, count: u64, gap: f64) -> u64 {
        let at = |seconds: f64| match seconds < 0.0 {
            true => 0,
            false => self.highest.get((seconds / self.step) as usize).copied().unwrap_or(self.settled),
        };
        let last = (count.saturating_sub(1) as f64 * gap / self.step) as usize;
        let total = |step: usize| {
            let ages = (0..count).map(|i| step as f64 * self.step - i as f64 * gap);
            ages.map(at).fold(0, u64::saturating_add)
        };
        (last..=last + self.highest.len()).map(total).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::past_startup::StartupOutcome;

    fn spike(peak: u64, seconds: usize) -> PastStartup {
        let mut curve = vec![peak as f32; seconds];
        curve.extend([10.0; 4]);
        PastStartup {
            started: 0.0,
            pod: String::new(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak,
            peak_seconds: 1.0,
            unreclaimable_peak: peak,
            growth: 0.0,
            time_to_stable: Some(4.0),
            steady: Some(10),
            overshoot: Some(4.0),
            span: 1.0,
            curve,
        }
    }

    #[test]
    fn spikes_that_do_not_fit_together_are_spread() {
        let past = [spike(40, 4), spike(30, 2)];
        let together = |headroom| super::together(&past, headroom).unwrap();
        // 130 hold two spikes of 40 and five settled ones, but the last of 13 finds only 10 free: no gap helps.
        let full = together(130);
        assert_eq!((full.settled, full.at_once, full.gap), (13, 3, None));
        let past = [spike(12, 4)];
        let mild = super::together(&past, 102).unwrap();
        assert_eq!((mild.settled, mild.at_once, mild.gap), (10, 8, Some(5.0)));
        assert!(mild.highest <= 102, "{mild:?}");
        assert_eq!(super::together(&[], 100), None);
    }

    #[test]
    fn a_start_up_of_any_length_is_worked_off_at_once_and_not_called_lower() {
        let long = |span: f64| PastStartup { span, ..spike(40, 4) };
        let hours = super::together(&[long(900.0)], 130).unwrap();
        assert_eq!((hours.settled, hours.at_once), (13, 3));
        assert!(super::together(&[long(15_000.0)], 130).is_some());
        let mild = super::together(&[PastStartup { span: 200.0, ..spike(12, 4) }], 102).unwrap();
        assert!(mild.gap.is_none_or(|_| mild.highest <= 102), "{mild:?}");
    }
}
