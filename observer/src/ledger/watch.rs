//! The cluster as the ledger's source: watches -> book.

use std::{collections::HashMap, future::Future, pin::Pin};

use futures::{StreamExt, TryStreamExt, future::join_all};
use k8s_openapi::api::{
    autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec},
    core::v1::Event as ApiEvent,
};
use kube::{
    Api, Client, Resource,
    core::{ApiResource, DynamicObject, Object, PartialObjectMeta},
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::mpsc;

use crate::{
    failure::one_line,
    ledger::Shared,
    memory,
    sources::kubernetes::{
        lenient::{Lenient, Oddities},
        metadata, owner,
        pace::{self, Watched},
    },
};
use observer_core::{
    ledger::{RescaleNotice, Scaler},
    model::kubernetes::{Autoscaler, ObjectKind},
};

/// Objects of a list that are in memory at once. One with a long specification has tens of kilobytes.
const PAGE: u32 = 50;
/// Seconds after which a watch of events is begun again: the API server does not cache them, so that it sends no
/// bookmarks, and a connection that says nothing for longer is taken for dead.
const EVENTS_WATCH: u32 = 60;

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
    /// Follows one watch for ever. Of an object nothing but its uid is kept here: `take` gets it, `gone` gets the uid.
    async fn follow<K>(
        self,
        client: Client,
        api: impl FnOnce(Client) -> Api<Lenient<K>>,
        selector: Option<&str>,
        mut take: impl FnMut(&Shared, &K),
        gone: impl Fn(&Shared, &str),
    ) where
        K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    {
        let mut config = watcher::Config::default().page_size(PAGE);
        config.field_selector = selector.map(str::to_owned);
        config.timeout = selector.map(|_| EVENTS_WATCH);
        let Watched { client, mut taken_up, pace } = pace::watched(client);
        let mut stream = watcher(api(client), config).backoff(pace).boxed();
        // By uid: whether it was in the last list.
        let mut known: HashMap<Box<str>, bool> = HashMap::new();
        let mut odd = Oddities::default();
        let metrics = self.shared.metrics.clone();
        let mut up = true; // so that the first failure is logged
        metrics.up(self.kind, false);
        loop {
            let next = tokio::select! {
                next = stream.try_next() => next,
                // The watch is established, perhaps again at its old position: no other event reports that.
                Ok(()) = taken_up.changed() => {
                    if !std::mem::replace(&mut up, true) {
                        tracing::info!("{}: watching again", self.kind);
                    }
                    metrics.up(self.kind, true);
                    continue;
                }
            };
            match next {
                Ok(Some(watcher::Event::Init)) => known.values_mut().for_each(|listed| *listed = false),
                Ok(Some(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => {
                    metrics.seen(self.kind);
                    if let Some(uid) = &object.meta().uid {
                        known.insert(uid.as_str().into(), true);
                    }
                    match &object {
                        Lenient::Read(object) => take(&self.shared, object),
                        Lenient::Unreadable(object) => {
                            odd.take(self.kind, object);
                            metrics.unreadable(self.kind);
                        }
                    }
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    for (uid, _) in known.extract_if(|_, listed| !*listed) {
                        gone(&self.shared, &uid);
                    }
                    memory::trim_heap(); // a page was in memory as text and as objects
                    let _ = self.listed.send(()).await; // nobody counts any more
                }
                Ok(Some(watcher::Event::Delete(object))) => {
                    if let Some(uid) = &object.meta().uid {
                        known.remove(uid.as_str());
                        gone(&self.shared, uid);
                    }
                }
                Ok(None) => return,
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {} // it answers: with a new list
                Err(error) => {
                    metrics.failed(self.kind);
                    metrics.up(self.kind, false);
                    if std::mem::take(&mut up) {
                        let why = one_line(&error);
                        tracing::warn!(
                            "{}: cannot watch: {why}; causes are less sure until it works",
                            self.kind
                        );
                    }
                }
            }
        }
    }

    async fn workloads(self, client: Client, of: ApiResource) {
        let kind = ObjectKind::from(of.kind.as_str());
        let api_version = of.api_version.clone();
        let take = |shared: &Shared, object: &PartialObjectMeta<DynamicObject>| {
            let now = shared.clock.unix_seconds();
            let found = owner::parse(&object.metadata, kind.clone(), now);
            shared.book().workload(&found, &api_version, now);
        };
        let gone = |shared: &Shared, uid: &str| shared.book().workload_gone(uid);
        self.follow(client, |client| metadata::all(client, &of), None, take, gone).await;
    }

    async fn replica_sets(self, client: Client, of: ApiResource) {
        let take = |shared: &Shared, object: &PartialObjectMeta<DynamicObject>| {
            let now = shared.clock.unix_seconds();
            let found = owner::parse(&object.metadata, ObjectKind::ReplicaSet, now);
            let news = shared.book().replica_set(&found, now);
            shared.metrics.news(&news);
        };
        let gone = |shared: &Shared, uid: &str| shared.book().replica_set_gone(uid);
        // All of them, ten old revisions a Deployment too: v1.36 knows no selector for those with pods.
        self.follow(client, |client| metadata::all(client, &of), None, take, gone).await;
    }

    async fn stateful_sets(self, client: Client) {
        let of = metadata::resource("apps/v1", "StatefulSet");
        let take = |shared: &Shared, set: &Object<SetSpec, SetStatus>| {
            let now = shared.clock.unix_seconds();
            let found = owner::parse(&set.metadata, ObjectKind::StatefulSet, now);
            let replicas = u64::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
            let status = set.status.clone().unwrap_or_default();
            let revisions =
                (status.current_revision.unwrap_or_default(), status.update_revision.unwrap_or_default());
            let news = shared.book().stateful_set(&found, replicas, revisions, now);
            shared.metrics.news(&news);
        };
        let gone = |shared: &Shared, uid: &str| shared.book().workload_gone(uid);
        self.follow(client, |client| Api::all_with(client, &of), None, take, gone).await;
    }

    async fn autoscalers(self, client: Client) {
        let take = |shared: &Shared, hpa: &HorizontalPodAutoscaler| {
            let uid = hpa.metadata.uid.clone().unwrap_or_default();
            shared.book().autoscaler(&uid, self::hpa(hpa), shared.clock.unix_seconds());
        };
        let gone = |shared: &Shared, uid: &str| {
            shared.book().autoscaler_gone(&ObjectKind::HorizontalPodAutoscaler, uid)
        };
        self.follow(client, Api::all, None, take, gone).await;
    }

    async fn events(self, client: Client, selector: &'static str) {
        self.follow(client, Api::all, Some(selector), take_event, |_, _| {}).await;
    }

    /// A custom resource, once it is installed.
    async fn custom(self, client: Client, api_version: &'static str) {
        let kind = self.kind;
        metadata::installed(&client, api_version, kind).await;
        let of = metadata::resource(api_version, kind);
        tracing::info!("{kind} is installed: watching it");
        let kind = ObjectKind::from(kind);
        if kind == ObjectKind::Rollout {
            return self.workloads(client, of).await;
        }
        let take = |shared: &Shared, object: &DynamicObject| {
            let uid = object.metadata.uid.clone().unwrap_or_default();
            shared.book().autoscaler(&uid, custom_scaler(&kind, object), shared.clock.unix_seconds());
        };
        let gone = |shared: &Shared, uid: &str| shared.book().autoscaler_gone(&kind, uid);
        self.follow(client, |client| Api::all_with(client, &of), None, take, gone).await;
    }
}

/// What is read of a StatefulSet: not its template, which is most of it.
#[derive(Clone, Debug, Default, Deserialize)]
struct SetSpec {
    replicas: Option<i32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SetStatus {
    current_revision: Option<String>,
    update_revision: Option<String>,
}

pub fn hpa(hpa: &HorizontalPodAutoscaler) -> Scaler {
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
        target: (spec.scale_target_ref.kind.clone().into(), spec.scale_target_ref.name.clone()),
        autoscaler: Autoscaler {
            kind: ObjectKind::HorizontalPodAutoscaler,
            name: meta.name.clone().unwrap_or_default(),
            signals: spec.metrics.iter().flatten().map(signal).collect(),
            min: spec.min_replicas.and_then(|min| u64::try_from(min).ok()),
            max: u64::try_from(spec.max_replicas).ok(),
            mode: inactive.and_then(|condition| condition.reason.clone()).unwrap_or_default(),
            burst: Some(burst(&spec, status.current_replicas.unwrap_or(0))),
        },
        last_scale: status.last_scale_time.map(|time| time.0.as_second() as f64),
        scaled_object: metadata::controller(meta)
            .filter(|above| above.kind == ObjectKind::ScaledObject)
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
pub fn custom_scaler(kind: &ObjectKind, object: &DynamicObject) -> Scaler {
    let text =
        |pointer: &str| object.data.pointer(pointer).and_then(|value| value.as_str()).map(str::to_owned);
    let number = |pointer: &str| object.data.pointer(pointer).and_then(|value| value.as_u64());
    let list = |pointer: &str| {
        object.data.pointer(pointer).and_then(|value| value.as_array()).cloned().unwrap_or_default()
    };
    let keda = *kind == ObjectKind::ScaledObject;
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
            text(&format!("{target}/kind")).map_or(ObjectKind::Deployment, ObjectKind::from),
            text(&format!("{target}/name")).unwrap_or_default(),
        ),
        autoscaler: Autoscaler {
            kind: kind.clone(),
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

pub fn take_event(shared: &Shared, event: &ApiEvent) {
    let at = time_of(event);
    let namespace = event.involved_object.namespace.clone().unwrap_or_default();
    let kind = ObjectKind::from(event.involved_object.kind.as_deref().unwrap_or_default());
    let name = event.involved_object.name.clone().unwrap_or_default();
    let message = event.message.clone().unwrap_or_default();
    match event.reason.as_deref().unwrap_or_default() {
        // "New size: 4; reason: external metric queue_depth(nil) above target"
        "SuccessfulRescale" => {
            let (size, reason) = message.split_once("; reason: ").unwrap_or((&message, ""));
            let to = size.strip_prefix("New size: ").and_then(|size| size.trim().parse().ok());
            let notice = RescaleNotice { namespace, by: (kind, name), at, to, reason: reason.to_owned() };
            shared.book().rescaled(notice, shared.clock.unix_seconds());
        }
        "KEDAScaleTargetActivated" => {
            let reason =
                message.split_once("triggered by ").map_or(message.as_str(), |(_, by)| by).to_owned();
            let notice = RescaleNotice { namespace, by: (kind, name), at, to: None, reason };
            shared.book().rescaled(notice, shared.clock.unix_seconds());
        }
        reason if kind == ObjectKind::Pod => shared.book().disrupted(&namespace, &name, reason, at),
        _ => {}
    }
}
