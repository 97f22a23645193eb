//! Request and limit, in numbers a person would choose. Pure.
//!
//! - **Request** = p95 of the working set after start-up, over pods and time: what the scheduler reserves is what is used.
//! - **Limit** = the worst start-up seen plus the user's headroom, or more if the start-ups seen differ so much that one in
//!   a thousand must be expected above that: the one-sided 99.9 % prediction bound of a log-normal from as many start-ups
//!   (Hahn & Meeker, *Statistical Intervals*, section 4.8). Few start-ups, or unlike ones, make it larger by themselves.
//!   Where memory went higher after start-up, both are meant of that height.
//! - Start-ups the kernel cut off wanted more than they got. If no whole start-up was seen above them, the limit is a
//!   **trial**: twice the last one, to be asked again after the next start-up.

use serde::{Deserialize, Serialize};

use crate::advice::{Facts, Settings};

/// A trial doubles: from any limit, a peak 16 times as high is found in four start-ups. Nor does a prediction from few
/// start-ups go beyond twice the worst.
const TRIAL: u64 = 2;
const MIB: u64 = 1 << 20;
/// The runtime and the kernel's own pages need this much in any container (runc's init alone takes about 10 MB).
const LEAST: u64 = 16 * MIB;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    pub request: Option<u64>,
    pub limit: Option<AdvisedLimit>,
    /// Worst need seen: of a start-up, or later.
    pub worst: Option<u64>,
    /// Why a number is missing.
    pub missing: Option<String>,
    /// Request recommended less request of today, over all containers alive; negative: memory saved.
    pub request_change: Option<i64>,
    pub limit_change: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvisedLimit {
    /// `hold` in JSON, as scripts read it.
    #[serde(rename = "hold")]
    Firm(u64),
    /// Every start-up was cut off: this is where to look next.
    Trial(u64),
}

impl AdvisedLimit {
    pub fn bytes(self) -> u64 {
        match self {
            AdvisedLimit::Firm(bytes) | AdvisedLimit::Trial(bytes) => bytes,
        }
    }
}

impl Numbers {
    pub fn of(facts: &Facts, settings: &Settings) -> Self {
        let startups = &facts.startups;
        let missing = if startups.count < settings.min_startups {
            Some(format!("{} start-up(s) seen, {} needed", startups.count, settings.min_startups))
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
            (AdvisedLimit::Firm(bytes), Some(request)) => AdvisedLimit::Firm(bytes.max(request)),
            (limit, _) => limit,
        });
        let missing = match (request, limit) {
            (None, _) => Some("no start-up of it has become stable yet".to_owned()),
            (_, None) => Some("no whole start-up was seen".to_owned()),
            _ => None,
        };
        let alive = facts.current.containers as i64;
        let change = |now: Option<Option<u64>>, then: Option<u64>| {
            Some((then? as i64 - now??.min(i64::MAX as u64) as i64).saturating_mul(alive))
        };
        Self {
            request_change: change(facts.current.request, request),
            limit_change: change(facts.current.limit, limit.map(AdvisedLimit::bytes)),
            request,
            limit,
            worst,
            missing,
        }
    }
}

/// Highest need of a whole start-up, or of the time after it.
fn worst(facts: &Facts) -> Option<u64> {
    let startup = facts.startups.need.map(|[.., max]| max);
    startup.max(facts.steady.map(|steady| steady.max))
}

fn limit(facts: &Facts, worst: Option<u64>, settings: &Settings) -> Option<AdvisedLimit> {
    let startups = &facts.startups;
    // A child that is killed does not end the start-up, and cuts it off all the same.
    let child = worst.filter(|worst| facts.kills.by_limit() > 0 && facts.at_limit(*worst));
    let cut_above = startups.cut.filter(|cut| Some(*cut) >= worst).or(child);
    if let Some(cut) = cut_above {
        let tried = facts.current.limit.flatten().unwrap_or(0).max(cut);
        return Some(AdvisedLimit::Trial(round_up(tried.saturating_mul(TRIAL))));
    }
    let worst = worst?;
    let roomy = worst as f64 * (1.0 + settings.headroom);
    // What goes higher later than it did while starting differs between pods as the start-ups do.
    let later = startups.need.map_or(1.0, |[.., max]| worst as f64 / max.max(1) as f64);
    let next = prediction(startups.need_mean_log, startups.need_spread, startups.whole);
    let next = (next.unwrap_or(0.0) * later).min(worst as f64 * TRIAL as f64);
    Some(AdvisedLimit::Firm(round_up((roomy.max(next) as u64).max(LEAST))))
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
    use crate::{
        advice::facts::{Startups, Steady},
        workload::history::{PastStartup, StartupOutcome},
    };

    fn past(peak_mib: u64, outcome: StartupOutcome) -> PastStartup {
        PastStartup {
            started: peak_mib as f64,
            pod: format!("p{peak_mib}"),
            outcome,
            peak: peak_mib * MIB,
            peak_seconds: 1.0,
            unreclaimable_peak: peak_mib * MIB,
            growth: 0.0,
            time_to_stable: Some(2.0),
            steady: (outcome == StartupOutcome::Stable).then_some(40 * MIB),
            overshoot: Some(2.0),
            span: 1.0,
            curve: vec![peak_mib * MIB, 40 * MIB],
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
        use StartupOutcome::{Drifting, OomKilled, Stable};
        type Row = (&'static str, Vec<PastStartup>, Option<u64>, Option<AdvisedLimit>);
        let table: [Row; 6] = [
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
        // The same ones that go twice as high later as they did while starting: so may the next.
        let mut later = facts(&[50, 60, 70, 90].map(|peak| past(peak, Stable)), 64);
        later.steady = later.steady.map(|steady| Steady { max: 180 * MIB, ..steady });
        assert_eq!(Numbers::of(&later, &Settings::default()).limit, Some(AdvisedLimit::Firm(368 * MIB)));
        let numbers = Numbers::of(&facts(&vec![past(90, Stable); 3], 64), &Settings::default());
        assert_eq!(numbers.request_change, Some(-600 * MIB as i64), "ten containers, 60 MiB less each");
        assert_eq!(numbers.limit_change, Some(360 * MIB as i64));
    }
}
