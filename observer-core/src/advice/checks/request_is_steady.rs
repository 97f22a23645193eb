//! Is the request what it steadily uses?

use crate::{advice::{Settings, checks::{BAND, Declaration, Judged, unknown}}, model::{advice::{Facts, Grade, Numbers}, units::Bytes}};

/// Half as much again is idle.
const IDLE_REQUEST: f64 = 1.5;

pub(super) static CHECK: Declaration = Declaration {
    name: "request_is_steady",
    fails: "no request, or below p95 of steady by more than 5 %",
    warns: "above one and a half times it",
    needs: "a steady level; the pod's status",
    judge,
};

fn judge(facts: &Facts, numbers: &Numbers, _settings: &Settings) -> Judged {
    let (Some(steady), Some(advised)) = (facts.steady, numbers.request) else {
        return unknown(numbers.missing.clone().unwrap_or_else(|| "no steady level is known".into()));
    };
    let p95 = Bytes(steady.p95);
    match facts.current.request {
        None => unknown(format!("steady p95 is {p95}; the request is not known outside Kubernetes")),
        Some(None) => (
            Grade::Fail,
            format!(
                "no request; steady p95 is {p95}: first to be evicted, and the scheduler packs it as nothing"
            ),
        ),
        Some(Some(request)) => {
            let evidence = format!("request {}, steady p95 {p95}", Bytes(request));
            let (request, steady) = (request as f64, steady.p95 as f64);
            match () {
                () if request < steady * (1.0 - BAND) => (Grade::Fail, evidence),
                () if request > (steady * IDLE_REQUEST).max(advised as f64) => {
                    (Grade::Warn, evidence + ": the rest is reserved and idle")
                }
                () => (Grade::Pass, evidence),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{advice::{Grade::{Fail, Pass, Unknown, Warn}, checks::testing::{MIB, grades}}, model::advice::Check};

    #[test]
    fn grades_are_of_the_facts() {
        grades(
            Check::RequestIsSteady,
            &[
                (Pass, |_| {}),
                (Fail, |facts| facts.current.request = Some(None)),
                (Warn, |facts| facts.current.request = Some(Some(100 * MIB))),
                (Fail, |facts| facts.current.request = Some(Some(30 * MIB))),
                (Unknown, |facts| facts.current.request = None),
            ],
        );
    }
}
