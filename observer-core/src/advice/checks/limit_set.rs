//! Is there a limit?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::{advice::{Facts, Grade, Numbers}, units::Bytes}};

pub(super) static CHECK: Declaration = Declaration {
    name: "limit_set",
    fails: "none, on a node that was short",
    warns: "none",
    needs: "the limit",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, _settings: &Settings) -> Judged {
    match (facts.current.limit, facts.node) {
        (None, _) => unknown("the limit is not known"),
        (Some(Some(limit)), _) => (Grade::Pass, format!("limit {}", Bytes(limit))),
        (Some(None), Some(node)) if node.shortages > 0 || facts.kills.by_node > 0 => (
            Grade::Fail,
            format!(
                "no limit on a node that was short {} time(s), {} OOM kill(s) by the node: its spike is paid by others",
                node.shortages, facts.kills.by_node
            ),
        ),
        (Some(None), _) => (Grade::Warn, "no limit: a spike or a leak becomes the node's".into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::{MIB, grades}}, model::advice::{Check, Node}};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::LimitSet,
            &[
                (Warn, |facts| facts.current.limit = Some(None)),
                (Unknown, |facts| facts.current.limit = None),
                (Pass, |_| {}),
                (Fail, |facts| {
                    facts.current.limit = Some(None);
                    facts.node = Some(Node { headroom: 1024 * MIB, shortages: 1 });
                }),
            ],
        );
    }
}
