use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Known {
    most: Option<u64>,
    swap: bool,
    ranges: Vec<Value>,
    quotas: Vec<Value>,
    vpa: bool,
    need: BTreeMap<String, u64>,
}

impl Cluster for Known {
    fn most(&self) -> Option<u64> {
        self.most
    }

    fn has_swap(&self) -> bool {
        self.swap
    }

    fn limit_ranges(&self, _: &str) -> Vec<LimitRange> {
        let range = |limit: &Value| serde_json::from_value(json!({"spec": {"limits": [limit]}})).unwrap();
        self.ranges.iter().map(range).collect()
    }

    fn quotas(&self, _: &str) -> Vec<ResourceQuota> {
        let quota = |status: &Value| serde_json::from_value(json!({"status": status})).unwrap();
        self.quotas.iter().map(quota).collect()
    }

    fn is_scaled_vertically(&self, _: &Workload) -> bool {
        self.vpa
    }

    fn need(&self, workload: &Workload) -> Option<u64> {
        self.need.get(&workload.to_string()).copied()
    }
}

fn roomy() -> Known {
    Known { most: Some(8 << 30), ..Known::default() }
}

fn deployed() -> Value {
    json!({
        "metadata": {
            "labels": {"pod-template-hash": "5d4f"},
            "annotations": {START_MEMORY: "170Mi"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "r", "controller": true}]
        },
        "spec": {"priority": 0, "containers": [
            {"name": "app", "resources": {"requests": {"memory": "64Mi"}, "limits": {"memory": "200Mi"}}}
        ]}
    })
}

fn ask(pod: &Value, known: &Known) -> Result<Option<Terms>, Refused> {
    admit(&serde_json::from_value(pod.clone()).unwrap(), "shop", 120.0, known)
}

/// With one thing changed: a JSON pointer that is there, and its new value.
fn with(path: &str, value: Value) -> Value {
    let mut pod = deployed();
    let (parent, name) = path.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[name] = value;
    pod
}

fn request(terms: Result<Option<Terms>, Refused>) -> Result<String, Refused> {
    terms.map(|terms| terms.unwrap().containers["app"].request.clone())
}

#[test]
fn a_pod_is_raised_to_its_need_and_its_own_request_is_kept_as_written() {
    let terms = ask(&with("/spec/containers/0/resources/requests", json!({"memory": "0.0625Gi"})), &roomy());
    let lent = terms.unwrap().unwrap().containers["app"].clone();
    assert_eq!((lent.steady.as_str(), lent.request.as_str()), ("0.0625Gi", "170Mi"));
}

