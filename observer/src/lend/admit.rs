//! A pod that is being created -> what it is lent, or why nothing. Pure.
//!
//! A raise that breaks a rule of the namespace would refuse the pod, whatever the webhook's failurePolicy: so it is
//! capped by each of them, and left out where too little remains.

use k8s_openapi::api::core::v1::{Container, LimitRange, Pod, ResourceQuota};
use observer_core::{loan::need::LEAST, model::container::Workload};

use crate::{
    lend::rules::{Rules, quota_left},
    sources::kubernetes::{
        metadata,
        pod::bytes,
        terms::{self, Lent, START_MEMORY, TERMS, Terms},
    },
};

const MIB: u64 = 1 << 20;

/// Why a pod gets what it asked for and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::AsRefStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum Refused {
    /// It has no controller: a second `kubectl apply` of it would fail.
    Bare,
    /// It is BestEffort, or Guaranteed: its QoS class may not change.
    Class,
    /// A container is restarted when it is resized.
    RestartsOnResize,
    /// Resources of the whole pod: a resize within them is not carried out by Kubernetes 1.36.
    PodLevel,
    /// A VerticalPodAutoscaler sets its memory.
    Vpa,
    /// A node has swap, where a request of memory cannot be given back.
    Swap,
    /// It would evict other pods for a spike.
    MayPreempt,
    /// Fewer than three start-ups of it are known, and it has no annotation.
    Unknown,
    /// Its annotation cannot be read.
    Annotation,
    /// The node, the limit or a rule of the namespace leave too little to lend.
    NoRoom,
    /// It needs no more than it requests.
    NoNeed,
    /// Its request breaks a rule of the namespace, so that it could not be given back.
    BreaksRule,
}

impl Refused {
    pub fn words(self) -> &'static str {
        match self {
            Self::Bare => "it has no controller, and kubectl apply of a pod that was changed fails",
            Self::Class => "it is BestEffort or Guaranteed, and a resize may not change its QoS class",
            Self::RestartsOnResize => "a container is restarted when its memory is resized (resizePolicy)",
            Self::PodLevel => "it has resources of the whole pod (spec.resources)",
            Self::Vpa => "a VerticalPodAutoscaler sets its memory",
            Self::Swap => "a node has swap, where a request of memory cannot be given back",
            Self::MayPreempt => "its priority may evict other pods (set preemptionPolicy: Never)",
            Self::Unknown => {
                "fewer than three start-ups of it are known; the annotation memory-observer/start-memory can give its need"
            }
            Self::Annotation => "its annotation memory-observer/start-memory cannot be read",
            Self::NoRoom => "its limit, a LimitRange, a quota or the largest node leave too little to lend",
            Self::NoNeed => "it needs no more to start than it requests",
            Self::BreaksRule => "its request breaks the LimitRange of the namespace",
        }
    }
}

/// What is known of the cluster where the pod is created.
pub trait Cluster {
    /// Most that is lent to one pod: a share of the largest node. `None`: no node is known.
    fn most(&self) -> Option<u64>;
    fn has_swap(&self) -> bool;
    fn limit_ranges(&self, namespace: &str) -> Vec<LimitRange>;
    fn quotas(&self, namespace: &str) -> Vec<ResourceQuota>;
    /// Whether a VerticalPodAutoscaler sets the memory of this workload.
    fn is_scaled_vertically(&self, workload: &Workload) -> bool;
    /// Measured start-up need, if enough start-ups are known.
    fn need(&self, workload: &Workload) -> Option<u64>;
}

