//! Request and limit, in numbers a person would choose. Pure.
//!
//! - **Request** = p95 of the working set after start-up, over pods and time: what the scheduler reserves is what is
//!   used.
//! - **Limit** = the worst recorded start-up plus the user's headroom, or more if the start-ups differ so much that
//!   one in a thousand must be expected above that: the one-sided 99.9 % prediction bound of a log-normal from as many
//!   start-ups (Hahn & Meeker, *Statistical Intervals*, section 4.8). Few start-ups, or unlike ones, make the bound
//!   larger. Where memory rose higher after start-up, both are raised to that height.
//! - Start-ups cut off by their own limit needed more than it allowed. Where all were cut off, the limit is a
//!   **trial**: twice the last limit, to be judged again after the next start-up. If others completed, those cut off do
//!   not raise the limit; where several were cut off and no whole one needed more than they got, the present limit is
//!   not lowered.
//! - Start-ups that failed are no evidence of the need.
//! - A limit that usage fills without a kill is kept: the kernel can reclaim what fills it.

use crate::{
    advice::Settings,
    model::{
        advice::{AdvisedLimit, Facts, LimitFrom, Numbers},
        units::Bytes,
    },
};

/// A trial doubles: from any limit, a peak 16 times as high is found in four start-ups. Nor does a prediction from few
/// start-ups go beyond twice the worst.
const TRIAL: u64 = 2;
const MIB: u64 = 1 << 20;
/// The runtime and the kernel's own pages need this much in any container (runc's init alone takes about 10 MB).
const LEAST: u64 = 16 * MIB;

impl Numbers {
    pub fn of(facts: &Facts, settings: &Settings) -> Self {
        let startups = &facts.startups;
        let reported = startups.count.saturating_sub(startups.failed);
        let missing = if startups.count < settings.min_startups {
            let starting = match facts.current.starting {
                0 => String::new(),
                starting => format!("; {starting} under way"),
            };
            Some(format!("{} start-up(s) seen, {} needed{starting}", startups.count, settings.min_startups))
        } else if reported < settings.min_startups {
            Some(format!(
                "{} of {} start-ups failed before they were stable: {reported} can be judged, {} needed",
                startups.failed, startups.count, settings.min_startups
            ))
        } else if startups.judged() > 0 && startups.drifts() {
            Some(format!(
                "memory does not settle ({} of {} start-ups drifting): no limit is enough, only later",
                startups.drifting,
                startups.judged()
            ))
        } else {
            None
        };
        let worst = worst(facts);
        if missing.is_some() {
            return Self { worst, missing, ..Self::default() };
        }
        let request = facts.steady.map(|steady| round_up(steady.p95.max(LEAST)));
        let limit = limit(facts, worst, settings).map(|limit| match (limit, request) {
            ((AdvisedLimit::Firm(bytes), _), Some(request)) if bytes < request => {
                (AdvisedLimit::Firm(request), LimitFrom::Request)
            }
            (limit, _) => limit,
        });
        let (limit, limit_from) = limit.unzip();
        let missing = match (request, limit) {
            (_, None) => Some(format!("no start-up came through whole{}", startups.broken_off())),
            (None, _) => Some(format!("no start-up has become stable yet{}", startups.broken_off())),
            _ => None,
        };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let change = |now: Option<Option<u64>>, then: Option<u64>| {
            let change = signed(then?).saturating_sub(signed(now??));
            Some(change.saturating_mul(signed(facts.current.containers)))
        };
        Self {
            request_change: change(facts.current.request, request),
            limit_change: change(facts.current.limit, limit.map(AdvisedLimit::bytes)),
            request,
            limit,
            limit_from,
            worst,
            missing,
        }
    }

    /// Where the limit comes from, in words.
    pub fn limit_reason(&self, facts: &Facts, settings: &Settings) -> Option<String> {
        let startups = &facts.startups;
        let (limit, from) = (self.limit?.bytes(), self.limit_from?);
        let worst = self.worst.unwrap_or(limit);
        let free = 100.0 * (limit as f64 / worst.max(1) as f64 - 1.0);
        let need = format!(
            "worst need {} and {:.0} % headroom asked for; it leaves {free:.0} %",
            Bytes(worst),
            settings.headroom * 100.0
        );
        let cut = match startups.cut_off() {
            0 => String::new(),
            cut => format!(
                "; {cut} of {} start-ups cut off by their limit, at up to {}, and not counted in",
                startups.count,
                Bytes(startups.cut.unwrap_or(0))
            ),
        };
        Some(match from {
            LimitFrom::Headroom => need + &cut,
            LimitFrom::Spread => format!(
                "{need}, because start-ups differ and one in a thousand must be expected above the worst so far{cut}"
            ),
            LimitFrom::Least => format!("worst need {}, and no container does with less{cut}", Bytes(worst)),
            LimitFrom::Request => format!("as high as the request{cut}"),
            LimitFrom::CutOff => format!(
                "{} of {} start-ups were cut off by their limit at up to {}, so it is {}; the worst need of the {} whole ones is {}",
                startups.cut_off(),
                startups.count,
                Bytes(startups.cut.unwrap_or(0)),
                if facts.current.limit.flatten().is_some() { "not lowered" } else { "no lower" },
                startups.whole,
                Bytes(worst)
            ),
            LimitFrom::Filled => {
                "usage fills it and nothing was killed, so what fills it can be taken back, as file cache is"
                    .into()
            }
            LimitFrom::Trial => format!(
                "each of the {} start-ups was cut off by its limit, at up to {}, so the peak is not known",
                startups.count,
                Bytes(startups.cut.unwrap_or(0))
            ),
        })
    }
}

