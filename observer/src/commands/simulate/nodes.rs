//! Nodes: by their sizes, or of a cluster as kubectl prints it.

use std::{fs::File, io::Read, path::Path};

use serde_json::Value;

use super::curves::Pods;
use observer_core::{
    model::units::{parse_bytes, parse_limit},
    simulate::{Kind, Node},
};

/// More than Kubernetes supports.
const MOST: u64 = 10_000;
/// 10,000 pods are some 200 MB.
const LARGEST: u64 = 1 << 30;
/// Nodes and pods that are left out by name; the others are counted.
const NAMED: usize = 8;

/// `[NAME=][COUNTx]SIZE`
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    name: Option<String>,
    count: u64,
    allocatable: u64,
}

pub fn parse(text: &str) -> Result<Sizes, String> {
    let (name, size) = text.split_once('=').map_or((None, text), |(name, size)| (Some(name), size));
    let counted = size.split_once('x').and_then(|(count, size)| Some((count.parse::<u32>().ok()?, size)));
    let (count, size) = counted.unwrap_or((1, size));
    let allocatable =
        parse_limit(size).map_err(|why| format!("{why}; nodes are written 8Gi, 4x8Gi or big=32Gi"))?;
    if count == 0 || u64::from(count) > MOST {
        return Err(format!("1 to {MOST} nodes are simulated"));
    }
    match name {
        Some("") => Err("a node's name is missing before =".into()),
        name => Ok(Sizes { name: name.map(str::to_owned), count: count.into(), allocatable }),
    }
}

pub fn of_sizes(sizes: &[Sizes]) -> Result<Vec<Node>, String> {
    let mut nodes: Vec<Node> = Vec::new();
    for sizes in sizes {
        for i in 1..=sizes.count {
            let name = match (&sizes.name, sizes.count) {
                (Some(name), 1) => name.clone(),
                (Some(name), _) => format!("{name}-{i}"),
                (None, _) => format!("node-{}", nodes.len() + 1),
            };
            if nodes.iter().any(|node| node.name == name) {
                return Err(format!("two nodes are called {name}"));
            }
            nodes.push(Node { name, allocatable: sizes.allocatable, taken: (0, 0), pods: Vec::new() });
        }
        if nodes.len() as u64 > MOST {
            return Err(format!("1 to {MOST} nodes are simulated"));
        }
    }
    if nodes.is_empty() {
        return Err("say on which nodes: --nodes 4x8Gi, or --cluster with what `kubectl get nodes,pods -A -o json` prints".into());
    }
    Ok(nodes)
}

/// Places what runs now, the largest requests first. Returns how many pods found no room.
pub fn spread(nodes: &mut [Node], kinds: &[Kind], counts: &[u64]) -> u64 {
    let mut free: Vec<u64> = nodes.iter().map(|node| node.allocatable).collect();
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    order.sort_by_key(|kind| std::cmp::Reverse(kinds[*kind].request));
    let mut left = 0;
    for kind in order {
        let request = kinds[kind].request;
        for placed in 0..counts[kind] {
            let best = (0..nodes.len()).rev().max_by_key(|node| free[*node]);
            let Some(node) = best.filter(|node| free[*node] >= request) else {
                left += counts[kind] - placed;
                break;
            };
            free[node] -= request;
            match nodes[node].pods.iter_mut().find(|(of, _)| *of == kind) {
                Some((_, pods)) => *pods += 1,
                None => nodes[node].pods.push((kind, 1)),
            }
        }
    }
    left
}

pub fn of_cluster(path: &Path, known: &[Pods], notes: &mut Vec<String>) -> Result<Vec<Node>, String> {
    let refuse = |why: String| format!("{}: {why}", path.display());
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().take(LARGEST).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text)),
    };
    read.map_err(|error| refuse(error.to_string()))?;
    let list: Value = serde_json::from_str(&text).map_err(|error| {
        refuse(format!("it is not JSON ({error}); it is written by kubectl get nodes,pods -A -o json"))
    })?;
    of_list(&list, known, notes).map_err(refuse)
}

