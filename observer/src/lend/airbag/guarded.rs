//! A pod whose limits may be raised, as the lender keeps it, and whether they may. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    lend::{
        admit,
        pods::{self, PodId},
        rules::{Rules, quota_left},
    },
    sources::kubernetes::{metadata, terms},
};
use observer_core::model::container::Workload;

/// In the managed fields of a pod whose limit was raised.
pub const MANAGER: &str = "memory-observer-airbag";

/// Why a limit stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr)]
#[strum(serialize_all = "snake_case")]
pub enum NotRaised {
    Bare,
    Class,
    RestartsOnResize,
    PodLevel,
    Vpa,
    /// Once already.
    Raised,
    /// A LimitRange or a ResourceQuota of the namespace leaves less than 8 MiB.
    NoRoomByRules,
    /// The node has less than twice 8 MiB left, or its agent does not know.
    NoRoomOnNode,
}

impl NotRaised {
    pub fn words(self) -> &'static str {
        match self {
            Self::Bare => "its pod has no controller, and kubectl apply of a pod that was changed fails",
            Self::Class => "its pod is Guaranteed, and a resize may not change its QoS class",
            Self::RestartsOnResize => "a container is restarted when its memory is resized (resizePolicy)",
            Self::PodLevel => "its pod has resources of the whole pod (spec.resources)",
            Self::Vpa => "a VerticalPodAutoscaler sets its memory",
            Self::Raised => "it was raised once already",
            Self::NoRoomByRules => "a LimitRange or a quota of its namespace leaves too little",
            Self::NoRoomOnNode => "its node has too little memory left",
        }
    }
}

/// A pod with the label.
pub struct Guarded {
    pub id: PodId,
    /// In the last list, if one is under way.
    pub listed: bool,
    pub node: String,
    /// Why none of its limits may be raised, by what it is.
    stays: Option<NotRaised>,
    workload: Workload,
    /// Those with a limit.
    pub containers: BTreeMap<String, Limited>,
    /// Containers of which it was said why they are not raised, or would be.
    pub said: BTreeSet<String>,
    /// Nothing is tried before.
    pub next: Option<Instant>,
}

/// One container, in bytes.
pub struct Limited {
    pub limit: u64,
    request: u64,
    /// The limit is the one that was raised.
    raised: bool,
}

impl Guarded {
    /// `None`: it runs nowhere, or not any more.
    pub fn of(pod: &Pod) -> Option<Self> {
        if pods::is_over(pod) {
            return None;
        }
        let (id, raised) = (PodId::of(pod)?, raised(&pod.metadata));
        let spec = pod.spec.as_ref()?;
        let containers = spec.containers.iter().filter_map(|one| {
            let request = terms::request(one).map_or(0, |(_, bytes)| bytes);
            let limited = Limited { limit: admit::limit(one)?, request, raised: raised.contains(&one.name) };
            Some((one.name.clone(), limited))
        });
        let owner = metadata::controller(&pod.metadata);
        let is_bare = owner.is_none();
        let (kind, name) = owner.map(|one| (one.kind.to_string(), one.name)).unwrap_or_default();
        let inits = spec.init_containers.iter().flatten();
        let stays = [
            (is_bare, NotRaised::Bare),
            (spec.resources.is_some(), NotRaised::PodLevel),
            (!admit::is_burstable(spec.containers.iter().chain(inits)), NotRaised::Class),
            (spec.containers.iter().any(admit::restarts_on_resize), NotRaised::RestartsOnResize),
        ];
        Some(Self {
            workload: admit::workload(pod, &id.namespace, &kind, &name),
            id,
            listed: true,
            node: spec.node_name.clone()?,
            stays: stays.into_iter().find(|(is_so, _)| *is_so).map(|(_, why)| why),
            containers: containers.collect(),
            said: BTreeSet::new(),
            next: None,
        })
    }

    /// The highest limit that the rules of its namespace allow this container; `None`: any.
    pub fn highest(&self, container: &str, cluster: &impl admit::Cluster) -> Result<Option<u64>, NotRaised> {
        if let Some(why) = self.stays {
            return Err(why);
        }
        let Some(one) = self.containers.get(container).filter(|one| !one.raised) else {
            return Err(NotRaised::Raised);
        };
        if cluster.is_scaled_vertically(&self.workload) {
            return Err(NotRaised::Vpa);
        }
        let namespace = &self.id.namespace;
        let rules = Rules::of(&cluster.limit_ranges(namespace));
        let all: u64 = self.containers.values().map(|one| one.limit).sum();
        let by_pod = rules.pod_max.map(|most| most.saturating_sub(all.saturating_sub(one.limit)));
        let left = quota_left(&cluster.quotas(namespace), &["limits.memory"]);
        let by_quota = left.map(|left| one.limit.saturating_add(left));
        Ok([rules.max, rules.highest_limit(one.request), by_pod, by_quota].into_iter().flatten().min())
    }
}

/// Containers whose limit was set by this manager, and by nobody since.
fn raised(meta: &ObjectMeta) -> BTreeSet<String> {
    let entries = meta.managed_fields.iter().flatten();
    let own = entries.filter(|entry| entry.manager.as_deref() == Some(MANAGER));
    let fields =
        own.filter_map(|entry| entry.fields_v1.as_ref()?.0.pointer("/f:spec/f:containers")?.as_object());
    let limits = fields.flatten().filter(|(_, of)| of.pointer("/f:resources/f:limits/f:memory").is_some());
    // A key of a list is written as `k:{"name":"app"}`.
    limits
        .filter_map(|(key, _)| {
            let key: Value = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
            Some(key["name"].as_str()?.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests;
