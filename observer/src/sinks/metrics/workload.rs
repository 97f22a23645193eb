//! Per container of a workload: what must not be lost with one that dies before it is scraped, what is remembered of
//! its start-ups, what is advised.

use std::collections::{BTreeMap, BTreeSet};

use super::family::{Metric, counter, counters, gauge, gauges};
use observer_core::model::{
    advice::{Check, Grade},
    container::{CgroupId, ContainerState},
    event::StalledBy,
    finding::{
        Advised, Caused, FindingKind, LimitEvent, OomLinked, OomRole, OomScope, ScaleEvent, ScaleEventEnded,
    },
    kubernetes::ByKind,
};

pub static METRICS: &[Metric<Workload>] = &[
    gauge("observer_workload_containers", "Containers of the workload alive on this node.", |workload| {
        workload.seen.then_some(workload.alive.len() as f64)
    }),
    counters(
        "observer_workload_starts_total",
        &["cause"],
        "Container starts seen, by cause (docs/causes.md), counted once the cause is sure or will not become surer.",
        |workload, each| workload.starts.iter().for_each(|(cause, starts)| each(&[cause], *starts)),
    ),
    counter(
        "observer_workload_cause_revisions_total",
        "Starts whose cause was counted, and turned out to be another when better evidence came. Absent before the first.",
        |workload| Some(workload.revisions).filter(|revisions| *revisions > 0.0),
    ),
    counters(
        "observer_workload_reclaim_stall_seconds_total",
        &["reason"],
        "Time tasks of its containers spent freeing memory instead of running: reason limit (their own or their pod's) or node. Absent before the first.",
        |workload, each| workload.stalls.iter().for_each(|(by, seconds)| each(&[by.name()], *seconds)),
    ),
    counters(
        "observer_workload_oom_kills_total",
        &["scope"],
        "Processes of its containers killed for want of memory, by whose limit it was; outlives the containers.",
        |workload, each| {
            for scope in OomScope::ALL {
                let kills = workload.oom_kills.get(&scope).copied().unwrap_or_default();
                // These two begin at 0, so that the first kill is an increase Prometheus can see.
                if kills > 0.0 || workload.seen && matches!(scope, OomScope::Container | OomScope::Node) {
                    each(&[scope.name()], kills);
                }
            }
        },
    ),
    counters(
        "observer_workload_oom_kills_by_phase_total",
        &["phase"],
        "The same kills by when they struck: startup (no verdict yet) or steady. Absent before the first.",
        |workload, each| {
            for (phase, kills) in ["startup", "steady"].into_iter().zip(workload.oom_phases) {
                if kills > 0.0 {
                    each(&[phase], kills);
                }
            }
        },
    ),
    counters(
        "observer_workload_memory_events_total",
        &["event"],
        "memory.events of all its containers, living and dead, by the kernel's names: low, high (throttled), max (limit hit), oom; its kills are in observer_workload_oom_kills_total. Absent before the first.",
        |workload, each| {
            let counted_as_kills = [LimitEvent::OomKill, LimitEvent::OomGroupKill];
            let events = workload.events.iter().filter(|(event, _)| !counted_as_kills.contains(event));
            events.for_each(|(event, times)| each(&[event.name()], *times));
        },
    ),
    gauge(
        "observer_workload_memory_request_bytes",
        "Memory request of the container as its pod has it; absent where unset or not known.",
        |workload| workload.advised().request,
    ),
    gauge(
        "observer_workload_memory_limit_bytes",
        "Memory limit of the container as its cgroup has it; absent where unset or not known.",
        |workload| workload.advised().limit,
    ),
    gauges("observer_workload_history_startup_need_bytes", &["statistic"], NEED, |workload, each| {
        if let Some(value) = workload.advised().need_max {
            each(&["max"], value);
        }
    }),
    gauge(
        "observer_workload_history_time_to_stable_seconds",
        "95th percentile of the time to stable of the start-ups remembered that got stable.",
        |workload| workload.advised().time_to_stable,
    ),
    gauge(
        "observer_advice_request_bytes",
        "Memory request advised: p95 of the working set after start-up, rounded up; absent while too little is known.",
        |workload| workload.advised().advised_request,
    ),
    gauge(
        "observer_advice_limit_bytes",
        "Memory limit advised: the worst start-up and headroom; absent while too little is known or memory does not settle.",
        |workload| workload.advised().advised_limit,
    ),
    gauges(
        "observer_advice_grade",
        &["check"],
        "Checks that warn (2) or fail (3), docs/advice.md; one that passes, or of which too little is known, has no series.",
        |workload, each| {
            for (check, grade) in workload.advised().grades.iter().flatten() {
                each(&[check.name()], *grade);
            }
        },
    ),
    counters(
        "observer_scale_events_total",
        &["by"],
        "Scale-ups that brought containers of the workload to this node, by who scaled: hpa, keda, manual, unknown.",
        |workload, each| {
            if let Some(scaled) = &workload.scaled {
                scaled.events.iter().for_each(|(by, events)| each(&[by.name()], *events));
            }
        },
    ),
    counters(
        "observer_scale_event_oom_kills_total",
        &["by", "role"],
        "OOM kills tied to a scale-up of the workload: role victim (it made the victim) or under_way (its containers were starting when another was killed).",
        |workload, each| {
            if let Some(scaled) = &workload.scaled {
                scaled.oom_kills.iter().for_each(|((by, role), kills)| each(&[by.name(), role], *kills));
            }
        },
    ),
    gauge(
        "observer_scale_event_concurrent_starts_max",
        "Last scale-up of the workload: most of its containers starting here at one time.",
        |workload| Some(workload.last_scale_event()?[0]),
    ),
    gauge(
        "observer_scale_event_peak_sum_bytes",
        "Last scale-up of the workload: sum of its containers' start-up peaks here.",
        |workload| Some(workload.last_scale_event()?[1]),
    ),
    gauge(
        "observer_scale_event_overshoot_sum_bytes",
        "Last scale-up of the workload: sum of what its containers took beyond their steady level here.",
        |workload| Some(workload.last_scale_event()?[2]),
    ),
];

