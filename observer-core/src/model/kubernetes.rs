//! Kubernetes objects as the core sees them: what attribution, causes and advice need of each, and nothing else.
//!
//! Times are Unix seconds of the clock that wrote them; the API writes whole ones: `t` of its means [t, t + 1).

mod loan;
mod object_kind;

use serde::{Deserialize, Serialize};

pub use loan::Loan;
pub use object_kind::ObjectKind;

pub type Uid = String;

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    pub uid: Uid,
    pub namespace: String,
    pub name: String,
    pub created: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Reference>,
    /// From a file on the node, shown by a mirror pod; the cgroup carries this hash instead of the uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// `pod-template-hash` or `controller-revision-hash`: which revision of its owner it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_hash: Option<String>,
    /// Its ReplicaSet is of an Argo Rollout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_rollout: bool,
    /// Position in a StatefulSet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u32>,
    /// Why it is being taken away: reason of the condition DisruptionTarget, or `Evicted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
    /// All its containers are restarted together (condition AllContainersRestarting).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarting: bool,
    /// An in-place resize is under way (condition PodResizeInProgress).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resizing: bool,
    /// Of the pod as a whole (spec.resources).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    pub containers: Vec<PodContainer>,
}

/// Another object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    pub api_version: String,
    pub kind: ObjectKind,
    pub name: String,
    pub uid: Uid,
}

impl Reference {
    /// Whether its metadata is evidence of causes, and can be asked for. For a DaemonSet or a mirror pod's node the
    /// kind alone suffices. A pod may name anything as its owner: only empty names and uids are refused.
    pub fn has_metadata(&self) -> bool {
        use ObjectKind::{Deployment, Job, ReplicaSet, Rollout, StatefulSet};
        let is_id = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
        matches!(self.kind, ReplicaSet | Deployment | StatefulSet | Job | Rollout)
            && [(&self.name, 253), (&self.uid, 64)].iter().all(|(id, most)| id.len() <= *most && is_id(id))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodContainer {
    pub name: String,
    /// 64 hex digits, once the runtime has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub role: Role,
    #[serde(default)]
    pub restarts: u32,
    /// How the one before it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Terminated>,
    /// As its template has it: without a loan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<u64>,
    /// What it was lent for its start (`observer lend`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loan: Option<Loan>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// resizePolicy RestartContainer for memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarts_on_resize: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub startup_probe: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub readiness_probe: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub liveness_probe: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    Main,
    /// Runs to its end before the main ones start.
    Init,
    /// An init container with restartPolicy Always: it keeps running together with the main ones.
    Sidecar,
    Ephemeral,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terminated {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub code: i32,
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<f64>,
}

impl PodContainer {
    /// Whether the last that ended has this id.
    fn was(&self, id: &str) -> bool {
        self.last.as_ref().is_some_and(|last| last.id.as_deref() == Some(id))
    }

    /// Number of restarts when the container of this id started, and the end of the previous container, if the status
    /// has it.
    pub fn before(&self, id: &str) -> (u32, Option<&Terminated>) {
        match self.was(id) {
            false => (self.restarts, self.last.as_ref()),
            // It waits to be restarted: both ids are those of the one that ended.
            true if self.id.as_deref() == Some(id) => (self.restarts, None),
            true => (self.restarts.saturating_sub(1), None),
        }
    }
}

impl Pod {
    /// The container with this id, as far as a status names it. A container that ended within a second is named only as
    /// the previous one of its successor.
    pub fn container(&self, id: &str) -> Option<&PodContainer> {
        self.containers.iter().find(|container| container.id.as_deref() == Some(id) || container.was(id))
    }
}

/// The metadata of a controller (no spec, no status).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    pub uid: Uid,
    pub kind: ObjectKind,
    pub namespace: String,
    pub name: String,
    pub created: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<Reference>,
    /// ReplicaSet: the label by which its pods are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Of its spec: one more with every change of its replicas.
    #[serde(default)]
    pub generation: i64,
    /// `deployment.kubernetes.io/revision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// It served an earlier revision before: a rollback took it up again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reused: bool,
    /// Replicas of the whole workload: `deployment.kubernetes.io/desired-replicas` and its like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u64>,
    /// Pods a rollout may add at once: maxSurge in pods (kubernetes: pkg/controller/deployment/util, max-replicas is
    /// desired-replicas and the surge).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surge: Option<u64>,
    /// Who last changed spec.replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas_set_by: Option<Writer>,
    /// Last write of its own controller that changed anything but the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_wrote: Option<f64>,
    /// When it was looked up.
    pub looked: f64,
}

/// An entry of managedFields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Writer {
    pub manager: String,
    /// Through the scale subresource.
    pub scale: bool,
}

/// How the API answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiState {
    /// Pods of this node are watched from now on.
    Watching {
        node: String,
        /// A ledger is asked, so causes wait for its answer.
        #[serde(default)]
        ledger: bool,
    },
    /// The list of the node's pods is complete.
    Synced,
    Away {
        why: String,
    },
    Forbidden {
        what: String,
        lost: String,
        /// Of the pods themselves nothing is known: as if it were away.
        #[serde(default)]
        blind: bool,
    },
    /// Its clock and the node's are not the same.
    Clock {
        ahead_seconds: f64,
    },
}

