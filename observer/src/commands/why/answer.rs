//! The part of /api/v1/state that is about one subject.

use serde::Serialize;

use crate::commands::client::state::{Container, Kill, Names, ScaleEvent, State, Workload};

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Subject {
    Pod { namespace: String, name: String },
    Workload { namespace: String, workload_type: String, name: String },
    Container { id: String, name: String },
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Subject::Pod { namespace, name } => write!(f, "pod {namespace}/{name}"),
            Subject::Workload { namespace, name, .. } if namespace.is_empty() => write!(f, "{name}"),
            Subject::Workload { namespace, workload_type, name } => {
                write!(f, "{workload_type} {namespace}/{name}")
            }
            Subject::Container { id, name } => write!(f, "{name} (cgroup {id})"),
        }
    }
}

impl Subject {
    pub fn workload(namespace: &str, workload_type: &str, name: &str) -> Self {
        let [namespace, workload_type, name] = [namespace, workload_type, name].map(str::to_owned);
        Self::Workload { namespace, workload_type, name }
    }

    pub fn has(&self, names: &Names) -> bool {
        match self {
            Subject::Pod { namespace, name } => names.pod == *name && names.namespace == *namespace,
            Subject::Workload { namespace, workload_type, name } => {
                names.workload == *name
                    && names.namespace == *namespace
                    && names.workload_type == *workload_type
            }
            Subject::Container { id, .. } => names.id == *id,
        }
    }
}

/// Everything known about the subject; what `--output json` prints.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub subject: Subject,
    /// Time of what is shown; Unix seconds.
    pub now: f64,
    pub live: bool,
    /// Empty: nothing is wrong.
    pub wrong: Vec<String>,
    /// The last started first.
    pub containers: Vec<Container>,
    /// The last first.
    pub kills: Vec<Kill>,
    /// Those that made its pods, and those that were under way when it was killed; the last first.
    pub scale_events: Vec<ScaleEvent>,
    /// With the advice for each container of the workload.
    pub workloads: Vec<Workload>,
    /// What could not be known.
    pub notes: Vec<String>,
}

impl Answer {
    pub fn of(state: &State, subject: Subject) -> Self {
        let mut containers: Vec<_> =
            state.containers.iter().filter(|one| subject.has(&one.names)).cloned().collect();
        let began = |one: &Container| one.started.unwrap_or(f64::NEG_INFINITY);
        containers.sort_by(|a, b| began(b).total_cmp(&began(a)));
        let of = |kill: &&Kill| kill.container.as_ref().is_some_and(|names| subject.has(names));
        let mut kills: Vec<_> = state.kills.iter().filter(of).cloned().collect();
        kills.sort_by(|a, b| b.at.total_cmp(&a.at));

        let is = |namespace: &str, workload_type: &str, workload: &str| match &subject {
            Subject::Workload { namespace: n, workload_type: t, name } => {
                (n.as_str(), t.as_str(), name.as_str()) == (namespace, workload_type, workload)
            }
            _ => {
                let mut all = containers.iter().map(|one| &one.names);
                let mut killed = kills.iter().filter_map(|kill| kill.container.as_ref());
                let same = |names: &Names| {
                    (names.namespace.as_str(), names.workload_type.as_str(), names.workload.as_str())
                        == (namespace, workload_type, workload)
                };
                all.any(same) || killed.any(same)
            }
        };
        let part =
            |event: &ScaleEvent| event.kills.iter().any(|number| kills.iter().any(|k| k.kill == *number));
        let mut scale_events: Vec<_> = state
            .scale_events
            .iter()
            .filter(|event| is(&event.namespace, &event.workload_type, &event.workload) || part(event))
            .cloned()
            .collect();
        scale_events.sort_by(|a, b| b.at.total_cmp(&a.at));
        let workloads: Vec<_> = state
            .workloads
            .iter()
            .filter(|one| is(&one.namespace, &one.workload_type, &one.workload))
            .cloned()
            .collect();
        Self {
            wrong: wrong(&containers, &kills, &workloads),
            notes: notes(state),
            now: state.status.now,
            live: state.status.live,
            subject,
            containers,
            kills,
            scale_events,
            workloads,
        }
    }
}

fn wrong(containers: &[Container], kills: &[Kill], workloads: &[Workload]) -> Vec<String> {
    let mut wrong = Vec::new();
    // Kills are kept longer than containers; a container counts those that are kept no more.
    let listed: u64 = kills.iter().map(|kill| kill.kills).fold(0, u64::saturating_add);
    let killed = listed.max(containers.iter().map(|one| one.oom_kills).fold(0, u64::saturating_add));
    if killed > 0 {
        wrong.push(format!("{killed} OOM kill{}", if killed == 1 { "" } else { "s" }));
    }
    for state in ["drifting", "oscillating"] {
        let count = containers.iter().filter(|one| one.state == state).count();
        if count > 0 {
            wrong.push(format!("{count} {state}: memory does not settle"));
        }
    }
    // 137 and 143 are how a stop from outside ends; 9 and 15 the same as signals.
    let stopped = ["exit code 0", "exit code 137", "exit code 143", "signal 9", "signal 15"];
    let failed = |one: &&Container| one.exit.as_deref().is_some_and(|exit| !stopped.contains(&exit));
    if let Some(one) = containers.iter().find(failed) {
        wrong.push(format!("ended with {}", one.exit.as_deref().unwrap_or_default()));
    }
    let checks = workloads.iter().filter_map(|one| one.advice.as_ref()).flat_map(|advice| &advice.checks);
    let mut fails: Vec<_> =
        checks.filter(|check| check.grade == "fail").map(|check| check.check.as_str()).collect();
    fails.sort_unstable();
    fails.dedup();
    if !fails.is_empty() {
        wrong.push(format!("fails {}", fails.join(", ")));
    }
    wrong
}

pub fn notes(state: &State) -> Vec<String> {
    let mut notes = Vec::new();
    let status = &state.status;
    if !status.ready {
        notes.push(format!("the observer is not ready: {}", status.missing.join("; ")));
    }
    if let Some(kubernetes) = &status.kubernetes
        && ["away", "forbidden"].contains(&kubernetes.state.as_str())
    {
        notes.push(format!("the Kubernetes API is {}: {}", kubernetes.state, kubernetes.why));
    }
    for (what, count) in [
        ("containers", status.dropped.containers),
        ("OOM kills", status.dropped.kills),
        ("scale events", status.dropped.scale_events),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what} did not fit in the observer's lists and are not shown"));
        }
    }
    if state.cut {
        notes.push("the last line of the recording is cut: what came after it is not known".to_owned());
    }
    notes
}
