//! What a container that starts will still take at its age, from how its workload's earlier start-ups went on. Pure.
//!
//! Each earlier start-up is read from the place where this one is now: not its age, since several that start together
//! are slower than one alone, but its age divided by how much later it reached the level that it has reached. A spike
//! that this one has not had yet is still to come, however late it is.
//!
//! How sure: of n start-ups that are alike, the next one stays below the k-th smallest with probability k / (n + 1),
//! whatever their distribution. So three start-ups never make more than 75 %.
//!
//! **Known wrong answers.** A release that grew is like the old one until it has passed the old one's peak. A start-up
//! whose spike is smaller than before by more than [`MISSED`] counts as waiting for it, until its verdict.

use serde::{Deserialize, Serialize};

use crate::model::past_startup::PastStartup;

/// Two curves are at the same level within this share of it.
const ALIKE: f64 = 0.1;
/// A spike that stays this share below the earlier one is the same spike once it is overdue by [`OVERDUE`].
const MISSED: f64 = 0.25;
/// Times as long as the earlier start-up took, and a second.
const OVERDUE: f64 = 2.0;
/// Differences of time below this are those of any two starts, and of the curves' resolution. Seconds.
const JITTER_SECONDS: f64 = 0.5;
/// The place in an earlier start-up is known within this share of it.
const PLACE: f64 = 0.1;

/// A start-up under way. Bytes, seconds since its exec.
#[derive(Clone, Copy, Debug)]
pub struct UnderWay<'a> {
    pub age: f64,
    /// Unreclaimable memory that it holds now.
    pub usage: u64,
    /// Highest usage in each span of this many seconds, from the exec on.
    pub span: f64,
    pub curve: &'a [f32],
}

/// What it will still take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remaining {
    /// The most that it will hold from now on, what it holds now included. Bytes.
    pub bytes: u64,
    /// When it will hold that, seconds from now; 0: now.
    pub in_seconds: f64,
    /// Probability that it will not hold more, 0 to 1.
    pub confidence: f64,
}

/// As sure as is asked for (`sure`, 0 to 1) if there are enough earlier start-ups, else as sure as they allow. `None`:
/// no earlier start-up shows what is to come.
pub fn remaining(now: &UnderWay, past: &[PastStartup], sure: f64) -> Option<Remaining> {
    let mut needs: Vec<Need> = past
        .iter()
        .filter(|past| past.came_through() && !past.curve.is_empty())
        .map(|past| now.need(past))
        .collect();
    needs.sort_unstable_by(|a, b| a.bytes.total_cmp(&b.bytes));
    let of = needs.len() as f64 + 1.0;
    let rank = ((sure.clamp(0.0, 1.0) * of).ceil() as usize).clamp(1, needs.len().max(1));
    let need = needs.get(rank - 1)?;
    let bytes = (need.bytes as u64).max(now.usage);
    let in_seconds = if bytes > now.usage { need.in_seconds } else { 0.0 };
    Some(Remaining { bytes, in_seconds, confidence: rank as f64 / of / need.grown })
}

/// By one earlier start-up.
struct Need {
    bytes: f64,
    in_seconds: f64,
    /// By how much this one is larger; 1 if it is not.
    grown: f64,
}

