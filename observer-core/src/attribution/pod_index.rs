//! The pods of this node, their owners, and the recorded changes of both. Pure: events update it, the pipeline reads
//! it.
//!
//! It answers two questions: which pod has a container id, and which facts were known when the container started.

use std::collections::HashMap;

use crate::{
    attribution::owner_lookups::{DELETED, Look, OwnerLookups, Sibling, remember},
    model::{
        container::Labels,
        kubernetes::{ChangeRecord, ObjectKind, Owner, Pod, Reference, Uid},
    },
};

/// Owners and records kept; a node has at most a few hundred pods. The one looked up longest ago goes first.
const OWNERS: usize = 512;
/// A deleted pod is kept for late events: its last container's end, a late OOM kill. Seconds.
const GONE_KEPT: f64 = 600.0;
/// How long before a pod its siblings still count: a controller makes the pods of a scale-up by a thousand in that
/// time.
const SIBLINGS_SECONDS: f64 = 60.0;
/// Of each owner.
const HASHES: usize = 4;
const NAMES: usize = 64;

#[derive(Debug, Default)]
pub struct Pods {
    /// Keyed by uid; static pods by their config hash too, which is what their cgroups carry.
    pods: HashMap<Uid, Known>,
    by_hash: HashMap<String, Uid>,
    owners: HashMap<Uid, Owner>,
    looks: HashMap<Uid, OwnerLookups>,
    /// By uid of the workload.
    records: HashMap<Uid, (ChangeRecord, f64)>,
    /// ReplicaSet -> workload, as the ledger has it.
    workload_of: HashMap<Uid, Uid>,
}

#[derive(Debug)]
struct Known {
    pod: Pod,
    /// First and last time that the API reported the pod, on this node's clock.
    seen: f64,
    reported: f64,
    gone: Option<f64>,
}

/// What an id in a cgroup path is.
#[derive(Debug, PartialEq)]
pub enum Resolved {
    Container(Labels),
    /// The pod is known and the id is none of its containers: its sandbox, or a container that its status lacks so far.
    NoContainer,
    /// Its workload is the owner of its owner, who is not known yet; these labels name the owner.
    OwnerPending(Labels),
    UnknownPod,
}

impl Pods {
    /// A new or changed pod. `now`: Unix seconds.
    pub fn apply(&mut self, pod: Pod, now: f64) {
        if let Some(controller) = &pod.controller {
            let looks = self.looks.entry(controller.uid.clone()).or_default();
            if !self.pods.contains_key(&pod.uid) {
                remember(&mut looks.hashes, pod.revision_hash.clone(), HASHES);
            }
            let lost = || pod.disruption.clone().or(pod.deleting.then(|| DELETED.to_owned()));
            if let Some(reason) = lost() {
                looks.lose(&pod.name, reason, now);
            }
        }
        if let Some(hash) = &pod.config_hash {
            self.by_hash.insert(hash.clone(), pod.uid.clone());
        }
        let seen = self.pods.get(&pod.uid).map_or(now, |known| known.seen);
        self.pods.insert(pod.uid.clone(), Known { pod, seen, reported: now, gone: None });
    }

    pub fn gone(&mut self, uid: &str, now: f64) {
        if let Some(known) = self.pods.get_mut(uid) {
            known.gone.get_or_insert(now);
            if let Some(controller) = &known.pod.controller
                && let Some(looks) = self.looks.get_mut(&controller.uid)
            {
                // Without a grace period nothing else reports its end.
                looks.lose(&known.pod.name, DELETED.to_owned(), now);
                remember(&mut looks.names, Some(known.pod.name.clone()), NAMES);
                looks.highest_ordinal = looks.highest_ordinal.max(known.pod.ordinal);
            }
        }
        self.pods.retain(|_, known| known.gone.is_none_or(|gone| now - gone < GONE_KEPT));
        self.by_hash.retain(|_, uid| self.pods.contains_key(uid));
    }

