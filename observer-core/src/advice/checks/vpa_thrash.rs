//! Does a VPA resize it again and again?

use crate::{advice::{Settings, checks::{Declaration, Judged, acting_vpa}}, model::advice::{Facts, Grade, Numbers}};

pub(super) static CHECK: Declaration = Declaration {
    name: "vpa_thrash",
    fails: "more than two changes a container since the observer started",
    warns: "more than one",
    needs: "the ledger",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, _settings: &Settings) -> Judged {
    let (_, vpa) = match acting_vpa(facts) {
        Ok(found) => found,
        Err(judged) => return judged,
    };
    let changes = facts.changes;
    let caused =
        changes.resizes.saturating_add(changes.restarts_after_resize).saturating_add(changes.rescheduled);
    let evidence = format!(
        "VPA {} ({}): {} resize(s) in place, {} restart(s) for a size, {} pod(s) replaced since the observer started",
        vpa.name, vpa.mode, changes.resizes, changes.restarts_after_resize, changes.rescheduled
    );
    // Each pod taking its first recommendation once is what a VPA is for.
    match caused {
        caused if caused > 2 * facts.current.containers.max(1) => (Grade::Fail, evidence),
        caused if caused > facts.current.containers.max(1) => (Grade::Warn, evidence),
        _ => (Grade::Pass, evidence),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::{grades, vpa_changed}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::VpaThrash,
            &[
                (Unknown, |facts| facts.autoscalers = None),
                (Pass, |_| {}),
                (Pass, |facts| vpa_changed(facts, 4)),
                (Warn, |facts| vpa_changed(facts, 5)),
                (Fail, |facts| vpa_changed(facts, 9)),
            ],
        );
    }
}
