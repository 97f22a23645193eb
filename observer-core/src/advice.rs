//! Verdicts and advice: what a workload's requests, limits and scaling should be, from what was seen. Pure.
//!
//! The rule behind it: requests reflect steady usage; limits cover the peak plus headroom; start-up allocation is
//! controlled; memory settles; replicas follow request rate, queue depth or latency, never memory. A node and the whole
//! fleet are judged by the same functions: only where the [`Facts`] come from differs. Too little data is `unknown`,
//! with what is missing, never a guess.

use serde::{Deserialize, Serialize};

use crate::workload::history::Workload;

pub mod checks;
pub mod concurrency;
pub mod facts;
pub mod pod_need;
pub mod sizing;
pub mod typical_curve;
pub mod watch;

pub use checks::Check;
pub use facts::Facts;
pub use sizing::Numbers;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    Unknown,
    Pass,
    Warn,
    Fail,
}

impl Grade {
    pub const ALL: [Grade; 4] = [Grade::Unknown, Grade::Pass, Grade::Warn, Grade::Fail];

    pub fn name(self) -> &'static str {
        match self {
            Grade::Unknown => "unknown",
            Grade::Pass => "pass",
            Grade::Warn => "warn",
            Grade::Fail => "fail",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckResult {
    pub check: Check,
    pub grade: Grade,
    /// What was seen, with numbers; for `unknown`, what is missing.
    pub evidence: String,
}

/// Of one container of one workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    #[serde(flatten)]
    pub workload: Workload,
    pub verdicts: Vec<CheckResult>,
    pub numbers: Numbers,
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
