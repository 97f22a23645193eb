//! Kinds of Kubernetes objects: what decides on one matches a variant, so that a misspelt kind does not compile.

use serde::{Deserialize, Serialize};

/// Of a controller, of what is above it, or of an autoscaler. In recordings, in the API and in texts it is its own name
/// (`ReplicaSet`); in labels of metrics that name in lower case.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumString,
)]
#[serde(from = "String", into = "String")]
pub enum ObjectKind {
    CronJob,
    DaemonSet,
    Deployment,
    /// autoscaling/v2.
    HorizontalPodAutoscaler,
    Job,
    /// Owner of a mirror pod.
    Node,
    Pod,
    ReplicaSet,
    /// argoproj.io: stands where a Deployment does.
    Rollout,
    /// keda.sh.
    ScaledObject,
    StatefulSet,
    /// autoscaling.k8s.io.
    VerticalPodAutoscaler,
    /// Any other kind: a custom resource with an operator that creates pods itself.
    #[strum(default)]
    Other(String),
}

impl ObjectKind {
    /// Label value in metrics.
    pub fn label(&self) -> String {
        self.to_string().to_lowercase()
    }

    /// Whether it changes how many pods there are.
    pub fn scales_horizontally(&self) -> bool {
        matches!(self, ObjectKind::HorizontalPodAutoscaler | ObjectKind::ScaledObject)
    }
}

impl Default for ObjectKind {
    fn default() -> Self {
        ObjectKind::Other(String::new())
    }
}

impl From<String> for ObjectKind {
    fn from(name: String) -> Self {
        name.as_str().into()
    }
}

impl From<ObjectKind> for String {
    fn from(kind: ObjectKind) -> Self {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_name_in_recordings_whether_it_is_known_or_not() {
        for (name, kind) in [
            ("ReplicaSet", ObjectKind::ReplicaSet),
            ("VerticalPodAutoscaler", ObjectKind::VerticalPodAutoscaler),
            ("CloneSet", ObjectKind::Other("CloneSet".into())),
            // Kinds are case-sensitive (kubernetes: API conventions).
            ("replicaset", ObjectKind::Other("replicaset".into())),
            ("", ObjectKind::default()),
        ] {
            assert_eq!(ObjectKind::from(name), kind);
            assert_eq!(kind.to_string(), name);
            let text = serde_json::to_string(&kind).unwrap();
            assert_eq!(text, format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<ObjectKind>(&text).unwrap(), kind);
        }
        assert_eq!(ObjectKind::from("CloneSet").label(), "cloneset");
    }
}
