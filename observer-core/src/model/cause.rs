//! Why a container started, and how that is known.

use serde::{Deserialize, Serialize};

use crate::model::{
    container::ExitStatus,
    kubernetes::{By, ByKind},
};

macro_rules! causes {
    ($($(#[$attribute:meta])* $cause:ident = $name:literal, $is:literal, $sure_from:literal;)*) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Cause {
            $(#[doc = $is] #[serde(rename = $name)] $(#[$attribute])* $cause,)*
        }

        impl Cause {
            pub const ALL: [Cause; [$(Cause::$cause),*].len()] = [$(Cause::$cause),*];

            /// Label value, and the word in documents and logs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Cause::$cause => $name,)*
                }
            }

            /// The start is ..., and what makes that sure; for docs/causes.md.
            pub fn meaning(self) -> (&'static str, &'static str) {
                match self {
                    $(Cause::$cause => ($is, $sure_from),)*
                }
            }
        }
    };
}

// Name, what the start is, what makes that sure. The only list.
causes! {
    First = "first", "the first of its name on this host (outside Kubernetes)", "";
    RestartAfterOomKill = "restart_after_oom_kill", "after an OOM kill of the previous container", "the kill seen (1.0), or the status OOMKilled (0.95)";
    RestartAfterFailure = "restart_after_failure", "after another signal, or an exit code other than 0", "the status; with a liveness probe less: a program that handles SIGTERM may exit with any code";
    RestartAfterCompletion = "restart_after_completion", "after exit code 0", "the status; with a liveness probe less";
    RestartAfterKill = "restart_after_kill", "after SIGTERM or SIGKILL (exit code 143 or 137; outside Kubernetes SIGINT and SIGHUP too) without an OOM kill: a failed probe, or a signal from a user or program", "with a probe 0.9, else 0.7";
    RestartAfterResize = "restart_after_resize", "to take a new size (resizePolicy RestartContainer)", "a condition of the pod";
    RestartOfPod = "restart_of_pod", "of all containers of the pod together, or its sandbox was recreated", "a condition of the pod";
    RestartAfterReboot = "restart_after_reboot", "after the host was booted", "the host's boot time";
    RestartUnknown = "restart_unknown", "a restart, and the end of the previous container was not observed", "";
    StaticPod = "static_pod", "of a pod from a file on the node", "the owner's kind";
    Standalone = "standalone", "of a pod without an owner", "the owner's kind";
    DaemonSet = "daemonset", "of a DaemonSet's pod", "the owner's kind";
    Job = "job", "of a Job's pod", "the owner's kind";
    CronJob = "cronjob", "of a CronJob's pod", "the owner's kind";
    FirstDeploy = "first_deploy", "of a workload created at most a minute before and not changed since", "creation times";
    Rollout = "rollout", "of a new revision, or of a rollback to an old one", "revision, and the ReplicaSet's steps";
    ScaleUpByHpa = "scale_up_hpa", "because an HPA raised the replicas", "see below";
    ScaleUpByKeda = "scale_up_keda", "because KEDA raised the replicas", "see below";
    ScaleUpManual = "scale_up_manual", "because a person or a tool raised the replicas", "see below";
    ScaleUpUnknown = "scale_up_unknown", "because the replicas were raised by an unknown actor", "see below";
    Reschedule = "reschedule", "in place of a lost pod: evicted, drained, preempted, deleted", "nothing else changed; or all pods of the scale-up exist already";
    #[default] Unknown = "unknown", "undetermined: the API or the owner was unavailable", "";
}

impl Cause {
    /// Of the start that follows such an end.
    pub fn after(status: Option<ExitStatus>, oom_killed: bool) -> Self {
        match status {
            _ if oom_killed => Cause::RestartAfterOomKill,
            Some(ExitStatus::Code(0)) => Cause::RestartAfterCompletion,
            Some(status) if status.was_stopped() || status.was_killed() => Cause::RestartAfterKill,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_after_a_stop_by_a_signal_is_not_one_after_a_failure() {
        use ExitStatus::{Code, Signal};
        for (status, oom_killed, expected) in [
            (Some(Signal(9)), true, Cause::RestartAfterOomKill),
            (Some(Signal(9)), false, Cause::RestartAfterKill),
            (Some(Signal(15)), false, Cause::RestartAfterKill),
            (Some(Code(143)), false, Cause::RestartAfterKill),
            (Some(Signal(11)), false, Cause::RestartAfterFailure),
            (Some(Code(1)), false, Cause::RestartAfterFailure),
            (Some(Code(0)), false, Cause::RestartAfterCompletion),
            (None, false, Cause::RestartUnknown),
        ] {
            assert_eq!(Cause::after(status, oom_killed), expected, "{status:?}");
        }
    }

    #[test]
    fn a_cause_has_one_name_in_metrics_logs_and_findings() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
    }
}
