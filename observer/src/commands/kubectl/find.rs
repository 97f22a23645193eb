//! A name as people write it -> the nodes on which its pods are.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

use crate::commands::advise::long_name;
use observer_core::model::printable::printable;

const KINDS: [&str; 7] = ["deployment", "statefulset", "daemonset", "replicaset", "cronjob", "job", "pod"];

#[derive(Debug, PartialEq)]
pub struct Wanted {
    pub namespace: String,
    /// As an observer is asked for it.
    pub asked: String,
    /// Without kind and namespace.
    name: String,
    only_pods: bool,
}

#[derive(Debug, PartialEq)]
pub enum Place {
    Nodes(BTreeSet<String>),
    /// Of those that are there none has a node: why.
    Pending(String),
    Unknown,
}

impl Wanted {
    pub fn of(asked: &str, namespace: Option<&str>, default_namespace: &str) -> Result<Self, String> {
        if asked.starts_with('/') {
            return Err("cgroups are of one node: ask its observer by `observer why --node URL`".to_owned());
        }
        let (before, name) = asked.rsplit_once('/').unwrap_or(("", asked));
        let mut parts: Vec<&str> = before.split('/').filter(|part| !part.is_empty()).collect();
        let kind = parts.pop_if(|part| KINDS.contains(&long_name(part).as_str()));
        let own = parts.pop();
        if !parts.is_empty() || name.is_empty() {
            return Err(format!("{} is not [namespace/][kind/]name", printable(asked)));
        }
        if let (Some(own), Some(given)) = (own, namespace)
            && own != given
        {
            return Err(format!("{} is in namespace {own}, and --namespace is {given}", printable(asked)));
        }
        Ok(Self {
            namespace: own.or(namespace).unwrap_or(default_namespace).to_owned(),
            asked: kind.map_or(name.to_owned(), |kind| format!("{kind}/{name}")),
            name: name.to_owned(),
            only_pods: kind.is_some_and(|kind| long_name(kind) == "pod"),
        })
    }
}

/// Of the pod of this name, of those of the workload, or of those whose names begin so.
pub fn nodes(pods: &[Pod], wanted: &Wanted) -> Place {
    let name = |pod: &&Pod| pod.metadata.name.as_deref() == Some(wanted.name.as_str());
    let owned = |pod: &&Pod| !wanted.only_pods && is_of(pod, &wanted.name);
    let begins = |pod: &&Pod| pod.metadata.name.as_ref().is_some_and(|name| name.starts_with(&wanted.name));
    let rules: [&dyn Fn(&&Pod) -> bool; 3] = [&name, &owned, &begins];
    let found = rules.iter().map(|rule| pods.iter().filter(|pod| rule(pod)).collect::<Vec<_>>());
    let Some(found) = found.into_iter().find(|found| !found.is_empty()) else { return Place::Unknown };
    let node = |pod: &&Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let nodes: BTreeSet<String> = found.iter().filter_map(node).collect();
    match nodes.is_empty() {
        false => Place::Nodes(nodes),
        true => Place::Pending(pending(found[0])),
    }
}

/// A ReplicaSet has the name of its Deployment and a hash; a Job the name of its CronJob and a number.
fn is_of(pod: &Pod, workload: &str) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.filter(|owner| owner.controller == Some(true)).any(|owner| {
        owner.name == workload
            || ["ReplicaSet", "Job"].contains(&owner.kind.as_str())
                && owner.name.rsplit_once('-').is_some_and(|(name, _)| name == workload)
    })
}

fn pending(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let why =
        conditions.filter(|condition| condition.status == "False").find_map(|one| one.message.as_deref());
    let why = why.unwrap_or("the scheduler has not said why");
    format!("pod {} is on no node yet, so nothing was seen of it: {}", printable(name), printable(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, owner: Option<(&str, &str)>, node: Option<&str>) -> Pod {
        let owners = owner.map(|(kind, name)| {
            serde_json::json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true}])
        });
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name, "ownerReferences": owners},
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes fit"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_name_finds_its_nodes() {
        let pods = [
            pod("web-5588-aaaaa", Some(("ReplicaSet", "web-5588")), Some("n1")),
            pod("web-5588-bbbbb", Some(("ReplicaSet", "web-5588")), Some("n2")),
            pod("web-api-77-ccccc", Some(("ReplicaSet", "web-api-77")), Some("n3")),
            pod("db-0", Some(("StatefulSet", "db")), Some("n1")),
            pod("nightly-2900-x", Some(("Job", "nightly-2900")), Some("n4")),
            pod("waits", None, None),
        ];
        let place = |name: &str| nodes(&pods, &Wanted::of(name, None, "shop").unwrap());
        let on = |nodes: &[&str]| Place::Nodes(nodes.iter().map(|node| (*node).to_owned()).collect());
        for (name, expected) in [
            ("web-5588-aaaaa", on(&["n1"])),
            ("web", on(&["n1", "n2"])),
            ("deploy/web", on(&["n1", "n2"])),
            ("shop/deployment/web-api", on(&["n3"])),
            ("sts/db", on(&["n1"])),
            ("cj/nightly", on(&["n4"])),
            ("pod/web", on(&["n1", "n2", "n3"])),
            ("web-a", on(&["n3"])),
            ("none", Place::Unknown),
        ] {
            assert_eq!(place(name), expected, "{name}");
        }
        assert!(matches!(place("waits"), Place::Pending(why) if why.contains("0/3 nodes fit")));
    }

    #[test]
    fn a_name_has_at_most_a_namespace_and_a_kind() {
        let of = |name: &str, namespace| Wanted::of(name, namespace, "default");
        assert_eq!(of("shop/web", None).unwrap().namespace, "shop");
        assert_eq!(of("deploy/web", Some("shop")).unwrap().namespace, "shop");
        assert_eq!(of("web", None).unwrap().namespace, "default");
        for wrong in ["/system.slice/x", "a/b/c/d", "a/b/web", "shop/"] {
            assert!(of(wrong, None).is_err(), "{wrong}");
        }
        assert!(of("shop/web", Some("other")).is_err());
    }
}
