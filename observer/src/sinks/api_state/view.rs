//! What /api/v1 answers with: plain data, documented in docs/openapi.yaml. Bytes, seconds, Unix time.
//!
//! These types are the interface. What the core calls a thing may change; a name here changes only with the version.

use std::sync::Arc;

use serde::Serialize;

use observer_core::model::{
    cause::Decision,
    container::{CgroupId, Container, ExitStatus, Labels, Workload},
    event::{AttachOutcome, ProbeStatus},
    finding::{ForeseenBy, LimitAhead, LimitKind, ScaleEvent, ScaleEventEnded},
};

mod kill;
mod loan;

pub use kill::{AlsoStarting, KillView};
pub use loan::LoanView;

/// Names of a container; the id is its cgroup's, as text because it may exceed what JavaScript counts exactly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ContainerRef {
    #[serde(serialize_with = "text")]
    pub id: CgroupId,
    #[serde(flatten)]
    pub labels: Arc<Labels>,
}

impl From<&Container> for ContainerRef {
    fn from(container: &Container) -> Self {
        Self { id: container.cgroup, labels: container.labels.clone() }
    }
}

fn text<S: serde::Serializer>(id: &CgroupId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cause {
    pub cause: &'static str,
    /// 0 to 1.
    pub confidence: f64,
    pub evidence: Vec<String>,
    pub competing: Vec<&'static str>,
}

impl From<&Decision> for Cause {
    fn from(decision: &Decision) -> Self {
        Self {
            cause: decision.cause.name(),
            confidence: decision.confidence,
            evidence: decision.evidence.clone(),
            competing: decision.competing.iter().map(|cause| cause.name()).collect(),
        }
    }
}

/// One container: its verdict, what it holds, and the numbers of its start-up.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerView {
    #[serde(flatten)]
    pub container: ContainerRef,
    pub state: &'static str,
    /// Unix time of the exec; null: it ran before the observer.
    pub started: Option<f64>,
    pub ended: Option<f64>,
    pub exit: Option<String>,
    pub cause: Option<Cause>,
    pub usage_bytes: u64,
    pub working_set_bytes: u64,
    /// What of usage cannot be dropped without swap, at the last reading: anonymous, shared (tmpfs too) and locked
    /// memory. Null: not read yet, not reported by this kernel, or the parts are of another moment than usage.
    pub anon_bytes: Option<u64>,
    pub file_bytes: Option<u64>,
    /// Shared memory and tmpfs, in `anon_bytes` too.
    pub shmem_bytes: Option<u64>,
    pub peak_bytes: u64,
    pub limit_bytes: Option<u64>,
    pub startup_peak_bytes: Option<u64>,
    pub startup_peak_seconds: Option<f64>,
    pub startup_peak_anon_bytes: Option<u64>,
    pub time_to_stable_seconds: Option<f64>,
    pub steady_bytes: Option<u64>,
    pub overshoot: Option<f64>,
    pub drift_bytes_per_second: Option<f64>,
    pub limit_ahead: Option<LimitAheadView>,
    pub loan: Option<LoanView>,
    pub oom_kills: u64,
}

impl ContainerView {
    /// Usage comes more often than its parts: those that do not fit into it are of an earlier moment.
    pub fn drop_old_parts(&mut self) {
        let parts = self.anon_bytes.unwrap_or(0).saturating_add(self.file_bytes.unwrap_or(0));
        if parts.max(self.shmem_bytes.unwrap_or(0)) > self.usage_bytes {
            (self.anon_bytes, self.file_bytes, self.shmem_bytes) = (None, None, None);
        }
    }
}

/// A limit that the container will meet.
#[derive(Clone, Debug, Serialize)]
pub struct LimitAheadView {
    pub limit: LimitKind,
    /// Unix time.
    pub at: f64,
    pub bytes: u64,
    pub confidence: f64,
    pub by: ForeseenBy,
}

impl LimitAheadView {
    pub fn of(now: f64, ahead: &LimitAhead) -> Self {
        Self {
            limit: ahead.limit,
            at: now + ahead.in_seconds,
            bytes: ahead.bytes,
            confidence: ahead.confidence,
            by: ahead.by,
        }
    }
}

pub fn exit(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit code {code}"),
        ExitStatus::Signal(signal) => format!("signal {signal}"),
    }
}

/// Highest usage in each span of `width_seconds`, from the first on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CurveView {
    pub width_seconds: f64,
    pub kib: Vec<u32>,
}

/// A start-up: under way, or as it ended.
#[derive(Clone, Debug, Serialize)]
pub struct StartupView {
    pub startup: u64,
    #[serde(flatten)]
    pub container: ContainerRef,
    pub started: f64,
    /// Seconds until its verdict or its end; null while it is under way.
    pub seconds: Option<f64>,
    /// Its state now, or the verdict it ended with: `oom_killed` and `ended` are ends before a verdict.
    pub outcome: &'static str,
    pub peak_bytes: u64,
    pub time_to_stable_seconds: Option<f64>,
    pub steady_bytes: Option<u64>,
    pub curve: CurveView,
}

/// One container of one workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkloadView {
    /// `namespace/kind/name:container`; outside Kubernetes the name alone.
    pub key: String,
    #[serde(flatten)]
    pub workload: Workload,
    pub risk: Risk,
    pub containers: u64,
    pub starting: u64,
    /// It was seen to start at least once.
    pub startups: u64,
    /// Highest of all its containers.
    pub peak_bytes: u64,
    /// Of those kept in the list of kills.
    pub oom_kills: u64,
    pub limit_bytes: Option<u64>,
    pub advice: Option<AdviceView>,
}

