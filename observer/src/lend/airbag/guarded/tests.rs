use k8s_openapi::api::core::v1::{LimitRange, ResourceQuota};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::lend::airbag::LABEL;

const MIB: u64 = 1 << 20;

#[derive(Default)]
struct Known {
    ranges: Vec<Value>,
    quotas: Vec<Value>,
    vertical: bool,
}

fn read<T: DeserializeOwned>(of: &[Value]) -> Vec<T> {
    of.iter().map(|one| serde_json::from_value(one.clone()).unwrap()).collect()
}

impl admit::Cluster for Known {
    fn most(&self) -> Option<u64> {
        None
    }

    fn has_swap(&self) -> bool {
        false
    }

    fn limit_ranges(&self, _: &str) -> Vec<LimitRange> {
        read(&self.ranges)
    }

    fn quotas(&self, _: &str) -> Vec<ResourceQuota> {
        read(&self.quotas)
    }

    fn is_scaled_vertically(&self, workload: &Workload) -> bool {
        self.vertical
            && (workload.workload.as_str(), workload.workload_type.as_str()) == ("web", "deployment")
    }

    fn need(&self, _: &Workload) -> Option<u64> {
        None
    }
}

/// A pod of a Deployment with two containers, and a change to it (RFC 6902).
fn pod(changes: Value) -> Pod {
    let resources =
        |request: &str, limit: &str| json!({"requests": {"memory": request}, "limits": {"memory": limit}});
    let mut pod = json!({
        "metadata": {"uid": "u", "name": "web-7c-x", "namespace": "shop", "resourceVersion": "1",
            "labels": {LABEL: "true", "pod-template-hash": "7c"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7c", "uid": "r", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "app", "resources": resources("64Mi", "128Mi")},
            {"name": "proxy", "resources": resources("8Mi", "32Mi")}]},
        "status": {"phase": "Running"}
    });
    let changes: json_patch::Patch = serde_json::from_value(changes).unwrap();
    json_patch::patch(&mut pod, &changes).unwrap();
    serde_json::from_value(pod).unwrap()
}

fn highest(changes: Value, known: &Known) -> Result<Option<u64>, NotRaised> {
    Guarded::of(&pod(changes)).unwrap().highest("app", known).map(|most| most.map(|bytes| bytes / MIB))
}

#[test]
fn what_a_pod_is_decides_whether_its_limits_may_be_raised() {
    let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let replace = |path: &str, value: Value| json!([{"op": "replace", "path": path, "value": value}]);
    let guaranteed = json!([
        {"op": "replace", "path": "/spec/containers/0/resources", "value": {"limits": {"cpu": "1", "memory": "128Mi"}}},
        {"op": "replace", "path": "/spec/containers/1/resources", "value": {"limits": {"cpu": "1", "memory": "32Mi"}}}
    ]);
    let restarts = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    for (changes, expected) in [
        (json!([]), Ok(None)),
        (replace("/metadata/ownerReferences", json!([])), Err(NotRaised::Bare)),
        (guaranteed, Err(NotRaised::Class)),
        (add("/spec/containers/1/resizePolicy", restarts), Err(NotRaised::RestartsOnResize)),
        (add("/spec/resources", json!({"limits": {"memory": "1Gi"}})), Err(NotRaised::PodLevel)),
    ] {
        assert_eq!(highest(changes.clone(), &Known::default()), expected, "{changes}");
    }
    let vertical = Known { vertical: true, ..Known::default() };
    assert_eq!(highest(json!([]), &vertical), Err(NotRaised::Vpa));
    for gone in [
        replace("/status/phase", json!("Succeeded")),
        add("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        json!([{"op": "remove", "path": "/spec/nodeName"}]),
    ] {
        assert!(Guarded::of(&pod(gone)).is_none());
    }
}

#[test]
fn rules_of_the_namespace_cap_a_raise() {
    let range = |item: Value| Known { ranges: vec![json!({"spec": {"limits": [item]}})], ..Known::default() };
    let quota = |hard: Value, used: Value| Known {
        quotas: vec![json!({"status": {"hard": hard, "used": used}})],
        ..Known::default()
    };
    for (known, expected) in [
        (range(json!({"type": "Container", "max": {"memory": "150Mi"}})), Some(150)),
        (range(json!({"type": "Pod", "max": {"memory": "200Mi"}})), Some(168)),
        (range(json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2.5"}})), Some(160)),
        (quota(json!({"limits.memory": "1Gi"}), json!({"limits.memory": "1014Mi"})), Some(138)),
        (quota(json!({"requests.memory": "1Gi"}), json!({"requests.memory": "1Gi"})), None),
    ] {
        assert_eq!(highest(json!([]), &known), Ok(expected), "{:?} {:?}", known.ranges, known.quotas);
    }
}

#[test]
fn a_limit_that_was_raised_is_known_by_its_manager() {
    let managed = |manager: &str, container: &str, what: &str| {
        let key = format!("k:{{\"name\":\"{container}\"}}");
        json!([{"op": "add", "path": "/metadata/managedFields", "value": [{
            "manager": manager, "operation": "Update", "subresource": "resize", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {"f:containers": {key: {"f:resources": {what: {"f:memory": {}}}}}}}
        }]}])
    };
    for (changes, expected) in [
        (managed(MANAGER, "app", "f:limits"), Err(NotRaised::Raised)),
        (managed(MANAGER, "proxy", "f:limits"), Ok(None)),
        (managed(MANAGER, "app", "f:requests"), Ok(None)),
        (managed("kubectl", "app", "f:limits"), Ok(None)),
    ] {
        assert_eq!(highest(changes.clone(), &Known::default()), expected, "{changes}");
    }
}
