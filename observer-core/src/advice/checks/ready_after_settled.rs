//! Is it ready only after its memory settled?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::advice::{Facts, Grade, Numbers}};

pub(super) static CHECK: Declaration = Declaration {
    name: "ready_after_settled",
    fails: "",
    warns: "no startup or readiness probe, or most are ready before they settled",
    needs: "the pod's probes",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, _settings: &Settings) -> Judged {
    let (Some(startup), Some(readiness)) = (facts.current.startup_probe, facts.current.readiness_probe)
    else {
        return unknown("probes are not known outside Kubernetes");
    };
    match facts.ready_early {
        _ if !startup && !readiness => (
            Grade::Warn,
            "neither startupProbe nor readinessProbe: it counts as ready while it still allocates".into(),
        ),
        Some((early, seen)) if early.saturating_mul(2) > seen => {
            (Grade::Warn, format!("ready before its memory settled in {early} of {seen} start-ups"))
        }
        Some((early, seen)) if seen > 0 => {
            (Grade::Pass, format!("ready before its memory settled in {early} of {seen} start-ups"))
        }
        _ => unknown("no start-up was seen both settling and becoming ready"),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Pass, Unknown, Warn}, checks::testing::{grades, probes}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::ReadyAfterSettled,
            &[
                (Unknown, |_| {}),
                (Warn, |facts| probes(facts, false, (0, 4))),
                (Warn, |facts| probes(facts, true, (3, 4))),
                (Pass, |facts| probes(facts, true, (2, 4))),
                (Unknown, |facts| probes(facts, true, (0, 0))),
            ],
        );
    }
}
