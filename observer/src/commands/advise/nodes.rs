//! What several nodes saw of a workload -> facts and advice for all of them.
//!
//! The worst of the worst, the highest 95th percentile, counts added. What a node judges by more than numbers of the
//! workload (its own room, when pods were ready) stays that node's: the worst of what they say is taken, and named.

use std::collections::BTreeMap;

use super::WorkloadAdvice;
use observer_core::{
    advice::Settings,
    model::{
        advice::{Advice, Current, Facts, Grade, Startups, Steady},
        container::Workload,
        finding::Advised,
        printable::printable,
    },
};

/// By workload, of each node that knows it.
pub fn joined(answers: Vec<(String, Vec<Advised>)>, settings: &Settings) -> Vec<WorkloadAdvice> {
    let mut by_workload: BTreeMap<Workload, Vec<(String, Facts)>> = BTreeMap::new();
    for (node, advised) in answers {
        for Advised { facts, .. } in advised {
            by_workload.entry(facts.workload.clone()).or_default().push((node.clone(), facts));
        }
    }
    by_workload.into_values().filter_map(|nodes| of(nodes, settings)).collect()
}

fn of(mut nodes: Vec<(String, Facts)>, settings: &Settings) -> Option<WorkloadAdvice> {
    if nodes.len() == 1 {
        let (_, facts) = nodes.pop()?;
        return Some(WorkloadAdvice { advice: Advice::of(&facts, settings), facts });
    }
    let own: Vec<(&String, Advice)> =
        nodes.iter().map(|(node, facts)| (node, Advice::of(facts, settings))).collect();
    let facts = nodes.iter().map(|(_, facts)| facts.clone()).reduce(join)?;
    let mut advice = Advice::of(&facts, settings);
    for verdict in advice.verdicts.iter_mut().filter(|verdict| verdict.grade == Grade::Unknown) {
        let said = own.iter().filter_map(|(node, advice)| Some((node, advice.verdict(verdict.check)?)));
        if let Some((node, said)) = said.max_by_key(|(_, said)| said.grade)
            && said.grade != Grade::Unknown
        {
            verdict.grade = said.grade;
            verdict.evidence = format!("node {}: {}", printable(node), said.evidence);
        }
    }
    Some(WorkloadAdvice { facts, advice })
}

fn join(a: Facts, b: Facts) -> Facts {
    let (mut kills, mut changes) = (a.kills, a.changes);
    kills += b.kills;
    changes += b.changes;
    let ready_early = match (a.ready_early, b.ready_early) {
        (Some(a), Some(b)) => Some((a.0.saturating_add(b.0), a.1.saturating_add(b.1))),
        (a, b) => a.or(b),
    };
    Facts {
        workload: a.workload,
        // Of the node that saw more of it.
        typical: if a.startups.count >= b.startups.count { a.typical } else { b.typical },
        startups: startups(a.startups, b.startups),
        steady: steady(a.steady, b.steady),
        current: current(a.current, b.current),
        kills,
        autoscalers: a.autoscalers.or(b.autoscalers),
        surge: a.surge.max(b.surge),
        ready_early,
        // Each node has its own room.
        node: None,
        together: None,
        changes,
    }
}

fn startups(a: Startups, b: Startups) -> Startups {
    let (mean, spread) = pooled([&a, &b]);
    // The usual one is the mean of all.
    let need = worst(a.need, b.need)
        .map(|[p50, p95, max]| [mean.map_or(p50, |mean| mean.exp() as u64).min(p95), p95, max]);
    let from = [&a, &b].into_iter().filter(|one| one.count > 0).map(|one| one.from).fold(f64::MAX, f64::min);
    Startups {
        count: a.count + b.count,
        pods: a.pods + b.pods,
        from,
        until: a.until.max(b.until),
        stable: a.stable + b.stable,
        drifting: a.drifting + b.drifting,
        oscillating: a.oscillating + b.oscillating,
        ended: a.ended + b.ended,
        failed: a.failed + b.failed,
        oom_killed: a.oom_killed + b.oom_killed,
        cut_short: a.cut_short + b.cut_short,
        need,
        need_spread: spread,
        need_mean_log: mean,
        whole: a.whole + b.whole,
        cut: a.cut.max(b.cut),
        steady: worst(a.steady, b.steady),
        overshoot: worst(a.overshoot, b.overshoot),
        time_to_stable: worst(a.time_to_stable, b.time_to_stable),
        growth: worst(a.growth, b.growth),
    }
}

/// The higher of each quantile.
fn worst<T: Copy + PartialOrd>(a: Option<[T; 3]>, b: Option<[T; 3]>) -> Option<[T; 3]> {
    match (a, b) {
        (Some(a), Some(b)) => Some(std::array::from_fn(|at| if b[at] > a[at] { b[at] } else { a[at] })),
        (a, b) => a.or(b),
    }
}

/// Mean and standard deviation of all start-ups together, as if one node had seen them.
fn pooled(nodes: [&Startups; 2]) -> (Option<f64>, Option<f64>) {
    let known =
        || nodes.iter().filter_map(|one| Some((one.whole as f64, one.need_mean_log?, one.need_spread)));
    let count: f64 = known().map(|(count, ..)| count).sum();
    if count < 1.0 {
        return (None, None);
    }
    let mean = known().map(|(count, mean, _)| count * mean).sum::<f64>() / count;
    let within = |count: f64, spread: Option<f64>| (count - 1.0).max(0.0) * spread.unwrap_or(0.0).powi(2);
    let squares: f64 =
        known().map(|(count, own, spread)| within(count, spread) + count * (own - mean).powi(2)).sum();
    (Some(mean), (count > 1.0).then(|| (squares / (count - 1.0)).sqrt()))
}

