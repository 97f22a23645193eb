//! What the tests of all checks share: facts of a workload with which nothing is wrong, and ways to spoil them.

use crate::{
    advice::Settings,
    model::{
        advice::{Advice, Check, Facts, Grade, Node, StartConcurrency, Startups, Steady},
        kubernetes::Autoscaler,
    },
};

pub const MIB: u64 = 1 << 20;

pub fn facts() -> Facts {
    let startups = Startups {
        count: 5,
        whole: 5,
        stable: 5,
        need: Some([90 * MIB; 3]),
        need_mean_log: Some(((90 * MIB) as f64).ln()),
        need_spread: Some(0.0),
        steady: Some([40 * MIB; 3]),
        overshoot: Some([1.1; 3]),
        ..Startups::default()
    };
    let mut facts = Facts { steady: Steady::of(None, &startups), startups, ..Facts::default() };
    facts.current.limit = Some(Some(128 * MIB));
    facts.current.request = Some(Some(40 * MIB));
    facts.autoscalers = Some(Vec::new());
    facts
}

pub fn scaler(kind: &str, signals: &[&str], mode: &str) -> Autoscaler {
    Autoscaler {
        kind: kind.into(),
        name: "a".into(),
        signals: signals.iter().map(|signal| (*signal).to_owned()).collect(),
        mode: mode.into(),
        ..Autoscaler::default()
    }
}

/// The container needs 90 MiB; the other container of the pod needs 50 MiB.
pub fn pod(facts: &mut Facts, limit: u64) {
    facts.current.pod_limit = Some(Some(limit * MIB));
    facts.current.siblings_need = Some(50 * MIB);
    facts.current.init_need = Some(0);
}

/// Four fit at once.
pub fn starting(facts: &mut Facts, seen: u64, burst: Option<u64>) {
    facts.node = Some(Node { headroom: 400 * MIB, shortages: 0 });
    facts.together = Some(StartConcurrency { settled: 10, at_once: 4, gap: Some(2.0), highest: 390 * MIB });
    facts.changes.starting_max = seen;
    facts.autoscalers =
        Some(vec![Autoscaler { burst, ..scaler("HorizontalPodAutoscaler", &["external queue"], "") }]);
}

pub fn probes(facts: &mut Facts, readiness: bool, early: (u64, u64)) {
    facts.current.startup_probe = Some(false);
    facts.current.readiness_probe = Some(readiness);
    facts.ready_early = Some(early);
}

/// Of four containers.
pub fn vpa_changed(facts: &mut Facts, resizes: u64) {
    facts.autoscalers = Some(vec![scaler("VerticalPodAutoscaler", &["memory"], "InPlaceOrRecreate")]);
    facts.current.containers = 4;
    facts.changes.resizes = resizes;
}

pub type Row = (Grade, fn(&mut Facts));

/// Judges each row, as `observer advise` gets it from a node. A check has to pass, to complain and to be unknown
/// somewhere.
pub fn grades(check: Check, rows: &[Row]) {
    let of = |wanted| rows.iter().any(|(grade, _)| *grade == wanted);
    assert!(of(Grade::Pass) && (of(Grade::Warn) || of(Grade::Fail)) && of(Grade::Unknown), "{check:?}");
    for (at, (grade, change)) in rows.iter().enumerate() {
        let mut facts = facts();
        change(&mut facts);
        let reported = serde_json::to_string(&facts).unwrap();
        let facts: Facts = serde_json::from_str(&reported).unwrap();
        let advice = Advice::of(&facts, &Settings::default());
        let verdict = advice.verdict(check).unwrap();
        assert_eq!(verdict.grade, *grade, "{check:?}, row {at}: {}", verdict.evidence);
        // What is promised in the documents is what can happen.
        let declaration = check.declaration();
        assert!(*grade != Grade::Fail || !declaration.fails.is_empty(), "{check:?} fails");
        assert!(*grade != Grade::Warn || !declaration.warns.is_empty(), "{check:?} warns");
    }
}
