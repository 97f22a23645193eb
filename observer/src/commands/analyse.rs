//! A recorded memory curve -> the story of its start-up. Works without root, anywhere.
//!
//! One pass, flat memory. One file is one start; time zero is the exec of the entry point, or whatever the file begins with.

use std::io::BufRead;

use serde::Serialize;

use observer_core::{
    container::{
        curve::Curve,
        stability::{Swing, Verdict, band},
        startup::{Sample, Startup},
    },
    model::units::{Bytes, Seconds},
};

pub mod input;
pub mod plot;

pub use input::{BadInput, Row};

/// Spans of the drawn curve: about one per pixel.
const DRAWN: usize = 1024;
/// An emptied cgroup keeps only kernel memory: less than this share of its peak, and less than a band.
const GONE_SHARE: f64 = 0.02;
/// Longer than this, and ten times the usual spacing, is a gap: nobody knows what happened in it. 15 s is the shortest
/// hold, so a shorter gap cannot confirm anything by itself.
const GAP_SECONDS: f64 = 15.0;
const GAP_SPACINGS: f64 = 10.0;

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Drawn, and compared with the peak. Bytes.
    pub limit: Option<u64>,
    /// The process ended with the last sample.
    pub ended: bool,
}

/// What `observer analyse --json` prints. Seconds since time zero, bytes; null: not known, or there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// settling, stable, drifting, oscillating, ended
    pub verdict: &'static str,
    /// For oscillating: until the envelope it stays in.
    pub time_to_stable_seconds: Option<f64>,
    /// When the time to stable was known: after the hold.
    pub confirmed_seconds: Option<f64>,
    /// Highest usage on the way to stable; without a steady state, of all.
    pub peak_bytes: u64,
    pub peak_seconds: f64,
    pub peak_anon_bytes: Option<u64>,
    /// Level of the working set where it lives; for oscillating, the top of the swing.
    pub steady_bytes: Option<u64>,
    /// Highest working set over steady level.
    pub overshoot_ratio: Option<f64>,
    /// Levels it rested on.
    pub plateaus: u32,
    /// Growth of the floor over the last two octaves of time; a verdict only if drifting.
    pub drift_bytes_per_second: f64,
    pub fastest_growth_bytes_per_second: f64,
    pub swing_low_bytes: Option<u64>,
    pub swing_high_bytes: Option<u64>,
    pub swing_period_seconds: Option<f64>,
    pub limit_bytes: Option<u64>,
    /// Peak over limit.
    pub peak_of_limit_ratio: Option<f64>,
    pub ended_seconds: Option<f64>,
    pub samples: u64,
    pub duration_seconds: f64,
    /// Typical distance of two samples: nothing can be dated more exactly than this.
    pub spacing_seconds: f64,
    pub gaps: u64,
    pub longest_gap_seconds: Option<f64>,
}

/// The analysis and what a plot needs beside it.
#[derive(Debug)]
pub struct Analysed {
    pub analysis: Analysis,
    pub usage: Curve<DRAWN>,
    pub working_set: Curve<DRAWN>,
}

pub fn analyse(input: impl BufRead, options: Options) -> Result<Analysed, BadInput> {
    let mut course = Course::default();
    input::read(input, |row| course.row(row))?;
    course.finish(options)
}

#[derive(Debug, Default)]
struct Course {
    startup: Startup,
    usage: Curve<DRAWN>,
    working_set: Curve<DRAWN>,
    samples: u64,
    last: f64,
    spacing: f64,
    gaps: u64,
    longest_gap: f64,
    highest: u64,
    gone_since: Option<f64>,
}

impl Course {
    fn row(&mut self, row: Row) {
        let (Row { seconds, usage, anon, .. }, working_set) = (row, row.working_set());
        self.space(seconds);
        self.samples += 1;
        self.last = seconds;
        self.usage.push(seconds, usage as f64);
        self.working_set.push(seconds, working_set as f64);
        self.highest = self.highest.max(usage);
        let gone = (usage as f64) < (GONE_SHARE * self.highest as f64).min(band(0.0));
        if gone {
            self.gone_since.get_or_insert(seconds);
            return;
        }
        self.gone_since = None;
        self.startup.sample(Sample { seconds, usage, working_set, anon });
    }

