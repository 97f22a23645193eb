//! Does memory come to rest?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::{advice::{Facts, Grade, Numbers}, units::Seconds}};

pub(super) static CHECK: Declaration = Declaration {
    name: "settles",
    fails: "half of the start-ups drift",
    warns: "any drifts or swings",
    needs: "start-ups that settled",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, settings: &Settings) -> Judged {
    let s = &facts.startups;
    let others = [
        (s.drifting, "drift"),
        (s.oscillating, "swing"),
        (s.oom_killed, "OOM-killed first"),
        (s.cut_short, "lost a process to an OOM kill"),
        (s.failed, "failed first"),
        (s.ended, "ended first"),
    ];
    let others: String = others
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!(", {count} {what}"))
        .collect();
    let evidence = format!(
        "of {} start-ups {} settled{others}{}",
        s.count,
        s.stable,
        s.time_to_stable.map_or(String::new(), |[p50, p95, _]| format!(
            "; stable after {} (p50), {} (p95)",
            Seconds(p50),
            Seconds(p95)
        )),
    );
    match () {
        () if s.drifting > 0 && s.drifts() => (Grade::Fail, evidence),
        () if s.drifting > 0 || s.oscillating > 0 => (Grade::Warn, evidence),
        () if s.stable < settings.min_startups => {
            unknown(format!("{evidence}; {} that settled are needed", settings.min_startups))
        }
        () => (Grade::Pass, evidence),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::grades}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::Settles,
            &[
                (Pass, |_| {}),
                (Fail, |facts| facts.startups.drifting = 5),
                (Warn, |facts| facts.startups.oscillating = 1),
                (Unknown, |facts| facts.startups.stable = 2),
            ],
        );
    }
}