/// The terms of a loan to this pod, and the requests to set. `Ok(None)`: it was lent to already.
pub fn admit(
    pod: &Pod,
    namespace: &str,
    deadline_seconds: f64,
    cluster: &impl Cluster,
) -> Result<Option<Terms>, Refused> {
    let Some(spec) = &pod.spec else { return Err(Refused::Class) };
    let meta = &pod.metadata;
    let owner = metadata::controller(meta).ok_or(Refused::Bare)?;
    let before = metadata::annotation(meta, TERMS).and_then(|text| text.parse::<Terms>().ok());
    if before.is_some_and(|before| is_as_lent(&spec.containers, &before)) {
        return Ok(None);
    }
    if spec.resources.is_some() {
        return Err(Refused::PodLevel);
    }
    let inits = spec.init_containers.iter().flatten();
    if !is_burstable(spec.containers.iter().chain(inits)) {
        return Err(Refused::Class);
    }
    if spec.priority.unwrap_or(0) > 0 && spec.preemption_policy.as_deref() != Some("Never") {
        return Err(Refused::MayPreempt);
    }
    if spec.containers.iter().any(restarts_on_resize) {
        return Err(Refused::RestartsOnResize);
    }
    if cluster.has_swap() {
        return Err(Refused::Swap);
    }
    let mut workload = workload(pod, namespace, &owner.kind.to_string(), &owner.name);
    if cluster.is_scaled_vertically(&workload) {
        return Err(Refused::Vpa);
    }
    let rules = Rules::of(&cluster.limit_ranges(namespace));
    let total: u64 = spec.containers.iter().filter_map(terms::request).map(|(_, bytes)| bytes).sum();
    // What all its containers together may get beyond what they ask for.
    let caps = [
        cluster.most(),
        rules.pod_max,
        quota_left(&cluster.quotas(namespace), &["requests.memory", "memory"]),
    ];
    let mut room =
        cluster.most().map_or(0, |_| caps.into_iter().flatten().min().unwrap_or(0)).saturating_sub(total);
    let mut lent = Terms { deadline_seconds, containers: Default::default() };
    let mut refused = Refused::Unknown;
    for container in &spec.containers {
        let Some((text, steady)) = terms::request(container).filter(|(_, bytes)| *bytes > 0) else {
            continue;
        };
        let annotated = metadata::annotation(meta, START_MEMORY)
            .map(|text| terms::start_memory(text, &container.name).map_err(|_| Refused::Annotation))
            .transpose()?
            .flatten();
        workload.container.clone_from(&container.name);
        let Some(need) = annotated.or_else(|| cluster.need(&workload)) else { continue };
        if need < steady + LEAST {
            refused = Refused::NoNeed;
            continue;
        }
        let limit = limit(container);
        if !rules.allow(steady, limit) {
            return Err(Refused::BreaksRule);
        }
        // Whole mebibytes, as they are written.
        let caps = [limit.map(|limit| limit.saturating_sub(MIB)), rules.max, Some(steady + room)];
        let request = caps.into_iter().flatten().fold(need.next_multiple_of(MIB), u64::min) / MIB * MIB;
        if request < steady + LEAST {
            refused = Refused::NoRoom;
            continue;
        }
        room -= request - steady;
        let terms = Lent { steady: text.to_owned(), request: terms::quantity(request) };
        lent.containers.insert(container.name.clone(), terms);
    }
    if lent.containers.is_empty() { Err(refused) } else { Ok(Some(lent)) }
}

/// Another webhook's change made the API server ask again. What was set may have been changed since.
fn is_as_lent(containers: &[Container], terms: &Terms) -> bool {
    terms.containers.iter().all(|(name, lent)| {
        let container = containers.iter().find(|container| container.name == *name);
        let asked = observer_core::model::units::parse_bytes(&lent.request).ok();
        container.and_then(terms::request).map(|(_, bytes)| bytes) == asked
    })
}

/// As agents name it.
pub fn workload(pod: &Pod, namespace: &str, kind: &str, owner: &str) -> Workload {
    let hash = metadata::label(&pod.metadata, "pod-template-hash");
    let deployment = hash
        .filter(|_| kind == "ReplicaSet")
        .and_then(|hash| owner.strip_suffix(hash)?.strip_suffix('-').map(str::to_owned));
    let (workload, workload_type) = match deployment {
        Some(name) => (name, "deployment".to_owned()),
        None => (owner.to_owned(), kind.to_lowercase()),
    };
    Workload { namespace: namespace.to_owned(), workload, workload_type, container: String::new() }
}

pub fn limit(container: &Container) -> Option<u64> {
    container.resources.as_ref()?.limits.as_ref()?.get("memory").and_then(bytes)
}

pub fn restarts_on_resize(container: &Container) -> bool {
    container
        .resize_policy
        .iter()
        .flatten()
        .any(|policy| policy.resource_name == "memory" && policy.restart_policy == "RestartContainer")
}

/// Neither without any request or limit, nor with both equal everywhere (kubernetes: pkg/apis/core/v1/helper/qos).
pub fn is_burstable<'a>(containers: impl Iterator<Item = &'a Container>) -> bool {
    let (mut any, mut guaranteed) = (false, true);
    for container in containers {
        for resource in ["cpu", "memory"] {
            let of = |requests: bool| {
                let resources = container.resources.as_ref()?;
                let list = if requests { &resources.requests } else { &resources.limits };
                list.as_ref()?.get(resource).cloned()
            };
            let (request, limit) = (of(true), of(false));
            any |= request.is_some() || limit.is_some();
            // An absent request is the limit.
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    any && !guaranteed
}

#[cfg(test)]
mod tests;
