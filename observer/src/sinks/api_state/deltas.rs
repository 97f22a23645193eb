//! What changed since the last moment: collected while findings come, written once for all readers.

use std::collections::{BTreeMap, VecDeque};

use observer_core::model::container::{CgroupId, Workload};
use serde::Serialize;

use super::{
    Card, MOVED_BYTES, NodeState,
    answers::Status,
    view::{ContainerView, FindingView, KillView, NodeView, ScaleEventView, StartupView, WorkloadView},
    workloads,
};

/// Since the last moment.
#[derive(Debug, Default)]
pub struct Changes {
    pub gone: Vec<CgroupId>,
    pub startups: Vec<u64>,
    pub kills: Vec<u64>,
    pub scale_events: bool,
    pub findings: usize,
    pub workloads: BTreeMap<Workload, WorkloadView>,
}

#[derive(Serialize)]
struct Delta<'a> {
    moment: u64,
    status: Status,
    node: &'a NodeView,
    /// Those of which more than usage changed.
    containers: Vec<&'a ContainerView>,
    /// id, usage, working set, peak.
    usage: Vec<(String, u64, u64, u64)>,
    gone: Vec<String>,
    workloads: Vec<&'a WorkloadView>,
    workloads_gone: Vec<String>,
    startups: Vec<StartupView>,
    kills: Vec<&'a KillView>,
    scale_events: Option<&'a VecDeque<ScaleEventView>>,
    findings: Vec<&'a FindingView>,
}

impl NodeState {
    /// What changed since the last moment, to everybody who reads.
    pub fn moment(&mut self) {
        if !self.hub.is_read() {
            self.changes = Changes::default();
            // Once: what changes from here on is in the first delta that somebody reads.
            if std::mem::take(&mut self.was_read) {
                self.containers.values_mut().for_each(|card| (card.changed, card.sent) = (false, 0));
            }
            return self.hub.push(None);
        }
        self.was_read = true;
        let mut changes = std::mem::take(&mut self.changes);
        let workloads = workloads::all(self);
        changes.startups.sort_unstable();
        changes.startups.dedup();
        let cards = || self.containers.values().map(|card| &**card);
        let rows = |card: &&Card| {
            !card.changed && card.view.usage_bytes.abs_diff(card.sent) >= MOVED_BYTES.max(card.sent / 256)
        };
        let row = |card: &Card| {
            let view = &card.view;
            (view.container.id.to_string(), view.usage_bytes, view.working_set_bytes, view.peak_bytes)
        };
        let delta = Delta {
            moment: self.hub.next(),
            status: self.status(),
            node: &self.node,
            containers: cards().filter(|card| card.changed).map(|card| &card.view).collect(),
            usage: cards().filter(rows).map(row).collect(),
            gone: changes.gone.iter().map(|id| id.to_string()).collect(),
            workloads: workloads
                .iter()
                .filter(|(key, view)| changes.workloads.get(key) != Some(view))
                .map(|(_, view)| view)
                .collect(),
            workloads_gone: changes
                .workloads
                .iter()
                .filter(|(key, _)| !workloads.contains_key(key))
                .map(|(_, view)| view.key.clone())
                .collect(),
            startups: self
                .startups
                .iter()
                .filter(|startup| changes.startups.binary_search(&startup.startup).is_ok())
                .map(|startup| self.with_curve(startup))
                .collect(),
            kills: self.kills.iter().filter(|kill| changes.kills.contains(&kill.kill)).collect(),
            scale_events: changes.scale_events.then_some(&self.scale_events),
            findings: self.findings.iter().rev().take(changes.findings).rev().collect(),
        };
        // Plain data serializes; should that fail, readers find a gap and request the whole state.
        self.hub.push(serde_json::to_string(&delta).ok());
        for card in self.containers.values_mut() {
            if card.changed || card.view.usage_bytes.abs_diff(card.sent) >= MOVED_BYTES.max(card.sent / 256) {
                card.sent = card.view.usage_bytes;
            }
            card.changed = false;
        }
        self.changes = Changes { workloads, ..Changes::default() };
    }
}
