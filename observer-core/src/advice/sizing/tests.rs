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
fn changes_between_numbers_of_any_size_are_numbers() {
    let mut facts = facts(&vec![past(90, StartupOutcome::Stable); 3], 100);
    let change = |facts: &Facts| Numbers::of(facts, &Settings::default()).request_change;
    assert_eq!(change(&facts), Some(-600 * MIB as i64));
    (facts.current.request, facts.current.containers) = (Some(Some(u64::MAX)), u64::MAX);
    assert_eq!(change(&facts), Some(i64::MIN));
    facts.steady = facts.steady.map(|steady| Steady { p95: u64::MAX, ..steady });
    assert_eq!(change(&facts), Some(0));
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
            [vec![PastStartup { cut_short: true, ..past(64, Stable) }], vec![past(40, Stable); 5]].concat(),
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
        numbers.missing.is_some_and(|why| why.contains("3 of 6 cut off") && why.contains("3 of 6 failed"))
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
