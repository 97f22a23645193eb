//! Objects that the API server accepts and that a client's library cannot read, beside all others.

use anyhow::{Context, Result, ensure};
use observer_tests::{
    cluster::{Cluster, control::IMAGE},
    daemon,
};
use serde_json::json;

use crate::{Case, Deployed, Suite, case, deployed};

/// Later than the last time that the library knows.
const LATE: &str = "9999-12-31T23:59:59Z";

pub fn cases() -> Vec<Case> {
    vec![case("deploy::objects_that_cannot_be_read_blind_nobody", Deployed::WithLedger, play)]
}

fn play(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    make(cluster)?;
    let done = among_them(suite);
    for object in ["pod/late", "pod/orphan", "hpa/late", "event/late"] {
        cluster.kubectl(&["delete", object, "--ignore-not-found", "--timeout=60s"])?;
    }
    done
}

/// Whoever may change one pod, autoscaler or event can do this.
fn make(cluster: &Cluster) -> Result<()> {
    let pod = |name: &str, owner: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: default\n{owner}spec:\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: main, image: {IMAGE}, imagePullPolicy: Never, command: [/workload, pause]}}]\n---\n"
        )
    };
    // An owner's name and uid may be anything.
    let owner = "  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: no such, uid: \"b#d uid\", controller: true}]\n";
    let autoscaler = "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: late, namespace: default}\nspec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: nobody}}\n---\n";
    let event = format!(
        "apiVersion: v1\nkind: Event\nmetadata: {{name: late, namespace: default}}\nreason: Evicted\ntype: Normal\n\
         lastTimestamp: {LATE}\ninvolvedObject: {{kind: Pod, name: late, namespace: default}}\n"
    );
    cluster.apply(&(pod("late", "") + &pod("orphan", owner) + autoscaler + &event))?;
    // At its creation the server writes the time itself, and a change of times alone is none.
    let change = json!([
        {"op": "replace", "path": "/metadata/managedFields/0/time", "value": LATE},
        {"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}
    ]);
    for object in ["pod/late", "hpa/late"] {
        cluster.kubectl(&["patch", object, "--type=json", "-p", &change.to_string()])?;
        let kept = cluster.kubectl(&["get", object, "--show-managed-fields", "-o", "yaml"])?;
        ensure!(kept.contains(LATE), "{object} has another time:\n{kept}");
    }
    Ok(())
}

fn among_them(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    // A new ledger and a new agent read them in their first lists.
    cluster.kubectl(&["rollout", "restart", "deployment/observer-ledger", "-n", "observer"])?;
    deployed::ledger_ready(cluster).context("the ledger beside an autoscaler that cannot be read")?;
    deployed::point_agents(cluster)?;
    deployed::scale_up(suite)?;
    let metrics = daemon::get(&format!("{}/metrics", deployed::agent(cluster)?))?;
    ensure!(daemon::sum(&metrics, "observer_kubernetes_up", &[]) == Some(1.0), "the API is said to be away");
    ensure!(metrics.contains("pod=\"late\""), "the pod itself is not reported:\n{metrics}");
    let ledger = cluster.kubectl(&["logs", "-n", "observer", "deployment/observer-ledger"])?;
    ensure!(ledger.contains("events of evictions default/late cannot be read"), "not said:\n{ledger}");
    Ok(())
}
