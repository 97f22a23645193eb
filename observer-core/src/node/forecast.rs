//! What those starting now will still take, from how their workloads started before. Pure.
//!
//! For a set of moments ahead, the expected usage of each container is the highest but one tenth of what its workload's
//! earlier start-ups held at that age, at most its limit; the sum over all of them, less what they hold now, is the
//! growth; the worst moment counts. So spikes that do not meet are not added up.
//!
//! **Known wrong answers.** A first start of a workload has no history: it is counted as unknown, not guessed. A
//! release that grew is forecast like the old one until it has started once. Memory others release or take meanwhile
//! is not known.

use crate::model::{finding::Forecast, past_startup::PastStartup};

/// Moments ahead, seconds: fine where spikes are, to the longest hold.
const AHEAD: [f64; 13] = [0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0];
/// Of ten earlier start-ups the highest is left out; of fewer, none.
const QUANTILE: f64 = 0.9;

/// A container that is starting.
#[derive(Clone, Copy, Debug)]
pub struct Starting<'a> {
    pub age: f64,
    pub usage: u64,
    pub limit: Option<u64>,
    pub past: &'a [PastStartup],
}

pub fn forecast(starting: &[Starting]) -> Forecast {
    let known: Vec<(&Starting, Vec<&PastStartup>)> = starting
        .iter()
        .filter(|starting| !starting.past.is_empty())
        .map(|starting| (starting, starting.comparable()))
        .collect();
    let unknown = (starting.len() - known.len()) as u64;
    let mut worst = Forecast { unknown, ..Forecast::default() };
    let mut from = 0.0;
    for until in AHEAD {
        let growth: f64 =
            known.iter().map(|(one, past)| one.expected(past, from, until) - one.usage as f64).sum();
        if growth > worst.growth as f64 {
            worst.growth = growth as u64;
            worst.in_seconds = until;
        }
        from = until;
    }
    worst
}

impl Starting<'_> {
    /// Of the start-ups before, those that may still be like this one: one that was killed at an age which this has
    /// reached says nothing of what is to come, unless there is no other.
    fn comparable(&self) -> Vec<&PastStartup> {
        let alike: Vec<&PastStartup> = self.past.iter().filter(|past| past.reached(self.age)).collect();
        if alike.is_empty() { self.past.iter().collect() } else { alike }
    }

    fn expected(&self, past: &[&PastStartup], from: f64, until: f64) -> f64 {
        let mut highest: Vec<u64> =
            past.iter().map(|past| past.highest_between(self.age + from, self.age + until)).collect();
        highest.sort_unstable();
        let at = ((highest.len() as f64 * QUANTILE).ceil() as usize).clamp(1, highest.len().max(1)) - 1;
        let expected = highest.get(at).copied().unwrap_or(0);
        expected.min(self.limit.unwrap_or(u64::MAX)) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::past_startup::StartupOutcome;

    fn spike(peak: u64, at: usize, steady: u64) -> PastStartup {
        let mut curve = vec![steady as f32; 20];
        curve[at] = peak as f32;
        PastStartup {
            started: 0.0,
            pod: String::new(),
            unreclaimable_peak: peak,
            growth: 0.0,
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak,
            peak_seconds: at as f64,
            time_to_stable: Some(at as f64 + 1.0),
            steady: Some(steady),
            overshoot: None,
            span: 1.0,
            curve,
        }
    }

    #[test]
    fn a_spike_ahead_is_growth_and_one_behind_is_not() {
        let past = [spike(100, 5, 40)];
        let one = |age, usage| forecast(&[Starting { age, usage, limit: None, past: &past }]);
        assert_eq!(one(1.0, 30), Forecast { growth: 70, in_seconds: 5.0, unknown: 0 });
        assert_eq!(one(8.0, 40).growth, 0);
    }

    #[test]
    fn one_that_outlived_the_killed_is_not_expected_to_grow_as_they_would_have() {
        let killed = PastStartup {
            outcome: StartupOutcome::OomKilled,
            curve: vec![20.0, 60.0, 90.0],
            ..spike(90, 2, 0)
        };
        let past = [spike(80, 2, 40), killed.clone()];
        let growth = |age, usage, past| forecast(&[Starting { age, usage, limit: None, past }]).growth;
        assert_eq!(growth(1.0, 60, &past), 30);
        assert_eq!(growth(5.0, 40, &past), 0);
        assert_eq!(growth(5.0, 40, &[killed]), 50, "all there is to go by");
    }

    #[test]
    fn a_limit_bounds_it_and_the_unknown_are_counted() {
        let past = [spike(100, 5, 40)];
        let limited = Starting { age: 0.0, usage: 10, limit: Some(64), past: &past };
        let unknown = Starting { age: 0.0, usage: 10, limit: None, past: &[] };
        assert_eq!(forecast(&[limited, unknown]), Forecast { growth: 54, in_seconds: 5.0, unknown: 1 });
    }

    #[test]
    fn spikes_that_do_not_meet_are_not_added_up() {
        let (early, late) = ([spike(100, 1, 10)], [spike(100, 15, 10)]);
        let at = |past| Starting { age: 0.0, usage: 10, limit: None, past };
        assert_eq!(forecast(&[at(&early), at(&late)]).growth, 90);
    }
}
