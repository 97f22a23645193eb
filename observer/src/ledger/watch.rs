//! The cluster as the ledger's source: watches -> book.

use std::{future::Future, pin::Pin, time::Duration};

use futures::{StreamExt, TryStreamExt, future::join_all};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec},
        core::v1::Event as ApiEvent,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::{
    clock,
    ledger::Shared,
    sources::kubernetes::{metadata, owner},
};
use observer_core::{
    ledger::{Scaler, Told},
    model::kubernetes::Autoscaler,
};

/// Custom resources that were not there are looked for again this often.
const DISCOVER: Duration = Duration::from_secs(300);
const HPA: &str = "HorizontalPodAutoscaler";

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Watches until the end of the process. `synced` is called once everything has been listed.
pub async fn all(client: Client, shared: Shared, synced: impl FnOnce()) {
    let (listed, mut lists) = mpsc::channel(16);
    let deployments = metadata::resource("apps/v1", "Deployment");
    let sets = metadata::resource("apps/v1", "ReplicaSet");
    // Only what records are made of is waited for.
    let (unheard, _) = mpsc::channel(1);
    let here = |kind: &'static str| Watch { kind, shared: shared.clone(), listed: listed.clone() };
    let beside = |kind: &'static str| Watch { kind, shared: shared.clone(), listed: unheard.clone() };
    let mut tasks: Vec<Task> = vec![
        Box::pin(here("deployments").workloads(client.clone(), deployments)),
        Box::pin(here("replicasets").replica_sets(client.clone(), sets)),
        Box::pin(here("statefulsets").stateful_sets(client.clone())),
        Box::pin(here("horizontalpodautoscalers").autoscalers(client.clone())),
    ];
    let lists_wanted = tasks.len();
    for (kind, selector) in [
        ("events of autoscalers", "involvedObject.kind=HorizontalPodAutoscaler,reason=SuccessfulRescale"),
        ("events of KEDA", "reason=KEDAScaleTargetActivated"),
        ("events of evictions", "reason=Evicted"),
        ("events of evictions by the VPA", "reason=EvictedByVPA"),
        ("events of preemptions", "reason=Preempted"),
        ("events of taints", "reason=TaintManagerEviction"),
    ] {
        tasks.push(Box::pin(beside(kind).events(client.clone(), selector)));
    }
    for (kind, api_version) in [
        ("ScaledObject", "keda.sh/v1alpha1"),
        ("VerticalPodAutoscaler", "autoscaling.k8s.io/v1"),
        ("Rollout", "argoproj.io/v1alpha1"),
    ] {
        tasks.push(Box::pin(beside(kind).custom(client.clone(), api_version)));
    }
    drop(listed);
    let wait = async {
        for _ in 0..lists_wanted {
            lists.recv().await;
        }
        synced();
        while lists.recv().await.is_some() {}
    };
    tokio::join!(join_all(tasks), wait);
}

struct Watch {
    kind: &'static str,
    shared: Shared,
    listed: mpsc::Sender<()>,
}

impl Watch {
    /// Follows one watch for ever. `take`: an object, and whether it is there.
    async fn follow<K>(self, api: Api<K>, config: watcher::Config, mut take: impl FnMut(&Shared, &K, bool))
    where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
        K::DynamicType: Default + Clone,
    {
        let mut stream = watcher(api, config).default_backoff().boxed();
        self.drive(&mut stream, &mut take).await;
    }

