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
mod tests;