const NEED: &str = "What a limit must hold, over the start-ups remembered that were not cut off by a kill: the peak, or the highest working set where more than a fifth was file cache. Statistics max, and geometric_mean on /metrics/history.";

/// What `observer advise` asks of a fleet, and rules of a recording: of /metrics/history, which is scraped less often.
pub static HISTORY: &[Metric<Workload>] = &[
    gauges(
        "observer_workload_history_startups",
        &["outcome"],
        "Start-ups remembered on this node (at most 24), earlier runs of the observer included, by how they ended: stable, drifting, oscillating, ended, failed (another exit code than 0, or a signal), oom_killed, cut_short (went on after an OOM kill of a process). An outcome that none had is absent.",
        |workload, each| {
            for (outcome, count) in workload.advised().outcomes {
                if count > 0 {
                    each(&[outcome], count as f64);
                }
            }
        },
    ),
    gauges("observer_workload_history_startup_need_bytes", &["statistic"], NEED, |workload, each| {
        if let Some(value) = workload.advised().need_mean {
            each(&["geometric_mean"], value);
        }
    }),
    gauge(
        "observer_workload_history_startup_need_spread_ratio",
        "Geometric standard deviation of the same: 1 if all start-ups were alike.",
        |workload| workload.advised().need_spread,
    ),
    gauge(
        "observer_workload_history_oom_killed_peak_bytes",
        "Highest usage of a start-up remembered that the kernel cut off: it wanted more. Absent if none was.",
        |workload| workload.advised().cut,
    ),
    gauges(
        "observer_workload_history_working_set_bytes",
        &["statistic"],
        "Working set after start-up over time and pods of this node, half-life seven days: p50, p95 and max.",
        |workload, each| {
            let values = workload.advised().working_set.into_iter().flatten();
            ["p50", "p95", "max"].into_iter().zip(values).for_each(|(name, value)| each(&[name], value));
        },
    ),
    gauge(
        "observer_workload_history_steady_bytes",
        "Highest level at which a start-up remembered settled.",
        |workload| workload.advised().steady,
    ),
];

/// What is exported of one container of a workload; scale events are of the workload as a whole, without a container.
#[derive(Debug, Default)]
pub struct Workload {
    pub alive: BTreeSet<CgroupId>,
    /// A container of it was.
    seen: bool,
    starts: BTreeMap<&'static str, f64>,
    revisions: f64,
    stalls: BTreeMap<StalledBy, f64>,
    oom_kills: BTreeMap<OomScope, f64>,
    oom_phases: [f64; 2],
    events: BTreeMap<LimitEvent, f64>,
    advised: Option<Box<Numbers>>,
    scaled: Option<Box<Scaled>>,
}

