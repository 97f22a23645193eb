//! A pod of the API -> what the core needs of it. Pure.

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod as ApiPod},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::sources::kubernetes::{
    metadata,
    terms::{self, Terms},
};
use observer_core::model::{
    kubernetes::{Loan, Pod, PodContainer, Role, Terminated},
    units,
};

/// `None`: it has no uid, so it is no pod of a real API server.
pub fn parse(pod: &ApiPod) -> Option<Pod> {
    let meta = &pod.metadata;
    let label = |name: &str| meta.labels.as_ref().and_then(|labels| labels.get(name)).cloned();
    let static_hash = metadata::annotation(meta, "kubernetes.io/config.mirror")
        .or_else(|| metadata::annotation(meta, "kubernetes.io/config.hash"))
        .map(str::to_owned);
    let argo = label("rollouts-pod-template-hash");
    let status = pod.status.as_ref();
    let evicted = status.and_then(|status| status.reason.clone()).filter(|reason| reason == "Evicted");
    Some(Pod {
        uid: meta.uid.clone()?,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        created: metadata::created(meta),
        controller: metadata::controller(meta),
        config_hash: static_hash,
        by_rollout: argo.is_some(),
        revision_hash: label("pod-template-hash").or(argo).or_else(|| label("controller-revision-hash")),
        ordinal: label("apps.kubernetes.io/pod-index").and_then(|index| index.parse().ok()),
        disruption: metadata::condition(pod, "DisruptionTarget").map(str::to_owned).or(evicted),
        deleting: meta.deletion_timestamp.is_some(),
        restarting: metadata::condition(pod, "AllContainersRestarting").is_some(),
        resizing: metadata::condition(pod, "PodResizeInProgress").is_some(),
        memory_limit: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.resources.as_ref()?.limits.as_ref()?.get("memory"))
            .and_then(bytes),
        containers: containers(pod),
    })
}

fn containers(pod: &ApiPod) -> Vec<PodContainer> {
    let (Some(spec), status) = (&pod.spec, pod.status.as_ref()) else { return Vec::new() };
    let find = |statuses: Option<&Vec<ContainerStatus>>, name: &str| {
        statuses.into_iter().flatten().find(|status| status.name == name).cloned()
    };
    let terms = metadata::annotation(&pod.metadata, terms::TERMS);
    let terms = terms.and_then(|terms| terms.parse::<Terms>().ok());
    let main = spec.containers.iter().map(|container| {
        let status = find(status.and_then(|s| s.container_statuses.as_ref()), &container.name);
        let parsed = parse_container(container, Role::Main, status);
        // What is lent for its start is not what its template requests, and advice is about that.
        let lent = terms.as_ref().and_then(|terms| terms.containers.get(&container.name));
        let steady = lent.and_then(|lent| units::parse_bytes(&lent.steady).ok());
        let loan = lent.zip(terms.as_ref()).and_then(|(lent, terms)| {
            let (_, requested) = terms::request(container)?;
            let need = units::parse_bytes(&lent.request).ok()?;
            Some(Loan { requested, need, deadline_seconds: terms.deadline_seconds })
        });
        PodContainer { request: steady.or(parsed.request), loan, ..parsed }
    });
    let init = spec.init_containers.iter().flatten().map(|container| {
        let status = find(status.and_then(|s| s.init_container_statuses.as_ref()), &container.name);
        let stays = container.restart_policy.as_deref() == Some("Always");
        parse_container(container, if stays { Role::Sidecar } else { Role::Init }, status)
    });
    let ephemeral = status.and_then(|status| status.ephemeral_container_statuses.as_ref());
    let ephemeral = ephemeral.into_iter().flatten().map(|status| PodContainer {
        name: status.name.clone(),
        id: status.container_id.as_deref().map(bare_id),
        role: Role::Ephemeral,
        ..PodContainer::default()
    });
    main.chain(init).chain(ephemeral).collect()
}

