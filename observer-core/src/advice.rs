//! Verdicts and advice: what a workload's requests, limits and scaling should be, from what was seen. Pure.
//!
//! The rule behind it: requests reflect steady usage; limits cover the peak plus headroom; start-up allocation is
//! controlled; memory settles; replicas follow request rate, queue depth or latency, never memory. A node and the whole
//! fleet are judged by the same functions: only where the [`Facts`] come from differs. Too little data is `unknown`,
//! with what is missing, never a guess.

use serde::{Deserialize, Serialize};

use crate::model::advice::{Advice, Check, CheckResult, Facts, Grade, Numbers};

pub mod checks;
pub mod concurrency;
pub mod facts;
pub mod noted;
pub mod pod_need;
pub mod sizing;
pub mod typical_curve;
pub mod watch;

/// What the user may choose.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Share of the worst peak that a limit leaves free above it.
    pub headroom: f64,
    /// Start-ups below which nothing is said of peaks: two points have no spread.
    pub min_startups: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { headroom: 0.10, min_startups: 3 }
    }
}

impl Advice {
    pub fn of(facts: &Facts, settings: &Settings) -> Self {
        let numbers = Numbers::of(facts, settings);
        let verdicts = checks::all(facts, &numbers, settings);
        Self { workload: facts.workload.clone(), verdicts, numbers }
    }

    pub fn worst(&self) -> Grade {
        self.verdicts.iter().map(|verdict| verdict.grade).max().unwrap_or(Grade::Unknown)
    }

    pub fn verdict(&self, check: Check) -> Option<&CheckResult> {
        self.verdicts.iter().find(|verdict| verdict.check == check)
    }
}
