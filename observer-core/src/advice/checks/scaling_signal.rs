//! Is it scaled by something else than memory?

use crate::{advice::{Settings, checks::{Declaration, Judged, no_ledger}}, model::{advice::{Facts, Grade, Numbers}, kubernetes::Autoscaler}};

pub(super) static CHECK: Declaration = Declaration {
    name: "scaling_signal",
    fails: "an HPA or KEDA trigger on memory: a pod that is not ready counts with its start-up memory",
    warns: "",
    needs: "the ledger",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, _settings: &Settings) -> Judged {
    let Some(scalers) = &facts.autoscalers else { return no_ledger() };
    let horizontal: Vec<&Autoscaler> = scalers.iter().filter(|one| one.kind.scales_horizontally()).collect();
    let of = |one: &Autoscaler| format!("{} {} scales on {}", one.kind, one.name, one.signals.join(", "));
    if let Some(one) = horizontal.iter().find(|one| one.is_on("memory")) {
        let startup = facts.startups.overshoot.map_or(String::new(), |[_, p95, _]| {
            format!(
                "; a start-up takes {p95:.2} times the steady level, and it counts while the pod is not ready"
            )
        });
        return (Grade::Fail, format!("{}{startup}", of(one)));
    }
    match horizontal.first() {
        None => (Grade::Pass, "nothing scales it".into()),
        Some(one) => (Grade::Pass, of(one)),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown}, checks::testing::{grades, scaler}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::ScalingSignal,
            &[
                (Pass, |facts| {
                    facts.autoscalers =
                        Some(vec![scaler("HorizontalPodAutoscaler", &["external memory queue"], "")])
                }),
                (Fail, |facts| facts.autoscalers = Some(vec![scaler("ScaledObject", &["memory"], "")])),
                (Unknown, |facts| facts.autoscalers = None),
            ],
        );
    }
}