    /// Facts about a controller, at a look.
    pub fn own(&mut self, owner: Owner) {
        if self.owners.len() >= OWNERS && !self.owners.contains_key(&owner.uid) {
            let oldest = self.owners.values().min_by(|a, b| a.looked.total_cmp(&b.looked));
            if let Some(oldest) = oldest.map(|owner| owner.uid.clone()) {
                self.owners.remove(&oldest);
                self.looks.remove(&oldest);
            }
        }
        if let Some(before) = self.owners.get(&owner.uid)
            && before.generation != owner.generation
        {
            let look = Look {
                looked: before.looked,
                desired: before.desired,
                revision: before.revision,
                generation: before.generation,
            };
            self.looks.entry(owner.uid.clone()).or_default().before = Some(look);
        }
        self.owners.insert(owner.uid.clone(), owner);
    }

    /// `now`: Unix seconds of this node.
    pub fn record(&mut self, record: ChangeRecord, now: f64) {
        if self.records.len() >= OWNERS && !self.records.contains_key(&record.workload.uid) {
            self.records.clear(); // asked for again with the next pod
            self.workload_of.clear();
        }
        for set in &record.sets {
            self.workload_of.insert(set.clone(), record.workload.uid.clone());
        }
        self.records.insert(record.workload.uid.clone(), (record, now));
    }

    /// Whether a status written since then has an id for each of the pod's containers: any other id is the sandbox.
    pub fn reports_all_since(&self, key: &str, since: f64) -> bool {
        let uid = self.by_hash.get(key).map_or(key, String::as_str);
        let all = |pod: &Pod| pod.containers.iter().all(|container| container.id.is_some());
        self.pods.get(uid).is_some_and(|known| known.reported >= since && all(&known.pod))
    }

    /// By uid or config hash.
    pub fn get(&self, key: &str) -> Option<&Pod> {
        let uid = self.by_hash.get(key).map_or(key, String::as_str);
        self.pods.get(uid).map(|known| &known.pod)
    }

    pub fn resolve(&self, key: &str, container_id: &str) -> Resolved {
        let Some(pod) = self.get(key) else { return Resolved::UnknownPod };
        let Some(container) = pod.container(container_id) else { return Resolved::NoContainer };
        self.labels(pod, &container.name)
    }

    /// As a container of a known pod that no status names is reported, under this name of a container.
    pub fn presume(&self, key: &str, container: &str) -> Resolved {
        self.get(key).map_or(Resolved::UnknownPod, |pod| self.labels(pod, container))
    }

    fn labels(&self, pod: &Pod, container: &str) -> Resolved {
        let labels = |(workload, workload_type): (String, String)| Labels {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            container: container.to_owned(),
            workload,
            workload_type,
        };
        match self.workload(pod) {
            Ok(workload) => Resolved::Container(labels(workload)),
            Err(of_owner) => Resolved::OwnerPending(labels(of_owner)),
        }
    }

    /// Name and type of the top owner; `Err`: of the owner we know, who may have one.
    fn workload(&self, pod: &Pod) -> Result<(String, String), (String, String)> {
        if pod.config_hash.is_some() {
            return Ok((pod.name.clone(), "staticpod".into()));
        }
        let Some(controller) = &pod.controller else { return Ok((pod.name.clone(), "pod".into())) };
        let named = |reference: &Reference| (reference.name.clone(), reference.kind.label());
        if let Some(owner) = self.owners.get(&controller.uid) {
            return Ok(named(owner.controller.as_ref().unwrap_or(controller)));
        }
        // The deployment controller names its ReplicaSets by appending the hash.
        let hash = pod.revision_hash.as_deref().unwrap_or_default();
        let stem = controller.name.strip_suffix(hash).and_then(|stem| stem.strip_suffix('-'));
        match (&controller.kind, stem) {
            (ObjectKind::ReplicaSet, Some(stem)) if !hash.is_empty() && !pod.by_rollout => {
                Ok((stem.to_owned(), "deployment".into()))
            }
            (ObjectKind::ReplicaSet | ObjectKind::Job, _) => Err(named(controller)),
            _ => Ok(named(controller)),
        }
    }

    /// The owner as it was when the pod was first reported, or later: an older look-up does not include the pod.
    pub fn owner(&self, pod: &Pod) -> Option<&Owner> {
        let owner = self.owners.get(&pod.controller.as_ref()?.uid)?;
        let seen = self.pods.get(&pod.uid)?.seen;
        (owner.looked >= seen).then_some(owner)
    }

    /// The owner's owner, if it has one that is known.
    pub fn top(&self, pod: &Pod) -> Option<&Owner> {
        let top = self.owners.get(&self.owner(pod)?.controller.as_ref()?.uid)?;
        let seen = self.pods.get(&pod.uid)?.seen;
        (top.looked >= seen).then_some(top)
    }

