//! What changed, once a second (`/api/v1/stream`), and a state that is continued by it.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use serde::Deserialize;

use super::state::{Container, Kill, Node, ScaleEvent, State, Status, Workload};

/// As many as the daemon keeps: it does not report which it dropped.
const KILLS: usize = 200;

#[derive(Debug, Deserialize)]
pub struct Delta {
    moment: u64,
    status: Status,
    node: Node,
    containers: Vec<Container>,
    /// id, usage, working set, peak.
    usage: Vec<(String, u64, u64, u64)>,
    gone: HashSet<String>,
    workloads: Vec<Workload>,
    workloads_gone: HashSet<String>,
    kills: Vec<Kill>,
    scale_events: Option<Vec<ScaleEvent>>,
}

impl State {
    pub fn follow(&mut self, delta: Delta) {
        self.moment = delta.moment;
        self.status = delta.status;
        self.node = delta.node;
        self.containers.retain(|one| !delta.gone.contains(&one.names.id));
        put(&mut self.containers, delta.containers, |one| one.names.id.clone());
        let usage: HashMap<&str, _> = delta.usage.iter().map(|row| (row.0.as_str(), row)).collect();
        for one in &mut self.containers {
            if let Some((_, usage, working_set, peak)) = usage.get(one.names.id.as_str()) {
                (one.usage_bytes, one.working_set_bytes, one.peak_bytes) = (*usage, *working_set, *peak);
            }
        }
        self.workloads.retain(|one| !delta.workloads_gone.contains(&one.key));
        put(&mut self.workloads, delta.workloads, |one| one.key.clone());
        put(&mut self.kills, delta.kills, |one| one.kill);
        let excess = self.kills.len().saturating_sub(KILLS);
        self.kills.drain(..excess);
        if let Some(events) = delta.scale_events {
            self.scale_events = events;
        }
    }
}

/// Each in the place of the one with the same key, or at the end.
fn put<T, K: Eq + Hash>(list: &mut Vec<T>, new: Vec<T>, key: impl Fn(&T) -> K) {
    if new.is_empty() {
        return;
    }
    let places: HashMap<K, usize> = list.iter().enumerate().map(|(place, one)| (key(one), place)).collect();
    for one in new {
        match places.get(&key(&one)).and_then(|place| list.get_mut(*place)) {
            Some(old) => *old = one,
            None => list.push(one),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::BufReader};

    use super::*;
    use crate::{
        recording::replay,
        sinks::{api_state::NodeState, metrics::Metrics},
    };

    fn asked(state: &NodeState) -> State {
        serde_json::from_value(serde_json::to_value(state.view()).unwrap()).unwrap()
    }

    /// Small moves of usage are not sent: the daemon's own error bound, and what was read beside it.
    fn comparable(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
        let mut containers: Vec<_> = state
            .containers
            .iter()
            .map(|one| {
                (one.names.id.clone(), one.state.clone(), one.limit_bytes, one.oom_kills, one.exit.clone())
            })
            .collect();
        containers.sort();
        let mut workloads: Vec<_> = state
            .workloads
            .iter()
            .map(|one| {
                (
                    one.key.clone(),
                    one.risk.why.clone(),
                    one.starting,
                    serde_json::to_value(&one.advice).unwrap().to_string(),
                )
            })
            .collect();
        workloads.sort();
        let kills: Vec<_> = state.kills.iter().map(|one| (one.kill, one.victim_pid, one.scope)).collect();
        let events: Vec<_> =
            state.scale_events.iter().map(|one| (one.at.to_string(), one.to, one.kills.clone())).collect();
        (
            state.moment,
            state.status.now.to_string(),
            state.node.starting,
            containers,
            workloads,
            kills,
            events,
        )
    }

    #[test]
    fn a_state_that_follows_the_stream_is_the_state_that_is_asked() {
        let cases = format!("{}/../tests/cases", env!("CARGO_MANIFEST_DIR"));
        let mut moments = 0;
        for case in std::fs::read_dir(cases).unwrap() {
            let case = case.unwrap().path().join("events.jsonl");
            let mut node = NodeState::of_recording("case".into());
            let (mut followed, mut reader) = (None::<State>, node.hub().read(0).unwrap());
            let each = |finding: &_| {
                node.apply(finding);
                while let Some(bytes) = reader.try_next() {
                    moments += 1;
                    let Some(state) = &mut followed else {
                        followed = Some(asked(&node));
                        continue;
                    };
                    let text = String::from_utf8(bytes.to_vec()).unwrap();
                    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
                    state.follow(serde_json::from_str(data).unwrap());
                    assert_eq!(comparable(state), comparable(&asked(&node)), "{}", case.display());
                    for other in asked(&node).containers {
                        let same = |one: &&Container| one.names.id == other.names.id;
                        let one = state.containers.iter().find(same).unwrap();
                        let usage = one.usage_bytes.abs_diff(other.usage_bytes);
                        assert!(usage <= (256 << 10) + other.usage_bytes / 128, "{usage} {one:?}");
                    }
                }
            };
            replay::replay_into(
                &Metrics::default(),
                BufReader::new(File::open(&case).unwrap()),
                |_| {},
                each,
            )
            .unwrap();
        }
        assert!(moments > 100, "{moments}");
    }
}