/// Why a workload is above others in the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Risk {
    /// `high`: killed, or a check fails; `medium`: memory does not settle, or a check warns; `low`; `unknown`: too
    /// little seen.
    pub level: &'static str,
    /// Orders the table: higher first.
    pub score: u64,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AdviceView {
    pub request_bytes: Option<u64>,
    pub limit_bytes: Option<u64>,
    /// Every start-up was cut off by a kill: the limit is the next to try, not one that is known to do.
    pub limit_is_trial: bool,
    /// Where the limit comes from, in words.
    pub limit_reason: Option<String>,
    pub current_request_bytes: Option<u64>,
    pub current_limit_bytes: Option<u64>,
    /// Null above is none where it is known, and otherwise not known.
    pub current_request_known: bool,
    pub current_limit_known: bool,
    pub worst_bytes: Option<u64>,
    /// Why a number is missing.
    pub missing: Option<String>,
    pub checks: Vec<CheckView>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckView {
    pub check: &'static str,
    pub grade: &'static str,
    pub evidence: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScaleEventView {
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    /// Unix time, on the API server's clock.
    pub at: f64,
    pub from: Option<u64>,
    pub to: u64,
    pub by_kind: &'static str,
    pub by_name: String,
    pub by_reason: String,
    pub outcome: Option<ScaleOutcome>,
    /// Numbers of the kills it had a part in.
    pub kills: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScaleOutcome {
    pub containers: u64,
    pub starting_max: u64,
    pub peak_sum_bytes: u64,
    pub overshoot_sum_bytes: u64,
    pub oom_kills: u64,
    pub bystander_kills: u64,
    pub stall_seconds: f64,
    pub settled_seconds: Option<f64>,
}

impl From<&ScaleEvent> for ScaleEventView {
    fn from(event: &ScaleEvent) -> Self {
        Self {
            namespace: event.namespace.clone(),
            workload: event.workload.clone(),
            workload_type: event.workload_type.clone(),
            at: event.unix_seconds,
            from: event.from,
            to: event.to,
            by_kind: event.by.kind.name(),
            by_name: event.by.name.clone(),
            by_reason: event.by.reason.clone(),
            outcome: None,
            kills: Vec::new(),
        }
    }
}

impl From<&ScaleEventEnded> for ScaleOutcome {
    fn from(ended: &ScaleEventEnded) -> Self {
        Self {
            containers: ended.pods,
            starting_max: ended.starting_max,
            peak_sum_bytes: ended.peak_sum,
            overshoot_sum_bytes: ended.overshoot_sum,
            oom_kills: ended.oom_kills,
            bystander_kills: ended.bystander_kills,
            stall_seconds: ended.stall_seconds,
            settled_seconds: ended.settled_seconds,
        }
    }
}

/// The node now.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeView {
    pub memory_total_bytes: u64,
    pub available_bytes: Option<u64>,
    /// Null: pods have no common limit.
    pub pods_available_bytes: Option<u64>,
    pub containers: u64,
    pub cgroups: u64,
    pub starting: u64,
    pub starting_bytes: u64,
    /// What those starting are expected to take yet, at the worst moment ahead, and in how many seconds that is.
    pub forecast_bytes: u64,
    pub forecast_in_seconds: f64,
    /// Starting containers without earlier start-ups: not in the forecast.
    pub forecast_unknown: u64,
    pub stampede: bool,
    /// Share of the last second in which some, or all, tasks waited for memory; null: no PSI on this kernel.
    pub waiting_ratio: Option<f64>,
    pub stalled_ratio: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct FindingView {
    pub at: f64,
    pub text: String,
    /// Whether an operator should look at it.
    pub alarm: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct ProbeView {
    pub probe: String,
    pub required: bool,
    /// `attached`, `fallback`, `unsupported`, `broken`, `disabled`.
    pub status: &'static str,
    /// Now: a probe that follows growth is attached only while a container starts.
    pub attached: bool,
    pub hook: Option<String>,
    pub why: Option<String>,
    pub lost: Option<String>,
}

impl From<&ProbeStatus> for ProbeView {
    fn from(status: &ProbeStatus) -> Self {
        let (hook, lost) = match &status.outcome {
            AttachOutcome::Attached { hook } => (Some(hook.clone()), None),
            AttachOutcome::Fallback { by, lost, .. } => (Some(by.clone()), Some(lost.clone())),
            AttachOutcome::Unsupported { lost, .. }
            | AttachOutcome::Broken { lost, .. }
            | AttachOutcome::Disabled { lost } => (None, Some(lost.clone())),
        };
        Self {
            probe: status.probe.to_string(),
            required: status.required,
            attached: status.attached.unwrap_or(matches!(status.outcome, AttachOutcome::Attached { .. })),
            status: status.outcome.name(),
            hook,
            why: status.outcome.why(),
            lost,
        }
    }
}

/// How the Kubernetes API answers.
#[derive(Clone, Debug, Serialize)]
pub struct KubernetesView {
    /// `none`: it is not asked; `watching`, `synced`, `away`, `forbidden`.
    pub state: &'static str,
    pub node: String,
    pub why: String,
}
