//! The checklist: each check is one file, a function of the facts with what it is documented by. Pure.

use crate::{
    advice::Settings,
    model::{
        advice::{Advice, Check, CheckResult, Facts, Grade, Numbers},
        kubernetes::{Autoscaler, ObjectKind},
    },
};

#[cfg(test)]
mod testing;

/// Within the band of `stable`, two levels are the same.
const BAND: f64 = 0.05;

type Judged = (Grade, String);

/// A check, as it is judged and as docs/advice.md has it.
pub struct Declaration {
    pub name: &'static str,
    /// When it fails, and when it warns; empty: never.
    pub fails: &'static str,
    pub warns: &'static str,
    /// Without which it is unknown.
    pub needs: &'static str,
    judge: fn(&Facts, &Numbers, &Settings) -> Judged,
}

macro_rules! checks {
    ($($check:ident: $module:ident,)*) => {
        $(mod $module;)*

        impl Check {
            pub const ALL: [Check; [$(Check::$check),*].len()] = [$(Check::$check),*];

            pub fn declaration(self) -> &'static Declaration {
                match self {
                    $(Check::$check => &$module::CHECK,)*
                }
            }
        }
    };
}

// Each check and its file.
checks! {
    Settles: settles,
    StartupControlled: startup_controlled,
    RequestIsSteady: request_is_steady,
    LimitCoversPeak: limit_covers_peak,
    PodLimitCoversPeaks: pod_limit_covers_peaks,
    LimitSet: limit_set,
    ScalingSignal: scaling_signal,
    HpaVpaConflict: hpa_vpa_conflict,
    ScaleUpFits: scale_up_fits,
    ReadyAfterSettled: ready_after_settled,
    Predictable: predictable,
    VpaThrash: vpa_thrash,
}

impl Check {
    pub fn name(self) -> &'static str {
        self.declaration().name
    }
}

pub(super) fn all(facts: &Facts, numbers: &Numbers, settings: &Settings) -> Vec<CheckResult> {
    let verdict = |check: Check| {
        let (grade, evidence) = (check.declaration().judge)(facts, numbers, settings);
        CheckResult { check, grade, evidence }
    };
    Check::ALL.into_iter().map(verdict).collect()
}

fn unknown(why: impl Into<String>) -> Judged {
    (Grade::Unknown, why.into())
}

fn no_ledger() -> Judged {
    unknown("autoscalers are known from the ledger, which is not configured")
}

/// Everything that scales it, and the VPA among them that acts; without one, that is the verdict.
fn acting_vpa(facts: &Facts) -> Result<(&[Autoscaler], &Autoscaler), Judged> {
    let scalers = facts.autoscalers.as_ref().ok_or_else(no_ledger)?;
    let acts = |one: &&Autoscaler| one.kind == ObjectKind::VerticalPodAutoscaler && one.mode != "Off";
    let vpa = scalers.iter().find(acts).ok_or_else(|| (Grade::Pass, "no VPA acts on it".to_owned()))?;
    Ok((scalers, vpa))
}

impl Advice {
    /// Everything that is not as it should be, worst first.
    pub fn complaints(&self) -> Vec<&CheckResult> {
        let mut all: Vec<&CheckResult> = self.verdicts.iter().filter(|v| v.grade >= Grade::Warn).collect();
        all.sort_by_key(|verdict| std::cmp::Reverse(verdict.grade));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_one_name_in_metrics_tables_and_json() {
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.name());
        }
    }
}
