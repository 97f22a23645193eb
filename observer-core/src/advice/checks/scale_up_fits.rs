//! Does what is started at once fit on the node?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::{advice::{Facts, Grade, Numbers}, units::{Bytes, Seconds}}};

pub(super) static CHECK: Declaration = Declaration {
    name: "scale_up_fits",
    fails: "more were seen starting at once than fit",
    warns: "its scaleUp policy or maxSurge allows more than fit",
    needs: "start-up curves; the node's free memory",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, _settings: &Settings) -> Judged {
    let (Some(node), Some(together)) = (facts.node, facts.together) else {
        return unknown("needs the start-up curves and the headroom of a node");
    };
    let seen = facts.changes.starting_max;
    let scaling = facts.autoscalers.iter().flatten().filter_map(|one| one.burst).max();
    let evidence = format!(
        "{} may start at once in the {} free on this node{}; seen starting at once: {seen}{}",
        together.at_once,
        Bytes(node.headroom),
        match together.gap {
            Some(gap) if gap > 0.0 => format!(", {} if {} apart", together.settled, Seconds(gap)),
            _ => String::new(),
        },
        match (scaling, facts.surge) {
            (None, None) => String::new(),
            (Some(burst), None) => format!("; in the cluster its scale-up policy allows {burst} at once"),
            (None, Some(surge)) => format!("; in the cluster its maxSurge allows {surge} at once"),
            (Some(burst), Some(surge)) =>
                format!("; in the cluster its scale-up policy allows {burst} at once, its maxSurge {surge}"),
        },
    );
    let policy = scaling.max(facts.surge);
    match () {
        () if seen > together.at_once => (Grade::Fail, evidence),
        () if policy.is_some_and(|burst| burst > together.at_once) => (Grade::Warn, evidence),
        () => (Grade::Pass, evidence),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::{grades, starting}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::ScaleUpFits,
            &[
                (Unknown, |_| {}),
                (Pass, |facts| starting(facts, 4, None)),
                (Warn, |facts| starting(facts, 4, Some(8))),
                (Fail, |facts| starting(facts, 5, None)),
                (Pass, |facts| {
                    starting(facts, 4, None);
                    facts.surge = Some(4);
                }),
                (Warn, |facts| {
                    starting(facts, 4, Some(4));
                    facts.surge = Some(5);
                }),
            ],
        );
    }
}
