//! The scrape configurations shipped, for a Prometheus that cannot ask Kubernetes.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use observer_tests::{cluster::Cluster, shell};
use serde_json::{Value, json};

/// The jobs of a file in deploy/prometheus. Debian's build has no Kubernetes discovery: the same labels come from a
/// file.
pub fn job(cluster: &Cluster, home: &Path, name: &str) -> Result<String> {
    let shipped = shell::root().join("deploy/prometheus").join(name);
    let scrape =
        fs::read_to_string(&shipped).with_context(|| format!("cannot read {}", shipped.display()))?;
    let discovery = "  kubernetes_sd_configs:\n    - role: pod\n      namespaces: {names: [observer]}\n";
    ensure!(scrape.contains(discovery), "{name} discovers in another way than this test stands in for");
    let pods = home.join("pods.json");
    fs::write(&pods, discovered(cluster)?)?;
    Ok(scrape.replace(discovery, &format!("  file_sd_configs: [{{files: ['{}']}}]\n", pods.display())))
}

/// What role `pod` finds in the namespace, with the labels that scrape.yaml looks at.
fn discovered(cluster: &Cluster) -> Result<String> {
    let pods: Value =
        serde_json::from_str(&cluster.kubectl(&["get", "pods", "-n", "observer", "-o", "json"])?)?;
    let mut targets = Vec::new();
    let going = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_string();
    for pod in pods["items"].as_array().context("no pods")?.iter().filter(|pod| !going(pod)) {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        for port in containers.filter_map(|container| container["ports"].as_array()).flatten() {
            let ip = pod["status"]["podIP"].as_str().context("a pod without an address")?;
            targets.push(json!({
                "targets": [format!("{ip}:{}", port["containerPort"])],
                "labels": {
                    "__meta_kubernetes_pod_label_app_kubernetes_io_name": pod["metadata"]["labels"]["app.kubernetes.io/name"],
                    "__meta_kubernetes_pod_container_port_name": port["name"],
                    "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
                },
            }));
        }
    }
    Ok(serde_json::to_string(&targets)?)
}
