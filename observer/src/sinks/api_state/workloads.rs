//! Containers, kills and advice -> one row for each workload, with what is at risk and why.

use std::collections::BTreeMap;

use super::{
    NodeState,
    view::{AdviceView, CheckView, ContainerView, Risk, WorkloadView},
};
use observer_core::{
    advice::Settings,
    model::{
        advice::{AdvisedLimit, Grade},
        container::{ContainerState, Workload},
        finding::Advised,
    },
};

/// A peak this near to the limit is a risk: the advised headroom is 10 %.
const NEAR_LIMIT: f64 = 0.9;

pub fn all(state: &NodeState) -> BTreeMap<Workload, WorkloadView> {
    let mut all: BTreeMap<Workload, WorkloadView> = BTreeMap::new();
    let mut unsettled: BTreeMap<Workload, u64> = BTreeMap::new();
    for card in state.containers.values() {
        let view = &card.view;
        let workload = Workload::of(&view.container.labels);
        if [ContainerState::Drifting.name(), ContainerState::Oscillating.name()].contains(&view.state) {
            *unsettled.entry(workload.clone()).or_default() += 1;
        }
        add(all.entry(workload).or_insert_with_key(empty), view);
    }
    for advised in state.advice.values() {
        let row = all.entry(advised.facts.workload.clone()).or_insert_with_key(empty);
        row.advice = Some(advice(advised));
        row.startups = row.startups.max(advised.facts.startups.count);
    }
    for kill in &state.kills {
        if let Some(container) = &kill.container
            && let Some(row) = all.get_mut(&Workload::of(&container.labels))
        {
            row.oom_kills = row.oom_kills.saturating_add(kill.kills);
        }
    }
    for (workload, row) in &mut all {
        row.risk = risk(row, unsettled.get(workload).copied().unwrap_or(0));
    }
    all
}

fn empty(workload: &Workload) -> WorkloadView {
    WorkloadView {
        key: workload.to_string(),
        workload: workload.clone(),
        risk: Risk { level: "unknown", score: 0, why: String::new() },
        containers: 0,
        starting: 0,
        startups: 0,
        peak_bytes: 0,
        oom_kills: 0,
        limit_bytes: None,
        advice: None,
    }
}

fn add(row: &mut WorkloadView, view: &ContainerView) {
    row.containers += u64::from(view.ended.is_none());
    row.starting += u64::from(view.state == ContainerState::Starting.name());
    row.startups += u64::from(view.started.is_some());
    row.peak_bytes = row.peak_bytes.max(view.peak_bytes);
    row.limit_bytes = row.limit_bytes.max(view.limit_bytes);
}

fn advice(advised: &Advised) -> AdviceView {
    let Advised { facts, advice, .. } = advised;
    let numbers = &advice.numbers;
    AdviceView {
        request_bytes: numbers.request,
        limit_bytes: numbers.limit.map(AdvisedLimit::bytes),
        limit_is_trial: matches!(numbers.limit, Some(AdvisedLimit::Trial(_))),
        limit_reason: numbers.limit_reason(facts, &Settings::default()),
        current_request_bytes: facts.current.request.flatten(),
        current_limit_bytes: facts.current.limit.flatten(),
        current_request_known: facts.current.request.is_some(),
        current_limit_known: facts.current.limit.is_some(),
        worst_bytes: numbers.worst,
        missing: numbers.missing.clone(),
        checks: advice
            .verdicts
            .iter()
            .map(|verdict| CheckView {
                check: verdict.check.name(),
                grade: verdict.grade.name(),
                evidence: verdict.evidence.clone(),
            })
            .collect(),
    }
}

fn risk(row: &WorkloadView, unsettled: u64) -> Risk {
    let graded = |grade: Grade| -> Vec<&str> {
        let checks = row.advice.iter().flat_map(|advice| &advice.checks);
        checks.filter(|check| check.grade == grade.name()).map(|check| check.check).collect()
    };
    let (fails, warns) = (graded(Grade::Fail), graded(Grade::Warn));
    let share = row.limit_bytes.filter(|limit| *limit > 0).map(|limit| row.peak_bytes as f64 / limit as f64);
    let near = share.filter(|share| *share >= NEAR_LIMIT);
    let mut why = Vec::new();
    if row.oom_kills > 0 {
        why.push(format!("{} OOM kill{}", row.oom_kills, if row.oom_kills == 1 { "" } else { "s" }));
    }
    if !fails.is_empty() {
        why.push(format!("fails: {}", fails.join(", ").replace('_', " ")));
    }
    if unsettled > 0 {
        why.push(format!("{unsettled} of {} not settling", row.containers.max(unsettled)));
    }
    if let Some(share) = near {
        why.push(format!("peak at {:.0} % of its limit", share * 100.0));
    }
    if !warns.is_empty() {
        why.push(format!("warns: {}", warns.join(", ").replace('_', " ")));
    }
    let judged = row.advice.as_ref().is_some_and(|advice| advice.missing.is_none());
    let score = 1000 * row.oom_kills.min(9)
        + 500 * fails.len() as u64
        + 200 * unsettled.min(2)
        + if near.is_some() { 100 } else { 0 }
        + 20 * warns.len() as u64;
    let level = match () {
        () if row.oom_kills > 0 || !fails.is_empty() => "high",
        () if unsettled > 0 || near.is_some() || !warns.is_empty() => "medium",
        () if judged => "low",
        () => "unknown",
    };
    if why.is_empty() {
        why.push(match &row.advice {
            Some(advice) if judged => format!("{} checks, nothing to change", advice.checks.len()),
            Some(advice) => advice.missing.clone().unwrap_or_default(),
            None => "no start-up seen yet".to_owned(),
        });
    }
    Risk { level, score, why: why.join("; ") }
}
