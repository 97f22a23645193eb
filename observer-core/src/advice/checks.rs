//! The checklist: each a function of the facts. Pure.
//!
//! Thresholds, and why: an overshoot of 1.2 is the headroom people set by habit, at 2 a limit is twice the steady use; a
//! request within 5 % (the band of `stable`) of p95 is right, half as much again is idle; levels that differ by a third
//! between pods are not one size.

use crate::{
    advice::{Advice, Check, CheckResult, Facts, Grade, Numbers, Settings, sizing::AdvisedLimit},
    model::{
        kubernetes::Autoscaler,
        units::{Bytes, Seconds},
    },
};

const MILD_OVERSHOOT: f64 = 1.2;
const HIGH_OVERSHOOT: f64 = 2.0;
const IDLE_REQUEST: f64 = 1.5;
const BAND: f64 = 0.05;
const ALIKE: f64 = 1.35;

type Judged = (Grade, String);

pub(super) fn all(facts: &Facts, numbers: &Numbers, settings: &Settings) -> Vec<CheckResult> {
    let judge = |check| match check {
        Check::Settles => settles(facts, settings),
        Check::StartupControlled => startup_controlled(facts, settings),
        Check::RequestIsSteady => request_is_steady(facts, numbers),
        Check::LimitCoversPeak => limit_covers_peak(facts, numbers),
        Check::PodLimitCoversPeaks => pod_limit(facts, numbers, settings),
        Check::LimitSet => limit_set(facts),
        Check::ScalingSignal => scaling_signal(facts),
        Check::HpaVpaConflict => hpa_vpa_conflict(facts),
        Check::ScaleUpFits => scale_up_fits(facts),
        Check::ReadyAfterSettled => ready_after_settled(facts),
        Check::Predictable => predictable(facts, settings),
        Check::VpaThrash => vpa_thrash(facts),
    };
    let verdict = |check| {
        let (grade, evidence) = judge(check);
        CheckResult { check, grade, evidence }
    };
    Check::ALL.into_iter().map(verdict).collect()
}

fn unknown(why: impl Into<String>) -> Judged {
    (Grade::Unknown, why.into())
}

fn no_ledger() -> Judged {
    unknown("the ledger tells the autoscalers, and is not asked")
}

/// Everything that scales it, and the VPA among them that acts; without one, that is the verdict.
fn acting_vpa(facts: &Facts) -> Result<(&[Autoscaler], &Autoscaler), Judged> {
    let scalers = facts.autoscalers.as_ref().ok_or_else(no_ledger)?;
    let acts = |one: &&Autoscaler| one.kind == "VerticalPodAutoscaler" && one.mode != "Off";
    let vpa = scalers.iter().find(acts).ok_or_else(|| (Grade::Pass, "no VPA acts on it".to_owned()))?;
    Ok((scalers, vpa))
}

fn settles(facts: &Facts, settings: &Settings) -> Judged {
    let s = &facts.startups;
    let evidence = format!(
        "of {} start-ups {} settled, {} drift, {} swing, {} were OOM-killed first, {} lost a process to an OOM kill, {} failed first, {} ended first{}",
        s.count,
        s.stable,
        s.drifting,
        s.oscillating,
        s.oom_killed,
        s.cut_short,
        s.failed,
        s.ended,
        s.time_to_stable.map_or(String::new(), |[p50, p95, _]| format!(
            "; stable after {} (p50), {} (p95)",
            Seconds(p50),
            Seconds(p95)
        )),
    );
    match () {
        () if s.drifting > 0 && s.drifts() => (Grade::Fail, evidence),
        () if s.drifting + s.oscillating > 0 => (Grade::Warn, evidence),
        () if s.stable < settings.min_startups => {
            unknown(format!("{evidence}; {} that settled are needed", settings.min_startups))
        }
        () => (Grade::Pass, evidence),
    }
}