    pub fn looks(&self, pod: &Pod) -> Option<&OwnerLookups> {
        self.looks.get(&pod.controller.as_ref()?.uid)
    }

    /// Pods of the same owner made before it, as long before as one scale-up takes.
    pub fn siblings(&self, pod: &Pod) -> Vec<Sibling> {
        let (Some(owner), Some(own)) = (&pod.controller, self.pods.get(&pod.uid)) else { return Vec::new() };
        let earlier = |known: &&Known| {
            // The API's times are whole seconds: of two pods in the same second, the one reported first.
            let before = known.pod.created.total_cmp(&pod.created).then(known.seen.total_cmp(&own.seen));
            before.is_lt() && pod.created - known.pod.created <= SIBLINGS_SECONDS
        };
        let of_owner = |known: &&Known| known.pod.controller.as_ref().is_some_and(|by| by.uid == owner.uid);
        let sibling = |known: &Known| Sibling { created: known.pod.created, reported: known.seen };
        self.pods.values().filter(earlier).filter(of_owner).map(sibling).collect()
    }

    /// The ledger's record of the pod's workload since the pod was created.
    pub fn record_of(&self, pod: &Pod) -> Option<&ChangeRecord> {
        let uid = &pod.controller.as_ref()?.uid;
        let (record, reported) = self.records.get(self.workload_of.get(uid).unwrap_or(uid))?;
        let seen = self.pods.get(&pod.uid)?.seen;
        (*reported >= seen).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kubernetes::PodContainer;

    fn pod(controller: Option<(&str, &str)>, hash: &str) -> Pod {
        Pod {
            uid: "u1".into(),
            namespace: "shop".into(),
            name: "web-abc-1".into(),
            controller: controller.map(|(kind, name)| Reference {
                kind: kind.into(),
                name: name.into(),
                uid: "o1".into(),
                ..Reference::default()
            }),
            revision_hash: (!hash.is_empty()).then(|| hash.to_owned()),
            containers: vec![PodContainer {
                name: "app".into(),
                id: Some("c1".into()),
                ..PodContainer::default()
            }],
            ..Pod::default()
        }
    }

    fn workload(pods: &Pods) -> String {
        match pods.resolve("u1", "c1") {
            Resolved::Container(labels) => format!("{} {}", labels.workload_type, labels.workload),
            Resolved::OwnerPending(labels) => format!("pending {} {}", labels.workload_type, labels.workload),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_workload_is_the_top_owner() {
        let table = [
            (pod(None, ""), "pod web-abc-1"),
            (pod(Some(("ReplicaSet", "web-abc")), "abc"), "deployment web"),
            (pod(Some(("ReplicaSet", "alone")), ""), "pending replicaset alone"),
            (pod(Some(("StatefulSet", "db")), "db-7"), "statefulset db"),
            (pod(Some(("DaemonSet", "agent")), "7"), "daemonset agent"),
            (pod(Some(("Job", "backup-28")), ""), "pending job backup-28"),
            (Pod { config_hash: Some("h".into()), ..pod(Some(("Node", "n")), "") }, "staticpod web-abc-1"),
        ];
        for (pod, expected) in table {
            let mut pods = Pods::default();
            pods.apply(pod, 0.0);
            assert_eq!(workload(&pods), expected);
        }
    }

    #[test]
    fn an_owner_that_was_looked_up_names_its_own_owner() {
        let mut pods = Pods::default();
        pods.apply(pod(Some(("Job", "backup-28")), ""), 0.0);
        let above = Reference { kind: "CronJob".into(), name: "backup".into(), ..Reference::default() };
        pods.own(Owner { uid: "o1".into(), controller: Some(above), ..Owner::default() });
        assert_eq!(workload(&pods), "cronjob backup");
    }

    #[test]
    fn a_static_pod_is_found_by_its_config_hash() {
        let mut pods = Pods::default();
        pods.apply(Pod { config_hash: Some("h".into()), ..pod(None, "") }, 0.0);
        assert!(matches!(pods.resolve("h", "c1"), Resolved::Container(_)));
        assert_eq!(pods.resolve("h", "pause"), Resolved::NoContainer);
        assert_eq!(pods.resolve("other", "c1"), Resolved::UnknownPod);
    }
}
