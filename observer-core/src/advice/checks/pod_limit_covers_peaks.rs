//! Does the pod's limit hold what its containers need together?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::{advice::{Facts, Grade, Numbers}, units::Bytes}};

pub(super) static CHECK: Declaration = Declaration {
    name: "pod_limit_covers_peaks",
    fails: "the pod's limit is below the sum of its containers' worst needs, sidecars among them, or below an init container's with the sidecars before it",
    warns: "less than the headroom above it",
    needs: "a start-up of each of its containers",
    judge,
};

fn judge(facts: &Facts, numbers: &Numbers, settings: &Settings) -> Judged {
    let (siblings, init) = (facts.current.siblings_need, facts.current.init_need);
    match (facts.current.pod_limit, siblings.zip(init), numbers.worst) {
        (None, ..) => unknown("whether the pod has a limit is not known"),
        (Some(None), ..) => (Grade::Pass, "the pod as a whole has no limit".into()),
        (Some(Some(limit)), Some((siblings, init)), Some(worst)) => {
            let together = worst.saturating_add(siblings);
            let sum = together.max(init);
            let when = if init > together { " while its init containers run" } else { "" };
            let evidence = format!(
                "pod limit {}, worst needs of its containers {} together{when}",
                Bytes(limit),
                Bytes(sum)
            );
            match limit as f64 / sum.max(1) as f64 {
                ratio if ratio < 1.0 => (Grade::Fail, evidence),
                ratio if ratio < 1.0 + settings.headroom => (Grade::Warn, evidence),
                _ => (Grade::Pass, evidence),
            }
        }
        (Some(Some(limit)), ..) => {
            unknown(format!("pod limit {}; not all its containers have been seen starting", Bytes(limit)))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::{MIB, grades, pod}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::PodLimitCoversPeaks,
            &[
                (Unknown, |_| {}),
                (Pass, |facts| facts.current.pod_limit = Some(None)),
                (Pass, |facts| pod(facts, 200)),
                (Warn, |facts| pod(facts, 145)),
                (Fail, |facts| pod(facts, 130)),
                (Fail, |facts| {
                    pod(facts, 200);
                    facts.current.init_need = Some(210 * MIB);
                }),
                (Unknown, |facts| {
                    pod(facts, 200);
                    facts.current.siblings_need = None;
                }),
            ],
        );
    }
}
