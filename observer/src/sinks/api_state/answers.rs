//! The state as it is read: all of it, or one container with its curves.

use std::collections::VecDeque;

use observer_core::{
    container::stability,
    history::KEPT,
    model::{
        container::{CgroupId, Workload},
        finding::Advised,
    },
};
use serde::Serialize;

use super::{
    Dropped, NodeState,
    history::{NodeHistoryView, UsageHistoryView},
    shortened,
    stream::Counts,
    view::{
        ContainerView, CurveView, FindingView, KillView, KubernetesView, NodeView, ProbeView, ScaleEventView,
        StartupView, WorkloadView,
    },
    workloads,
};

#[derive(Serialize)]
pub struct Status {
    /// The time of what is shown: the last second of the node, or of the recording.
    pub now: f64,
    /// False: a recording; nothing more will come.
    pub live: bool,
    pub recording: Option<String>,
    pub ready: bool,
    /// What keeps it from being ready.
    pub missing: Vec<String>,
    pub kubernetes: Option<KubernetesView>,
    pub dropped: Dropped,
    pub streams: Counts,
}

#[derive(Serialize)]
pub struct HostView<'a> {
    pub observer_version: &'a str,
    pub kernel: &'a str,
    pub cpus: u64,
    pub memory_total_bytes: u64,
}

#[derive(Serialize)]
pub struct StateView<'a> {
    /// Deltas after this one continue it.
    pub moment: u64,
    pub status: Status,
    pub host: Option<HostView<'a>>,
    pub probes: &'a [ProbeView],
    pub node: &'a NodeView,
    pub containers: Vec<&'a ContainerView>,
    pub workloads: Vec<WorkloadView>,
    pub scale_events: &'a VecDeque<ScaleEventView>,
    pub kills: &'a VecDeque<KillView>,
    pub findings: &'a VecDeque<FindingView>,
}

/// A container with everything that is kept of it.
#[derive(Serialize)]
pub struct ContainerDetail<'a> {
    pub container: &'a ContainerView,
    pub workload: Option<WorkloadView>,
    /// Since the exec; empty: its start was not seen.
    pub curve: CurveView,
    /// How far a curve may be from what was: max(1 MiB, 1/128 of usage).
    pub error_bytes: u64,
    /// Half width of the band around the steady level that decides on the time to stable.
    pub band_bytes: Option<u64>,
    pub history: UsageHistoryView,
    /// Of the same workload, the newest first.
    pub earlier: Vec<StartupView>,
}

impl NodeState {
    /// Ready: the tree is known and every required probe is attached. `Err` says what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if !self.seeded {
            return Err("the cgroup tree has not been walked yet".into());
        }
        if self.missing.is_empty() { Ok(()) } else { Err(self.missing.join("; ")) }
    }

    pub fn probes(&self) -> &[ProbeView] {
        &self.probes
    }

    pub fn containers(&self) -> Vec<&ContainerView> {
        self.containers.values().map(|card| &card.view).collect()
    }

    pub fn scale_events(&self) -> &VecDeque<ScaleEventView> {
        &self.scale_events
    }

    pub fn kills(&self) -> &VecDeque<KillView> {
        &self.kills
    }

    pub fn findings(&self) -> &VecDeque<FindingView> {
        &self.findings
    }

    pub fn advice(&self) -> Vec<&Advised> {
        self.advice.values().collect()
    }

    pub fn workloads(&self) -> Vec<WorkloadView> {
        workloads::all(self).into_values().collect()
    }

    pub fn view(&self) -> StateView<'_> {
        StateView {
            moment: self.hub.last(),
            status: self.status(),
            host: self.host.as_ref().map(|host| HostView {
                observer_version: &host.observer_version,
                kernel: &host.kernel,
                cpus: host.cpus,
                memory_total_bytes: host.memory_total,
            }),
            probes: &self.probes,
            node: &self.node,
            containers: self.containers(),
            workloads: self.workloads(),
            scale_events: &self.scale_events,
            kills: &self.kills,
            findings: &self.findings,
        }
    }

    pub fn status(&self) -> Status {
        let mut missing = self.missing.clone();
        if !self.seeded {
            missing.push("the cgroup tree has not been walked yet".into());
        }
        Status {
            now: self.now,
            live: self.recording.is_none(),
            recording: self.recording.clone(),
            ready: missing.is_empty(),
            missing,
            kubernetes: self.kubernetes.clone(),
            dropped: self.dropped,
            streams: self.hub.counts(),
        }
    }

    pub fn node_history(&self, from: f64, until: f64) -> NodeHistoryView {
        self.history.view(from, until)
    }

    /// Under way, or over, between these times; the oldest first.
    pub fn startups(&self, from: f64, until: f64) -> Vec<StartupView> {
        let meets = |startup: &StartupView| {
            let end = startup.seconds.map_or(f64::INFINITY, |seconds| startup.started + seconds);
            startup.started <= until && end >= from
        };
        self.startups
            .iter()
            .filter(|startup| meets(startup))
            .map(|startup| self.with_curve(startup))
            .collect()
    }

    /// [`Self::node_history`] at each fineness, with the time from which each is known.
    pub fn node_histories(&self) -> Vec<(f64, NodeHistoryView)> {
        self.history.views(self.now)
    }

    /// From the first second of the node to the last.
    pub fn span_seconds(&self) -> f64 {
        self.history.first().map_or(0.0, |first| (self.now - first).max(0.0))
    }

    pub fn container(&self, id: CgroupId) -> Option<ContainerDetail<'_>> {
        let detail = self.curves(id)?;
        let workload = Workload::of(&detail.container.container.labels);
        Some(ContainerDetail { workload: workloads::all(self).remove(&workload), ..detail })
    }

    /// The same without its workload.
    pub fn curves(&self, id: CgroupId) -> Option<ContainerDetail<'_>> {
        let card = self.containers.get(&id)?;
        let view = &card.view;
        let workload = Workload::of(&view.container.labels);
        let same = |startup: &&StartupView| {
            Some(startup.startup) != card.startup && Workload::of(&startup.container.labels) == workload
        };
        let earlier = self.startups.iter().rev().filter(same).take(KEPT).cloned();
        Some(ContainerDetail {
            container: view,
            curve: card.curve(),
            error_bytes: (view.usage_bytes / 128).max(1 << 20),
            band_bytes: view.steady_bytes.map(|steady| stability::band(steady as f64) as u64),
            history: card
                .history
                .as_ref()
                .map(|history| history.view(self.now - 86_400.0))
                .unwrap_or_default(),
            earlier: earlier.collect(),
            workload: None,
        })
    }

    pub(super) fn with_curve(&self, startup: &StartupView) -> StartupView {
        let mut startup = startup.clone();
        if startup.seconds.is_none()
            && let Some(card) = self.containers.get(&startup.container.id)
        {
            startup.curve = shortened(card.curve());
            startup.peak_bytes =
                startup.curve.kib.iter().max().map_or(0, |kib| u64::from(*kib) << 10).max(startup.peak_bytes);
        }
        startup
    }
}