#[test]
fn each_refusal_has_its_reason() {
    let both = json!({"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}});
    let restarts = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    for (pod, expected) in [
        (with("/metadata/ownerReferences", json!([])), Refused::Bare),
        (with("/spec/containers/0/resources", json!({})), Refused::Class),
        (with("/spec/containers/0/resources", both), Refused::Class),
        (with("/spec/containers/0/resizePolicy", restarts), Refused::RestartsOnResize),
        (with("/spec/resources", json!({"requests": {"memory": "1Gi"}})), Refused::PodLevel),
        (with("/spec/priority", json!(1)), Refused::MayPreempt),
        (with("/metadata/annotations", json!({})), Refused::Unknown),
        (with("/metadata/annotations", json!({START_MEMORY: "lots"})), Refused::Annotation),
        (with("/metadata/annotations", json!({START_MEMORY: "64Mi"})), Refused::NoNeed),
        (with("/spec/containers/0/resources/limits", json!({"memory": "64Mi"})), Refused::NoRoom),
    ] {
        assert_eq!(ask(&pod, &roomy()), Err(expected), "{pod}");
    }
    for (known, expected) in [
        (Known { swap: true, ..roomy() }, Refused::Swap),
        (Known { vpa: true, ..roomy() }, Refused::Vpa),
        (Known { most: None, ..roomy() }, Refused::NoRoom),
        (Known { most: Some(70 << 20), ..roomy() }, Refused::NoRoom),
        (
            Known { ranges: vec![json!({"type": "Container", "min": {"memory": "65Mi"}})], ..roomy() },
            Refused::BreaksRule,
        ),
        (
            Known {
                ranges: vec![json!({"type": "Container", "maxLimitRequestRatio": {"memory": "3"}})],
                ..roomy()
            },
            Refused::BreaksRule,
        ),
        (
            Known {
                quotas: vec![
                    json!({"hard": {"requests.memory": "1Gi"}, "used": {"requests.memory": "960Mi"}}),
                ],
                ..roomy()
            },
            Refused::NoRoom,
        ),
    ] {
        assert_eq!(ask(&deployed(), &known), Err(expected));
    }
    let never = with("/spec/preemptionPolicy", json!("Never"));
    let mut never_high = never;
    never_high["spec"]["priority"] = json!(1000);
    assert_eq!(request(ask(&never_high, &roomy())), Ok("170Mi".into()));
}

#[test]
fn a_raise_is_capped_by_every_rule() {
    let limit = |limit: &str| with("/spec/containers/0/resources/limits", json!({"memory": limit}));
    assert_eq!(request(ask(&limit("170Mi"), &roomy())), Ok("169Mi".into()), "it stays Burstable");
    assert_eq!(request(ask(&limit("120.5Mi"), &roomy())), Ok("119Mi".into()));
    let range = |kind: &str| vec![json!({"type": kind, "max": {"memory": "150Mi"}})];
    for (known, expected) in [
        (Known { ranges: range("Container"), ..roomy() }, "150Mi"),
        (Known { ranges: range("Pod"), ..roomy() }, "150Mi"),
        (Known { most: Some(100 << 20), ..roomy() }, "100Mi"),
        (
            Known {
                quotas: vec![json!({"hard": {"memory": "1Gi"}, "used": {"memory": "900Mi"}})],
                ..roomy()
            },
            "124Mi",
        ),
        (Known { quotas: vec![json!({"hard": {"pods": "4"}, "used": {"pods": "4"}})], ..roomy() }, "170Mi"),
    ] {
        assert_eq!(request(ask(&deployed(), &known)), Ok(expected.into()));
    }
}

#[test]
fn a_measured_need_is_found_by_the_name_that_agents_give_the_workload() {
    let known = |name: &str| Known { need: [(name.to_owned(), 300 << 20)].into(), ..roomy() };
    let mut pod = with("/metadata/annotations", json!({}));
    pod["spec"]["containers"][0]["resources"]["limits"] = json!({"memory": "1Gi"});
    assert_eq!(request(ask(&pod, &known("shop/deployment/web:app"))), Ok("300Mi".into()));
    pod["metadata"]["ownerReferences"][0]["kind"] = json!("StatefulSet");
    pod["metadata"]["ownerReferences"][0]["name"] = json!("web");
    assert_eq!(request(ask(&pod, &known("shop/statefulset/web:app"))), Ok("300Mi".into()));
    assert_eq!(ask(&pod, &known("shop/deployment/web:app")), Err(Refused::Unknown));
}

#[test]
fn asked_again_it_is_left_or_lent_anew_where_another_webhook_changed_it() {
    let mut pod = deployed();
    let terms = ask(&pod, &roomy()).unwrap().unwrap();
    pod["metadata"]["annotations"][TERMS] = json!(serde_json::to_string(&terms).unwrap());
    pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("170Mi");
    assert_eq!(ask(&pod, &roomy()), Ok(None));
    // A vertical autoscaler's webhook came after.
    pod["spec"]["containers"][0]["resources"]["requests"]["memory"] = json!("45Mi");
    assert_eq!(ask(&pod, &roomy()).unwrap().unwrap().containers["app"].steady, "45Mi");
}

#[test]
fn two_containers_share_the_room_there_is() {
    let mut pod = with("/metadata/annotations", json!({START_MEMORY: "app=170Mi,proxy=100Mi"}));
    let proxy = json!({"name": "proxy", "resources": {"requests": {"memory": "32Mi"}}});
    pod["spec"]["containers"].as_array_mut().unwrap().push(proxy);
    let of = |known: &Known| {
        let terms = ask(&pod, known).unwrap().unwrap();
        terms.containers.into_iter().map(|(name, lent)| (name, lent.request)).collect::<Vec<_>>()
    };
    let lent = |app: &str, proxy: &str| vec![("app".into(), app.into()), ("proxy".into(), proxy.into())];
    assert_eq!(of(&roomy()), lent("170Mi", "100Mi"));
    assert_eq!(of(&Known { most: Some(222 << 20), ..roomy() }), lent("170Mi", "52Mi"));
}
