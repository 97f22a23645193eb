//! The API server out of reach, or refusing, for a while: after it each start is counted once, under its name, with its
//! cause.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::cluster::Cluster;

use crate::{
    Case, Deployed, Suite, case,
    outage::{ADDRESS, Agent, account, metric, ready, said, until, whole},
    proxy::{Network, Proxy},
    scenes,
};

pub fn cases() -> Vec<Case> {
    let of = |name: &str, play| {
        case(format!("outage::{name}"), Deployed::Nothing, move |suite| whole(suite, play))
    };
    vec![
        of("a_network_that_fails_in_any_way_loses_and_doubles_no_start", failing),
        of("a_permission_taken_away_and_given_back_loses_no_start", forbidden_for_a_while),
        Case {
            on_request: Some("it takes a quarter of an hour: cargo xtask cluster test --full"),
            ..of("ten_minutes_without_the_api_and_connections_that_died_silently", long)
        },
    ]
}

/// What the agent's ClusterRole allows.
const RULES: &str = "{apiGroups: [\"\"], resources: [pods], verbs: [list, watch]}, \
    {apiGroups: [apps], resources: [replicasets, deployments, statefulsets], verbs: [get]}, \
    {apiGroups: [batch], resources: [jobs], verbs: [get]}";

fn server(cluster: &Cluster) -> Result<SocketAddr> {
    let text = std::fs::read_to_string(cluster.kubeconfig())?;
    let (_, rest) = text.split_once("server: \"https://").context("a kubeconfig without a server")?;
    let (name, _) = rest.split_once('"').context("a kubeconfig without a server")?;
    (name, 443).to_socket_addrs()?.next().context("the API server has no address")
}

/// An agent by way of a network that can fail, and a Deployment that grows meanwhile.
struct Play<'a> {
    cluster: &'a Cluster,
    proxy: Proxy,
    _agent: Agent,
    replicas: u32,
}

impl<'a> Play<'a> {
    fn begin(suite: &'a Suite, kubeconfig: &Path) -> Result<Self> {
        let cluster = &suite.cluster;
        let proxy = Proxy::start(server(cluster)?)?;
        let agent = Agent::start(suite, &proxy.kubeconfig(kubeconfig)?)?;
        until("it is synced", 30, || up() == Some(1.0))?;
        cluster.apply(&scenes::scalable("Deployment", "outage", 1, "", ""))?;
        let play = Self { cluster, proxy, _agent: agent, replicas: 1 };
        ready(cluster, 1)?;
        until("the first start is counted", 60, || starts() == Some(1.0))?;
        Ok(play)
    }

    /// Starts some, as the API server has it.
    fn grow(&mut self, by: u32) -> Result<()> {
        self.replicas += by;
        self.cluster.kubectl(&["scale", "deployment/outage", &format!("--replicas={}", self.replicas)])?;
        ready(self.cluster, self.replicas)
    }

    fn is_whole(&self, after: &str) -> Result<()> {
        until(&format!("the API is back after {after}"), 120, || up() == Some(1.0))?;
        let wanted = Some(f64::from(self.replicas));
        until(&format!("all {} starts are counted after {after}", self.replicas), 120, || starts() == wanted)
    }

    /// Once the last word is said of each.
    fn counted_once(&self) -> Result<()> {
        sleep(Duration::from_secs(12));
        let wanted = Some(f64::from(self.replicas));
        ensure!(starts() == wanted, "{} containers started, {:?} are counted", self.replicas, starts());
        none_by_uid()?;
        let unknown = metric("observer_workload_starts_total", &["cause=\"unknown\""]);
        ensure!(unknown.is_none(), "the cause of {unknown:?} is not known");
        let dropped = metric("observer_unattributed_events_total", &[]);
        ensure!(dropped.is_none_or(|events| events == 0.0), "{dropped:?} events were dropped");
        Ok(())
    }
}

/// Nothing is counted a second time, under the uid of its pod.
fn none_by_uid() -> Result<()> {
    let text = observer_tests::daemon::get(&format!("http://{ADDRESS}/metrics"))?;
    let by_uid = text.lines().filter(|line| {
        line.starts_with("observer_workload_starts_total") && line.contains("workload_type=\"pod\"")
    });
    let by_uid: Vec<&str> = by_uid.collect();
    ensure!(by_uid.is_empty(), "counted under a uid: {by_uid:#?}");
    Ok(())
}

fn up() -> Option<f64> {
    metric("observer_kubernetes_up", &[])
}

fn starts() -> Option<f64> {
    metric("observer_workload_starts_total", &["workload=\"outage\""])
}

fn failing(suite: &Suite) -> Result<()> {
    let mut play = Play::begin(suite, &suite.cluster.kubeconfig())?;
    for network in [Network::Cut, Network::Resets] {
        play.proxy.set(network);
        play.grow(1)?;
        until(&format!("an outage is reported: {network:?}"), 60, || up() == Some(0.0))?;
        play.proxy.set(Network::Works);
        play.is_whole(&format!("{network:?}"))?;
    }
    play.proxy.set(Network::Slow);
    play.grow(2)?;
    play.is_whole("Slow")?;
    // Flapping: some seconds each, while containers start.
    play.proxy.set(Network::Cut);
    play.grow(1)?;
    for network in [Network::Works, Network::Resets, Network::Works, Network::Cut, Network::Works] {
        play.proxy.set(network);
        sleep(Duration::from_secs(2));
    }
    play.grow(1)?;
    play.is_whole("flapping")?;
    play.counted_once()
}

fn forbidden_for_a_while(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let mut play = Play::begin(suite, &account(cluster, "for-a-while", RULES)?)?;
    cluster.kubectl(&["delete", "clusterrolebinding/outage-for-a-while"])?;
    // A watch that stands is not looked at again: it ends by itself after minutes, or so.
    play.proxy.set(Network::Cut);
    until("the outage is reported", 60, || up() == Some(0.0))?;
    play.proxy.set(Network::Works);
    play.grow(2)?;
    until("it says what is forbidden", 60, || said("forbids to list and watch pods"))?;
    ensure!(up() == Some(0.0), "observer_kubernetes_up is {:?} while pods are forbidden", up());
    account(cluster, "for-a-while", RULES)?;
    play.is_whole("a permission was given back")?;
    play.counted_once()
}

fn long(suite: &Suite) -> Result<()> {
    let mut play = Play::begin(suite, &suite.cluster.kubeconfig())?;
    // Dead connections end nowhere; each new one works.
    play.proxy.set(Network::Dead);
    play.grow(2)?;
    sleep(Duration::from_secs(1));
    play.proxy.set(Network::Works);
    let began = Instant::now();
    play.is_whole("its connection died")?;
    eprintln!("   a dead connection was noticed after {} s", began.elapsed().as_secs());
    play.proxy.set(Network::Cut);
    play.grow(20)?;
    sleep(Duration::from_secs(600));
    play.proxy.set(Network::Works);
    play.is_whole("ten minutes")?;
    play.counted_once()
}