/// A node or pod that cannot be read is left out with a note: the others are simulated all the same.
fn of_list(list: &Value, known: &[Pods], notes: &mut Vec<String>) -> Result<Vec<Node>, String> {
    let items = || list["items"].as_array().into_iter().flatten();
    let (mut nodes, mut left_out) = (Vec::new(), Vec::new());
    for item in items().filter(|item| item["kind"] == "Node" && item["spec"]["unschedulable"] != true) {
        let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let memory = item["status"]["allocatable"]["memory"].as_str();
        match memory.ok_or("it says no allocatable memory".to_owned()).and_then(parse_bytes) {
            Ok(allocatable) => nodes.push(Node { name, allocatable, taken: (0, 0), pods: Vec::new() }),
            Err(why) => left_out.push(format!("node {name}: {why}")),
        }
    }
    if nodes.is_empty() {
        return Err("there is no node with allocatable memory in it; it is written by kubectl get nodes,pods -A -o json".into());
    }
    for item in items().filter(|item| item["kind"] == "Pod") {
        let over = matches!(item["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let on = item["spec"]["nodeName"].as_str();
        let Some(node) = nodes.iter_mut().find(|node| Some(node.name.as_str()) == on).filter(|_| !over)
        else {
            continue;
        };
        match known.iter().position(|pods| is_of(item, pods)) {
            Some(kind) => match node.pods.iter_mut().find(|(of, _)| *of == kind) {
                Some((_, pods)) => *pods += 1,
                None => node.pods.push((kind, 1)),
            },
            None => {
                // Of a pod without a curve, what it requests is the best guess of what it uses.
                match requested(item) {
                    Ok(bytes) => {
                        node.taken = (node.taken.0.saturating_add(bytes), node.taken.1.saturating_add(bytes))
                    }
                    Err(why) => {
                        let [namespace, name] = ["namespace", "name"]
                            .map(|key| item["metadata"][key].as_str().unwrap_or_default());
                        left_out.push(format!("pod {namespace}/{name}: {why}"));
                    }
                }
            }
        }
    }
    let more = left_out.len().saturating_sub(NAMED);
    notes.extend(left_out.into_iter().take(NAMED).map(|why| format!("left out: {why}")));
    if more > 0 {
        notes.push(format!("{more} more nodes and pods are left out"));
    }
    Ok(nodes)
}

/// A Deployment's pods belong to a ReplicaSet of its name and a hash.
fn is_of(pod: &Value, pods: &Pods) -> bool {
    let owner = &pod["metadata"]["ownerReferences"][0];
    let (kind, name) =
        (owner["kind"].as_str().unwrap_or_default(), owner["name"].as_str().unwrap_or_default());
    let named = match kind {
        "ReplicaSet" if pods.workload_type == "deployment" => {
            name.rsplit_once('-').is_some_and(|(deployment, _)| deployment == pods.workload)
        }
        _ => kind.to_lowercase() == pods.workload_type && name == pods.workload,
    };
    named && pod["metadata"]["namespace"] == pods.namespace.as_str()
}

fn requested(pod: &Value) -> Result<u64, String> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers
        .filter_map(|container| container["resources"]["requests"]["memory"].as_str())
        .try_fold(0_u64, |sum, memory| Ok(sum.saturating_add(parse_bytes(memory)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_are_written_by_count_and_size() {
        let sizes = |name: Option<&str>, count, gib: u64| {
            Ok(Sizes { name: name.map(str::to_owned), count, allocatable: gib << 30 })
        };
        assert_eq!(parse("8Gi"), sizes(None, 1, 8));
        assert_eq!(parse("4x8Gi"), sizes(None, 4, 8));
        assert_eq!(parse("big=2x32Gi"), sizes(Some("big"), 2, 32));
        for wrong in ["", "x8Gi", "0x8Gi", "4x", "4x0", "=8Gi", "4 x 8", "99999x8Gi", "-1x8Gi", "8Zi"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        let nodes = of_sizes(&[parse("2x8Gi").unwrap(), parse("big=32Gi").unwrap()]).unwrap();
        assert_eq!(
            nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(),
            ["node-1", "node-2", "big"]
        );
        assert!(
            of_sizes(&[]).is_err() && of_sizes(&[parse("a=1Gi").unwrap(), parse("a=1Gi").unwrap()]).is_err()
        );
    }

    #[test]
    fn a_cluster_is_read_as_kubectl_prints_it() {
        let list = json!({"kind": "List", "items": [
            {"kind": "Node", "metadata": {"name": "a"}, "status": {"allocatable": {"memory": "2Gi"}}},
            {"kind": "Node", "metadata": {"name": "b"}, "spec": {"unschedulable": true}, "status": {"allocatable": {"memory": "2Gi"}}},
            {"kind": "Pod", "metadata": {"name": "x", "namespace": "shop"}, "spec": {"nodeName": "a", "containers": [
                {"resources": {"requests": {"memory": "100Mi"}}}, {}]}, "status": {"phase": "Running"}},
            {"kind": "Pod", "metadata": {"name": "y", "namespace": "shop"}, "spec": {"nodeName": "a", "containers": [
                {"resources": {"requests": {"memory": "100Mi"}}}]}, "status": {"phase": "Succeeded"}},
        ]});
        let mut notes = Vec::new();
        let nodes = of_list(&list, &[], &mut notes).unwrap();
        assert_eq!(
            nodes,
            [Node { name: "a".into(), allocatable: 2 << 30, taken: (100 << 20, 100 << 20), pods: vec![] }]
        );
        for wrong in [json!({}), json!([]), json!({"items": 7}), json!({"items": [{"kind": "Node"}]})] {
            assert!(of_list(&wrong, &[], &mut notes).is_err(), "{wrong}");
        }
        assert!(notes.is_empty(), "{notes:?}");
    }

    #[test]
    fn what_cannot_be_read_is_left_out_by_name_and_no_sum_overflows() {
        let pod = |name: &str, memory: &str| {
            let containers = vec![json!({"resources": {"requests": {"memory": memory}}}); 3];
            json!({"kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"nodeName": "a", "containers": containers}})
        };
        let mut items = vec![
            json!({"kind": "Node", "metadata": {"name": "a"}, "status": {"allocatable": {"memory": "16Ei"}}}),
            json!({"kind": "Node", "metadata": {"name": "new"}}),
            pod("vast", "16Ei"),
        ];
        items.extend((0..20).map(|i| pod(&format!("vague-{i}"), "lots")));
        let mut notes = Vec::new();
        let nodes = of_list(&json!({ "items": items }), &[], &mut notes).unwrap();
        assert_eq!((nodes.len(), nodes[0].taken), (1, (u64::MAX, u64::MAX)));
        assert!(notes[0].contains("node new: it says no allocatable memory"), "{notes:?}");
        assert!(notes[1].contains("pod shop/vague-0: \"lots\""), "{notes:?}");
        assert_eq!((notes.len(), notes[NAMED].as_str()), (NAMED + 1, "13 more nodes and pods are left out"));
    }
}