    async fn drive<K>(
        self,
        stream: &mut (impl futures::TryStream<Ok = watcher::Event<K>, Error = watcher::Error> + Unpin),
        take: &mut impl FnMut(&Shared, &K, bool),
    ) where
        K: Resource,
    {
        let mut seen: std::collections::HashMap<String, (K, bool)> = std::collections::HashMap::new();
        let mut away = false;
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => seen.values_mut().for_each(|(_, there)| *there = false),
                Ok(Some(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => {
                    take(&self.shared, &object, true);
                    self.shared.metrics.seen(self.kind);
                    if let Some(uid) = object.meta().uid.clone() {
                        seen.insert(uid, (slim(object), true));
                    }
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    for (_, (object, _)) in seen.extract_if(|_, (_, there)| !*there) {
                        take(&self.shared, &object, false);
                    }
                    away = false;
                    let _ = self.listed.send(()).await; // nobody counts any more
                }
                Ok(Some(watcher::Event::Delete(object))) => {
                    if let Some(uid) = &object.meta().uid {
                        seen.remove(uid);
                    }
                    take(&self.shared, &object, false);
                }
                Ok(None) => return,
                Err(error) => {
                    self.shared.metrics.failed(self.kind);
                    if !std::mem::replace(&mut away, true) {
                        let first = error.to_string();
                        let first = first.lines().next().unwrap_or_default().to_owned();
                        tracing::warn!(
                            "{}: cannot watch: {first}; causes are less sure until it works",
                            self.kind
                        );
                    }
                }
            }
        }
    }

    async fn workloads(self, client: Client, of: ApiResource) {
        let kind = of.kind.clone();
        let api_version = of.api_version.clone();
        let mut stream = watcher::watcher(metadata::all(client, &of), watcher::Config::default())
            .default_backoff()
            .boxed();
        self.drive(&mut stream, &mut |shared, object, there| {
            let found = owner::parse(&object.metadata, &kind, clock::unix_seconds());
            match there {
                true => shared.book().workload(&found, &api_version, clock::unix_seconds()),
                false => shared.book().workload_gone(&found.uid),
            }
        })
        .await;
    }

    async fn replica_sets(self, client: Client, of: ApiResource) {
        // All of them, ten old revisions a Deployment too: v1.36 knows no selector for those with pods.
        let config = watcher::Config::default();
        let mut stream = watcher::watcher(metadata::all(client, &of), config).default_backoff().boxed();
        self.drive(&mut stream, &mut |shared, object, there| {
            let now = clock::unix_seconds();
            let found = owner::parse(&object.metadata, "ReplicaSet", now);
            match there {
                true => {
                    let news = shared.book().replica_set(&found, now);
                    shared.metrics.news(&news);
                }
                false => shared.book().replica_set_gone(&found.uid),
            }
        })
        .await;
    }

    async fn stateful_sets(self, client: Client) {
        let api = Api::<StatefulSet>::all(client);
        self.follow(api, watcher::Config::default(), |shared, set, there| {
            let now = clock::unix_seconds();
            let found = owner::parse(&set.metadata, "StatefulSet", now);
            if !there {
                return shared.book().workload_gone(&found.uid);
            }
            let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let status = set.status.as_ref();
            let revision = |of: Option<&String>| of.cloned().unwrap_or_default();
            let revisions = (
                revision(status.and_then(|status| status.current_revision.as_ref())),
                revision(status.and_then(|status| status.update_revision.as_ref())),
            );
            let replicas = u64::try_from(replicas).unwrap_or(0);
            let news = shared.book().stateful_set(&found, replicas, revisions, now);
            shared.metrics.news(&news);
        })
        .await;
    }

    async fn autoscalers(self, client: Client) {
        let api = Api::<HorizontalPodAutoscaler>::all(client);
        self.follow(api, watcher::Config::default(), |shared, hpa, there| {
            let uid = hpa.metadata.uid.clone().unwrap_or_default();
            match there {
                true => shared.book().autoscaler(&uid, self::hpa(hpa), clock::unix_seconds()),
                false => shared.book().autoscaler_gone(HPA, &uid),
            }
        })
        .await;
    }

    async fn events(self, client: Client, selector: &'static str) {
        let api = Api::<ApiEvent>::all(client);
        let config = watcher::Config::default().fields(selector);
        self.follow(api, config, |shared, event, there| {
            if there {
                take_event(shared, event);
            }
        })
        .await;
    }

