//! deploy/ applied as a user applies it: the DaemonSet becomes ready with the capabilities it asks for and no more, and asks
//! the ledger beside it.

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{Cluster, HOME, control, scenes};
use crate::{image, shell, statics};

/// Makes it known to the node: as it is shipped but for the optimisation, which would take minutes.
pub fn image() -> Result<()> {
    let tar = Path::new(HOME).join("observer.tar");
    image::write(&tar, image::NAME, statics::Arch::host(), super::observer()?)?;
    control::import(&tar)
}

pub fn test(cluster: &Cluster) -> Result<u32> {
    let began = Instant::now();
    let path = |overlay: &str| shell::root().join("deploy").join(overlay).display().to_string();
    cluster.kubectl(&["apply", "-k", &path("")])?;
    ready(cluster)?;
    println!("test deploy_is_ready_within_ten_seconds ... {:.1} s", began.elapsed().as_secs_f64());
    ensure!(began.elapsed() < Duration::from_secs(30), "apply to ready took {:?}", began.elapsed());

    // With the ledger. There is no service proxy on this node, so that the agents are told the pod's own address.
    let address = "observer-ledger.observer.svc";
    cluster.apply(&super::secret(&[address])?)?;
    cluster.kubectl(&["apply", "-k", &path("ledger")])?;
    let ledger_ip = || -> Result<String> {
        let ready =
            "jsonpath={range .items[*]}{.status.containerStatuses[0].ready} {.status.podIP}{\"\\n\"}{end}";
        let pods = cluster.kubectl(&[
            "get",
            "pods",
            "-n",
            "observer",
            "-l",
            "app.kubernetes.io/name=observer-ledger",
            "-o",
            ready,
        ])?;
        let ready: Vec<&str> = pods.lines().filter_map(|line| line.strip_prefix("true ")).collect();
        ensure!(ready.len() == 1, "exactly one replica must be ready: {pods:?}");
        Ok(ready[0].to_owned())
    };
    cluster.wait("one ready ledger of two", Duration::from_secs(60), || ledger_ip().map(|_| true))?;
    let alias = format!(
        "{{\"spec\":{{\"template\":{{\"spec\":{{\"hostAliases\":[{{\"ip\":\"{}\",\"hostnames\":[\"{address}\"]}}]}}}}}}}}",
        ledger_ip()?
    );
    cluster.kubectl(&["patch", "daemonset/observer", "-n", "observer", "-p", &alias])?;
    ready(cluster)?;

    cluster.apply(&scenes::scalable("Deployment", "deployed", 1, "", ""))?;
    cluster.kubectl(&["rollout", "status", "deployment/deployed", "--timeout=60s"])?;
    sleep(Duration::from_secs(2));
    cluster.kubectl(&["scale", "deployment/deployed", "--replicas=4"])?;
    cluster.kubectl(&["rollout", "status", "deployment/deployed", "--timeout=60s"])?;
    let metrics = || observer_tests::daemon::get(&format!("{}/metrics", agent(cluster)?));
    let starts = |cause: &str| -> Result<Option<f64>> {
        let with = ["workload=\"deployed\"".to_owned(), format!("cause=\"{cause}\"")];
        let with: Vec<&str> = with.iter().map(String::as_str).collect();
        Ok(observer_tests::daemon::sum(&metrics()?, "observer_workload_starts_total", &with))
    };
    cluster.wait("the causes by the deployed pair", Duration::from_secs(40), || {
        Ok(starts("first_deploy")? == Some(1.0) && starts("scale_up_manual")? == Some(3.0))
    })?;
    let log = cluster.kubectl(&["logs", "-n", "observer", "daemonset/observer"])?;
    ensure!(log.contains("(1.00): scaled from 1 to 4"), "the ledger was not asked:\n{log}");
    let resident = observer_tests::daemon::sum(&metrics()?, "observer_resident_memory_bytes", &[]);
    let resident = resident.context("no resident memory")? / 1048576.0;
    println!("test the_deployed_pair_tells_a_scale_up ... ok; the daemon holds {resident:.1} MiB");
    fs::write(Path::new(HOME).join("deployed.log"), log)?;
    Ok(2)
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
    cluster.kubectl(&["delete", "deployment", "deployed", "--ignore-not-found"])?;
    let ledger = shell::root().join("deploy/ledger").display().to_string();
    cluster.kubectl(&["delete", "-k", &ledger, "--ignore-not-found", "--timeout=60s"]).map(|_| ())
}

/// Waits for the DaemonSet; the error holds what its pod said.
pub fn ready(cluster: &Cluster) -> Result<()> {
    let status = ["rollout", "status", "daemonset/observer", "-n", "observer", "--timeout=60s"];
    cluster.kubectl(&status).map(|_| ()).map_err(|error| {
        let said = cluster.kubectl(&["logs", "-n", "observer", "daemonset/observer", "--tail=20"]);
        error.context(format!("its pod said: {said:?}"))
    })
}
