//! An upgrade of what is deployed: the ledger's is complete, with its lease handed over.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use observer_tests::{
    cluster::{Cluster, HOME, control},
    oci,
};

use crate::{Case, Deployed, Suite, case, deployed};

/// The same program under another name.
const NEXT: &str = "memory-observer:next";

pub fn cases() -> Vec<Case> {
    vec![case("deploy::an_upgrade_of_the_ledger_is_complete", Deployed::WithLedger, ledger)]
}

fn ledger(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let tar = Path::new(HOME).join("next.tar");
    let files = [("observer", suite.observer.clone())];
    oci::write(&tar, NEXT, oci::HOST, &files, &["/observer"])?;
    control::import(&tar)?;
    let before = holder(cluster)?;
    ensure!(!before.is_empty(), "no replica holds the lease");
    cluster.kubectl(&[
        "set",
        "image",
        "deployment/observer-ledger",
        "-n",
        "observer",
        &format!("ledger={NEXT}"),
    ])?;
    deployed::ledger_ready(cluster).context("after the upgrade")?;
    let pods = cluster.kubectl(&[
        "get",
        "pods",
        "-n",
        "observer",
        "-l",
        "app.kubernetes.io/name=observer-ledger",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.spec.containers[0].image} {.status.containerStatuses[0].ready}{\"\\n\"}{end}",
    ])?;
    let after = holder(cluster)?;
    ensure!(
        pods.trim() == format!("{after} {NEXT} true"),
        "after the upgrade there are {pods:?}, and {after:?} has the lease"
    );
    ensure!(after != before, "the lease is still held by {before}");
    // Its address is another, which the agents here are given by hand.
    deployed::apply(suite)
}

fn holder(cluster: &Cluster) -> Result<String> {
    cluster.kubectl(&[
        "get",
        "lease/observer-ledger",
        "-n",
        "observer",
        "-o",
        "jsonpath={.spec.holderIdentity}",
    ])
}