/// Of the last advice.
#[derive(Debug, Default)]
struct Numbers {
    request: Option<f64>,
    limit: Option<f64>,
    advised_request: Option<f64>,
    advised_limit: Option<f64>,
    need_mean: Option<f64>,
    need_max: Option<f64>,
    need_spread: Option<f64>,
    cut: Option<f64>,
    working_set: Option<[f64; 3]>,
    steady: Option<f64>,
    time_to_stable: Option<f64>,
    outcomes: [(&'static str, u64); 7],
    grades: [Option<(Check, f64)>; Check::ALL.len()],
}

static NOTHING: Numbers = Numbers {
    request: None,
    limit: None,
    advised_request: None,
    advised_limit: None,
    need_mean: None,
    need_max: None,
    need_spread: None,
    cut: None,
    working_set: None,
    steady: None,
    time_to_stable: None,
    outcomes: [("", 0); 7],
    grades: [None; Check::ALL.len()],
};

#[derive(Debug, Default)]
struct Scaled {
    events: BTreeMap<ByKind, f64>,
    oom_kills: BTreeMap<(ByKind, &'static str), f64>,
    last: Option<[f64; 3]>,
}

impl Workload {
    fn advised(&self) -> &Numbers {
        self.advised.as_deref().unwrap_or(&NOTHING)
    }

    fn last_scale_event(&self) -> Option<[f64; 3]> {
        self.scaled.as_ref()?.last
    }

    /// Something of it outlasts its containers: a verdict, a kill, a scale-up.
    pub fn is_worth_keeping(&self) -> bool {
        let verdict = self.advised().outcomes[..3].iter().any(|(_, count)| *count > 0);
        verdict || self.scaled.is_some() || !self.oom_kills.is_empty()
    }

    pub fn apply(&mut self, cgroup: CgroupId, finding: &FindingKind) {
        match finding {
            FindingKind::Seen { .. } | FindingKind::Started(_) => self.joined(cgroup),
            FindingKind::State { to: ContainerState::Ended, .. } | FindingKind::Ended(_) => {
                self.alive.remove(&cgroup);
            }
            FindingKind::Caused(Caused { decision, before, .. }) => match before {
                None => *self.starts.entry(decision.cause.name()).or_default() += 1.0,
                Some(before) => self.revisions += f64::from(u8::from(before.cause != decision.cause)),
            },
            FindingKind::Stalled { by, seconds, .. } => *self.stalls.entry(*by).or_default() += seconds,
            FindingKind::LimitMet { event, times, .. } => {
                *self.events.entry(*event).or_default() += *times as f64;
            }
            FindingKind::OomKilled(killed) => {
                *self.oom_kills.entry(killed.scope).or_default() += killed.kills as f64;
                self.oom_phases[usize::from(!killed.starting)] += killed.kills as f64;
            }
            _ => {}
        }
    }

    /// A container alive is of it.
    pub fn joined(&mut self, cgroup: CgroupId) {
        self.seen = true;
        self.alive.insert(cgroup);
    }

    pub fn advise(&mut self, Advised { facts, advice, .. }: &Advised) {
        let number = |bytes: u64| bytes as f64;
        let startups = &facts.startups;
        let mut grades = [None; Check::ALL.len()];
        for (slot, verdict) in grades.iter_mut().zip(advice.complaints()) {
            *slot = Some((verdict.check, grade_number(verdict.grade)));
        }
        self.advised = Some(Box::new(Numbers {
            request: facts.current.request.flatten().map(number),
            limit: facts.current.limit.flatten().map(number),
            advised_request: advice.numbers.request.map(number),
            advised_limit: advice.numbers.limit.map(|limit| number(limit.bytes())),
            need_mean: startups.need_mean_log.map(f64::exp),
            need_max: startups.need.map(|[.., max]| number(max)),
            need_spread: startups.need_spread.map(f64::exp),
            cut: startups.cut.map(number),
            working_set: facts.steady.map(|steady| [steady.p50, steady.p95, steady.max].map(number)),
            steady: startups.steady.map(|[.., max]| number(max)),
            time_to_stable: startups.time_to_stable.map(|[_, p95, _]| p95),
            outcomes: startups.outcomes(),
            grades,
        }));
    }

    pub fn scaled_up(&mut self, event: &ScaleEvent) {
        let scaled = self.scaled.get_or_insert_default();
        *scaled.events.entry(event.by.kind).or_default() += 1.0;
        for role in [OomRole::Victim, OomRole::UnderWay] {
            scaled.oom_kills.entry((event.by.kind, role.name())).or_default();
        }
    }

    pub fn linked(&mut self, linked: &OomLinked) {
        let scaled = self.scaled.get_or_insert_default();
        *scaled.oom_kills.entry((linked.scale_event.by.kind, linked.role.name())).or_default() +=
            linked.kills as f64;
    }

    pub fn scale_ended(&mut self, ended: &ScaleEventEnded) {
        let last = [ended.starting_max, ended.peak_sum, ended.overshoot_sum].map(|number| number as f64);
        self.scaled.get_or_insert_default().last = Some(last);
    }

    /// What was counted under a pod's uid, for want of a name, is the workload's.
    pub fn merge(&mut self, before: Self) {
        self.alive.extend(before.alive);
        self.seen |= before.seen;
        before
            .starts
            .into_iter()
            .for_each(|(cause, starts)| *self.starts.entry(cause).or_default() += starts);
        self.revisions += before.revisions;
        before.stalls.into_iter().for_each(|(by, seconds)| *self.stalls.entry(by).or_default() += seconds);
        before
            .oom_kills
            .into_iter()
            .for_each(|(scope, kills)| *self.oom_kills.entry(scope).or_default() += kills);
        self.oom_phases.iter_mut().zip(before.oom_phases).for_each(|(sum, kills)| *sum += kills);
        before.events.into_iter().for_each(|(event, times)| *self.events.entry(event).or_default() += times);
    }
}

/// Alerts compare with these.
pub fn grade_number(grade: Grade) -> f64 {
    match grade {
        Grade::Unknown => 0.0,
        Grade::Pass => 1.0,
        Grade::Warn => 2.0,
        Grade::Fail => 3.0,
    }
}