    /// A custom resource, once it is installed.
    async fn custom(self, client: Client, api_version: &'static str) {
        let kind = self.kind;
        let group = loop {
            let found = client.list_api_group_resources(api_version).await;
            if found.is_ok_and(|list| list.resources.iter().any(|resource| resource.kind == kind)) {
                break metadata::resource(api_version, kind);
            }
            tokio::time::sleep(DISCOVER).await;
        };
        tracing::info!("{kind} is installed: watching it");
        if kind == "Rollout" {
            return self.workloads(client, group).await;
        }
        let api: Api<DynamicObject> = Api::all_with(client, &group);
        let mut stream = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
        self.drive(&mut stream, &mut |shared, object: &DynamicObject, there| {
            let uid = object.metadata.uid.clone().unwrap_or_default();
            match there {
                true => shared.book().autoscaler(&uid, custom_scaler(kind, object), clock::unix_seconds()),
                false => shared.book().autoscaler_gone(kind, &uid),
            }
        })
        .await;
    }
}

/// Only who it was is kept for the next list.
fn slim<K: Resource>(mut object: K) -> K {
    let meta = object.meta_mut();
    *meta = ObjectMeta {
        uid: meta.uid.take(),
        name: meta.name.take(),
        namespace: meta.namespace.take(),
        ..ObjectMeta::default()
    };
    object
}

fn hpa(hpa: &HorizontalPodAutoscaler) -> Scaler {
    let meta = &hpa.metadata;
    let spec = hpa.spec.clone().unwrap_or_default();
    let status = hpa.status.clone().unwrap_or_default();
    let inactive = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "ScalingActive" && condition.status == "False");
    Scaler {
        namespace: meta.namespace.clone().unwrap_or_default(),
        target: (spec.scale_target_ref.kind.clone(), spec.scale_target_ref.name.clone()),
        autoscaler: Autoscaler {
            kind: HPA.into(),
            name: meta.name.clone().unwrap_or_default(),
            signals: spec.metrics.iter().flatten().map(signal).collect(),
            min: spec.min_replicas.and_then(|min| u64::try_from(min).ok()),
            max: u64::try_from(spec.max_replicas).ok(),
            mode: inactive.and_then(|condition| condition.reason.clone()).unwrap_or_default(),
            burst: Some(burst(&spec, status.current_replicas.unwrap_or(0))),
        },
        last_scale: status.last_scale_time.map(|time| time.0.as_second() as f64),
        scaled_object: metadata::controller(meta)
            .filter(|above| above.kind == "ScaledObject")
            .map(|above| above.name),
    }
}

/// Pods its scaleUp policies let it add in one step. Without policies: twice as many, or four (kubernetes
/// pkg/apis/autoscaling/v2/defaults.go).
fn burst(spec: &HorizontalPodAutoscalerSpec, replicas: i32) -> u64 {
    let rules = spec.behavior.as_ref().and_then(|behavior| behavior.scale_up.as_ref());
    let policies = rules.and_then(|rules| rules.policies.as_ref()).filter(|policies| !policies.is_empty());
    let replicas = u64::try_from(replicas).unwrap_or(0);
    let Some(policies) = policies else { return replicas.max(4) };
    let steps = policies.iter().map(|policy| {
        let value = u64::try_from(policy.value).unwrap_or(0);
        if policy.type_ == "Percent" { (replicas * value).div_ceil(100) } else { value }
    });
    let select = rules.and_then(|rules| rules.select_policy.as_deref());
    match select {
        Some("Disabled") => 0,
        Some("Min") => steps.min().unwrap_or(0),
        _ => steps.max().unwrap_or(0),
    }
}

