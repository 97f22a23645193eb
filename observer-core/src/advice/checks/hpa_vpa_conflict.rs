//! Do a horizontal and a vertical autoscaler act on one resource?

use crate::{advice::{Settings, checks::{Declaration, Judged, acting_vpa}}, model::{advice::{Facts, Grade, Numbers}, kubernetes::Autoscaler}};

pub(super) static CHECK: Declaration = Declaration {
    name: "hpa_vpa_conflict",
    fails: "both act on the same resource, and the VPA is not `Off`",
    warns: "",
    needs: "the ledger",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, _settings: &Settings) -> Judged {
    let (scalers, vpa) = match acting_vpa(facts) {
        Ok(found) => found,
        Err(judged) => return judged,
    };
    let both = |one: &&Autoscaler| {
        one.kind.scales_horizontally() && ["memory", "cpu"].iter().any(|r| one.is_on(r) && vpa.is_on(r))
    };
    match scalers.iter().find(both) {
        Some(one) => (
            Grade::Fail,
            format!(
                "{} {} ({}) and VPA {} ({}) act on the same resource",
                one.kind,
                one.name,
                one.signals.join(", "),
                vpa.name,
                vpa.mode
            ),
        ),
        None => (
            Grade::Pass,
            format!("VPA {} ({}) shares no resource with a horizontal autoscaler", vpa.name, vpa.mode),
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown}, checks::testing::{grades, scaler}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::HpaVpaConflict,
            &[
                (Fail, |facts| {
                    facts.autoscalers = Some(vec![
                        scaler("HorizontalPodAutoscaler", &["resource cpu"], ""),
                        scaler("VerticalPodAutoscaler", &["cpu", "memory"], "Recreate"),
                    ]);
                }),
                (Pass, |facts| {
                    facts.autoscalers = Some(vec![
                        scaler("HorizontalPodAutoscaler", &["resource cpu"], ""),
                        scaler("VerticalPodAutoscaler", &["cpu", "memory"], "Off"),
                    ]);
                }),
                (Unknown, |facts| facts.autoscalers = None),
            ],
        );
    }
}