/// What happened to a workload, as the ledger saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChangeRecord {
    pub workload: Reference,
    pub namespace: String,
    /// Everything that happened since is in `changes`.
    pub observed_since: f64,
    pub changes: Vec<Change>,
    /// Uids of its ReplicaSets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<Uid>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub autoscalers: Vec<Autoscaler>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub at: f64,
    pub what: Changed,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    Created,
    Scaled {
        from: u64,
        to: u64,
        by: By,
    },
    /// A new revision was begun; `stepped` when last some of its pods were asked for.
    RolledOut {
        revision: String,
        stepped: f64,
    },
    /// One of its pods was taken away, and why.
    Disrupted {
        pod: String,
        reason: String,
    },
}

/// Who scaled, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct By {
    pub kind: ByKind,
    /// Name of the HPA or ScaledObject, or the manager string.
    pub name: String,
    /// The autoscaler's own words: metric or trigger.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Inferred: no manager is recorded; this is the only autoscaler of the target.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guessed: bool,
}

impl By {
    /// `hpa web`; an autoscaler or manager that is not recorded has no name.
    pub fn who(&self) -> String {
        named(self.kind.name(), &self.name)
    }
}

/// See [`By::who`].
pub fn named(kind: &str, name: &str) -> String {
    match (kind, name) {
        ("unknown", "") => "a manager that is not recorded".to_owned(),
        (kind, "") => kind.to_owned(),
        // A manager string of which nothing says what it is.
        ("unknown", name) => name.to_owned(),
        (kind, name) => format!("{kind} {name}"),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ByKind {
    Hpa,
    Keda,
    Manual,
    #[default]
    Unknown,
}

impl ByKind {
    pub fn name(self) -> &'static str {
        match self {
            ByKind::Hpa => "hpa",
            ByKind::Keda => "keda",
            ByKind::Manual => "manual",
            ByKind::Unknown => "unknown",
        }
    }
}

/// Something that scales a workload or changes its requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Autoscaler {
    /// HorizontalPodAutoscaler, ScaledObject or VerticalPodAutoscaler.
    pub kind: ObjectKind,
    pub name: String,
    /// HPA: `resource cpu`, `container memory`, `external queue_depth`; ScaledObject: trigger types; VPA: controlled
    /// resources.
    pub signals: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// VPA: updateMode. HPA: why it cannot scale, if so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mode: String,
    /// HPA: pods its scaleUp policies let it add in one step from where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
}

impl Autoscaler {
    /// Whether it acts on this resource: `resource memory`, `container memory`, KEDA's and the VPA's `memory`.
    pub fn is_on(&self, resource: &str) -> bool {
        let external = |signal: &str| {
            signal.starts_with("external") || signal.starts_with("pods") || signal.starts_with("object")
        };
        self.signals.iter().any(|signal| !external(signal) && signal.split(' ').any(|word| word == resource))
    }
}

/// Managers under which the in-tree controllers write: the binary's name, which all-in-one distributions change.
pub fn is_controller_manager(manager: &str) -> bool {
    matches!(manager, "kube-controller-manager" | "k3s" | "kubelite" | "k0s" | "rke2")
}

/// Managers that make and scale ReplicaSets for the workload above them.
pub fn is_of_replica_sets(manager: &str) -> bool {
    is_controller_manager(manager) || manager == "rollouts-controller"
}

/// What a write to spec.replicas by this manager is.
pub fn who(writer: &Writer) -> ByKind {
    if writer.manager.is_empty() {
        return ByKind::Unknown; // nobody is named: see docs/causes.md on scaling from zero
    }
    match (writer.manager.as_str(), writer.scale) {
        (manager, true) if is_controller_manager(manager) => ByKind::Hpa,
        ("keda", true) => ByKind::Keda,
        (manager, true) if manager.starts_with("kubectl") => ByKind::Manual,
        (_, true) => ByKind::Unknown,
        // Writers of the whole object: people and their tools.
        (_, false) => ByKind::Manual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_is_known_by_manager_and_subresource() {
        let table = [
            ("kube-controller-manager", true, ByKind::Hpa),
            ("k3s", true, ByKind::Hpa),
            ("keda", true, ByKind::Keda),
            ("kubectl", true, ByKind::Manual),
            ("kubectl-client-side-apply", false, ByKind::Manual),
            ("argocd-controller", false, ByKind::Manual),
            ("my-autoscaler", true, ByKind::Unknown),
        ];
        for (manager, scale, expected) in table {
            assert_eq!(who(&Writer { manager: manager.into(), scale }), expected, "{manager}");
        }
    }
}