    /// Learns the usual spacing, and notices gaps.
    fn space(&mut self, seconds: f64) {
        if self.samples == 0 {
            return;
        }
        let step = seconds - self.last;
        if self.samples == 1 {
            self.spacing = step;
        } else if step > GAP_SECONDS && step > GAP_SPACINGS * self.spacing {
            self.gaps += 1;
            self.longest_gap = self.longest_gap.max(step);
            self.startup.unseen_until(seconds);
        } else {
            // An average that forgets: samplers slow down when nothing happens.
            self.spacing += (step - self.spacing) / 16.0;
        }
    }

    fn finish(self, options: Options) -> Result<Analysed, BadInput> {
        if self.samples == 0 {
            return Err(BadInput::Empty);
        }
        let startup = &self.startup;
        let ended = self.gone_since.or(options.ended.then_some(self.last));
        let verdict = match startup.verdict() {
            Verdict::Stable => "stable",
            Verdict::Drifting => "drifting",
            Verdict::Oscillating => "oscillating",
            Verdict::Settling if ended.is_some() => "ended",
            Verdict::Settling => "settling",
        };
        let peak = startup.peak();
        let swing = startup.swing();
        let swing_of = |part: fn(Swing) -> f64| swing.map(part);
        let analysis = Analysis {
            verdict,
            time_to_stable_seconds: startup.time_to_stable(),
            confirmed_seconds: startup.settled().map(|settled| settled.confirmed_at),
            peak_bytes: peak.bytes,
            peak_seconds: peak.seconds,
            peak_anon_bytes: peak.anon,
            steady_bytes: startup.steady().map(|bytes| bytes as u64),
            overshoot_ratio: startup.overshoot(),
            plateaus: startup.plateaus(),
            drift_bytes_per_second: startup.drift_rate(),
            fastest_growth_bytes_per_second: startup.fastest_growth(),
            swing_low_bytes: swing_of(|swing| swing.low).map(|bytes| bytes as u64),
            swing_high_bytes: swing_of(|swing| swing.high).map(|bytes| bytes as u64),
            swing_period_seconds: swing_of(|swing| swing.period),
            limit_bytes: options.limit,
            peak_of_limit_ratio: options.limit.map(|limit| peak.bytes as f64 / limit as f64),
            ended_seconds: ended,
            samples: self.samples,
            duration_seconds: self.last,
            spacing_seconds: self.spacing,
            gaps: self.gaps,
            longest_gap_seconds: (self.gaps > 0).then_some(self.longest_gap),
        };
        Ok(Analysed { analysis, usage: self.usage, working_set: self.working_set })
    }
}

impl Analysis {
    /// The story as text.
    pub fn story(&self) -> String {
        let mut lines = vec![self.headline()];
        lines.push(format!("peak          {}{}", Bytes(self.peak_bytes), self.peak_detail()));
        if let Some(steady) = self.steady_bytes {
            let what = if self.verdict == "oscillating" { "top of the swing" } else { "working set" };
            lines.push(format!("steady        {} ({what})", Bytes(steady)));
        }
        if let Some(overshoot) = self.overshoot_ratio {
            lines.push(format!("overshoot     {overshoot:.2} (highest working set over steady)"));
        }
        if self.plateaus > 1 {
            lines.push(format!("plateaus      {}", self.plateaus));
        }
        lines.push(format!(
            "growth        {}/s at the fastest",
            Bytes(self.fastest_growth_bytes_per_second as u64)
        ));
        lines.push(format!(
            "seen          {} samples over {}, about {} apart",
            self.samples,
            Seconds(self.duration_seconds),
            Seconds(self.spacing_seconds)
        ));
        if let Some(longest) = self.longest_gap_seconds {
            lines.push(format!(
                "gaps          {}, the longest {}: what happened in them is not known, no hold reaches across",
                self.gaps,
                Seconds(longest)
            ));
        }
        lines.join("\n") + "\n"
    }