fn startup_controlled(facts: &Facts, settings: &Settings) -> Judged {
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

fn request_is_steady(facts: &Facts, numbers: &Numbers) -> Judged {
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

fn limit_covers_peak(facts: &Facts, numbers: &Numbers) -> Judged {
    let s = &facts.startups;
    let Some(limit) = facts.current.limit else { return unknown("the limit is not known") };
    let Some(limit) = limit else { return unknown("no limit is set: see limit_set") };
    let own = facts.kills.by_limit();
    let killed = if own > 0 || s.cut_off() > 0 {
        format!("; {} OOM kill(s) by it, {} of {} start-ups cut off", own, s.cut_off(), s.count)
    } else {
        String::new()
    };
    if let Some(cut) = s.cut.filter(|cut| limit <= cut.saturating_mul(21) / 20) {
        let evidence = format!("limit {}, start-ups cut off at {}{killed}", Bytes(limit), Bytes(cut));
        return match numbers.worst {
            // One that went wrong, where the others fit.
            Some(worst) if s.cut_off() == 1 && s.whole > 1 && worst <= limit => {
                (Grade::Warn, format!("{evidence}; the {} whole ones need up to {}", s.whole, Bytes(worst)))
            }
            _ => (Grade::Fail, evidence),
        };
    }
    let Some(worst) = numbers.worst else {
        return unknown(format!("no start-up came through whole{}", s.broken_off()));
    };
    let evidence =
        format!("limit {}, worst need {} in {} start-ups{killed}", Bytes(limit), Bytes(worst), s.whole);
    if worst > limit || own > 0 && facts.at_limit(worst) {
        return (Grade::Fail, evidence);
    }
    match numbers.limit {
        Some(AdvisedLimit::Firm(advised)) if limit as f64 >= advised as f64 * (1.0 - BAND) => {
            match s.drifting {
                0 => (Grade::Pass, evidence),
                _ => (Grade::Warn, evidence + "; some of it drift, and will meet any limit"),
            }
        }
        Some(advised) => (
            Grade::Warn,
            format!("{evidence}: less free above it than {} would leave", Bytes(advised.bytes())),
        ),
        None => {
            unknown(format!("{evidence}; {}", numbers.missing.as_deref().unwrap_or("too little is known")))
        }
    }
}

fn pod_limit(facts: &Facts, numbers: &Numbers, settings: &Settings) -> Judged {
    let (siblings, init) = (facts.current.siblings_need, facts.current.init_need);
    match (facts.current.pod_limit, siblings.zip(init), numbers.worst) {
        (None, ..) => unknown("whether the pod has a limit is not known"),
        (Some(None), ..) => (Grade::Pass, "the pod as a whole has no limit".into()),
        (Some(Some(limit)), Some((siblings, init)), Some(worst)) => {
            let together = worst.saturating_add(siblings);
            let sum = together.max(init);
            let when = if init > together { " while its init containers run" } else { "" };
            let evidence = format!(
                "pod limit {}, worst needs of its containers {} together{when}",
                Bytes(limit),
                Bytes(sum)
            );
            match limit as f64 / sum.max(1) as f64 {
                ratio if ratio < 1.0 => (Grade::Fail, evidence),
                ratio if ratio < 1.0 + settings.headroom => (Grade::Warn, evidence),
                _ => (Grade::Pass, evidence),
            }
        }
        (Some(Some(limit)), ..) => {
            unknown(format!("pod limit {}; not all its containers have been seen starting", Bytes(limit)))
        }
    }
}

fn limit_set(facts: &Facts) -> Judged {
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

fn scaling_signal(facts: &Facts) -> Judged {
    let Some(scalers) = &facts.autoscalers else { return no_ledger() };
    let horizontal: Vec<&Autoscaler> = scalers.iter().filter(|one| one.is_horizontal()).collect();
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

fn hpa_vpa_conflict(facts: &Facts) -> Judged {
    let (scalers, vpa) = match acting_vpa(facts) {
        Ok(found) => found,
        Err(judged) => return judged,
    };
    let both = |one: &&Autoscaler| {
        one.is_horizontal() && ["memory", "cpu"].iter().any(|r| one.is_on(r) && vpa.is_on(r))
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

fn scale_up_fits(facts: &Facts) -> Judged {
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

fn ready_after_settled(facts: &Facts) -> Judged {
    let (Some(startup), Some(readiness)) = (facts.current.startup_probe, facts.current.readiness_probe)
    else {
        return unknown("probes are not known outside Kubernetes");
    };
    match facts.ready_early {
        _ if !startup && !readiness => (
            Grade::Warn,
            "neither startupProbe nor readinessProbe: it counts as ready while it still allocates".into(),
        ),
        Some((early, seen)) if early * 2 > seen => {
            (Grade::Warn, format!("ready before its memory settled in {early} of {seen} start-ups"))
        }
        Some((early, seen)) if seen > 0 => {
            (Grade::Pass, format!("ready before its memory settled in {early} of {seen} start-ups"))
        }
        _ => unknown("no start-up was seen both settling and becoming ready"),
    }
}

fn predictable(facts: &Facts, settings: &Settings) -> Judged {
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

fn vpa_thrash(facts: &Facts) -> Judged {
    let (_, vpa) = match acting_vpa(facts) {
        Ok(found) => found,
        Err(judged) => return judged,
    };
    let changes = facts.changes;
    let caused = changes.resizes + changes.restarts_after_resize + changes.rescheduled;
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

impl Advice {
    /// Everything that is not as it should be, worst first.
    pub fn complaints(&self) -> Vec<&CheckResult> {
        let mut all: Vec<&CheckResult> = self.verdicts.iter().filter(|v| v.grade >= Grade::Warn).collect();
        all.sort_by_key(|verdict| std::cmp::Reverse(verdict.grade));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::{
        concurrency::StartConcurrency,
        facts::{Node, Startups, Steady},
    };

    const MIB: u64 = 1 << 20;

    fn facts() -> Facts {
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

    fn scaler(kind: &str, signals: &[&str], mode: &str) -> Autoscaler {
        Autoscaler {
            kind: kind.into(),
            name: "a".into(),
            signals: signals.iter().map(|signal| (*signal).to_owned()).collect(),
            mode: mode.into(),
            ..Autoscaler::default()
        }
    }

    /// Beside one that needs 50 MiB; it needs 90.
    fn pod(facts: &mut Facts, limit: u64) {
        facts.current.pod_limit = Some(Some(limit * MIB));
        facts.current.siblings_need = Some(50 * MIB);
        facts.current.init_need = Some(0);
    }

    /// Four fit at once.
    fn starting(facts: &mut Facts, seen: u64, burst: Option<u64>) {
        facts.node = Some(Node { headroom: 400 * MIB, shortages: 0 });
        facts.together =
            Some(StartConcurrency { settled: 10, at_once: 4, gap: Some(2.0), highest: 390 * MIB });
        facts.changes.starting_max = seen;
        facts.autoscalers =
            Some(vec![Autoscaler { burst, ..scaler("HorizontalPodAutoscaler", &["external queue"], "") }]);
    }

    fn probes(facts: &mut Facts, readiness: bool, early: (u64, u64)) {
        facts.current.startup_probe = Some(false);
        facts.current.readiness_probe = Some(readiness);
        facts.ready_early = Some(early);
    }

    /// Of four containers.
    fn vpa_changed(facts: &mut Facts, resizes: u64) {
        facts.autoscalers = Some(vec![scaler("VerticalPodAutoscaler", &["memory"], "InPlaceOrRecreate")]);
        facts.current.containers = 4;
        facts.changes.resizes = resizes;
    }

    #[test]
    fn checks_pass_what_is_right_and_not_what_is_wrong() {
        use Check::*;
        use Grade::{Fail, Pass, Unknown, Warn};
        type Change = fn(&mut Facts);
        let hpa = |facts: &mut Facts, signal: &str| {
            facts.autoscalers = Some(vec![scaler("HorizontalPodAutoscaler", &[signal], "")]);
        };
        let table: &[(Check, Grade, Change)] = &[
            (Settles, Pass, |_| {}),
            (Settles, Fail, |facts| facts.startups.drifting = 5),
            (Settles, Warn, |facts| facts.startups.oscillating = 1),
            (Settles, Unknown, |facts| facts.startups.stable = 2),
            (StartupControlled, Fail, |facts| facts.startups.overshoot = Some([2.6; 3])),
            (RequestIsSteady, Pass, |_| {}),
            (RequestIsSteady, Fail, |facts| facts.current.request = Some(None)),
            (RequestIsSteady, Warn, |facts| facts.current.request = Some(Some(100 * MIB))),
            (LimitCoversPeak, Pass, |_| {}),
            (LimitCoversPeak, Fail, |facts| facts.current.limit = Some(Some(80 * MIB))),
            (LimitCoversPeak, Warn, |facts| facts.current.limit = Some(Some(92 * MIB))),
            (LimitCoversPeak, Unknown, |facts| facts.startups.drifting = 5),
            (LimitSet, Warn, |facts| facts.current.limit = Some(None)),
            (ScalingSignal, Pass, |facts| {
                facts.autoscalers =
                    Some(vec![scaler("HorizontalPodAutoscaler", &["external memory queue"], "")])
            }),
            (ScalingSignal, Fail, |facts| {
                facts.autoscalers = Some(vec![scaler("ScaledObject", &["memory"], "")])
            }),
            (ScalingSignal, Unknown, |facts| facts.autoscalers = None),
            (HpaVpaConflict, Fail, |facts| {
                facts.autoscalers = Some(vec![
                    scaler("HorizontalPodAutoscaler", &["resource cpu"], ""),
                    scaler("VerticalPodAutoscaler", &["cpu", "memory"], "Recreate"),
                ]);
            }),
            (HpaVpaConflict, Pass, |facts| {
                facts.autoscalers = Some(vec![
                    scaler("HorizontalPodAutoscaler", &["resource cpu"], ""),
                    scaler("VerticalPodAutoscaler", &["cpu", "memory"], "Off"),
                ]);
            }),
            (HpaVpaConflict, Unknown, |facts| facts.autoscalers = None),
            (LimitSet, Unknown, |facts| facts.current.limit = None),
            (StartupControlled, Pass, |_| {}),
            (StartupControlled, Warn, |facts| facts.startups.overshoot = Some([1.5; 3])),
            (StartupControlled, Unknown, |facts| facts.startups.overshoot = None),
            (RequestIsSteady, Fail, |facts| facts.current.request = Some(Some(30 * MIB))),
            (RequestIsSteady, Unknown, |facts| facts.current.request = None),
            (LimitCoversPeak, Fail, |facts| facts.startups.cut = Some(127 * MIB)),
            (LimitCoversPeak, Warn, |facts| {
                facts.startups.cut = Some(127 * MIB);
                facts.startups.oom_killed = 1;
            }),
            (LimitCoversPeak, Unknown, |facts| facts.current.limit = None),
            (LimitSet, Pass, |_| {}),
            (LimitSet, Fail, |facts| {
                facts.current.limit = Some(None);
                facts.node = Some(Node { headroom: 1024 * MIB, shortages: 1 });
            }),
            (PodLimitCoversPeaks, Unknown, |_| {}),
            (PodLimitCoversPeaks, Pass, |facts| facts.current.pod_limit = Some(None)),
            (PodLimitCoversPeaks, Pass, |facts| pod(facts, 200)),
            (PodLimitCoversPeaks, Warn, |facts| pod(facts, 145)),
            (PodLimitCoversPeaks, Fail, |facts| pod(facts, 130)),
            (PodLimitCoversPeaks, Fail, |facts| {
                pod(facts, 200);
                facts.current.init_need = Some(210 * MIB);
            }),
            (PodLimitCoversPeaks, Unknown, |facts| {
                pod(facts, 200);
                facts.current.siblings_need = None;
            }),
            (ScaleUpFits, Unknown, |_| {}),
            (ScaleUpFits, Pass, |facts| starting(facts, 4, None)),
            (ScaleUpFits, Warn, |facts| starting(facts, 4, Some(8))),
            (ScaleUpFits, Fail, |facts| starting(facts, 5, None)),
            (ScaleUpFits, Pass, |facts| {
                starting(facts, 4, None);
                facts.surge = Some(4);
            }),
            (ScaleUpFits, Warn, |facts| {
                starting(facts, 4, Some(4));
                facts.surge = Some(5);
            }),
            (ReadyAfterSettled, Unknown, |_| {}),
            (ReadyAfterSettled, Warn, |facts| probes(facts, false, (0, 4))),
            (ReadyAfterSettled, Warn, |facts| probes(facts, true, (3, 4))),
            (ReadyAfterSettled, Pass, |facts| probes(facts, true, (2, 4))),
            (ReadyAfterSettled, Unknown, |facts| probes(facts, true, (0, 0))),
            (Predictable, Pass, |_| {}),
            (Predictable, Warn, |facts| facts.startups.need = Some([90 * MIB, 120 * MIB, 130 * MIB])),
            (Predictable, Warn, |facts| facts.startups.steady = Some([40 * MIB, 50 * MIB, 60 * MIB])),
            (Predictable, Warn, |facts| {
                facts.steady = Some(Steady { p50: 40 * MIB, p95: 60 * MIB, max: 90 * MIB, seconds: 900.0 })
            }),
            (Predictable, Unknown, |facts| facts.steady = None),
            (VpaThrash, Unknown, |facts| facts.autoscalers = None),
            (VpaThrash, Pass, |_| {}),
            (VpaThrash, Pass, |facts| vpa_changed(facts, 4)),
            (VpaThrash, Warn, |facts| vpa_changed(facts, 5)),
            (VpaThrash, Fail, |facts| vpa_changed(facts, 9)),
        ];
        for check in Check::ALL {
            let of = |wanted| table.iter().any(|(of, grade, _)| *of == check && wanted == *grade);
            assert!(of(Pass) && (of(Warn) || of(Fail)) && of(Unknown), "{check:?}");
        }
        for (check, grade, change) in table {
            let mut facts = facts();
            change(&mut facts);
            // As `observer advise` gets them from a node.
            let told = serde_json::to_string(&facts).unwrap();
            let facts: Facts = serde_json::from_str(&told).unwrap();
            let advice = Advice::of(&facts, &Settings::default());
            let verdict = advice.verdict(*check).unwrap();
            assert_eq!(verdict.grade, *grade, "{check:?}: {}", verdict.evidence);
        }
        let mut facts = facts();
        hpa(&mut facts, "resource memory");
        assert_eq!(Advice::of(&facts, &Settings::default()).worst(), Fail);
    }
}
