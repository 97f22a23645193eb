//! The API taken away in every way there is: the observer goes on measuring, says what it does not know, and catches up
//! without counting twice.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::cluster::{Cluster, HOME, NODE, control};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Case, Deployed, Suite, case, scenes};

pub type Play = fn(&Suite) -> Result<()>;

pub fn cases() -> Vec<Case> {
    let cases: [(&str, Play); 5] = [
        ("the_api_is_away_when_the_agent_starts_and_comes_back", away_at_start),
        ("the_api_has_forgotten_where_the_agent_was_and_nothing_is_counted_twice", gone),
        ("a_403_on_pods_says_what_it_costs", pods_forbidden),
        ("a_403_on_owners_leaves_who_it_is_and_loses_why", owners_forbidden),
        ("a_403_on_one_kind_of_owner_is_named_and_its_starts_are_reported", each_owner_forbidden),
    ];
    cases
        .map(|(name, play)| {
            case(format!("outage::{name}"), Deployed::Nothing, move |suite| whole(suite, play))
        })
        .into()
}

/// Removes what a case made, however it ended.
pub fn whole(suite: &Suite, play: Play) -> Result<()> {
    let done = play(suite);
    // A failure in its middle may have left it stopped; one that only was slow to answer holds the port.
    let up = Cluster::running().map_or_else(
        || {
            control::stop_api();
            control::start_api(&suite.cluster)
        },
        |_| Ok(()),
    );
    let removed = up.and_then(|()| remove(&suite.cluster));
    done.and(removed)
}

fn remove(cluster: &Cluster) -> Result<()> {
    let made = ["deployment/outage", "statefulset/outage", "job/outage", "pod/outage"];
    // Half a minute is the pod's; and after an API server's restart its kubelet may take one to come back.
    let left = [&["delete"], &made[..], &["--ignore-not-found", "--timeout=180s"]].concat();
    cluster.kubectl(&left).map(|_| ()).context("while removing what a case made")
}

pub const ADDRESS: &str = "127.0.0.1:19847";

pub struct Agent(Child);

impl Agent {
    pub fn start(suite: &Suite, kubeconfig: &Path) -> Result<Self> {
        let log = fs::File::create(log())?;
        let mut command = Command::new(&suite.observer);
        command.args(["run", "--node-name", NODE, "--listen", ADDRESS, "--kubeconfig"]).arg(kubeconfig);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self(child))
    }
}

impl Agent {
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to the agent"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already is what is wanted
        let _ = self.0.wait();
    }
}

fn log() -> PathBuf {
    Path::new(HOME).join("outage.log")
}

pub fn metric(name: &str, with: &[&str]) -> Option<f64> {
    let text = observer_tests::daemon::get(&format!("http://{ADDRESS}/metrics")).ok()?;
    observer_tests::daemon::sum(&text, name, with)
}