impl UnderWay<'_> {
    fn need(&self, past: &PastStartup) -> Need {
        let reached = self.curve.iter().copied().fold(0.0, f32::max).max(self.usage as f32);
        let before = past.curve.iter().copied().fold(0.0, f32::max);
        let grown = if before > 0.0 { (f64::from(reached) / f64::from(before)).max(1.0) } else { 1.0 };
        let (place, stretch) = self.place(past, f64::from(reached));
        let first = (place * (1.0 - PLACE) / past.span.max(1e-3)) as usize;
        // After the end of its curve it stayed at what it ended with.
        let first = first.min(past.curve.len().saturating_sub(1));
        let (mut at, mut highest) = (first, 0.0_f32);
        for (i, bytes) in past.curve.iter().enumerate().skip(first) {
            if *bytes > highest {
                (at, highest) = (i, *bytes);
            }
        }
        Need {
            bytes: f64::from(highest).min(past.need() as f64) * grown,
            in_seconds: ((at as f64 * past.span - place) * stretch).max(0.0),
            grown,
        }
    }

    /// Where an earlier start-up was when it was like this one now, in seconds; and how much slower this one is.
    pub(super) fn place(&self, past: &PastStartup, reached: f64) -> (f64, f64) {
        let level = reached * (1.0 - ALIKE);
        let jitter = JITTER_SECONDS.max(past.span).max(self.span);
        let stretch =
            match (first_above(self.curve, self.span, level), first_above(&past.curve, past.span, level)) {
                (Some(here), Some(there)) => ((here + jitter) / (there + jitter)).max(1.0),
                _ => 1.0,
            };
        let by_age = self.age / stretch;
        // The next thing it did that this one has not done.
        let to_come = |share: f64| first_above(&past.curve, past.span, reached / (1.0 - share));
        let waits = to_come(MISSED)
            .or_else(|| to_come(ALIKE).filter(|at| self.age <= (at * OVERDUE * stretch) + 1.0));
        (waits.map_or(by_age, |at| by_age.min(at)), stretch)
    }
}

impl PastStartup {
    /// When it first held more than this, in seconds.
    pub(super) fn first_above(&self, bytes: u64) -> Option<f64> {
        first_above(&self.curve, self.span, bytes as f64)
    }
}

