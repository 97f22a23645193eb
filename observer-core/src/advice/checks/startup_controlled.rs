//! Is what a start-up takes above its steady level bounded?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::{advice::{Facts, Grade, Numbers}, units::Bytes}};

/// The headroom people set by habit.
const MILD_OVERSHOOT: f64 = 1.2;
/// A limit is then twice the steady use.
const HIGH_OVERSHOOT: f64 = 2.0;

pub(super) static CHECK: Declaration = Declaration {
    name: "startup_controlled",
    fails: "p95 of overshoot above 2",
    warns: "above 1.2",
    needs: "start-ups with a steady level",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, settings: &Settings) -> Judged {
    let Some([p50, p95, max]) =
        facts.startups.overshoot.filter(|_| facts.startups.count >= settings.min_startups)
    else {
        return unknown("too few start-ups with a steady level");
    };
    let growth = facts
        .startups
        .growth
        .map_or(String::new(), |[_, p95, _]| format!("; grows by up to {}/s", Bytes(p95.max(0.0) as u64)));
    let evidence = format!("overshoot {p50:.2} (p50), {p95:.2} (p95), {max:.2} (worst) of steady{growth}");
    match p95 {
        p95 if p95 > HIGH_OVERSHOOT => (Grade::Fail, evidence),
        p95 if p95 > MILD_OVERSHOOT => (Grade::Warn, evidence),
        _ => (Grade::Pass, evidence),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::grades}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::StartupControlled,
            &[
                (Fail, |facts| facts.startups.overshoot = Some([2.6; 3])),
                (Pass, |_| {}),
                (Warn, |facts| facts.startups.overshoot = Some([1.5; 3])),
                (Unknown, |facts| facts.startups.overshoot = None),
            ],
        );
    }
}
