//! `--airbag`: a container that was killed at its limit gets the label, and its next start-up a higher limit before it
//! is met. One that grows beyond what is raised is killed there, and not raised again. The truth is the API's: limits
//! in force, restarts and their reasons.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use observer_core::model::units::parse_bytes;
use observer_tests::cluster::{Cluster, control::IMAGE};
use serde_json::Value;

use super::{MIB, NAMESPACE, gone, items};
use crate::Suite;

const LIMIT: u64 = 128 * MIB;
/// A quarter more.
const RAISED: u64 = 160 * MIB;
/// Seconds in which each grows to its peak.
const RAMP: u64 = 12;
const DEPLOYMENTS: [&str; 2] = ["guarded", "beyond"];

pub fn case(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let done = play(cluster);
    let events = cluster.kubectl(&[
        "get",
        "events",
        "-n",
        NAMESPACE,
        "-o",
        "jsonpath={range .items[*]}{.reason}: {.note}{.message}{\"\\n\"}{end}",
    ]);
    for name in DEPLOYMENTS {
        cluster.kubectl(&["delete", "deployment", name, "-n", NAMESPACE, "--ignore-not-found"])?;
    }
    let events = events?;
    let done = done.and_then(|()| {
        ensure!(events.contains("MemoryLimitRaised"), "no Event says that a limit was raised");
        ensure!(events.contains("MemoryLimitNotRaised"), "no Event says that it was not raised again");
        Ok(())
    });
    done.with_context(|| format!("Events:\n{events}"))
}

fn play(cluster: &Cluster) -> Result<()> {
    cluster.apply(&deployment("guarded", false, 145))?;
    cluster.apply(&deployment("beyond", true, 220))?;
    cluster.wait("a kill without the label", Duration::from_secs(60), || {
        Ok(Pod::of(cluster, "guarded")?.was_killed)
    })?;
    let unguarded = Pod::of(cluster, "guarded")?;
    ensure!(unguarded.asked == LIMIT, "raised without the label: {unguarded:?}");
    // Now with it. From the kill it is known where the next start-up would end.
    cluster.kubectl(&["delete", "deployment", "guarded", "-n", NAMESPACE, "--wait"])?;
    gone(cluster, "guarded")?;
    cluster.apply(&deployment("guarded", true, 145))?;
    let raised = |pod: &Pod| (pod.asked, pod.actual) == (RAISED, Some(RAISED));
    cluster.wait("the limit to be raised", Duration::from_secs(60), || {
        Ok(Pod::of(cluster, "guarded").is_ok_and(|pod| raised(&pod)))
    })?;
    // Until it has been at its peak for a while.
    sleep(Duration::from_secs(2 * RAMP));
    let guarded = Pod::of(cluster, "guarded")?;
    ensure!((guarded.restarts, guarded.was_killed) == (0, false), "it was not saved: {guarded:?}");
    ensure!(raised(&guarded), "{guarded:?}");
    // Killed at what it was raised to, started again, killed again, and not raised again.
    cluster.wait("the other to be raised", Duration::from_secs(90), || {
        Ok(Pod::of(cluster, "beyond")?.asked == RAISED)
    })?;
    let before = Pod::of(cluster, "beyond")?.restarts;
    cluster.wait("one more kill", Duration::from_secs(150), || {
        let pod = Pod::of(cluster, "beyond")?;
        Ok(pod.restarts > before && pod.was_killed)
    })?;
    let beyond = Pod::of(cluster, "beyond")?;
    ensure!(raised(&beyond), "raised twice: {beyond:?}");
    Ok(())
}

fn deployment(name: &str, label: bool, peak: u64) -> String {
    let label = if label { ", memory-observer/airbag: \"true\"" } else { "" };
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  replicas: 1\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}{label}}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      automountServiceAccountToken: false\n      \
         containers:\n        - name: main\n          image: {IMAGE}\n          imagePullPolicy: Never\n          \
         command: [/workload, spike, --peak, \"{peak}\", --steady, \"{peak}\", --ramp, \"{RAMP}\", --seconds, \"900\"]\n          \
         resources: {{requests: {{cpu: 50m, memory: 64Mi}}, limits: {{memory: {}Mi}}}}\n",
        LIMIT / MIB
    )
}

#[derive(Debug)]
struct Pod {
    asked: u64,
    actual: Option<u64>,
    restarts: u64,
    was_killed: bool,
}

impl Pod {
    fn of(cluster: &Cluster, name: &str) -> Result<Self> {
        let pods =
            cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &format!("app={name}"), "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let pod = items(&pods).next().with_context(|| format!("no pod of {name}"))?;
        let bytes = |value: &Value| value.as_str().and_then(|text| parse_bytes(text).ok());
        let status = &pod["status"]["containerStatuses"][0];
        let killed = |state: &str| status[state]["terminated"]["reason"] == "OOMKilled";
        Ok(Self {
            asked: bytes(&pod["spec"]["containers"][0]["resources"]["limits"]["memory"])
                .context("no limit")?,
            actual: bytes(&status["resources"]["limits"]["memory"]),
            restarts: status["restartCount"].as_u64().unwrap_or(0),
            was_killed: killed("state") || killed("lastState"),
        })
    }
}