/// Highest need of a whole start-up, or of the time after it.
fn worst(facts: &Facts) -> Option<u64> {
    let startup = facts.startups.need.map(|[.., max]| max);
    startup.max(facts.steady.map(|steady| steady.max))
}

fn limit(facts: &Facts, worst: Option<u64>, settings: &Settings) -> Option<(AdvisedLimit, LimitFrom)> {
    let startups = &facts.startups;
    let today = facts.current.limit.flatten();
    if startups.whole == 0 {
        let cut = startups.cut.filter(|_| startups.cut_off() == startups.count)?;
        let tried = today.unwrap_or(0).max(cut);
        return Some((AdvisedLimit::Trial(round_up(tried.saturating_mul(TRIAL))), LimitFrom::Trial));
    }
    let worst = worst?;
    if let Some(today) = facts.limit_filled_by_cache(worst) {
        return Some((AdvisedLimit::Firm(today), LimitFrom::Filled));
    }
    let roomy = worst as f64 * (1.0 + settings.headroom);
    // What goes higher later than it did while starting differs between pods as the start-ups do.
    let later = startups.need.map_or(1.0, |[.., max]| worst as f64 / max.max(1) as f64);
    let next = prediction(startups.need_mean_log, startups.need_spread, startups.whole);
    let next = (next.unwrap_or(0.0) * later).min(worst as f64 * TRIAL as f64);
    let largest = [
        (LEAST, LimitFrom::Least),
        (round_up(next as u64), LimitFrom::Spread),
        (cut_off_floor(facts, today).unwrap_or(0), LimitFrom::CutOff),
        (round_up(roomy as u64), LimitFrom::Headroom),
    ];
    let (bytes, from) = largest.into_iter().max_by_key(|(bytes, _)| *bytes)?;
    Some((AdvisedLimit::Firm(bytes), from))
}

/// The present limit, where several were cut off and no whole one needed more than they got: what those needed is not
/// known. That an earlier limit was higher, and too low for them, is no reason to raise it: others came through.
fn cut_off_floor(facts: &Facts, today: Option<u64>) -> Option<u64> {
    let startups = &facts.startups;
    let cut = startups.cut.filter(|_| startups.cut_off() > 1)?;
    let known = startups.need.is_some_and(|[.., max]| max > cut);
    (!known).then(|| today.unwrap_or_else(|| round_up(cut)))
}

/// What 999 of 1,000 next start-ups stay below.
fn prediction(mean_log: Option<f64>, spread: Option<f64>, n: u64) -> Option<f64> {
    let (mean, spread) = (mean_log?, spread?);
    let n = n as f64;
    Some((mean + student_999(n - 1.0) * spread * (1.0 + 1.0 / n).sqrt()).exp())
}

/// 99.9 % quantile of Student's t; between the rows of the table, that of fewer degrees of freedom, which is larger.
fn student_999(freedom: f64) -> f64 {
    const TABLE: [(f64, f64); 14] = [
        (1.0, 3.18e+02),
        (2.0, 22.3),
        (3.0, 10.2),
        (4.0, 7.17),
        (5.0, 5.89),
        (6.0, 5.21),
        (7.0, 4.79),
        (8.0, 4.5),
        (9.0, 4.3),
        (10.0, 4.14),
        (14.0, 3.79),
        (20.0, 3.55),
        (30.0, 3.38),
        (60.0, 3.23),
    ];
    TABLE.iter().rev().find(|(df, _)| *df <= freedom).map_or(TABLE[0].1, |(_, t)| *t)
}

