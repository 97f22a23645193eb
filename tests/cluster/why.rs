//! `kubectl observer why`: the program under the name that kubectl calls, by the kubeconfig of the user.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use observer_tests::cluster::HOME;

use crate::{Case, Deployed, Suite, case};

/// May list pods, and not forward ports.
const ACCOUNT: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: looker, namespace: observer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: observer-test-looker, namespace: observer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: observer-test-looker}
subjects: [{kind: ServiceAccount, name: looker, namespace: observer}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: observer-test-looker, namespace: observer}
rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get, list]}]
";
const WAITS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: waits, namespace: observer}
spec:
  nodeSelector: {observer-test: nowhere}
  containers: [{name: main, image: none}]
";

pub fn cases() -> Vec<Case> {
    vec![case("deploy::kubectl_observer_why_asks_the_agent_of_the_node", Deployed::WithLedger, why)]
}

fn why(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let home = Path::new(HOME).join("kubectl-observer");
    std::fs::create_dir_all(&home)?;
    let plugin = home.join("kubectl-observer");
    let _ = std::fs::remove_file(&plugin);
    symlink(&suite.observer, &plugin).context("cannot make the plugin")?;
    let asked = |kubeconfig: &Path, args: &[&str]| -> Result<Output> {
        let mut command = Command::new(&plugin);
        command.env("KUBECONFIG", kubeconfig).args(args).output().context("cannot run the plugin")
    };
    let user = cluster.kubeconfig();
    let code = |output: &Output| output.status.code();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();

    let agent = cluster.kubectl(&[
        "-n",
        "observer",
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/name=observer",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ])?;
    for name in [agent.trim(), "ds/observer", "observer/observer"] {
        let output = asked(&user, &["why", name, "-n", "observer"])?;
        let said = text(&output.stdout);
        ensure!([Some(0), Some(3)].contains(&code(&output)), "{name}: {output:?}");
        ensure!(said.contains("What happened") && said.contains(agent.trim()), "{name}:\n{said}");
    }
    let output = asked(&user, &["why", agent.trim(), "-n", "observer", "--output", "json"])?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(answer["containers"][0]["pod"] == agent.trim(), "{answer}");

    let output = asked(&user, &["why", "no-such-name", "-n", "observer"])?;
    ensure!(code(&output) == Some(2), "an unknown name: {output:?}");
    let output = asked(&user, &["why", "observer", "-n", "observer", "--observer-namespace", "default"])?;
    ensure!(
        code(&output) == Some(1) && text(&output.stderr).contains("no observer in namespace"),
        "{output:?}"
    );
    cluster.apply(WAITS)?;
    let output = asked(&user, &["why", "waits", "-n", "observer"])?;
    cluster.kubectl(&["-n", "observer", "delete", "pod", "waits", "--grace-period=0", "--force"])?;
    ensure!(code(&output) == Some(2) && text(&output.stderr).contains("on no node yet"), "{output:?}");

    cluster.apply(ACCOUNT)?;
    let token = cluster.kubectl(&["create", "token", "looker", "-n", "observer"])?;
    let limited = home.join("limited.kubeconfig");
    let mut config: serde_json::Value = serde_saphyr::from_str(&std::fs::read_to_string(&user)?)?;
    config["users"] = serde_json::json!([{"name": "looker", "user": {"token": token.trim()}}]);
    for context in config["contexts"].as_array_mut().into_iter().flatten() {
        context["context"]["user"] = "looker".into();
    }
    std::fs::write(&limited, config.to_string())?; // JSON is YAML
    let output = asked(&limited, &["why", agent.trim(), "-n", "observer"])?;
    ensure!(
        code(&output) == Some(1) && text(&output.stderr).contains("pods/portforward"),
        "an account that may not forward: {output:?}"
    );
    Ok(())
}
