//! Is one size right for all its pods, at all times?

use crate::{advice::{Settings, checks::{Declaration, Judged, unknown}}, model::advice::{Facts, Grade, Numbers}};

/// Levels that differ by a third between pods are not one size.
const ALIKE: f64 = 1.35;

pub(super) static CHECK: Declaration = Declaration {
    name: "predictable",
    fails: "",
    warns: "worst over typical above 1.35: peaks, levels between pods, or over time",
    needs: "start-ups with a steady level",
    judge,
};

fn judge(facts: &Facts, _numbers: &Numbers, settings: &Settings) -> Judged {
    let s = &facts.startups;
    let (true, Some([need, _, worst]), Some(steady)) =
        (s.whole >= settings.min_startups, s.need, facts.steady)
    else {
        return unknown("too few start-ups with a steady level");
    };
    let between = s.steady.map_or(1.0, |[p50, _, max]| max as f64 / p50.max(1) as f64);
    let peaks = worst as f64 / need.max(1) as f64;
    let over_time = steady.max as f64 / steady.p50.max(1) as f64;
    let evidence = format!(
        "worst over typical: start-up peak {peaks:.2}, settled level {between:.2}, working set over time {over_time:.2}"
    );
    match () {
        () if peaks <= ALIKE && between <= ALIKE && over_time <= ALIKE => (Grade::Pass, evidence),
        () if over_time > ALIKE && over_time > between => {
            (Grade::Warn, evidence + ": it moves while it runs, so bound what one pod works on at a time")
        }
        () => (Grade::Warn, evidence),
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Pass, Unknown, Warn}, checks::testing::{MIB, grades}}, model::advice::{Check, Steady}};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::Predictable,
            &[
                (Pass, |_| {}),
                (Warn, |facts| facts.startups.need = Some([90 * MIB, 120 * MIB, 130 * MIB])),
                (Warn, |facts| facts.startups.steady = Some([40 * MIB, 50 * MIB, 60 * MIB])),
                (Warn, |facts| {
                    facts.steady =
                        Some(Steady { p50: 40 * MIB, p95: 60 * MIB, max: 90 * MIB, seconds: 900.0 })
                }),
                (Unknown, |facts| facts.steady = None),
            ],
        );
    }
}
