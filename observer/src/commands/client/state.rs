//! What /api/v1 answers, as far as the commands need it (docs/openapi.yaml has all of it).

use observer_core::model::{event::VictimMemory, finding::OomScope};
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize)]
pub struct State {
    pub moment: u64,
    pub status: Status,
    pub host: Option<Host>,
    pub node: Node,
    pub containers: Vec<Container>,
    pub workloads: Vec<Workload>,
    pub scale_events: Vec<ScaleEvent>,
    pub kills: Vec<Kill>,
    /// The recording ends in the middle of a line.
    #[serde(skip)]
    pub cut: bool,
}

#[derive(Debug, Deserialize)]
pub struct Status {
    pub now: f64,
    pub live: bool,
    pub recording: Option<String>,
    pub ready: bool,
    pub missing: Vec<String>,
    pub kubernetes: Option<Kubernetes>,
    pub dropped: Dropped,
}

#[derive(Debug, Deserialize)]
pub struct Kubernetes {
    pub state: String,
    pub node: String,
    pub why: String,
}

#[derive(Debug, Deserialize)]
pub struct Dropped {
    pub containers: u64,
    pub kills: u64,
    pub scale_events: u64,
}

#[derive(Debug, Deserialize)]
pub struct Host {
    pub kernel: String,
    pub memory_total_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    pub available_bytes: Option<u64>,
    pub pods_available_bytes: Option<u64>,
    pub starting: u64,
    pub starting_bytes: u64,
    pub forecast_bytes: u64,
    pub forecast_in_seconds: f64,
    pub forecast_unknown: u64,
    pub stampede: bool,
    pub waiting_ratio: Option<f64>,
    pub stalled_ratio: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Names {
    pub id: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub workload: String,
    pub workload_type: String,
}

impl Names {
    /// `shop/web-7d9/main`; outside Kubernetes the cgroup's path.
    pub fn full(&self) -> String {
        match self.pod.as_str() {
            "" => self.container.clone(),
            pod => format!("{}/{pod}/{}", self.namespace, self.container),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Cause {
    pub cause: String,
    pub confidence: f64,
    pub evidence: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Container {
    #[serde(flatten)]
    pub names: Names,
    pub state: String,
    pub started: Option<f64>,
    pub ended: Option<f64>,
    pub exit: Option<String>,
    pub cause: Option<Cause>,
    pub usage_bytes: u64,
    pub working_set_bytes: u64,
    // An older daemon does not say these.
    #[serde(default)]
    pub anon_bytes: Option<u64>,
    #[serde(default)]
    pub file_bytes: Option<u64>,
    #[serde(default)]
    pub shmem_bytes: Option<u64>,
    pub peak_bytes: u64,
    pub limit_bytes: Option<u64>,
    pub startup_peak_bytes: Option<u64>,
    pub startup_peak_seconds: Option<f64>,
    #[serde(default)]
    pub startup_peak_anon_bytes: Option<u64>,
    pub time_to_stable_seconds: Option<f64>,
    pub steady_bytes: Option<u64>,
    pub drift_bytes_per_second: Option<f64>,
    #[serde(default)]
    pub loan: Option<Loan>,
    pub oom_kills: u64,
}

/// Requested for its start.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Loan {
    pub since: f64,
    pub deadline_seconds: f64,
    pub steady_bytes: u64,
    pub need_bytes: u64,
    pub requested_bytes: u64,
    pub lent_bytes: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Workload {
    pub key: String,
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    pub container: String,
    pub risk: Risk,
    pub starting: u64,
    pub startups: u64,
    pub advice: Option<Advice>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Risk {
    pub level: String,
    pub score: u64,
    pub why: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Advice {
    pub request_bytes: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub limit_is_trial: bool,
    #[serde(default)]
    pub limit_reason: Option<String>,
    pub current_request_bytes: Option<u64>,
    pub current_limit_bytes: Option<u64>,
    #[serde(default)]
    pub current_request_known: bool,
    #[serde(default)]
    pub current_limit_known: bool,
    pub worst_bytes: Option<u64>,
    pub missing: Option<String>,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Check {
    pub check: String,
    pub grade: String,
    pub evidence: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ScaleEvent {
    pub namespace: String,
    pub workload: String,
    pub workload_type: String,
    pub at: f64,
    pub from: Option<u64>,
    pub to: u64,
    pub by_kind: String,
    pub by_name: String,
    pub by_reason: String,
    pub outcome: Option<ScaleOutcome>,
    pub kills: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ScaleOutcome {
    pub containers: u64,
    pub starting_max: u64,
    pub peak_sum_bytes: u64,
    pub oom_kills: u64,
    pub bystander_kills: u64,
    pub settled_seconds: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Kill {
    pub kill: u64,
    pub at: f64,
    pub container: Option<Names>,
    pub scope: OomScope,
    pub victim_pid: u32,
    pub victim_command: String,
    // An older daemon does not say these.
    #[serde(default)]
    pub victim_anon_bytes: Option<u64>,
    #[serde(default)]
    pub victim_shmem_bytes: Option<u64>,
    #[serde(default)]
    pub victim_file_bytes: Option<u64>,
    pub usage_bytes: u64,
    pub peak_bytes: u64,
    pub limit_bytes: Option<u64>,
    pub invoker_command: String,
    pub invoker: Option<Names>,
    pub starting: bool,
    pub age_seconds: Option<f64>,
    pub kills: u64,
    pub also_starting: Vec<AlsoStarting>,
    pub also_starting_count: u64,
}

impl Kill {
    /// What the victim itself held.
    pub fn victim_memory(&self) -> Option<VictimMemory> {
        Some(VictimMemory {
            anon: self.victim_anon_bytes?,
            file: self.victim_file_bytes?,
            shmem: self.victim_shmem_bytes?,
        })
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AlsoStarting {
    #[serde(flatten)]
    pub names: Names,
    pub usage_bytes: u64,
}

/// Highest usage in each span, from the exec on.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Curve {
    pub width_seconds: f64,
    pub kib: Vec<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Startup {
    #[serde(flatten)]
    pub names: Names,
    pub started: f64,
    pub seconds: Option<f64>,
    pub outcome: String,
    pub peak_bytes: u64,
    pub time_to_stable_seconds: Option<f64>,
    pub curve: Curve,
}

#[derive(Debug, Deserialize)]
pub struct UsageHistory {
    pub width_seconds: u64,
    pub at: Vec<u64>,
    pub kib: Vec<u64>,
}

/// One container, with its curves.
#[derive(Debug, Deserialize)]
pub struct ContainerDetail {
    pub container: Container,
    pub curve: Curve,
    pub history: UsageHistory,
    pub earlier: Vec<Startup>,
}
