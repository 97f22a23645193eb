//! A pod without a kubelet: cgroups with the names of one, and its object in the mock API.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    group::{Group, Tree},
    mock_api::MockApi,
};

const PODS: &str = "/api/v1/pods";
const REPLICA_SETS: &str = "/apis/apps/v1/replicasets";
const DEPLOYMENTS: &str = "/apis/apps/v1/deployments";

/// A Deployment with one ReplicaSet, or the same with other replicas.
pub fn workload(api: &MockApi, namespace: &str, name: &str, replicas: u32) {
    let object = |name: &str, kind: &str, owner: Value| {
        json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {
            "name": name, "namespace": namespace, "uid": uid_of(name, kind), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z", "ownerReferences": owner,
            "labels": { "pod-template-hash": "5d4f" },
            "annotations": { "deployment.kubernetes.io/desired-replicas": replicas.to_string(),
                "deployment.kubernetes.io/max-replicas": (replicas + 1).to_string(),
                "deployment.kubernetes.io/revision": "1" } } })
    };
    api.put(DEPLOYMENTS, object(name, "Deployment", json!([])));
    let owner = json!([{ "apiVersion": "apps/v1", "kind": "Deployment", "name": name, "controller": true,
        "uid": uid_of(name, "Deployment") }]);
    api.put(REPLICA_SETS, object(&format!("{name}-5d4f"), "ReplicaSet", owner));
}

fn uid_of(name: &str, kind: &str) -> String {
    format!("{kind}-{name}")
}

pub struct Pod {
    pub uid: String,
    pub name: String,
    namespace: String,
    workload: String,
    /// Its containers'.
    pub groups: Vec<Group>,
}

impl Pod {
    /// The n-th of this process: its cgroups, without a process in them yet, below the tests' own.
    pub fn make(tree: &Tree, namespace: &str, workload: &str, n: u32, containers: u32) -> Result<Self> {
        let me = std::process::id();
        let uid = format!("{me:08x}-0000-4000-8000-{n:012x}");
        let group = |container: u32| {
            let id = id(n, container);
            tree.group(&format!("observer-test-x{me}/kubepods/burstable/pod{uid}/{id}"))
        };
        let groups = (0..containers).map(group).collect::<Result<Vec<_>>>()?;
        let name = format!("{workload}-5d4f-{n:05}");
        Ok(Self { uid, name, namespace: namespace.to_owned(), workload: workload.to_owned(), groups })
    }

    /// As the kubelet reports it once its containers run.
    pub fn report(&self, api: &MockApi, n: u32) {
        let names = || (0u32..).take(self.groups.len());
        let spec: Vec<Value> = names().map(|c| json!({ "name": format!("c{c}") })).collect();
        let now = "2026-01-01T00:00:00Z";
        let status = |c| {
            json!({ "name": format!("c{c}"), "containerID": format!("containerd://{}", id(n, c)), "ready": true,
                "restartCount": 0, "image": "i", "imageID": "i", "state": { "running": { "startedAt": now } } })
        };
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
            "name": format!("{}-5d4f", self.workload), "uid": uid_of(&format!("{}-5d4f", self.workload), "ReplicaSet") }]);
        api.put(
            PODS,
            json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": self.name, "namespace": self.namespace, "uid": self.uid,
                    "creationTimestamp": now, "ownerReferences": owner, "labels": { "pod-template-hash": "5d4f" } },
                "spec": { "nodeName": "mock", "containers": spec },
                "status": { "phase": "Running", "containerStatuses": names().map(status).collect::<Vec<_>>() } }),
        );
    }

    pub fn gone(api: &MockApi, uid: &str) {
        api.remove(PODS, uid);
    }
}

/// Of a container: 64 hexadecimal digits.
fn id(n: u32, container: u32) -> String {
    format!("{:08x}{container:08x}{n:048x}", std::process::id())
}
