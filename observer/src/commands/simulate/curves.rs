//! Curves of workloads: of a running observer, a recording, or a state file.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

use crate::{
    clock,
    commands::client::http::Http,
    recording::{history_file, replay},
};
use observer_core::{
    advice::Settings,
    model::{
        advice::{Advice, Facts, Startups, Steady, Typical},
        container::Workload,
        finding::{Advised, FindingKind},
    },
    simulate::Kind,
};

/// Above the highest that was seen: as `observer advise` adds to a steady level.
const ABOVE: u64 = 16;
/// Of a pod's curve.
const MOST_SPANS: usize = 1 << 16;

/// A workload's pods: all of their containers together.
#[derive(Clone, Debug)]
pub struct Pods {
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    /// Alive now, where that is known.
    pub alive: u64,
    containers: Vec<Facts>,
}

pub fn of_observer(http: &Http) -> Result<Vec<Pods>, String> {
    let advised: Vec<Advised> = http.api("/api/v1/advice", &[])?;
    Ok(by_workload(advised.into_iter().map(|advised| advised.facts)))
}

pub fn of_recording(path: &Path) -> Result<Vec<Pods>, String> {
    let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut last: BTreeMap<Workload, Facts> = BTreeMap::new();
    replay::replay(BufReader::new(file), |finding| {
        if let FindingKind::Advised(advised) = &finding.what {
            last.insert(advised.facts.workload.clone(), advised.facts.clone());
        }
    })
    .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(by_workload(last.into_values()))
}

pub fn of_state(path: &Path) -> Result<Vec<Pods>, String> {
    let mut histories = history_file::look(path, clock::unix_seconds())
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let facts = histories.drain().map(|(workload, known)| {
        let startups = Startups::of(&known.startups);
        Facts {
            workload,
            typical: Typical::of(&known.startups),
            steady: Steady::of(Some(&known.levels), &startups),
            startups,
            ..Facts::default()
        }
    });
    Ok(by_workload(facts))
}

fn by_workload(facts: impl Iterator<Item = Facts>) -> Vec<Pods> {
    let mut all: BTreeMap<(String, String, String), Pods> = BTreeMap::new();
    for facts in facts {
        let Workload { namespace, workload, workload_type, .. } = facts.workload.clone();
        let key = (namespace.clone(), workload_type.clone(), workload.clone());
        let pods = all.entry(key).or_insert_with(|| Pods {
            namespace,
            workload,
            workload_type,
            alive: 0,
            containers: Vec::new(),
        });
        pods.alive = pods.alive.max(facts.current.containers);
        pods.containers.push(facts);
    }
    all.into_values().collect()
}

impl Pods {
    /// `shop/deployment/web`.
    pub fn name(&self) -> String {
        match self.namespace.as_str() {
            "" => self.workload.clone(),
            namespace => format!("{namespace}/{}/{}", self.workload_type, self.workload),
        }
    }

    /// Its pods as they were seen to start; or what is missing.
    pub fn kind(&self, request: Option<u64>, limit: Option<u64>) -> Result<Kind, String> {
        let name = self.name();
        let mut kind = Kind { name: name.clone(), ..self.unknown() };
        let known = || self.containers.iter().filter_map(|facts| facts.typical.as_ref());
        let finest = known().map(|typical| typical.span).fold(f64::INFINITY, f64::min);
        let longest = known().map(|typical| typical.highest.len() as f64 * typical.span).fold(0.0, f64::max);
        // No finer than fits beside the longest curve of the pod.
        kind.span = finest.max(longest / MOST_SPANS as f64);
        let (mut asked, mut worst, mut limits) = (Some(0_u64), 0_u64, Some(0_u64));
        for facts in &self.containers {
            let missing = |what: &str| {
                format!("{name}: {what} of its container {:?} is not known", facts.workload.container)
            };
            let typical = facts.typical.as_ref().ok_or_else(|| missing("no curve"))?;
            let settled = facts.startups.steady.map(|steady| steady[2]);
            let steady =
                settled.or(facts.steady.map(|steady| steady.p95)).or(typical.highest.last().copied());
            let steady = steady.ok_or_else(|| missing("the level after its start"))?;
            kind.steady = kind.steady.saturating_add(steady);
            let length = (typical.highest.len() as f64 * typical.span / kind.span).ceil() as usize;
            let length = length.min(MOST_SPANS);
            if kind.curve.len() < length {
                // A container whose curve ends stays where it ended.
                let last = kind.curve.last().copied().unwrap_or(0);
                kind.curve.resize(length, last);
            }
            for (i, bytes) in kind.curve.iter_mut().enumerate() {
                let at = (i as f64 * kind.span / typical.span) as usize;
                let more = typical.highest.get(at).or(typical.highest.last()).copied().unwrap_or(0);
                *bytes = bytes.saturating_add(more);
            }
            let advised = Advice::of(facts, &Settings::default()).numbers.request;
            let sum = |(sum, one): (u64, u64)| sum.saturating_add(one);
            asked = asked.zip(facts.current.request.flatten().or(advised)).map(sum);
            limits = limits.zip(facts.current.limit.flatten()).map(sum);
            worst = worst.saturating_add(typical.highest.iter().copied().max().unwrap_or(0));
        }
        kind.request = request.or(asked).ok_or_else(|| {
            format!(
                "{name}: what its pods request is not known: give it with --request, such as --request 64Mi"
            )
        })?;
        kind.limit = limit.or(limits).filter(|limit| *limit > 0);
        kind.start_need =
            worst.saturating_add(worst / ABOVE).min(kind.limit.unwrap_or(u64::MAX)).max(kind.request);
        Ok(kind)
    }

    /// Takes nothing.
    pub fn unknown(&self) -> Kind {
        Kind {
            name: String::new(),
            request: 0,
            start_need: 0,
            limit: None,
            span: 1.0,
            curve: Vec::new(),
            steady: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(of: &[(f64, u64)]) -> Pods {
        let facts = of.iter().map(|(span, bytes)| Facts {
            workload: Workload::default(),
            typical: Some(Typical { span: *span, highest: vec![*bytes; 3], median: vec![*bytes; 3] }),
            ..Facts::default()
        });
        by_workload(facts).remove(0)
    }

    #[test]
    fn sums_of_any_numbers_are_bounded() {
        let kind = pods(&[(1.0, u64::MAX), (1.0, 5)]).kind(Some(1), None).unwrap();
        assert_eq!((kind.steady, kind.start_need, &kind.curve[..]), (u64::MAX, u64::MAX, &[u64::MAX; 3][..]));
        let kind = pods(&[(1e-300, 1), (1e5, 2)]).kind(Some(1), None).unwrap();
        assert_eq!((kind.curve.len(), kind.curve[0]), (MOST_SPANS, 3));
    }
}
