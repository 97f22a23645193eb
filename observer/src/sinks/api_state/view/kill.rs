//! An OOM kill, as the API says it.

use serde::Serialize;

use observer_core::model::finding::OomKilled;

use super::ContainerRef;

#[derive(Clone, Debug, Serialize)]
pub struct KillView {
    pub kill: u64,
    pub at: f64,
    /// Null: a process in no container.
    pub container: Option<ContainerRef>,
    /// The limit that was exceeded.
    pub scope: &'static str,
    pub victim_pid: u32,
    pub victim_command: String,
    /// What the victim itself held; null: not known.
    pub victim_anon_bytes: Option<u64>,
    pub victim_shmem_bytes: Option<u64>,
    pub victim_file_bytes: Option<u64>,
    /// Of its container, or of the group it was in.
    pub usage_bytes: u64,
    pub peak_bytes: u64,
    pub limit_bytes: Option<u64>,
    pub invoker_command: String,
    pub invoker: Option<ContainerRef>,
    pub starting: bool,
    pub age_seconds: Option<f64>,
    pub kills: u64,
    /// Others that were starting then, the largest first.
    pub also_starting: Vec<AlsoStarting>,
    pub also_starting_count: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct AlsoStarting {
    #[serde(flatten)]
    pub container: ContainerRef,
    pub usage_bytes: u64,
}

impl KillView {
    pub fn of(kill: u64, at: f64, killed: &OomKilled) -> Self {
        Self {
            kill,
            at,
            container: killed.container.as_ref().map(Into::into),
            scope: killed.scope.name(),
            victim_pid: killed.victim_pid,
            victim_command: killed.victim_command.clone(),
            victim_anon_bytes: killed.victim_memory.map(|victim| victim.anon),
            victim_shmem_bytes: killed.victim_memory.map(|victim| victim.shmem),
            victim_file_bytes: killed.victim_memory.map(|victim| victim.file),
            usage_bytes: killed.usage,
            peak_bytes: killed.peak,
            limit_bytes: killed.limit,
            invoker_command: killed.invoker_command.clone(),
            invoker: killed.invoker.as_ref().map(Into::into),
            starting: killed.starting,
            age_seconds: killed.age_seconds,
            kills: killed.kills,
            also_starting: Vec::new(),
            also_starting_count: 0,
        }
    }
}
