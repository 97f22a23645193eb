//! A recorded memory curve -> the story of its start-up. Works without root, anywhere.
//!
//! One pass, flat memory. Time zero is the exec of the entry point, or whatever the file begins with. Where memory went
//! to nothing and came back, the container was started again: each start has its own story ([`starts`]).

use std::io::Read;

use serde::Serialize;

use observer_core::container::curve::Curve;

mod clock;
mod format;
pub mod input;
mod labels;
pub mod plot;
pub mod rows;
mod starts;
mod story;

#[cfg(test)]
mod formats_test;

pub use rows::{BadInput, Reading, Row, Source};

/// Spans of the drawn curve: about one per pixel.
const DRAWN: usize = 1024;
/// Below this a whole container is hardly: the numbers may be KiB or MiB.
const SUSPICIOUS_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Drawn, and compared with the peak. Bytes.
    pub limit: Option<u64>,
    /// The process ended with the last sample.
    pub ended: bool,
    pub reading: Reading,
}

/// One start-up, as `observer analyse --json` prints it. Seconds since time zero, bytes; null: not known, or there is
/// none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// settling, stable, drifting, oscillating, ended
    pub verdict: &'static str,
    /// Time zero of this start: seconds since the file's time zero.
    pub started_seconds: f64,
    /// For oscillating: until the envelope it stays in. As exact as the samples are apart.
    pub time_to_stable_seconds: Option<f64>,
    /// When the time to stable was known: after the hold.
    pub confirmed_seconds: Option<f64>,
    /// Highest usage on the way to stable; without a steady state, of all.
    pub peak_bytes: u64,
    pub peak_seconds: f64,
    pub peak_anon_bytes: Option<u64>,
    /// Level of the working set where it lives, less active file cache if `without_active_file`; for oscillating, the
    /// top of the swing.
    pub steady_bytes: Option<u64>,
    /// Highest working set over steady level, never below 1.
    pub overshoot_ratio: Option<f64>,
    /// Levels it rested on.
    pub plateaus: u32,
    /// Growth of the floor over the last two octaves of time; a verdict only if drifting.
    pub drift_bytes_per_second: f64,
    /// Whether anonymous memory alone drifts as well; null where it was not recorded. Of what else grows, only shared
    /// memory cannot be taken back.
    pub anonymous_memory_drifts: Option<bool>,
    /// Active file cache was recorded, so that level and drift are without it.
    pub without_active_file: bool,
    pub fastest_growth_bytes_per_second: f64,
    pub swing_low_bytes: Option<u64>,
    pub swing_high_bytes: Option<u64>,
    pub swing_period_seconds: Option<f64>,
    pub limit_bytes: Option<u64>,
    /// Peak over limit.
    pub peak_of_limit_ratio: Option<f64>,
    pub ended_seconds: Option<f64>,
    pub samples: u64,
    /// Last sample minus first.
    pub duration_seconds: f64,
    /// Typical distance of two samples: nothing can be dated more exactly than this.
    pub spacing_seconds: f64,
    pub gaps: u64,
    pub longest_gap_seconds: Option<f64>,
}

/// What a file holds: the first start, all starts if there are several, and how it was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub first: Analysis,
    /// Starts in the curve; the first of them are in `starts`.
    pub starts_total: u64,
    /// Empty if there is one.
    pub starts: Vec<Analysis>,
    /// The recognised format.
    pub format: &'static str,
    /// Of the first row, as in the file; null for dates and Unix times.
    pub first_row_seconds: Option<f64>,
    pub notes: Vec<String>,
}

/// The analysis, and the further data that a plot needs.
#[derive(Debug)]
pub struct Analysed {
    /// Of the first start.
    pub analysis: Analysis,
    pub report: Report,
    pub usage: Curve<DRAWN>,
    pub working_set: Curve<DRAWN>,
    /// Of the whole file.
    pub duration_seconds: f64,
}

