//! Pods with a label of the lender's: their identity, and a watch of them.

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use crate::{
    failure::one_line,
    lend::{cluster::WATCH, metrics::Metrics},
    sources::kubernetes::{
        lenient::{Lenient, Oddities},
        pace::{self, Watched},
    },
};

const PAGE: u32 = 50;

/// One pod, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct PodId {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub version: String,
}

impl PodId {
    /// `None`: it was not read from an API server.
    pub fn of(pod: &Pod) -> Option<Self> {
        let meta = &pod.metadata;
        Some(Self {
            uid: meta.uid.clone()?,
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            version: meta.resource_version.clone()?,
        })
    }

    /// What an Event is about.
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// It has ended, or is about to.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

/// All pods with `label=true`. A watch that fails is begun again, and says so once.
pub fn watched(
    client: &Client,
    label: &str,
    metrics: Metrics,
) -> impl Stream<Item = watcher::Event<Pod>> + Unpin + use<> {
    let Watched { client, pace, .. } = pace::watched(client.clone());
    let config = watcher::Config::default().labels(&format!("{label}=true")).page_size(PAGE).timeout(WATCH);
    let mut up = true;
    let mut odd = Oddities::default();
    let came = watcher(Api::<Lenient<Pod>>::all(client), config).backoff(pace).filter_map(move |next| {
        let event = match next {
            Ok(event) => {
                up = true;
                let event = odd.readable("pod", event);
                if event.is_none() {
                    metrics.object_unreadable();
                }
                event
            }
            Err(error) => {
                if std::mem::take(&mut up) {
                    tracing::warn!("the watch of pods failed and is begun again: {}", one_line(&error));
                }
                None
            }
        };
        std::future::ready(event)
    });
    came.boxed()
}