fn parse_container(container: &Container, role: Role, status: Option<ContainerStatus>) -> PodContainer {
    let resources = container.resources.as_ref();
    let spec = |of: fn(&k8s_openapi::api::core::v1::ResourceRequirements) -> Option<&Quantities>| {
        resources.and_then(of).and_then(|all| all.get("memory")).and_then(bytes)
    };
    let policies = container.resize_policy.iter().flatten();
    let restarts_on_resize = policies
        .into_iter()
        .any(|policy| policy.resource_name == "memory" && policy.restart_policy == "RestartContainer");
    let status = status.unwrap_or_default();
    // What was actuated goes before what was asked for: a resize may be pending.
    let actual = status.resources.as_ref();
    let actual = |of: fn(&k8s_openapi::api::core::v1::ResourceRequirements) -> Option<&Quantities>| {
        actual.and_then(of).and_then(|all| all.get("memory")).and_then(bytes)
    };
    PodContainer {
        name: container.name.clone(),
        id: status.container_id.as_deref().map(bare_id),
        role,
        restarts: u32::try_from(status.restart_count).unwrap_or(0),
        last: status.last_state.and_then(|state| state.terminated).map(|ended| Terminated {
            id: ended.container_id.as_deref().map(bare_id),
            code: ended.exit_code,
            reason: ended.reason.unwrap_or_default(),
            finished: ended.finished_at.map(|time| time.0.as_second() as f64),
        }),
        request: actual(|r| r.requests.as_ref()).or_else(|| spec(|r| r.requests.as_ref())),
        loan: None,
        limit: actual(|r| r.limits.as_ref()).or_else(|| spec(|r| r.limits.as_ref())),
        restarts_on_resize,
        startup_probe: container.startup_probe.is_some(),
        readiness_probe: container.readiness_probe.is_some(),
        liveness_probe: container.liveness_probe.is_some(),
        ready: status.ready,
    }
}

type Quantities = std::collections::BTreeMap<String, Quantity>;

/// `containerd://3f0c…` -> `3f0c…`.
fn bare_id(id: &str) -> String {
    id.rsplit_once("://").map_or(id, |(_, id)| id).to_owned()
}

/// A quantity of memory in bytes. `None`: not a quantity.
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    units::parse_bytes(quantity.0.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        let table = [
            ("128Mi", Some(128 << 20)),
            ("1Gi", Some(1 << 30)),
            ("1500k", Some(1_500_000)),
            ("0.5Gi", Some(1 << 29)),
            ("1e3", Some(1000)),
            ("123", Some(123)),
            ("-1", None),
            ("junk", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(&Quantity(text.into())), expected, "{text}");
        }
    }

    #[test]
    fn a_loan_is_not_what_a_pod_requests() {
        for (terms, expected) in [
            (r#"{"deadlineSeconds":120,"containers":{"app":{"steady":"64Mi","request":"170Mi"}}}"#, 64 << 20),
            (
                r#"{"deadlineSeconds":120,"containers":{"other":{"steady":"64Mi","request":"170Mi"}}}"#,
                170 << 20,
            ),
            ("{}", 170 << 20),
        ] {
            let pod = serde_json::json!({
                "metadata": { "uid": "1", "annotations": { terms::TERMS: terms } },
                "spec": { "containers": [{ "name": "app", "resources": { "requests": { "memory": "170Mi" } } }] },
            });
            let pod = parse(&serde_json::from_value(pod).unwrap()).unwrap();
            assert_eq!(pod.containers[0].request, Some(expected), "{terms}");
            let loan = Loan { requested: 170 << 20, need: 170 << 20, deadline_seconds: 120.0 };
            assert_eq!(pod.containers[0].loan, (expected == 64 << 20).then_some(loan), "{terms}");
        }
    }

    proptest::proptest! {
        /// Whatever the API sends, with any field absent or absurd, is a pod or none.
        #[test]
        fn no_pod_makes_it_panic(
            uid in proptest::option::of(".{0,8}"),
            name in ".{0,5}",
            code in proptest::num::i32::ANY,
            restarts in proptest::num::i32::ANY,
            id in ".{0,80}",
            memory in ".{0,9}",
        ) {
            let pod = serde_json::json!({
                "metadata": { "uid": uid, "name": name, "labels": { "apps.kubernetes.io/pod-index": memory } },
                "spec": { "containers": [{ "name": name, "resources": { "limits": { "memory": memory } } }] },
                "status": { "containerStatuses": [{
                    "name": name, "containerID": id, "restartCount": restarts, "ready": false, "image": "", "imageID": "",
                    "lastState": { "terminated": { "exitCode": code } },
                }]},
            });
            let parsed = serde_json::from_value(pod).ok().and_then(|pod| parse(&pod));
            proptest::prop_assert_eq!(parsed.is_some(), uid.is_some());
        }
    }
}