pub fn analyse(input: impl Read, options: &Options) -> Result<Analysed, BadInput> {
    let (mut usage, mut working_set) = (Curve::default(), Curve::default());
    let mut starts = starts::Starts::new(options.limit);
    let (mut duration_seconds, mut highest) = (0.0, 0);
    let source = input::read(input, &options.reading, |row| {
        usage.push(row.seconds, row.usage as f64);
        working_set.push(row.seconds, row.working_set() as f64);
        duration_seconds = row.seconds;
        highest = highest.max(row.usage);
        starts.row(row);
    })?;
    let (starts_total, mut starts) = starts.finish(options.ended);
    let first = starts.first().cloned().ok_or(BadInput::Empty("every row says 0 bytes"))?;
    if starts.len() == 1 {
        starts.clear();
    }
    let Source { format, first_seconds: first_row_seconds, mut notes } = source;
    if format == "columns" && highest < SUSPICIOUS_BYTES {
        notes.push(
            "sizes are read as bytes; if they are not, name the unit in the header, such as rss_kib"
                .to_owned(),
        );
    }
    let report = Report { first: first.clone(), starts_total, starts, format, first_row_seconds, notes };
    Ok(Analysed { analysis: first, report, usage, working_set, duration_seconds })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(text: &str) -> Result<Report, String> {
        analyse(text.as_bytes(), &Options::default())
            .map(|done| done.report)
            .map_err(|error| error.to_string())
    }

    fn of(text: &str) -> Result<Analysis, String> {
        report(text).map(|report| report.first)
    }

    /// `value` at each tenth of a second.
    fn csv(seconds: f64, value: impl Fn(f64) -> f64) -> String {
        every(0.1, seconds, value)
    }

    fn every(step: f64, seconds: f64, value: impl Fn(f64) -> f64) -> String {
        let rows = (0..(seconds / step) as u64).map(|i| i as f64 * step);
        rows.fold("seconds,usage_bytes\n".to_owned(), |text, t| text + &format!("{t},{}\n", value(t)))
    }

    const MIB: f64 = 1024.0 * 1024.0;

    #[test]
    fn one_sample_is_not_settled_and_repeated_times_count_for_the_peak() {
        let analysis = of("0,100\n").unwrap();
        assert_eq!(
            (analysis.verdict, analysis.peak_bytes, analysis.time_to_stable_seconds),
            ("settling", 100, None)
        );
        assert_eq!(of("0,100\n0,300\n1,50\n").unwrap().peak_bytes, 300);
    }

    #[test]
    fn columns_may_be_reordered_and_times_may_be_of_the_wall() {
        let rows = "usage_bytes,inactive_file_bytes,seconds\n500,100,1790000000.5\n700,,1790000002\n";
        let analysis = of(rows).unwrap();
        assert_eq!((analysis.peak_bytes, analysis.peak_seconds), (700, 1.5));
    }

    #[test]
    fn growing_file_cache_is_no_leak() {
        let curve = |header: &str, parts: &dyn Fn(u64) -> String| {
            let rows = (0..600).map(|t| format!("{t},{},{}\n", (60 + 2 * t) << 20, parts(t)));
            of(&rows.fold(format!("seconds,usage_bytes,{header}\n"), |text, row| text + &row)).unwrap()
        };
        let leak = curve("anon_bytes", &|t| ((50 + 2 * t) << 20).to_string());
        assert_eq!((leak.verdict, leak.anonymous_memory_drifts), ("drifting", Some(true)));
        let unnamed = curve("anon_bytes", &|_| (50 << 20).to_string());
        assert_eq!(unnamed.anonymous_memory_drifts, Some(false));
        assert!(unnamed.story().contains("not its anonymous memory: file cache"), "{}", unnamed.story());
        let cache = curve("active_file_bytes", &|t| ((2 * t) << 20).to_string());
        assert_eq!(cache.verdict, "stable", "{}", cache.story());
        assert!(cache.story().contains("without file cache"), "{}", cache.story());
        let shared = curve("anon_bytes,active_file_bytes", &|_| format!("{},0", 50 << 20));
        assert!(shared.story().contains("not its anonymous memory: shared or kernel"), "{}", shared.story());
    }

    #[test]
    fn a_ratio_called_overshoot_is_never_below_one() {
        for level in [1.0, 2.0, 4.0, 100.0] {
            let analysis = of(&csv(60.0, |t| if t < 2.0 { 1.5 * level * MIB } else { level * MIB })).unwrap();
            assert!(analysis.overshoot_ratio.unwrap() >= 1.0, "{level}");
            assert_eq!(analysis.story().contains("counts as 4 MiB"), level < 4.0, "{}", analysis.story());
        }
    }

    #[test]
    fn coarse_samples_never_say_stable_before_the_peak_is_over() {
        for step in [0.5, 1.0, 5.0, 15.0, 30.0] {
            for peak_at in [1.0, 2.0, 3.0] {
                let usage = |t: f64| if (t / step - peak_at).abs() < 0.5 { 325.0 * MIB } else { 260.0 * MIB };
                let analysis = of(&every(step, 40.0 * step, usage)).unwrap();
                let stable = analysis.time_to_stable_seconds.unwrap();
                let after = analysis.story().contains("when it was stable already");
                assert!(after != (stable > analysis.peak_seconds), "{step} {peak_at}: {}", analysis.story());
                assert!(!after || peak_at * step >= 15.0, "{step} {peak_at}: {}", analysis.story());
                assert!(analysis.story().contains('±') == (step > 0.5), "{}", analysis.story());
            }
        }
    }

    #[test]
    fn growth_is_what_the_samples_say_however_far_apart_they_are() {
        for step in [0.1, 0.5, 1.0, 5.0, 30.0] {
            let analysis = of(&every(step, 12.0 * step, |t| (40.0 + 20.0 * (t / step)) * MIB)).unwrap();
            let said = analysis.fastest_growth_bytes_per_second;
            assert!((said / (20.0 * MIB / step) - 1.0).abs() < 0.01, "{step}: {}", said / MIB);
        }
    }

    /// Killed at 512 MiB every 40 s; `dead`: what is seen of the ten seconds until the next start.
    fn crash_loop(step: f64, down: f64, dead: Option<f64>) -> String {
        let mut text = "seconds,usage_bytes\n".to_owned();
        for i in 0..(400.0 / step) as u64 {
            let t = i as f64 * step;
            let age = t % (30.0 + down);
            match dead {
                _ if age < 30.0 => text += &format!("{t},{}\n", ((6.0 + 506.0 * age / 30.0) * MIB) as u64),
                Some(dead) => text += &format!("{t},{}\n", (dead * MIB) as u64),
                None => {}
            }
        }
        text
    }

    #[test]
    fn a_crash_loop_is_as_many_starts_as_there_were() {
        for (name, text, starts) in [
            ("zeros between", crash_loop(1.0, 10.0, Some(0.0)), 10),
            ("holes between", crash_loop(1.0, 10.0, None), 10),
            ("coarse", crash_loop(5.0, 10.0, Some(0.2)), 10),
            ("at once", crash_loop(1.0, 0.0, None), 13),
            ("at once, seen later", crash_loop(1.0, 0.0, None).replace("6291456\n", "20971520\n"), 13),
        ] {
            let report = report(&text).unwrap();
            assert_eq!(report.starts_total, starts, "{name}");
            for start in &report.starts[..9] {
                assert_eq!((start.verdict, start.steady_bytes), ("ended", None), "{name}");
            }
            assert!(report.story().contains("starts in one curve"), "{name}");
        }
    }

    #[test]
    fn a_healthy_container_that_died_once_has_two_stories() {
        let start = |t: f64| if t < 10.0 { 8.0 + 39.0 * t } else { 260.0 };
        let usage = |t: f64| {
            if t < 200.0 {
                start(t)
            } else if t < 205.0 {
                0.0
            } else {
                start(t - 205.0)
            }
        };
        let report = report(&every(1.0, 400.0, |t| usage(t) * MIB)).unwrap();
        let [first, second] = &report.starts[..] else { panic!("{} starts", report.starts.len()) };
        assert_eq!((first.verdict, first.ended_seconds), ("stable", Some(200.0)));
        assert_eq!((second.verdict, second.started_seconds, second.ended_seconds), ("stable", 205.0, None));
        let apart = first.time_to_stable_seconds.unwrap() - second.time_to_stable_seconds.unwrap();
        assert!(apart.abs() <= 1.0, "{}", report.story());
    }

    #[test]
    fn one_process_that_frees_much_or_swings_is_one_start() {
        let freed = every(1.0, 300.0, |t| if t < 5.0 { 500.0 * MIB } else { 9.0 * MIB });
        assert_eq!(report(&freed).unwrap().starts_total, 1);
        let swing = every(1.0, 300.0, |t| if t % 20.0 < 10.0 { 500.0 * MIB } else { 50.0 * MIB });
        assert_eq!(report(&swing).unwrap().starts_total, 1);
    }

    #[test]
    fn rows_of_nothing_before_the_start_are_not_part_of_it() {
        let usage = |t: f64| if t < 100.0 { 0.0 } else { 200.0 * MIB };
        let report = report(&every(1.0, 200.0, usage)).unwrap();
        assert_eq!((report.starts_total, report.first.verdict), (1, "stable"));
        assert!(report.first.time_to_stable_seconds.unwrap() < 3.0, "{}", report.story());
    }

    #[test]
    fn a_gap_confirms_nothing() {
        let until_ten = csv(10.0, |_| 100.0 * MIB);
        let after = |t: f64| format!("{t},{}\n", 100.0 * MIB);
        let analysis = of(&(until_ten.clone() + &after(300.0) + &after(300.1))).unwrap();
        assert_eq!(
            (analysis.verdict, analysis.gaps, analysis.longest_gap_seconds.is_some()),
            ("settling", 1, true)
        );
        // It may have settled as late as 300 s: the hold is then two minutes.
        let rows: String = (0..1300).map(|i| after(300.0 + f64::from(i) / 10.0)).collect();
        let analysis = of(&(until_ten + &rows)).unwrap();
        assert_eq!(analysis.verdict, "stable");
        assert!(analysis.time_to_stable_seconds.unwrap() >= 300.0);
    }

    #[test]
    fn an_emptied_cgroup_is_an_end() {
        let killed = csv(5.0, |t| if t < 3.0 { t * 100.0 * MIB } else { 200_000.0 });
        let analysis = of(&killed).unwrap();
        assert_eq!((analysis.verdict, analysis.ended_seconds), ("ended", Some(3.0)));
        let stable = csv(40.0, |t| if t < 35.0 { 100.0 * MIB } else { 0.0 });
        let analysis = of(&stable).unwrap();
        assert_eq!((analysis.verdict, analysis.ended_seconds), ("stable", Some(35.0)));
    }

    proptest! {
        #[test]
        fn no_input_panics_and_every_figure_is_finite(
            rows in proptest::collection::vec((0.0..200.0_f64, 0.0..1e12_f64, 0.0..1e12_f64), 1..200)
        ) {
            let (mut now, mut text) = (0.0, "seconds,usage_bytes,anon_bytes,inactive_file_bytes\n".to_owned());
            for (step, usage, cache) in &rows {
                now += step;
                text += &format!("{now},{usage},0,{}\n", cache.min(*usage));
            }
            let analysis = of(&text).unwrap();
            let highest = rows.iter().map(|(_, usage, _)| *usage as u64).max().unwrap();
            prop_assert!(analysis.peak_bytes <= highest);
            for value in [analysis.overshoot_ratio, analysis.time_to_stable_seconds, Some(analysis.drift_bytes_per_second)] {
                prop_assert!(value.is_none_or(f64::is_finite), "{}", analysis.story());
            }
            prop_assert!(analysis.time_to_stable_seconds.is_none_or(|at| at <= now));
        }
    }
}
