//! What is advised for each workload, and what is set today.

use prometheus::{GaugeVec, Registry};

use crate::sinks::metrics::{
    family::{Declaration, Kind},
    history::{LABELS, STATISTICS, WITH_STATISTIC, values},
};
use observer_core::{
    advice::{Check, Grade},
    model::finding::{Advised, Finding, FindingKind},
};

const WITH_CHECK: &[&str] = &["namespace", "workload", "workload_type", "workload_container", "check"];

static GRADE: Declaration = Declaration {
    name: "observer_advice_grade",
    kind: Kind::Gauge,
    labels: WITH_CHECK,
    help: "Verdict of each check (docs/advice.md): 0 unknown, 1 pass, 2 warn, 3 fail, by what this node saw.",
};
static REQUEST: Declaration = Declaration {
    name: "observer_advice_request_bytes",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Memory request advised: p95 of the working set after start-up, rounded up; absent while too little is known.",
};
static LIMIT: Declaration = Declaration {
    name: "observer_advice_limit_bytes",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Memory limit advised: the worst start-up and headroom; absent while too little is known or memory does not settle.",
};
static CURRENT_REQUEST: Declaration = Declaration {
    name: "observer_workload_memory_request_bytes",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Memory request of the container as its pod has it; 0 if unset, absent where not known.",
};
static CURRENT_LIMIT: Declaration = Declaration {
    name: "observer_workload_memory_limit_bytes",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Memory limit of the container as its cgroup has it; 0 if unset, absent where not known.",
};
static NEED: Declaration = Declaration {
    name: "observer_history_startup_need_bytes",
    kind: Kind::Gauge,
    labels: WITH_STATISTIC,
    help: "What a limit must hold, over the start-ups remembered that were not cut off by a kill: the peak, or the highest working set where more than a fifth was file cache. Statistics p50, p95, max; mean_log and spread_log of its natural logarithm.",
};
static WORKING_SET: Declaration = Declaration {
    name: "observer_history_working_set_bytes",
    kind: Kind::Gauge,
    labels: WITH_STATISTIC,
    help: "Working set after start-up over time and pods of this node, half-life seven days: p50, p95 and max.",
};
static OUTCOMES: Declaration = Declaration {
    name: "observer_history_outcomes",
    kind: Kind::Gauge,
    labels: &["namespace", "workload", "workload_type", "workload_container", "outcome"],
    help: "Start-ups remembered by how they ended: stable, drifting, oscillating, ended, failed (another exit code than 0, or a signal), oom_killed, cut_short (went on after an OOM kill of a process).",
};
static CUT: Declaration = Declaration {
    name: "observer_history_cut_peak_bytes",
    kind: Kind::Gauge,
    labels: LABELS,
    help: "Highest usage of a start-up remembered that the kernel cut off: it wanted more. Absent if none was.",
};

pub static ALL: &[&Declaration] =
    &[&GRADE, &REQUEST, &LIMIT, &CURRENT_REQUEST, &CURRENT_LIMIT, &NEED, &WORKING_SET, &OUTCOMES, &CUT];

pub struct Families {
    grade: GaugeVec,
    request: GaugeVec,
    limit: GaugeVec,
    current_request: GaugeVec,
    current_limit: GaugeVec,
    need: GaugeVec,
    working_set: GaugeVec,
    outcomes: GaugeVec,
    cut: GaugeVec,
}

impl Families {
    pub fn new(registry: &Registry) -> Self {
        Self {
            grade: GRADE.gauges(registry),
            request: REQUEST.gauges(registry),
            limit: LIMIT.gauges(registry),
            current_request: CURRENT_REQUEST.gauges(registry),
            current_limit: CURRENT_LIMIT.gauges(registry),
            need: NEED.gauges(registry),
            working_set: WORKING_SET.gauges(registry),
            outcomes: OUTCOMES.gauges(registry),
            cut: CUT.gauges(registry),
        }
    }

    pub fn apply(&mut self, finding: &Finding) {
        let FindingKind::Advised(advised) = &finding.what else { return };
        let Advised { facts, advice, .. } = &**advised;
        let labels = values(&facts.workload);
        let with = |last: &'static str| {
            let [namespace, workload, workload_type, container] = labels;
            [namespace, workload, workload_type, container, last]
        };
        for check in Check::ALL {
            let grade = advice.verdict(check).map_or(Grade::Unknown, |verdict| verdict.grade);
            self.grade.with_label_values(&with(check.name())).set(f64::from(grade as u8));
        }
        let unset_is_0 = |set: Option<Option<u64>>| set.map(Option::unwrap_or_default);
        for (family, value) in [
            (&self.request, advice.numbers.request),
            (&self.limit, advice.numbers.limit.map(|limit| limit.bytes())),
            (&self.current_request, unset_is_0(facts.current.request)),
            (&self.current_limit, unset_is_0(facts.current.limit)),
            (&self.cut, facts.startups.cut),
        ] {
            match value {
                Some(value) => family.with_label_values(&labels).set(value as f64),
                None => {
                    let _ = family.remove_label_values(&labels); // of the advice before
                }
            }
        }
        let startups = &facts.startups;
        let need = startups.need.map(|all| all.map(|one| one as f64));
        let steady = facts.steady.map(|steady| [steady.p50, steady.p95, steady.max].map(|one| one as f64));
        for (i, statistic) in STATISTICS.into_iter().enumerate() {
            set(&self.need, &with(statistic), need.map(|all| all[i]));
            set(&self.working_set, &with(statistic), steady.map(|all| all[i]));
        }
        set(&self.need, &with("mean_log"), startups.need_mean_log);
        set(&self.need, &with("spread_log"), startups.need_spread);
        for (outcome, count) in startups.outcomes() {
            set(&self.outcomes, &with(outcome), Some(count as f64));
        }
    }
}

fn set(family: &GaugeVec, labels: &[&str; 5], value: Option<f64>) {
    if let Some(value) = value {
        family.with_label_values(labels).set(value);
    }
}
