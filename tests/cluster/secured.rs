//! deploy/secured: /metrics by TLS, to those RBAC lets read it, and to nobody else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use observer_tests::{
    cluster::{Cluster, HOME, NODE},
    prometheus::Prometheus,
    shell,
};

use crate::{Case, Deployed, Suite, case, deployed, scrape, write_files};

const NAME: &str = "observer.observer.svc";

/// Two accounts, of which one may read /metrics.
const ACCOUNTS: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: scraper, namespace: observer}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: passer-by, namespace: observer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: observer-test-reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: observer-reader}
subjects: [{kind: ServiceAccount, name: scraper, namespace: observer}]
";

pub fn cases() -> Vec<Case> {
    vec![
        case("deploy::secured_answers_those_who_may_read", Deployed::Secured, those_who_may),
        case("deploy::secured_is_scraped_as_shipped", Deployed::Secured, scraped),
        case(
            "deploy::secured_forgets_a_permission_within_a_minute",
            Deployed::Secured,
            permission_taken_away,
        ),
    ]
}

pub fn home() -> PathBuf {
    Path::new(HOME).join("secured")
}

pub fn apply(suite: &Suite) -> Result<()> {
    shell::apt(&["curl"])?;
    suite.import_image()?;
    let cluster = &suite.cluster;
    let overlay = shell::root().join("deploy/secured").display().to_string();
    let secret = suite.secret(&["--secret", "observer-tls", NAME])?;
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: observer}\n")?;
    cluster.apply(&secret)?;
    cluster.kubectl(&["apply", "-k", &overlay])?;
    cluster.apply(ACCOUNTS)?;
    deployed::ready(cluster)?;
    write_files(&secret, &home())
}

pub fn token(cluster: &Cluster, account: &str) -> Result<String> {
    Ok(cluster.kubectl(&["create", "token", account, "-n", "observer"])?.trim().to_owned())
}

fn those_who_may(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let (reader, stranger) = (token(cluster, "scraper")?, token(cluster, "passer-by")?);
    for (path, who, token, expected) in [
        ("/healthz", "no token", None, "200"),
        ("/readyz", "no token", None, "200"),
        ("/metrics", "no token", None, "401"),
        ("/metrics", "a made-up token", Some("made.up.token"), "401"),
        ("/metrics", "a stranger's token", Some(&stranger), "403"),
        ("/api/v1/state", "a stranger's token", Some(&stranger), "403"),
        ("/metrics", "a reader's token", Some(&reader), "200"),
        ("/api/v1/advice", "a reader's token", Some(&reader), "200"),
        ("/", "a reader's token", Some(&reader), "200"),
    ] {
        let (status, body) = get(cluster, path, token)?;
        ensure!(status == expected, "{path} with {who}: {status} instead of {expected}: {body}");
        ensure!(
            expected == "200" || !body.contains("observer_"),
            "{path}: refused, and reported all the same"
        );
    }
    let (_, metrics) = get(cluster, "/metrics", Some(&reader))?;
    ensure!(metrics.contains("observer_node_containers"), "these are no metrics: {metrics}");
    // In the clear it answers nothing.
    let plain = deployed::agent(cluster)?;
    ensure!(observer_tests::daemon::get(&format!("{plain}/metrics")).is_err(), "{plain} answers without TLS");
    Ok(())
}

/// It holds on for a minute at the most.
fn permission_taken_away(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let reader = token(cluster, "scraper")?;
    let status = || -> Result<String> { Ok(get(cluster, "/metrics", Some(&reader))?.0) };
    let before = status()?;
    ensure!(before == "200", "before its permission is taken away the reader gets {before}");
    cluster.kubectl(&["delete", "clusterrolebinding/observer-test-reader"])?;
    let refused =
        cluster.wait("the reader to be refused", Duration::from_secs(80), || Ok(status()? == "403"));
    cluster.apply(ACCOUNTS)?;
    refused
}

/// By a real Prometheus, with the configuration shipped; only the places of its files are this test's.
fn scraped(suite: &Suite) -> Result<()> {
    shell::apt(&["prometheus"])?;
    let (cluster, home) = (&suite.cluster, &home());
    let token = token(cluster, "scraper")?;
    fs::write(home.join("token"), token)?;
    let mut job = scrape::job(cluster, home, "scrape-secured.yaml")?;
    for (there, here) in [
        ("/var/run/secrets/kubernetes.io/serviceaccount/token", "token"),
        ("/etc/prometheus/observer/ca.crt", "ca.crt"),
    ] {
        ensure!(job.contains(there), "scrape-secured.yaml does not read {there}");
        job = job.replace(there, &home.join(here).display().to_string());
    }
    let prometheus =
        Prometheus::start(home, &format!("global: {{scrape_interval: 2s}}\nscrape_configs:\n{job}"))?;
    cluster.wait("the scrape of the protected agent", Duration::from_secs(30), || {
        let reported = format!("observer_node_containers{{instance=\"{NODE}\"}} and on(instance) up == 1");
        Ok(!prometheus.ask(&reported)?.is_empty())
    })
}

/// Status and body. The pods have no name here that resolves, so the name of the certificate is given to curl.
fn get(cluster: &Cluster, path: &str, token: Option<&str>) -> Result<(String, String)> {
    let address = deployed::address(cluster)?;
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "10",
        "--noproxy",
        "*",
        "--write-out",
        "\n%{http_code}",
    ]);
    curl.arg("--cacert").arg(home().join("ca.crt")).args(["--resolve", &format!("{NAME}:9843:{address}")]);
    if let Some(token) = token {
        curl.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let said = shell::output(curl.arg(format!("https://{NAME}:9843{path}")))?;
    let (body, status) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim()));
    Ok((status.to_owned(), body.to_owned()))
}

pub fn remove(cluster: &Cluster) -> Result<()> {
    let overlay = shell::root().join("deploy/secured").display().to_string();
    cluster.kubectl(&["delete", "clusterrolebinding/observer-test-reader", "--ignore-not-found"])?;
    cluster.kubectl(&["delete", "-k", &overlay, "--ignore-not-found", "--timeout=60s"]).map(|_| ())
}