fn steady(a: Option<Steady>, b: Option<Steady>) -> Option<Steady> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (a, b) => return a.or(b),
    };
    let whole = a.seconds + b.seconds;
    let share = if whole > 0.0 { a.seconds / whole } else { 0.5 };
    Some(Steady {
        p50: (a.p50 as f64 * share + b.p50 as f64 * (1.0 - share)) as u64,
        p95: a.p95.max(b.p95),
        max: a.max.max(b.max),
        seconds: whole,
    })
}

/// A rollout may be under way: the highest that is set, since a change is reckoned from it.
fn current(a: Current, b: Current) -> Current {
    Current {
        containers: a.containers + b.containers,
        starting: a.starting + b.starting,
        role: a.role.or(b.role),
        request: a.request.max(b.request),
        limit: a.limit.max(b.limit),
        pod_limit: a.pod_limit.max(b.pod_limit),
        siblings_need: a.siblings_need.max(b.siblings_need),
        init_need: a.init_need.max(b.init_need),
        startup_probe: a.startup_probe.or(b.startup_probe),
        readiness_probe: a.readiness_probe.or(b.readiness_probe),
    }
}

#[cfg(test)]
mod tests {
    use observer_core::model::past_startup::{PastStartup, StartupOutcome};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn past(mib: u64, at: f64) -> PastStartup {
        PastStartup {
            pod: format!("web-{at}"),
            started: at,
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak: mib * MIB,
            peak_seconds: 1.0,
            unreclaimable_peak: mib * MIB,
            growth: 1e8,
            time_to_stable: Some(3.0),
            steady: Some(mib * MIB / 4),
            overshoot: None,
            span: 1.0,
            curve: vec![(mib * MIB) as f32, (mib * MIB / 4) as f32],
        }
    }

    fn facts(past: &[PastStartup]) -> Facts {
        let startups = Startups::of(past);
        Facts {
            steady: Steady::of(None, &startups),
            startups,
            workload: Workload { workload: "web".into(), ..Workload::default() },
            current: Current { containers: 1, limit: Some(Some(100 * MIB)), ..Current::default() },
            ..Facts::default()
        }
    }

    /// Start-ups spread over nodes are advised on as if one node had seen them.
    #[test]
    fn nodes_together_say_what_one_would() {
        let all: Vec<PastStartup> = [160, 150, 171, 158, 166, 149]
            .iter()
            .zip(1..)
            .map(|(mib, at)| past(*mib, f64::from(at)))
            .collect();
        let settings = Settings::default();
        let answer = |name: &str, past: &[PastStartup]| {
            let advised =
                Advised { facts: facts(past), advice: Advice::of(&facts(past), &settings), news: false };
            (name.to_owned(), vec![advised])
        };
        let one = joined(vec![answer("n1", &all)], &settings);
        for parts in [[1, 6], [2, 6], [3, 6], [5, 6]] {
            let several =
                joined(vec![answer("n1", &all[..parts[0]]), answer("n2", &all[parts[0]..])], &settings);
            let ([one], [several]) = (&*one, &*several) else { panic!("one workload") };
            let (a, b) = (&one.advice.numbers, &several.advice.numbers);
            assert_eq!((a.limit, a.worst), (b.limit, b.worst), "{parts:?}");
            assert_eq!(one.facts.startups.count, several.facts.startups.count);
            let spread = |of: &WorkloadAdvice| of.facts.startups.need_spread.unwrap();
            assert!((spread(one) - spread(several)).abs() < 1e-9, "{parts:?}");
            assert_eq!(several.facts.current.containers, 2);
        }
    }

    #[test]
    fn what_only_a_node_can_judge_is_said_with_its_name() {
        let settings = Settings::default();
        let of = |headroom: u64| {
            let mut facts = facts(&[past(160, 1.0), past(161, 2.0), past(162, 3.0)]);
            facts.node = Some(observer_core::model::advice::Node { headroom, shortages: 0 });
            facts.together = Some(observer_core::model::advice::StartConcurrency {
                settled: 3,
                at_once: 1,
                gap: Some(1.0),
                highest: 200 * MIB,
            });
            facts.changes.starting_max = 3;
            let advice = Advice::of(&facts, &settings);
            vec![Advised { facts, advice, news: false }]
        };
        let several =
            joined(vec![("wide".into(), of(9000 * MIB)), ("narrow".into(), of(170 * MIB))], &settings);
        let verdicts = &several[0].advice.verdicts;
        let said: Vec<_> = verdicts.iter().filter(|verdict| verdict.evidence.starts_with("node ")).collect();
        assert!(!said.is_empty(), "{verdicts:?}");
        for verdict in said {
            let own = |node| Advice::of(&of(node)[0].facts, &settings).verdict(verdict.check).unwrap().grade;
            assert_eq!(verdict.grade, own(9000 * MIB).max(own(170 * MIB)), "{verdict:?}");
        }
    }
}
