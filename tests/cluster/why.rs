//! `kubectl observer why`, `advise` and `top`: the program under the name that kubectl calls, by the user's kubeconfig.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    cluster::{HOME, NODE},
    daemon, shell,
    tmux::Terminal,
};

use crate::{Case, Deployed, Suite, case, deployed, secured};

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
    vec![
        case("deploy::kubectl_observer_why_asks_the_agent_of_the_node", Deployed::WithLedger, why),
        case("deploy::kubectl_observer_advises_by_what_all_agents_saw", Deployed::WithLedger, advise),
        case("deploy::kubectl_observer_top_shows_a_node", Deployed::WithLedger, top),
        case("deploy::kubectl_observer_brings_secured_agents_a_token", Deployed::Secured, token),
    ]
}

/// The program under the name that kubectl looks for.
fn plugin(suite: &Suite) -> Result<(PathBuf, PathBuf)> {
    let home = Path::new(HOME).join("kubectl-observer");
    std::fs::create_dir_all(&home)?;
    let plugin = home.join("kubectl-observer");
    let _ = std::fs::remove_file(&plugin);
    symlink(&suite.observer, &plugin).context("cannot make the plugin")?;
    Ok((home, plugin))
}

fn asked(suite: &Suite, args: &[&str]) -> Result<(Option<i32>, String, String)> {
    let (_, plugin) = plugin(suite)?;
    let mut command = Command::new(plugin);
    let output = command.env("KUBECONFIG", suite.cluster.kubeconfig()).args(args).output();
    let output = output.context("cannot run the plugin")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
}

/// The truth is the agent's own answer, asked without the API server.
fn advise(suite: &Suite) -> Result<()> {
    let agent = deployed::agent(&suite.cluster)?;
    let known = || -> Result<Vec<serde_json::Value>> {
        Ok(serde_json::from_str(&daemon::get(&format!("{agent}/api/v1/advice"))?)?)
    };
    let before = known()?;
    for node in [&["-A"][..], &["-A", "--node", NODE]] {
        let (code, out, error) = asked(suite, &[&["advise"], node].concat())?;
        match before.is_empty() {
            true => {
                ensure!(code == Some(2) && error.contains("nothing to advise yet"), "{code:?} {out} {error}")
            }
            false => ensure!(code == Some(0), "{code:?} {out} {error}"),
        }
        for one in &before {
            let name = one["facts"]["workload"].as_str().context("a workload without a name")?;
            ensure!(out.contains(name), "{name} is not in:\n{out}");
        }
    }
    let (code, out, error) = asked(suite, &["advise", "-A", "--node", "no-such-node"])?;
    ensure!(
        code == Some(1) && error.contains("no observer runs on node no-such-node"),
        "{code:?} {out} {error}"
    );
    let (code, out, error) = asked(suite, &["advise", "no-such-workload", "-n", "default"])?;
    ensure!(code == Some(2), "an unknown name: {code:?} {out} {error}");
    let (code, out, error) = asked(suite, &["advise", "--context", "no-such-context"])?;
    ensure!(code == Some(1) && error.contains("no-such-context"), "{code:?} {out} {error}");
    Ok(())
}

fn top(suite: &Suite) -> Result<()> {
    let (code, out, error) = asked(suite, &["top"])?;
    ensure!(code == Some(1) && error.contains("draws on a terminal"), "{code:?} {out} {error}");
    shell::apt(&["tmux"])?;
    let (home, plugin) = plugin(suite)?;
    let agent = deployed::agent(&suite.cluster)?;
    for which in [String::new(), format!("--node {NODE}"), "ds/observer -n observer".to_owned()] {
        let terminal = Terminal::start(&home, (100, 30), &[])?;
        terminal.line(&format!(
            "KUBECONFIG={} {} top {which}; echo code=$?",
            suite.cluster.kubeconfig().display(),
            plugin.display()
        ))?;
        let screen = terminal.shows("  live  ")?;
        ensure!(screen.contains(&format!("node {NODE}")), "{which}:\n{screen}");
        // What it shows goes on by the stream, through the forwarded port.
        let before = terminal.screen()?.lines().next().map(str::to_owned);
        terminal.wait("a later time", |screen| screen.lines().next().map(str::to_owned) != before)?;
        let state: serde_json::Value = serde_json::from_str(&daemon::get(&format!("{agent}/api/v1/state"))?)?;
        ensure!(state["containers"].as_array().is_some_and(|all| !all.is_empty()), "{state}");
        if !which.contains("ds/observer") {
            terminal.shows("THE REST")?;
        } else {
            terminal.wait("only rows of the observer", |screen| screen.contains("observer-"))?;
        }
        terminal.text("q")?;
        terminal.shows("code=0")?;
    }
    Ok(())
}

fn token(suite: &Suite) -> Result<()> {
    let home = secured::home();
    let (ca, file) = (home.join("ca.crt"), home.join("plugin-token"));
    let (ca, with) = (ca.display().to_string(), file.display().to_string());
    let (code, out, error) = asked(suite, &["advise", "-A"])?;
    ensure!(
        code == Some(1) && error.contains("serves by TLS") && error.contains("--ca"),
        "{code:?} {out} {error}"
    );
    let (code, out, error) = asked(suite, &["advise", "-A", "--ca", &ca])?;
    ensure!(code == Some(1) && error.contains("asks for a token"), "{code:?} {out} {error}");
    for (account, refused) in [("passer-by", true), ("scraper", false)] {
        std::fs::write(&file, secured::token(&suite.cluster, account)?)?;
        for command in [&["advise", "-A"][..], &["why", "ds/observer", "-n", "observer"]] {
            let (code, out, error) =
                asked(suite, &[command, &["--ca", ca.as_str(), "--token-file", with.as_str()][..]].concat())?;
            match refused {
                true => ensure!(
                    code == Some(1) && error.contains("does not let this account in"),
                    "{code:?} {error}"
                ),
                false => ensure!(
                    [Some(0), Some(2), Some(3)].contains(&code),
                    "{command:?}: {code:?} {out} {error}"
                ),
            }
        }
    }
    shell::apt(&["tmux"])?;
    let (place, plugin) = plugin(suite)?;
    let terminal = Terminal::start(&place, (100, 30), &[])?;
    let kubeconfig = suite.cluster.kubeconfig();
    terminal.line(&format!(
        "KUBECONFIG={} {} top --ca {ca} --token-file {with}; echo code=$?",
        kubeconfig.display(),
        plugin.display()
    ))?;
    terminal.shows("  live  ")?;
    terminal.text("q")?;
    terminal.shows("code=0").map(|_| ())
}

fn why(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let (home, plugin) = plugin(suite)?;
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
