//! The Helm chart and the kustomize overlays say the same: each switch of the chart is compared with its overlay,
//! object by object.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use observer_tests::{cluster::VERSION, shell};

use crate::{Case, Deployed, Suite, case};

/// Switches, and the overlays applied beside each other.
const PAIRS: &[(&[&str], &[&str])] = &[
    (&[], &[""]),
    (&["ledger.enabled"], &["ledger"]),
    (&["embedLedger"], &["small"]),
    (&["lend.enabled"], &["lend"]),
    (&["oldKernels"], &["old-kernels"]),
    (&["cgroupV1"], &["cgroup-v1"]),
    (&["secured.enabled"], &["secured"]),
    (&["podMonitor.enabled", "prometheusRule.enabled"], &["", "operator"]),
    (&["networkPolicy.enabled"], &["", "network-policy"]),
];

const OF_RELEASE: &[&str] = &[
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
];

pub fn cases() -> Vec<Case> {
    vec![case("deploy::the_chart_is_what_the_overlays_are", Deployed::Nothing, same)]
}

fn same(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let helm = cluster.binaries.join("helm");
    let chart = shell::root().join("deploy/chart");
    shell::output(Command::new(&helm).arg("lint").arg("--strict").arg(&chart))?;
    for (switches, overlays) in PAIRS {
        let mut template = Command::new(&helm);
        template.args(["template", "observer"]).arg(&chart).args([
            "--namespace",
            "observer",
            "--kube-version",
            VERSION,
        ]);
        for switch in *switches {
            template.args(["--set", &format!("{switch}=true")]);
        }
        let of_chart = objects(&shell::output(&mut template)?)?;
        let mut of_overlays = BTreeMap::new();
        for overlay in *overlays {
            let path = shell::root().join("deploy").join(overlay);
            of_overlays.extend(objects(&cluster.kubectl(&["kustomize", &path.display().to_string()])?)?);
        }
        // Helm makes the namespace by an option of its own.
        of_overlays.retain(|name, _| !name.starts_with("Namespace/"));
        let names =
            |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>().join(", ");
        ensure!(
            of_chart.keys().eq(of_overlays.keys()),
            "chart with {switches:?} has {}, {overlays:?} have {}",
            names(&of_chart),
            names(&of_overlays)
        );
        for (name, object) in &of_chart {
            ensure!(
                *object == of_overlays[name],
                "{name}: the chart with {switches:?} says\n{object:#}\n{overlays:?} say\n{:#}",
                of_overlays[name]
            );
        }
    }
    Ok(())
}

/// By kind and name. Lists of the same things in another order (variables of a container, its volumes) are the same.
fn objects(text: &str) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for document in text.split("\n---\n") {
        let mut object: Value = serde_saphyr::from_str(document.trim_start_matches("---\n"))
            .with_context(|| format!("cannot read\n{document}"))?;
        if object.is_null() {
            continue;
        }
        sort(&mut object);
        // Whose release it is, the chart adds.
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.retain(|label, _| !OF_RELEASE.contains(&label.as_str()));
        }
        let name = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        objects.insert(format!("{}/{}", object["kind"].as_str().unwrap_or_default(), name("name")), object);
    }
    Ok(objects)
}

fn sort(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(sort);
            if items.iter().all(|item| item["name"].is_string()) {
                items.sort_by_key(|item| item["name"].to_string());
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(sort),
        _ => {}
    }
}
