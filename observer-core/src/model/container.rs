//! Whom memory is reported for: containers, and the workloads they are instances of.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use strum::EnumCount;

/// The memory controller's cgroup id; equal to the inode number of the cgroup's directory.
pub type CgroupId = u64;

/// The container a finding is about.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Container {
    pub cgroup: CgroupId,
    #[serde(flatten)]
    pub labels: Arc<Labels>,
}

/// Names on dashboards. Joined on `namespace`, `pod`, `container` with everybody else's metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub workload: String,
    pub workload_type: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, EnumCount)]
#[serde(rename_all = "snake_case")]
pub enum ContainerState {
    /// From first exec until a verdict.
    Starting,
    Stable,
    Drifting,
    Oscillating,
    /// Started before the observer; only measured.
    Running,
    Ended,
}

impl ContainerState {
    pub const ALL: [ContainerState; ContainerState::COUNT] = [
        ContainerState::Starting,
        ContainerState::Stable,
        ContainerState::Drifting,
        ContainerState::Oscillating,
        ContainerState::Running,
        ContainerState::Ended,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ContainerState::Starting => "starting",
            ContainerState::Stable => "stable",
            ContainerState::Drifting => "drifting",
            ContainerState::Oscillating => "oscillating",
            ContainerState::Running => "running",
            ContainerState::Ended => "ended",
        }
    }
}

/// What start-ups are compared within: one container of one workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    /// Name in the pod's template; empty outside Kubernetes, where a workload has one container.
    pub container: String,
}

impl Workload {
    pub fn of(labels: &Labels) -> Self {
        Self {
            namespace: labels.namespace.clone(),
            workload: labels.workload.clone(),
            workload_type: labels.workload_type.clone(),
            container: if labels.pod.is_empty() { String::new() } else { labels.container.clone() },
        }
    }

    /// Memory it takes, bytes.
    pub fn size(&self) -> usize {
        let Self { namespace, workload, workload_type, container } = self;
        size_of::<Self>() + namespace.len() + workload.len() + workload_type.len() + container.len()
    }
}

impl std::fmt::Display for Workload {
    /// `shop/deployment/web:app`; outside Kubernetes the workload alone.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Self { namespace, workload, workload_type, container } = self;
        match namespace.is_empty() {
            true => write!(f, "{workload}"),
            false => write!(f, "{namespace}/{workload_type}/{workload}:{container}"),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    /// By a signal that asks to stop (SIGHUP, SIGINT, SIGTERM), or with the code that shells make of one (128 more).
    pub fn was_stopped(self) -> bool {
        matches!(self, Self::Signal(1 | 2 | 15) | Self::Code(129 | 130 | 143))
    }

    /// By SIGKILL, likewise.
    pub fn was_killed(self) -> bool {
        matches!(self, Self::Signal(9) | Self::Code(137))
    }
}
