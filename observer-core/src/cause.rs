//! Why a container started. Pure: facts in, decision with evidence out.
//!
//! A restart is told by how the container before it ended. The first container of a pod started because the pod was made,
//! and why *that* happened the owner tells: the table in `decide`, first match wins. Without Kubernetes the node knows only
//! what ended before under the same name.
//!
//! Confidence is the share of such decisions that are right; 1 where the API says it outright. What an agent concludes
//! from one look at metadata stays below 0.9, because a second change may have covered the first.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::model::{
    event::ExitStatus,
    finding::{Container, Ended},
    kubernetes::{By, ByKind},
};

pub mod decide;
pub mod open_starts;

/// Names kept; beyond that all are forgotten at once, and restarts look like first starts until they end again.
const NAMES: usize = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody of this name ended while the observer watched.
    First,
    RestartAfterOomKill,
    /// A signal, or an exit code other than zero.
    RestartAfterFailure,
    RestartAfterCompletion,
    /// Killed by the kubelet: a failed liveness or startup probe; or by somebody with a signal.
    RestartAfterKill,
    /// To take a new size (resizePolicy RestartContainer).
    RestartAfterResize,
    /// All containers of the pod together, or its sandbox was made anew.
    RestartOfPod,
    RestartAfterReboot,
    /// It is a restart, and how the one before ended was not seen.
    RestartUnknown,
    /// From a file on the node.
    StaticPod,
    /// Nobody owns the pod.
    Standalone,
    #[serde(rename = "daemonset")]
    DaemonSet,
    Job,
    #[serde(rename = "cronjob")]
    CronJob,
    FirstDeploy,
    Rollout,
    #[serde(rename = "scale_up_hpa")]
    ScaleUpByHpa,
    #[serde(rename = "scale_up_keda")]
    ScaleUpByKeda,
    ScaleUpManual,
    ScaleUpUnknown,
    /// In place of a pod that was lost: evicted, drained, preempted, deleted.
    Reschedule,
    #[default]
    Unknown,
}

impl Cause {
    pub const ALL: [Cause; 22] = [
        Cause::First,
        Cause::RestartAfterOomKill,
        Cause::RestartAfterFailure,
        Cause::RestartAfterCompletion,
        Cause::RestartAfterKill,
        Cause::RestartAfterResize,
        Cause::RestartOfPod,
        Cause::RestartAfterReboot,
        Cause::RestartUnknown,
        Cause::StaticPod,
        Cause::Standalone,
        Cause::DaemonSet,
        Cause::Job,
        Cause::CronJob,
        Cause::FirstDeploy,
        Cause::Rollout,
        Cause::ScaleUpByHpa,
        Cause::ScaleUpByKeda,
        Cause::ScaleUpManual,
        Cause::ScaleUpUnknown,
        Cause::Reschedule,
        Cause::Unknown,
    ];

    /// Of the start that follows such an end.
    pub fn after(status: Option<ExitStatus>, oom_killed: bool) -> Self {
        match status {
            _ if oom_killed => Cause::RestartAfterOomKill,
            Some(ExitStatus::Code(0)) => Cause::RestartAfterCompletion,
            Some(_) => Cause::RestartAfterFailure,
            None => Cause::RestartUnknown,
        }
    }

    pub fn scale_up(by: ByKind) -> Self {
        match by {
            ByKind::Hpa => Cause::ScaleUpByHpa,
            ByKind::Keda => Cause::ScaleUpByKeda,
            ByKind::Manual => Cause::ScaleUpManual,
            ByKind::Unknown => Cause::ScaleUpUnknown,
        }
    }

    pub fn is_scale_up(self) -> bool {
        matches!(
            self,
            Cause::ScaleUpByHpa | Cause::ScaleUpByKeda | Cause::ScaleUpManual | Cause::ScaleUpUnknown
        )
    }

    /// Label value, and the word in docs and logs.
    pub fn name(self) -> &'static str {
        match self {
            Cause::First => "first",
            Cause::RestartAfterOomKill => "restart_after_oom_kill",
            Cause::RestartAfterFailure => "restart_after_failure",
            Cause::RestartAfterCompletion => "restart_after_completion",
            Cause::RestartAfterKill => "restart_after_kill",
            Cause::RestartAfterResize => "restart_after_resize",
            Cause::RestartOfPod => "restart_of_pod",
            Cause::RestartAfterReboot => "restart_after_reboot",
            Cause::RestartUnknown => "restart_unknown",
            Cause::StaticPod => "static_pod",
            Cause::Standalone => "standalone",
            Cause::DaemonSet => "daemonset",
            Cause::Job => "job",
            Cause::CronJob => "cronjob",
            Cause::FirstDeploy => "first_deploy",
            Cause::Rollout => "rollout",
            Cause::ScaleUpByHpa => "scale_up_hpa",
            Cause::ScaleUpByKeda => "scale_up_keda",
            Cause::ScaleUpManual => "scale_up_manual",
            Cause::ScaleUpUnknown => "scale_up_unknown",
            Cause::Reschedule => "reschedule",
            Cause::Unknown => "unknown",
        }
    }
}

/// Why a container started, and how we know.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Decision {
    pub cause: Cause,
    /// 0 to 1.
    pub confidence: f64,
    /// What was seen, each a short sentence.
    pub evidence: Vec<String>,
    /// What it could be instead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub competing: Vec<Cause>,
    /// Of a restart: why its pod was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Cause>,
    /// Of a scale-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaled: Option<Scaled>,
}

/// The scale-up that made a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scaled {
    /// Unix seconds.
    pub at: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    pub to: u64,
    pub by: By,
}

impl Decision {
    pub fn new(cause: Cause, confidence: f64, evidence: impl Into<String>) -> Self {
        Self { cause, confidence, evidence: vec![evidence.into()], ..Self::default() }
    }

    pub fn or(mut self, competing: &[Cause]) -> Self {
        self.competing.extend_from_slice(competing);
        self
    }

    pub fn also(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }
}

/// How the last of each name ended.
#[derive(Debug, Default)]
pub struct PreviousExits {
    by_name: HashMap<(String, String, String), Cause>,
}

impl PreviousExits {
    pub fn ended(&mut self, ended: &Ended) {
        if self.by_name.len() >= NAMES {
            self.by_name.clear();
        }
        self.by_name.insert(name(&ended.container), Cause::after(ended.status, ended.oom_killed));
    }

    pub fn cause(&self, container: &Container) -> Cause {
        self.by_name.get(&name(container)).copied().unwrap_or(Cause::First)
    }
}

fn name(container: &Container) -> (String, String, String) {
    let labels = &container.labels;
    (labels.namespace.clone(), labels.pod.clone(), labels.container.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_one_name_in_metrics_logs_and_findings() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
    }
}