    fn headline(&self) -> String {
        let end = self.ended_seconds.map_or(String::new(), |at| format!("; it ended after {}", Seconds(at)));
        match (self.verdict, self.time_to_stable_seconds) {
            ("stable", Some(at)) => {
                let known = self.confirmed_seconds.unwrap_or(at);
                format!("stable after {} (known after {}){end}", Seconds(at), Seconds(known))
            }
            ("drifting", _) => {
                let rate = self.drift_bytes_per_second;
                let way = if rate < 0.0 { "falls" } else { "grows" };
                format!("drifting: it {way} by {}/s and does not slow down{end}", Bytes(rate.abs() as u64))
            }
            ("oscillating", _) => format!(
                "oscillating between {} and {} every {}, inside that since {}{end}",
                Bytes(self.swing_low_bytes.unwrap_or(0)),
                Bytes(self.swing_high_bytes.unwrap_or(0)),
                Seconds(self.swing_period_seconds.unwrap_or(0.0)),
                Seconds(self.time_to_stable_seconds.unwrap_or(0.0)),
            ),
            ("ended", _) => format!("ended before it was stable{end}"),
            _ => format!("not settled: {} are too short, or it still moves", Seconds(self.duration_seconds)),
        }
    }

    fn peak_detail(&self) -> String {
        let anon =
            self.peak_anon_bytes.map_or(String::new(), |anon| format!(", {} of it anonymous", Bytes(anon)));
        let limit = match (self.peak_of_limit_ratio, self.limit_bytes) {
            (Some(ratio), Some(limit)) => format!(", {:.0} % of the limit {}", 100.0 * ratio, Bytes(limit)),
            _ => String::new(),
        };
        format!(" after {}{anon}{limit}", Seconds(self.peak_seconds))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<Analysis, String> {
        analyse(text.as_bytes(), Options::default())
            .map(|done| done.analysis)
            .map_err(|error| error.to_string())
    }

    /// `value` at each tenth of a second.
    fn csv(seconds: f64, value: impl Fn(f64) -> f64) -> String {
        let rows = (0..(seconds * 10.0) as u64).map(|i| i as f64 / 10.0);
        rows.fold("seconds,usage_bytes\n".to_owned(), |text, t| text + &format!("{t},{}\n", value(t)))
    }

    const MIB: f64 = 1024.0 * 1024.0;

    #[test]
    fn bad_input_is_refused_with_its_line() {
        let table = [
            ("", "no samples"),
            ("seconds,usage_bytes\n", "no samples"),
            ("0,NaN\n", "line 1: usage_bytes NaN is not a finite number"),
            ("0,1\n1,-5\n", "line 2: usage_bytes -5 is not"),
            ("0,1\n-1,5\n", "line 2: seconds -1 is not"),
            ("0,1\n2,5\n1,5\n", "line 3: time goes back, 1 after 2"),
            ("0,1\n1,lots\n", "line 2: usage_bytes \"lots\" is not a number"),
            ("0,1\n1\n", "line 2: 1 fields, expected 2"),
            ("seconds,rss\n0,1\n", "do not name usage_bytes"),
            ("5\n", "do not name usage_bytes"),
            ("{\"status\":\"error\",\"error\":\"bad query\"}", "bad query"),
            ("{\"status\":\"success\",\"data\":{\"resultType\":\"vector\",\"result\":[]}}", "query_range"),
            ("{\"status\":\"success\",\"data\":{\"resultType\":\"matrix\",\"result\":[{},{}]}}", "2 series"),
            ("{", "not a Prometheus"),
        ];
        for (text, expected) in table {
            let error = of(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

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
    fn a_prometheus_answer_is_read_like_a_csv() {
        let values: Vec<String> = (0..40).map(|i| format!("[{},\"1.5e8\"]", 1_790_000_000 + i * 5)).collect();
        let text = format!(
            "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{{\"metric\":{{}},\"values\":[{}]}}]}}}}",
            values.join(",")
        );
        let analysis = of(&text).unwrap();
        assert_eq!((analysis.verdict, analysis.peak_bytes), ("stable", 150_000_000));
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
            let (mut now, mut text) = (0.0, String::new());
            for (step, usage, cache) in &rows {
                now += step;
                text += &format!("{now},{usage},0,{cache}\n");
            }
            let analysis = of(&text).unwrap();
            let highest = rows.iter().map(|(_, usage, _)| *usage as u64).max().unwrap();
            prop_assert!(analysis.peak_bytes <= highest);
            for value in [analysis.overshoot_ratio, analysis.time_to_stable_seconds, Some(analysis.drift_bytes_per_second)] {
                prop_assert!(value.is_none_or(f64::is_finite));
            }
            prop_assert!(analysis.time_to_stable_seconds.is_none_or(|at| at <= now));
        }

        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = analyse(&bytes[..], Options::default());
        }
    }
}