/// Up to a step of at most a sixteenth of it, a power of two and at least 1 MiB: 72Mi, 144Mi, 1088Mi, 2304Mi.
pub fn round_up(bytes: u64) -> u64 {
    let step = (bytes / 16).checked_ilog2().map_or(MIB, |power| 1u64 << power).max(MIB);
    bytes.checked_next_multiple_of(step).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        advice::{Startups, Steady},
        past_startup::{PastStartup, StartupOutcome},
    };

    fn past(peak_mib: u64, outcome: StartupOutcome) -> PastStartup {
        PastStartup {
            started: peak_mib as f64,
            pod: format!("p{peak_mib}"),
            outcome,
            cut_short: false,
            peak: peak_mib * MIB,
            peak_seconds: 1.0,
            unreclaimable_peak: peak_mib * MIB,
            growth: 0.0,
            time_to_stable: Some(2.0),
            steady: (outcome == StartupOutcome::Stable).then_some(40 * MIB),
            overshoot: Some(2.0),
            span: 1.0,
            curve: vec![(peak_mib * MIB) as f32, (40 * MIB) as f32],
        }
    }

    fn facts(past: &[PastStartup], limit: u64) -> Facts {
        let startups = Startups::of(past);
        let mut facts = Facts { steady: Steady::of(None, &startups), startups, ..Facts::default() };
        facts.current.limit = Some(Some(limit * MIB));
        facts.current.request = Some(Some(100 * MIB));
        facts.current.containers = 10;
        facts
    }

    #[test]
    fn rounding_is_up_and_by_a_sixteenth_at_the_most() {
        for (mib, expected) in [(0, 0), (1, 1), (16, 16), (65, 68), (140, 144), (1030, 1088), (2200, 2304)] {
            assert_eq!(round_up(mib * MIB), expected * MIB, "{mib}");
        }
        for bytes in (1..10_000u64).map(|i| i * 1_234_567) {
            let rounded = round_up(bytes);
            assert!(rounded >= bytes && rounded <= bytes + (bytes / 16).max(MIB));
        }
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }

    #[test]
    fn numbers_follow_what_was_seen() {
        use StartupOutcome::{Drifting, Failed, OomKilled, Stable};
        type Row = (&'static str, Vec<PastStartup>, Option<u64>, Option<AdvisedLimit>);
        let table: [Row; 10] = [
            ("too few", vec![past(90, Stable); 2], None, None),
            ("alike", vec![past(90, Stable); 3], Some(40), Some(AdvisedLimit::Firm(100 * MIB))),
            ("a leak", vec![past(90, Drifting); 5], None, None),
            (
                "unlike ones need more than the headroom",
                [50, 60, 70, 90].map(|peak| past(peak, Stable)).to_vec(),
                Some(40),
                Some(AdvisedLimit::Firm(184 * MIB)),
            ),
            ("all cut off", vec![past(64, OomKilled); 4], None, Some(AdvisedLimit::Trial(128 * MIB))),
            (
                "one cut off among whole ones: its limit is no need",
                [vec![past(64, OomKilled)], vec![past(40, Stable); 5]].concat(),
                Some(40),
                Some(AdvisedLimit::Firm(44 * MIB)),
            ),
            (
                "one went on without a process that was killed",
                [vec![PastStartup { cut_short: true, ..past(64, Stable) }], vec![past(40, Stable); 5]]
                    .concat(),
                Some(40),
                Some(AdvisedLimit::Firm(44 * MIB)),
            ),
            (
                "several cut off among whole ones: not lowered",
                [vec![past(64, OomKilled); 2], vec![past(40, Stable); 5]].concat(),
                Some(40),
                Some(AdvisedLimit::Firm(64 * MIB)),
            ),
            ("crashes only", vec![past(40, Failed); 5], None, None),
            (
                "cut off by an old limit, whole under a larger one",
                [vec![past(64, OomKilled); 2], vec![past(90, Stable); 3]].concat(),
                Some(40),
                Some(AdvisedLimit::Firm(100 * MIB)),
            ),
        ];
        for (name, past, request, limit) in table {
            let numbers = Numbers::of(&facts(&past, 64), &Settings::default());
            assert_eq!((numbers.request, numbers.limit), (request.map(|mib| mib * MIB), limit), "{name}");
            assert_eq!(numbers.missing.is_some(), request.is_none() || limit.is_none(), "{name}");
        }
        let mixed = [vec![past(40, Failed); 3], vec![past(64, OomKilled); 3]].concat();
        let numbers = Numbers::of(&facts(&mixed, 64), &Settings::default());
        assert_eq!(numbers.limit, None, "not every one was cut off");
        assert!(
            numbers
                .missing
                .is_some_and(|why| why.contains("3 of 6 cut off") && why.contains("3 of 6 failed"))
        );
        // The same ones that go twice as high later as they did while starting: so may the next.
        let mut later = facts(&[50, 60, 70, 90].map(|peak| past(peak, Stable)), 64);
        later.steady = later.steady.map(|steady| Steady { max: 180 * MIB, ..steady });
        assert_eq!(Numbers::of(&later, &Settings::default()).limit, Some(AdvisedLimit::Firm(368 * MIB)));
        let numbers = Numbers::of(&facts(&vec![past(90, Stable); 3], 64), &Settings::default());
        assert_eq!(numbers.request_change, Some(-600 * MIB as i64), "ten containers, 60 MiB less each");
        assert_eq!(numbers.limit_change, Some(360 * MIB as i64));
    }

    #[test]
    fn a_limit_that_cut_off_several_start_ups_once_is_neither_raised_nor_lowered_for_them() {
        use StartupOutcome::{OomKilled, Stable};
        let today = |mib: u64| Some(Some(mib * MIB));
        type Row = (u64, Option<Option<u64>>, u64, LimitFrom, &'static str);
        let table: [Row; 5] = [
            (200, today(100), 100, LimitFrom::CutOff, "so it is not lowered"),
            (64, today(130), 130, LimitFrom::CutOff, "so it is not lowered"),
            (96, Some(None), 96, LimitFrom::CutOff, "so it is no lower"),
            (96, None, 96, LimitFrom::CutOff, "so it is no lower"),
            // Whole ones needed more than those got that were cut off: what is needed is known.
            (48, today(256), 68, LimitFrom::Headroom, "at up to 48 MiB, and not counted in"),
        ];
        for (cut, limit, expected, from, why) in table {
            let past = [vec![past(cut, OomKilled); 2], vec![past(60, Stable); 3]].concat();
            let mut facts = facts(&past, 0);
            facts.current.limit = limit;
            let numbers = Numbers::of(&facts, &Settings::default());
            assert_eq!(numbers.limit, Some(AdvisedLimit::Firm(expected * MIB)), "{cut} {limit:?}");
            assert_eq!(numbers.limit_from, Some(from), "{cut} {limit:?}");
            let reason = numbers.limit_reason(&facts, &Settings::default()).unwrap();
            assert!(reason.contains(why), "{reason}");
        }
    }

    #[test]
    fn a_limit_that_cache_fills_is_kept_however_often_the_advice_is_followed() {
        let mut limit = 64;
        for _ in 0..5 {
            let mut filled = facts(&vec![past(limit, StartupOutcome::Stable); 8], limit);
            filled.steady = Some(Steady { p50: 40 * MIB, p95: 50 * MIB, max: limit * MIB, seconds: 900.0 });
            let numbers = Numbers::of(&filled, &Settings::default());
            limit = numbers.limit.map_or(0, AdvisedLimit::bytes) / MIB;
        }
        assert_eq!(limit, 64);
        // A process that was killed there is no cache.
        let mut killed = facts(&vec![past(64, StartupOutcome::Stable); 8], 64);
        killed.kills.steady = 1;
        let numbers = Numbers::of(&killed, &Settings::default());
        assert!(numbers.limit.is_some_and(|limit| limit.bytes() > 64 * MIB), "{numbers:?}");
    }

    proptest::proptest! {
        /// Whatever else was seen: a trial is advised exactly where every start-up that counts was cut off, and each
        /// sentence is made from what decided the number.
        #[test]
        fn a_trial_is_where_every_start_up_was_cut_off(
            outcomes in proptest::collection::vec((0usize..5, 20u64..200, proptest::bool::ANY), 3..24),
            limit in 20u64..400,
        ) {
            use StartupOutcome::{Ended, Failed, OomKilled, Oscillating, Stable};
            let all = [Stable, Oscillating, Ended, Failed, OomKilled];
            let seen: Vec<PastStartup> = outcomes
                .iter()
                .map(|(i, peak, cut_short)| {
                    let outcome = all[*i];
                    PastStartup { cut_short: *cut_short, ..past(*peak, outcome) }
                })
                .collect();
            let facts = facts(&seen, limit);
            let numbers = Numbers::of(&facts, &Settings::default());
            let every = seen.iter().all(PastStartup::cut_off);
            let trial = matches!(numbers.limit, Some(AdvisedLimit::Trial(_)));
            proptest::prop_assert_eq!(trial, every);
            let reason = numbers.limit_reason(&facts, &Settings::default());
            proptest::prop_assert_eq!(reason.is_some(), numbers.limit.is_some());
            proptest::prop_assert_eq!(reason.is_some_and(|text| text.starts_with("each of")), every);
            if !seen.iter().any(PastStartup::came_through) && !every {
                proptest::prop_assert_eq!(numbers.limit, None);
            }
            let whole = seen.iter().filter(|one| one.came_through()).map(PastStartup::need).max();
            if let (Some(AdvisedLimit::Firm(bytes)), Some(whole)) = (numbers.limit, whole) {
                let most = (whole.max(40 * MIB) * 2).max(limit * MIB).max(facts.startups.cut.unwrap_or(0));
                proptest::prop_assert!(bytes <= round_up(most) && bytes >= whole.min(limit * MIB));
            }
        }
    }
}