/// `resource cpu`, `container memory`, `pods requests_per_second`, `object …`, `external queue_depth`.
fn signal(metric: &MetricSpec) -> String {
    let name = match metric.type_.as_str() {
        "Resource" => metric.resource.as_ref().map(|resource| resource.name.clone()),
        "ContainerResource" => metric.container_resource.as_ref().map(|resource| resource.name.clone()),
        "Pods" => metric.pods.as_ref().map(|pods| pods.metric.name.clone()),
        "Object" => metric.object.as_ref().map(|object| object.metric.name.clone()),
        _ => metric.external.as_ref().map(|external| external.metric.name.clone()),
    };
    let kind = metric.type_.replace("ContainerResource", "container").to_lowercase();
    format!("{kind} {}", name.unwrap_or_default())
}

/// ScaledObject (keda.sh/v1alpha1) or VerticalPodAutoscaler (autoscaling.k8s.io/v1).
fn custom_scaler(kind: &str, object: &DynamicObject) -> Scaler {
    let text =
        |pointer: &str| object.data.pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned);
    let number = |pointer: &str| object.data.pointer(pointer).and_then(|value| value.as_u64());
    let list = |pointer: &str| {
        object.data.pointer(pointer).and_then(|value| value.as_array()).cloned().unwrap_or_default()
    };
    let keda = kind == "ScaledObject";
    let target = if keda { "/spec/scaleTargetRef" } else { "/spec/targetRef" };
    let signals = match keda {
        true => list("/spec/triggers")
            .iter()
            .filter_map(|trigger| trigger["type"].as_str().map(str::to_owned))
            .collect(),
        false => {
            let policies = list("/spec/resourcePolicy/containerPolicies");
            let mut controlled: Vec<String> = policies
                .iter()
                .flat_map(|policy| policy["controlledResources"].as_array().cloned().unwrap_or_default())
                .filter_map(|resource| resource.as_str().map(str::to_owned))
                .collect();
            if controlled.is_empty() {
                controlled = vec!["cpu".into(), "memory".into()]; // the default of the API
            }
            controlled
        }
    };
    Scaler {
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        target: (
            text(&format!("{target}/kind")).unwrap_or_else(|| "Deployment".into()),
            text(&format!("{target}/name")).unwrap_or_default(),
        ),
        autoscaler: Autoscaler {
            kind: kind.to_owned(),
            name: object.metadata.name.clone().unwrap_or_default(),
            signals,
            min: number("/spec/minReplicaCount"),
            max: number("/spec/maxReplicaCount"),
            mode: text("/spec/updatePolicy/updateMode")
                .unwrap_or_else(|| if keda { String::new() } else { "Recreate".into() }),
            burst: None,
        },
        ..Scaler::default()
    }
}

/// The time of an event, whichever recorder wrote it (kubernetes: events.k8s.io/v1 and core/v1 are one object).
fn time_of(event: &ApiEvent) -> f64 {
    let series =
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let time = series
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0));
    time.map_or(0.0, |time| time.as_second() as f64)
}

fn take_event(shared: &Shared, event: &ApiEvent) {
    let at = time_of(event);
    let namespace = event.involved_object.namespace.clone().unwrap_or_default();
    let kind = event.involved_object.kind.clone().unwrap_or_default();
    let name = event.involved_object.name.clone().unwrap_or_default();
    let message = event.message.clone().unwrap_or_default();
    match event.reason.as_deref().unwrap_or_default() {
        // "New size: 4; reason: external metric queue_depth(nil) above target"
        "SuccessfulRescale" => {
            let (size, reason) = message.split_once("; reason: ").unwrap_or((&message, ""));
            let to = size.strip_prefix("New size: ").and_then(|size| size.trim().parse().ok());
            let told = Told { namespace, by: (kind, name), at, to, reason: reason.to_owned() };
            shared.book().told(told, clock::unix_seconds());
        }
        "KEDAScaleTargetActivated" => {
            let reason =
                message.split_once("triggered by ").map_or(message.as_str(), |(_, by)| by).to_owned();
            let told = Told { namespace, by: (kind, name), at, to: None, reason };
            shared.book().told(told, clock::unix_seconds());
        }
        reason if kind == "Pod" => shared.book().disrupted(&namespace, &name, reason, at),
        _ => {}
    }
}
