//! deploy/ applied as a user applies it: the DaemonSet becomes ready with the capabilities it asks for and no more, and
//! asks the ledger beside it.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    cluster::{Cluster, HOME},
    daemon, shell,
};

use crate::{Case, Deployed, Suite, case, scenes};

/// The name in the ledger's certificate.
const LEDGER: &str = "observer-ledger.observer.svc";

pub fn cases() -> Vec<Case> {
    vec![
        case("deploy::is_ready_within_thirty_seconds", Deployed::Nothing, ready_soon),
        case("deploy::the_pair_reports_a_scale_up", Deployed::WithLedger, scale_up),
    ]
}

pub fn overlay(name: &str) -> String {
    shell::root().join("deploy").join(name).display().to_string()
}

/// What agents of earlier tests learned, which would change what later ones say.
pub fn forget() -> Result<()> {
    match fs::remove_dir_all("/var/lib/memory-observer") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("cannot forget"),
        _ => Ok(()),
    }
}

fn ready_soon(suite: &Suite) -> Result<()> {
    suite.import_image()?;
    forget()?;
    let cluster = &suite.cluster;
    let began = Instant::now();
    cluster.kubectl(&["apply", "-k", &overlay("")])?;
    let done = ready(cluster).and_then(|()| {
        eprintln!("   ready {:.1} s after apply", began.elapsed().as_secs_f64());
        ensure!(began.elapsed() < Duration::from_secs(30), "apply to ready took {:?}", began.elapsed());
        Ok(())
    });
    cluster.kubectl(&["delete", "-k", &overlay(""), "--ignore-not-found", "--timeout=60s"])?;
    done
}

/// The DaemonSet with the ledger. There is no service proxy on this node, so that the agents get the pod's own address.
pub fn apply(suite: &Suite) -> Result<()> {
    suite.import_image()?;
    forget()?;
    let cluster = &suite.cluster;
    cluster.kubectl(&["apply", "-k", &overlay("")])?;
    cluster.apply(&suite.secret(&[LEDGER])?)?;
    cluster.kubectl(&["apply", "-k", &overlay("ledger")])?;
    ledger_ready(cluster)?;
    point_agents(cluster)
}

/// Restarts the agents with the ledger's address of now.
pub fn point_agents(cluster: &Cluster) -> Result<()> {
    let alias = format!(
        "{{\"spec\":{{\"template\":{{\"spec\":{{\"hostAliases\":[{{\"ip\":\"{}\",\"hostnames\":[\"{LEDGER}\"]}}]}}}}}}}}",
        ledger_ip(cluster)?
    );
    cluster.kubectl(&["patch", "daemonset/observer", "-n", "observer", "-p", &alias])?;
    ready(cluster)
}

/// Waits until the Deployment is complete: all of it is of the newest template, and ready.
pub fn ledger_ready(cluster: &Cluster) -> Result<()> {
    let status = ["rollout", "status", "deployment/observer-ledger", "-n", "observer", "--timeout=60s"];
    cluster.kubectl(&status).map(|_| ())
}

fn ledger_ip(cluster: &Cluster) -> Result<String> {
    let path = "jsonpath={range .items[*]}{.status.containerStatuses[0].ready} {.status.podIP}{\"\\n\"}{end}";
    let name = "app.kubernetes.io/name=observer-ledger";
    let pods = cluster.kubectl(&["get", "pods", "-n", "observer", "-l", name, "-o", path])?;
    let ready: Vec<&str> = pods.lines().filter_map(|line| line.strip_prefix("true ")).collect();
    ensure!(ready.len() == 1, "exactly one must be ready: {pods:?}");
    Ok(ready[0].to_owned())
}

pub fn scale_up(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    cluster.apply(&scenes::scalable("Deployment", "deployed", 1, "", ""))?;
    cluster.kubectl(&["rollout", "status", "deployment/deployed", "--timeout=60s"])?;
    sleep(Duration::from_secs(2));
    cluster.kubectl(&["scale", "deployment/deployed", "--replicas=4"])?;
    cluster.kubectl(&["rollout", "status", "deployment/deployed", "--timeout=60s"])?;
    let metrics = || daemon::get(&format!("{}/metrics", agent(cluster)?));
    let starts = |cause: &str| -> Result<Option<f64>> {
        let with = ["workload=\"deployed\"".to_owned(), format!("cause=\"{cause}\"")];
        let with: Vec<&str> = with.iter().map(String::as_str).collect();
        Ok(daemon::sum(&metrics()?, "observer_workload_starts_total", &with))
    };
    cluster.wait("the causes by the deployed pair", Duration::from_secs(40), || {
        Ok(starts("first_deploy")? == Some(1.0) && starts("scale_up_manual")? == Some(3.0))
    })?;
    let log = cluster.kubectl(&["logs", "-n", "observer", "daemonset/observer"])?;
    ensure!(log.contains("(confidence 1.00): scaled from 1 to 4"), "the ledger was not asked:\n{log}");
    let resident = daemon::sum(&metrics()?, "observer_resident_memory_bytes", &[]);
    let resident = resident.context("no resident memory")? / 1048576.0;
    eprintln!("   the daemon holds {resident:.1} MiB");
    fs::write(Path::new(HOME).join("deployed.log"), log)?;
    cluster.kubectl(&["delete", "deployment", "deployed", "--ignore-not-found"]).map(|_| ())
}

/// Where the observer of the node is. The youngest: the one it replaced may still be going.
pub fn agent(cluster: &Cluster) -> Result<String> {
    Ok(format!("http://{}:9843", address(cluster)?))
}

pub fn address(cluster: &Cluster) -> Result<String> {
    let youngest = "jsonpath={.items[-1:].status.podIP}";
    let name = "app.kubernetes.io/name=observer";
    let sorted = "--sort-by=.metadata.creationTimestamp";
    cluster.kubectl(&["get", "pods", "-n", "observer", "-l", name, sorted, "-o", youngest])
}

pub fn remove(cluster: &Cluster) -> Result<()> {
    forget()?;
    cluster.kubectl(&["delete", "deployment", "deployed", "--ignore-not-found"])?;
    cluster.kubectl(&["delete", "-k", &overlay("ledger"), "--ignore-not-found", "--timeout=60s"]).map(|_| ())
}

/// Waits for the DaemonSet; the error holds what its pod said.
pub fn ready(cluster: &Cluster) -> Result<()> {
    let status = ["rollout", "status", "daemonset/observer", "-n", "observer", "--timeout=60s"];
    cluster.kubectl(&status).map(|_| ()).map_err(|error| {
        let said = cluster.kubectl(&["logs", "-n", "observer", "daemonset/observer", "--tail=20"]);
        error.context(format!("its pod said: {said:?}"))
    })
}