pub fn until(what: &str, within: u64, is_so: impl Fn() -> bool) -> Result<()> {
    let began = Instant::now();
    while !is_so() {
        let said = fs::read_to_string(log()).unwrap_or_default();
        ensure!(began.elapsed() < Duration::from_secs(within), "{what}: not within {within} s; log:\n{said}");
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

pub fn said(part: &str) -> bool {
    fs::read_to_string(log()).unwrap_or_default().contains(part)
}

/// A pod that is OOM-killed once, while nobody can be asked who it is.
fn away_at_start(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let limited = ", resources: {limits: {memory: 256Mi}}";
    let greedy = r#"["/workload","child","--size","400","--after","45","--seconds","600"]"#;
    // Its main process lives on; what it forks, late enough to strike while the API is away, is killed.
    cluster.apply(&scenes::pod("outage", "Always", greedy, limited))?;
    cluster.wait("the pod", Duration::from_secs(60), || {
        Ok(cluster.kubectl(&["get", "pod", "outage", "-o", "jsonpath={.status.phase}"])? == "Running")
    })?;
    control::stop_api();
    let _agent = Agent::start(suite, &cluster.kubeconfig())?;
    until("it says that the API is away", 30, || said("does not answer"))?;
    ensure!(metric("observer_kubernetes_up", &[]) == Some(0.0), "observer_kubernetes_up is not 0");
    let kills = |with: &[&str]| metric("observer_container_oom_kills_total", with);
    until("the kill is reported under the uid", 90, || kills(&["workload_type=\"pod\""]) == Some(1.0))?;
    control::start_api(cluster)?;
    until("the API is back", 60, || metric("observer_kubernetes_up", &[]) == Some(1.0))?;
    let own = ["pod=\"outage\"", "container=\"main\""];
    until("the kill is reported under the pod's name", 60, || kills(&own) == Some(1.0))?;
    ensure!(kills(&[]) == Some(1.0), "one process was killed, all series together say {:?}", kills(&[]));
    let workload = metric("observer_workload_oom_kills_total", &["workload=\"outage\""]);
    ensure!(workload == Some(1.0), "the workload's kills: {workload:?}");
    Ok(())
}

/// 410 Gone: while the agent is stopped the API server restarts, and what it remembers begins after what the agent
/// knows.
fn gone(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let agent = Agent::start(suite, &cluster.kubeconfig())?;
    until("it is synced", 30, || metric("observer_kubernetes_up", &[]) == Some(1.0))?;
    let starts = || metric("observer_workload_starts_total", &["workload=\"outage\""]);
    cluster.apply(&scenes::scalable("Deployment", "outage", 2, "", ""))?;
    ready(cluster, 2)?;
    until("two starts are reported", 60, || starts() == Some(2.0))?;
    let listed = lists()?;
    agent.signal(Signal::STOP)?;
    control::stop_api();
    control::start_api(cluster)?;
    cluster.kubectl(&["scale", "deployment/outage", "--replicas=4"])?;
    ready(cluster, 4)?;
    agent.signal(Signal::CONT)?;
    until("the other two are reported", 60, || starts() == Some(4.0))?;
    ensure!(
        lists()? > listed,
        "the agent did not list the pods again, so it was not answered 410 Gone: this tested nothing"
    );
    sleep(Duration::from_secs(15)); // what is counted twice is counted once its cause is reported, ten seconds later
    ensure!(starts() == Some(4.0), "four containers started, and {:?} are counted", starts());
    Ok(())
}

/// Waits for the cluster's part: after an API server's absence each of its controllers asks again when it thinks fit,
/// up to a minute later.
pub fn ready(cluster: &Cluster, replicas: u32) -> Result<()> {
    let ready = ["get", "deployment/outage", "-o", "jsonpath={.status.readyReplicas}"];
    cluster.wait(&format!("{replicas} replicas are ready"), Duration::from_secs(180), || {
        Ok(cluster.kubectl(&ready)? == replicas.to_string())
    })
}

/// How often observers listed the pods: at first, and whenever the API server answers, in the watch's stream, 410
/// Gone.
fn lists() -> Result<usize> {
    let log = fs::read_to_string(Path::new(HOME).join("audit.log")).context("no audit log")?;
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = |entry: &Value| {
        let agent = entry["userAgent"].as_str().unwrap_or_default();
        agent.starts_with("memory-observer")
            && entry["verb"] == "list"
            && entry["objectRef"]["resource"] == "pods"
    };
    Ok(entries.filter(ours).count())
}

/// A service account with these rules only.
pub fn account(cluster: &Cluster, name: &str, rules: &str) -> Result<PathBuf> {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}, namespace: default}}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: outage-{name}}}\nrules: [{rules}]\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {{name: outage-{name}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: outage-{name}}}\n\
         subjects: [{{kind: ServiceAccount, name: {name}, namespace: default}}]\n"
    ))?;
    let token = cluster.kubectl(&["create", "token", name, "--duration=1h"])?;
    let admin = fs::read_to_string(cluster.kubeconfig())?;
    let (head, _) = admin.split_once("token: ").context("the kubeconfig has no token")?;
    let path = Path::new(HOME).join(format!("{name}.kubeconfig"));
    fs::write(&path, format!("{head}token: {}}}}}]\n", token.trim()))?;
    Ok(path)
}

