//! A pod that was lent to, as the lender keeps it. Pure.

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    lend::pods::{self, PodId},
    sources::kubernetes::{
        metadata,
        pod::bytes,
        terms::{self, TERMS},
    },
};
use observer_core::{loan::Bounds, model::units::parse_bytes};

#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub id: PodId,
    pub node: Option<String>,
    /// Unix time.
    pub created: f64,
    pub containers: Vec<HeldContainer>,
}

/// One container with terms.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldContainer {
    pub name: String,
    pub bounds: Bounds,
    /// As the user wrote it.
    pub steady: String,
    /// What is asked for, and what is in force.
    pub requested: u64,
    pub actual: Option<u64>,
    pub status: Status,
}

/// Unix times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status {
    Creating,
    Running { restarts: u32, since: f64 },
    Waiting { restarts: u32, ran: f64 },
    Finished,
}

impl Held {
    /// `None`: there are no terms on it that can be read, or it has no uid.
    pub fn of(pod: &Pod, pending_seconds: f64) -> Option<Self> {
        let meta = &pod.metadata;
        let terms: terms::Terms = metadata::annotation(meta, TERMS)?.parse().ok()?;
        let spec = pod.spec.as_ref()?;
        let over = pods::is_over(pod);
        let never = spec.restart_policy.as_deref() == Some("Never");
        let on_failure = spec.restart_policy.as_deref() == Some("OnFailure");
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        let containers = spec.containers.iter().filter_map(|container| {
            let lent = terms.containers.get(&container.name)?;
            let (_, requested) = terms::request(container)?;
            let status = statuses.into_iter().flatten().find(|status| status.name == container.name);
            let actual = status.and_then(|status| {
                status.resources.as_ref()?.requests.as_ref()?.get("memory").and_then(bytes)
            });
            let finished = |ended: &ContainerStateTerminated| never || on_failure && ended.exit_code == 0;
            Some(HeldContainer {
                name: container.name.clone(),
                bounds: Bounds {
                    need: parse_bytes(&lent.request).ok()?,
                    steady: parse_bytes(&lent.steady).ok()?,
                    deadline: terms.deadline_seconds,
                    pending: pending_seconds,
                },
                steady: lent.steady.clone(),
                requested,
                actual,
                status: if over { Status::Finished } else { status_of(status, finished) },
            })
        });
        Some(Self {
            id: PodId::of(pod)?,
            node: spec.node_name.clone(),
            created: metadata::created(meta),
            containers: containers.collect(),
        })
    }
}

fn status_of(
    status: Option<&ContainerStatus>,
    finished: impl Fn(&ContainerStateTerminated) -> bool,
) -> Status {
    let Some(status) = status else { return Status::Creating };
    let state = |of: &Option<ContainerState>| of.clone().unwrap_or_default();
    let (now, before) = (state(&status.state), state(&status.last_state));
    let restarts = u32::try_from(status.restart_count).unwrap_or(0);
    let seconds = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second() as f64);
    if let Some(running) = now.running {
        return Status::Running { restarts, since: seconds(&running.started_at).unwrap_or(0.0) };
    }
    let Some(ended) = now.terminated.or(before.terminated) else { return Status::Creating };
    if finished(&ended) {
        return Status::Finished;
    }
    let ran = seconds(&ended.finished_at).zip(seconds(&ended.started_at)).map_or(0.0, |(to, from)| to - from);
    Status::Waiting { restarts, ran }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TERMS_TEXT: &str =
        r#"{"deadlineSeconds":120,"containers":{"app":{"steady":"64Mi","request":"170Mi"}}}"#;

    fn pod(policy: &str, phase: &str, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": "u", "name": "p", "namespace": "n", "resourceVersion": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {TERMS: TERMS_TEXT}},
            "spec": {"restartPolicy": policy, "containers": [
                {"name": "app", "resources": {"requests": {"memory": "170Mi"}}}, {"name": "proxy"}]},
            "status": {"phase": phase, "containerStatuses": [status]}
        }))
        .unwrap()
    }

    fn status(restarts: i32, state: Value, last: Value) -> Value {
        json!({"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": restarts,
            "state": state, "lastState": last})
    }

    #[test]
    fn how_a_container_is() {
        let ended = |code: i32| json!({"terminated": {"exitCode": code, "startedAt": "2026-01-01T00:00:10Z", "finishedAt": "2026-01-01T00:00:13Z"}});
        let running = || json!({"running": {"startedAt": "2026-01-01T00:00:20Z"}});
        let waiting = || json!({"waiting": {"reason": "CrashLoopBackOff"}});
        for (policy, phase, status, expected) in [
            ("Always", "Pending", status(0, json!({"waiting": {}}), json!({})), Status::Creating),
            (
                "Always",
                "Running",
                status(1, running(), ended(1)),
                Status::Running { restarts: 1, since: 1767225620.0 },
            ),
            ("Always", "Running", status(0, ended(1), json!({})), Status::Waiting { restarts: 0, ran: 3.0 }),
            (
                "Always",
                "Running",
                status(2, waiting(), ended(137)),
                Status::Waiting { restarts: 2, ran: 3.0 },
            ),
            ("OnFailure", "Running", status(0, ended(0), json!({})), Status::Finished),
            (
                "OnFailure",
                "Running",
                status(0, ended(1), json!({})),
                Status::Waiting { restarts: 0, ran: 3.0 },
            ),
            ("Never", "Running", status(0, ended(1), json!({})), Status::Finished),
            ("Always", "Failed", status(0, running(), json!({})), Status::Finished),
        ] {
            let held = Held::of(&pod(policy, phase, status), 60.0).unwrap();
            assert_eq!(held.containers.len(), 1, "the proxy was lent nothing");
            assert_eq!(held.containers[0].status, expected, "{policy} {phase}");
            assert_eq!(held.containers[0].bounds.need, 170 << 20);
        }
    }

    #[test]
    fn without_terms_it_is_not_held() {
        let mut pod = pod("Always", "Running", status(0, json!({}), json!({})));
        pod.metadata.annotations = Some([(TERMS.to_owned(), "soon".to_owned())].into());
        assert_eq!(Held::of(&pod, 60.0), None);
        assert_eq!(Held::of(&Pod::default(), 60.0), None);
    }
}
