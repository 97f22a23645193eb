//! Metadata of a controller -> what the core needs of it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::sources::kubernetes::metadata;
use observer_core::model::kubernetes::{ObjectKind, Owner};

pub fn parse(of: &ObjectMeta, kind: ObjectKind, looked: f64) -> Owner {
    let number = |name: &str| metadata::annotation(of, name).and_then(|text| text.parse().ok());
    let desired = number("deployment.kubernetes.io/desired-replicas")
        .or_else(|| number("rollout.argoproj.io/desired-replicas"));
    let most: Option<u64> = number("deployment.kubernetes.io/max-replicas");
    Owner {
        uid: of.uid.clone().unwrap_or_default(),
        kind,
        namespace: of.namespace.clone().unwrap_or_default(),
        name: of.name.clone().unwrap_or_default(),
        created: metadata::created(of),
        controller: metadata::controller(of),
        hash: metadata::label(of, "pod-template-hash")
            .or_else(|| metadata::label(of, "rollouts-pod-template-hash"))
            .map(str::to_owned),
        generation: of.generation.unwrap_or_default(),
        revision: number("deployment.kubernetes.io/revision")
            .or_else(|| number("rollout.argoproj.io/revision")),
        reused: ["deployment.kubernetes.io/revision-history", "rollout.argoproj.io/revision-history"]
            .iter()
            .any(|history| metadata::annotation(of, history).is_some()),
        desired,
        surge: most.zip(desired).and_then(|(most, desired)| most.checked_sub(desired)),
        replicas_set_by: metadata::replicas_set_by(of),
        controller_wrote: metadata::controller_wrote(of),
        looked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer_core::model::kubernetes::Writer;

    /// A ReplicaSet of a v1.36 cluster after a scale-up, shortened.
    #[test]
    fn a_replica_set_has_its_workloads_replicas_and_when_they_were_written() {
        let text = r#"{"name":"web-7","namespace":"shop","uid":"rs1","creationTimestamp":"2026-11-24T11:06:08Z",
            "annotations":{"deployment.kubernetes.io/desired-replicas":"4","deployment.kubernetes.io/max-replicas":"5","deployment.kubernetes.io/revision":"2"},
            "ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"web","uid":"d1","controller":true}],
            "managedFields":[
              {"manager":"kube-controller-manager","operation":"Update","apiVersion":"apps/v1","fieldsType":"FieldsV1",
               "time":"2026-11-24T11:07:08Z","fieldsV1":{"f:spec":{"f:replicas":{}}}},
              {"manager":"kube-controller-manager","operation":"Update","apiVersion":"apps/v1","fieldsType":"FieldsV1",
               "time":"2026-11-24T11:09:00Z","subresource":"status","fieldsV1":{"f:status":{"f:replicas":{}}}}]}"#;
        let owner = parse(&serde_json::from_str(text).unwrap(), ObjectKind::ReplicaSet, 0.0);
        assert_eq!((owner.desired, owner.surge, owner.revision), (Some(4), Some(1), Some(2)));
        assert_eq!(owner.controller_wrote.map(|wrote| wrote - owner.created), Some(60.0));
        assert_eq!(owner.controller.map(|above| above.name), Some("web".into()));
        let writer = Writer { manager: "kube-controller-manager".into(), scale: false };
        assert_eq!(owner.replicas_set_by, Some(writer));
    }

    #[test]
    fn absurd_metadata_is_an_owner_without_facts() {
        let text =
            r#"{"annotations":{"deployment.kubernetes.io/desired-replicas":"many"},"managedFields":[{}]}"#;
        let owner = parse(&serde_json::from_str(text).unwrap(), ObjectKind::ReplicaSet, 1.0);
        assert_eq!((owner.desired, owner.controller_wrote, owner.created), (None, None, 0.0));
        let text = r#"{"annotations":{"deployment.kubernetes.io/desired-replicas":"4",
            "deployment.kubernetes.io/max-replicas":"3"}}"#;
        let owner = parse(&serde_json::from_str(text).unwrap(), ObjectKind::ReplicaSet, 1.0);
        assert_eq!((owner.desired, owner.surge), (Some(4), None));
    }
}