fn pods_forbidden(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let kubeconfig = account(cluster, "nothing", "")?;
    let _agent = Agent::start(suite, &kubeconfig)?;
    until("it says what is forbidden", 30, || said("forbids to list and watch pods"))?;
    ensure!(said("containers are reported by uid"), "it does not say what that costs");
    let available = metric("observer_node_memory_available_bytes", &[]);
    ensure!(available.is_some_and(|bytes| bytes > 0.0), "the node is not measured");
    Ok(())
}

fn owners_forbidden(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let pods = "{apiGroups: [\"\"], resources: [pods], verbs: [get, list, watch]}";
    let kubeconfig = account(cluster, "pods-only", pods)?;
    let _agent = Agent::start(suite, &kubeconfig)?;
    until("it is synced", 30, || metric("observer_kubernetes_up", &[]) == Some(1.0))?;
    cluster.apply(&scenes::scalable("Deployment", "outage", 1, "", ""))?;
    ready(cluster, 1)?;
    let with = ["workload=\"outage\"", "workload_type=\"deployment\"", "cause=\"unknown\""];
    until("the start is reported without its cause", 60, || {
        metric("observer_workload_starts_total", &with) == Some(1.0)
    })?;
    ensure!(said("cannot get ReplicaSet"), "it does not say what is forbidden");
    let owners = "{apiGroups: [apps], resources: [replicasets, deployments], verbs: [get]}";
    account(cluster, "pods-only", &format!("{pods}, {owners}"))?;
    // Counted already, it stays what it was counted as; that it was another is counted beside.
    until("its cause is known once its owner may be looked up", 60, || {
        metric("observer_workload_cause_revisions_total", &with[..1]) == Some(1.0) && said("first_deploy")
    })?;
    Ok(())
}

/// All the agent's rules but one.
fn each_owner_forbidden(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    const OWNERS: [(&str, &str, &str); 4] = [
        ("ReplicaSet", "apps", "replicasets"),
        ("Deployment", "apps", "deployments"),
        ("StatefulSet", "apps", "statefulsets"),
        ("Job", "batch", "jobs"),
    ];
    for (kind, _, forbidden) in OWNERS {
        let others = OWNERS.iter().filter(|(_, _, resource)| *resource != forbidden);
        let rules = others.fold(
            "{apiGroups: [\"\"], resources: [pods], verbs: [list, watch]}".to_owned(),
            |rules, (_, group, resource)| {
                format!("{rules}, {{apiGroups: [{group}], resources: [{resource}], verbs: [get]}}")
            },
        );
        let _agent = Agent::start(suite, &account(cluster, &format!("without-{forbidden}"), &rules)?)?;
        until("it is synced", 30, || metric("observer_kubernetes_up", &[]) == Some(1.0))?;
        cluster.apply(&match kind {
            "Job" => format!(
                "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: outage}}\nspec: {{template: {}}}\n",
                scenes::template(r#"["/workload","exit","--after","2"]"#)
            ),
            "StatefulSet" => scenes::scalable(kind, "outage", 1, "  serviceName: outage\n", ""),
            _ => scenes::scalable("Deployment", "outage", 1, "", ""),
        })?;
        let starts = || metric("observer_workload_starts_total", &["workload=\"outage"]);
        until(&format!("the start is reported without {kind}"), 60, || starts() == Some(1.0))?;
        ensure!(said(&format!("cannot get {kind}")), "it does not say that it may not get a {kind}");
        remove(cluster)?;
    }
    Ok(())
}