/// When a curve first passed this level, in seconds.
fn first_above(curve: &[f32], span: f64, level: f64) -> Option<f64> {
    let at = curve.iter().position(|bytes| f64::from(*bytes) > level)?;
    Some(at as f64 * span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::past_startup::StartupOutcome;

    /// A start-up of levels, each held for half a second.
    fn past(levels: &[f32]) -> PastStartup {
        let peak = levels.iter().copied().fold(0.0, f32::max) as u64;
        PastStartup {
            started: 0.0,
            pod: String::new(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak,
            peak_seconds: 0.0,
            unreclaimable_peak: peak,
            growth: 0.0,
            time_to_stable: None,
            steady: None,
            overshoot: None,
            span: 0.5,
            curve: levels.to_vec(),
        }
    }

    /// Another one, after it has held these levels for half a second each.
    fn after(levels: &[f32], past: &[PastStartup]) -> Option<(u64, f64)> {
        let usage = levels.last().copied().unwrap_or(0.0) as u64;
        let age = levels.len() as f64 * 0.5;
        let remaining = remaining(&UnderWay { age, usage, span: 0.5, curve: levels }, past, 1.0)?;
        Some((remaining.bytes, remaining.in_seconds))
    }

    /// Half a second each: 60 for one second, 160 for one, 60 after that.
    const SPIKE: [f32; 12] = [60., 60., 160., 160., 60., 60., 60., 60., 60., 60., 60., 60.];

    #[test]
    fn a_spike_is_to_come_until_it_has_passed() {
        let known = [past(&SPIKE)];
        let table: [(&str, &[f32], u64); 8] = [
            ("at once", &[60.], 160),
            ("on time", &[60., 60., 160., 160., 60., 60.], 60),
            ("in it", &[60., 60., 160.], 160),
            ("it waits for a database", &[60.; 40], 160),
            ("slower, before it", &[60.; 6], 160),
            ("slower, past it", &[&[60.; 4][..], &[160.; 4], &[60.; 8]].concat(), 60),
            ("smaller by less than a tenth", &[60., 60., 150., 150., 60., 60.], 60),
            ("smaller by a fifth, overdue", &[&[60., 60., 130., 130.][..], &[60.; 4]].concat(), 60),
        ];
        for (name, levels, expected) in table {
            assert_eq!(after(levels, &known).map(|need| need.0), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_second_spike_of_a_slower_start_is_not_taken_for_passed() {
        let twice = [20., 20., 90., 90., 30., 30., 30., 160., 160., 60., 60., 60.];
        let slower: Vec<f32> = twice.iter().flat_map(|level| [*level, *level, *level]).collect();
        for age in 1..21 {
            assert_eq!(after(&slower[..age], &[past(&twice)]).map(|need| need.0), Some(160), "span {age}");
        }
        // Spikes of one height: only its pace shows that the second is to come.
        let twice = [20., 20., 20., 20., 160., 160., 60., 60., 60., 60., 60., 160., 60., 60., 60., 60.];
        let slower: Vec<f32> = twice.iter().flat_map(|level| [*level, *level]).collect();
        for age in 1..22 {
            assert_eq!(after(&slower[..age], &[past(&twice)]).map(|need| need.0), Some(160), "span {age}");
        }
    }

    #[test]
    fn what_was_cut_off_shows_nothing_and_a_larger_release_is_larger() {
        let killed = PastStartup { outcome: StartupOutcome::OomKilled, ..past(&[60., 90.]) };
        assert_eq!(after(&[60.], std::slice::from_ref(&killed)), None);
        assert_eq!(after(&[60.], &[]), None);
        assert_eq!(after(&[60.], &[killed, past(&SPIKE)]), Some((160, 0.5)));
        let larger = after(&[&[120., 120., 320., 320.][..], &[100.; 4]].concat(), &[past(&SPIKE)]);
        assert_eq!(larger.map(|need| need.0), Some(120), "its steady level is twice the old one's too");
    }

    #[test]
    fn file_cache_of_an_earlier_start_is_not_needed() {
        let cached = PastStartup { unreclaimable_peak: 70, ..past(&SPIKE) };
        assert_eq!(after(&[60.], &[cached]).map(|need| need.0), Some(70));
    }

    #[test]
    fn how_sure_follows_from_how_many() {
        let known: Vec<PastStartup> = (1_u8..=9).map(|i| past(&[10., f32::from(i) * 100.])).collect();
        let now = UnderWay { age: 0.0, usage: 5, span: 0.5, curve: &[5.] };
        let at = |sure| remaining(&now, &known, sure).map(|need| (need.bytes, need.confidence));
        assert_eq!(at(0.5), Some((500, 0.5)));
        assert_eq!(at(0.85), Some((900, 0.9)));
        assert_eq!(at(1.0), Some((900, 0.9)), "more than nine start-ups cannot show");
        assert_eq!(at(f64::NAN).map(|need| need.0), Some(100));
    }

    proptest! {
        #[test]
        fn it_is_never_less_than_now_nor_than_a_start_that_repeats_itself_holds(
            levels in proptest::collection::vec(1.0_f32..1e6, 1..64),
            slower in 1_usize..4,
            until in 0.0..1.0_f64,
        ) {
            let known = [past(&levels)];
            let repeated: Vec<f32> =
                levels.iter().flat_map(|level| std::iter::repeat_n(*level, slower)).collect();
            let seen = ((repeated.len() as f64 * until) as usize).max(1);
            let (so_far, to_come) = repeated.split_at(seen);
            let need = after(so_far, &known).unwrap();
            let still = to_come.iter().copied().fold(0.0, f32::max) as u64;
            prop_assert!(need.0 >= so_far[seen - 1] as u64);
            if slower == 1 {
                prop_assert!(need.0 >= still, "{} of {still} in {so_far:?} {to_come:?}", need.0);
            }
        }

        #[test]
        fn nothing_that_a_file_may_hold_makes_it_fail(
            past_levels in proptest::collection::vec(0.0_f32..1e15, 0..64),
            levels in proptest::collection::vec(0.0_f32..1e15, 0..64),
            span in 1e-9..1e4_f64,
            age in 0.0..1e6_f64,
            usage in 0_u64..1 << 50,
            sure in -1.0..2.0_f64,
        ) {
            let known = [PastStartup { span, ..past(&past_levels) }];
            let now = UnderWay { age, usage, span: 0.05, curve: &levels };
            if let Some(need) = remaining(&now, &known, sure) {
                prop_assert!(need.bytes >= usage);
                prop_assert!(need.in_seconds.is_finite() && need.in_seconds >= 0.0);
                prop_assert!((0.0..=1.0).contains(&need.confidence));
            }
        }
    }
}
