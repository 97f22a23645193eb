//! A name as people write it -> the one pod, workload or cgroup it fits.

use std::collections::{BTreeMap, BTreeSet};

use super::answer::Subject;
use crate::commands::{
    advise::long_name,
    client::state::{Names, State},
};
use observer_core::model::printable::printable;

/// Names listed where one did not fit; and how like it a name must be to be one of them.
const LISTED: usize = 8;
const ALIKE: f64 = 0.85;
/// A name is cut beyond this: it may be 4 KiB.
const NAME_CHARS: usize = 200;

/// Exact names before beginnings; of beginnings, workloads before pods before cgroups: `we` is `web`, not each of its
/// pods.
pub fn find(state: &State, wanted: &str, namespace: Option<&str>) -> Result<Subject, String> {
    let known = known(state, namespace);
    let wanted = full_kind(wanted);
    let fit = |fits: &dyn Fn(&str) -> bool| -> BTreeSet<&Subject> {
        known
            .iter()
            .filter(|(_, names)| names.iter().any(|name| fits(name)))
            .map(|(subject, _)| subject)
            .collect()
    };
    let exact = fit(&|name| name == wanted);
    let begins = if exact.is_empty() { fit(&|name| name.starts_with(&wanted)) } else { BTreeSet::new() };
    let rank = |subject: &Subject| match subject {
        Subject::Pod { .. } if exact.is_empty() => 1,
        Subject::Pod { .. } => 0, // a pod without an owner is its own workload
        Subject::Workload { .. } if exact.is_empty() => 0,
        Subject::Workload { .. } => 1,
        Subject::Container { .. } => 2,
    };
    let found = if exact.is_empty() { &begins } else { &exact };
    let best = found.iter().map(|subject| rank(subject)).min();
    let best: Vec<&Subject> = found.iter().copied().filter(|subject| Some(rank(subject)) == best).collect();
    match best.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(none(&known, &wanted, namespace, state.status.live)),
        several => Err(format!(
            "{} fits {}; did you mean one of these?{}",
            shown(&wanted),
            several.len(),
            list(several)
        )),
    }
}

type Known = BTreeMap<Subject, BTreeSet<String>>;

/// Everything that can be asked about, with the names it goes by.
fn known(state: &State, namespace: Option<&str>) -> Known {
    let mut known = Known::new();
    let killed = state.kills.iter().filter_map(|kill| kill.container.as_ref());
    for names in state.containers.iter().map(|one| &one.names).chain(killed) {
        if namespace.is_some_and(|namespace| names.namespace != namespace) {
            continue;
        }
        workload(&mut known, &names.namespace, &names.workload_type, &names.workload);
        container(&mut known, names);
    }
    for row in &state.workloads {
        if namespace.is_none_or(|namespace| row.namespace == namespace) {
            workload(&mut known, &row.namespace, &row.workload_type, &row.workload);
        }
    }
    known
}

fn workload(known: &mut Known, namespace: &str, workload_type: &str, name: &str) {
    if name.is_empty() {
        return;
    }
    let subject = Subject::workload(namespace, workload_type, name);
    let names = known.entry(subject).or_default();
    names.insert(name.into());
    if !namespace.is_empty() {
        names.insert(format!("{namespace}/{name}"));
        names.insert(format!("{workload_type}/{name}"));
        names.insert(format!("{namespace}/{workload_type}/{name}"));
    }
}

fn container(known: &mut Known, names: &Names) {
    let subject = Subject::Container { id: names.id.clone(), name: names.full() };
    known.entry(subject).or_default().extend([names.full(), names.id.clone()]);
    if !names.pod.is_empty() {
        let pod = Subject::Pod { namespace: names.namespace.clone(), name: names.pod.clone() };
        let known = known.entry(pod).or_default();
        let (namespace, name) = (&names.namespace, &names.pod);
        known.extend([name.clone(), format!("{namespace}/{name}"), format!("pod/{name}")]);
    }
}

/// `deploy/web` -> `deployment/web`, where the first part is one of kubectl's names of a kind.
fn full_kind(wanted: &str) -> String {
    const KINDS: [&str; 7] =
        ["deployment", "statefulset", "daemonset", "replicaset", "cronjob", "job", "pod"];
    match wanted.split_once('/') {
        Some((kind, name)) if KINDS.contains(&long_name(kind).as_str()) => {
            format!("{}/{name}", long_name(kind))
        }
        _ => wanted.to_owned(),
    }
}

fn none(known: &Known, wanted: &str, namespace: Option<&str>, live: bool) -> String {
    let likeness = |names: &BTreeSet<String>| {
        let of = |name: &String| match name.contains(wanted) {
            true => 1.0,
            false => strsim::jaro_winkler(name, wanted),
        };
        names.iter().map(of).fold(0.0, f64::max)
    };
    let mut alike: Vec<(f64, &Subject)> = known
        .iter()
        .map(|(subject, names)| (likeness(names), subject))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    let place = namespace.map_or(String::new(), |namespace| format!(" in namespace {}", shown(namespace)));
    let of = format!("nothing known{place} is called {}, or begins like it", shown(wanted));
    match alike.is_empty() {
        false => {
            let alike: Vec<_> = alike.into_iter().map(|(_, subject)| subject).collect();
            format!("{of}; did you mean one of these?{}", list(&alike))
        }
        true => {
            let place = match live {
                true => {
                    "; the observer knows the pods of its own node, and ended ones for a while: is --node the right one?"
                }
                false => "",
            };
            let all: Vec<&Subject> =
                known.keys().filter(|subject| matches!(subject, Subject::Workload { .. })).collect();
            let all = match all.is_empty() {
                true => "; no workload is known".to_owned(),
                false => format!(" Known are:{}", list(&all)),
            };
            format!("{of}{place}{}{all}", if live || all.starts_with(';') { "" } else { "." })
        }
    }
}

fn list(subjects: &[&Subject]) -> String {
    let mut text = String::new();
    for subject in subjects.iter().take(LISTED) {
        text += &format!("\n  {}", shown(&subject.to_string()));
    }
    match subjects.len().saturating_sub(LISTED) {
        0 => text,
        more => format!("{text}\n  and {more} more"),
    }
}

fn shown(name: &str) -> String {
    let name = printable(name);
    match name.char_indices().nth(NAME_CHARS) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.into_owned(),
    }
}
