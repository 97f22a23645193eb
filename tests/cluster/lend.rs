//! deploy/lend: memory lent for the start, on a node with too little room for all peaks at once. The truth is the
//! API's and the kernel's: what pods request, when each settled, and the node's count of OOM kills.

mod airbag;
mod failures;
mod many;
mod picture;
mod timeline;

use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use observer_core::model::units::parse_bytes;
use observer_tests::cluster::{Cluster, NODE, control::IMAGE};
use serde_json::Value;

use self::timeline::{Timeline, Watch, requested};
use crate::{Case, Deployed, Suite, case, deployed, e2e::SmallNode};

const NAME: &str = "observer-lend.observer.svc";
const NAMESPACE: &str = "lend";
const MIB: u64 = 1 << 20;
const ROOM: u64 = 1024 * MIB;
/// The observer's own pods are below the same limit, and may grow to what they request.
const OWN: u64 = 64 * MIB;
const PODS: usize = 12;
const STEADY: u64 = 64 * MIB;
/// Of every loan, seconds: soon enough for a test.
const DEADLINE: f64 = 40.0;
const LENDERS: &str = "app.kubernetes.io/name=observer-lend";
/// Lent, as the annotation says: a little more than the peak.
const NEED: u64 = 170 * MIB;
/// Six, then three, two and one: each wave is as wide as what the settled ones leave.
const WAVES: f64 = 4.0;

pub fn cases() -> Vec<Case> {
    vec![
        Case {
            on_request: Some(
                "its time and kills need a quiet machine (docs/lend.md): cargo xtask cluster test --full lend",
            ),
            ..case(
                "lend::a_scale_up_on_a_small_node_goes_in_waves_without_a_kill",
                Deployed::WithLender,
                small_node,
            )
        },
        case("lend::pods_start_and_loans_end_without_webhook_and_lender", Deployed::WithLender, without),
        case(
            "lend::pods_start_and_loans_end_whoever_hangs_or_is_killed",
            Deployed::WithLender,
            failures::case,
        ),
        Case {
            on_request: Some("it takes ten minutes: cargo xtask cluster test --full lend"),
            ..case(
                "lend::two_hundred_starts_with_crashes_and_a_killed_kubelet_end_their_loans_without_a_kill",
                Deployed::WithLender,
                many::case,
            )
        },
        case("lend::a_limit_is_raised_once_before_it_is_met", Deployed::WithLender, airbag::case),
    ]
}

pub fn apply(suite: &Suite) -> Result<()> {
    suite.import_image()?;
    deployed::forget()?;
    let cluster = &suite.cluster;
    cluster.kubectl(&["apply", "-k", &deployed::overlay("")])?;
    cluster.apply(&suite.secret(&["--secret", "observer-lend-tls", NAME])?)?;
    cluster.kubectl(&["apply", "-k", &deployed::overlay("lend")])?;
    // Nothing of the tests' machine swaps pods out.
    let deadline = format!("OBSERVER_LEND_DEADLINE={DEADLINE}s");
    let faster = [
        &deadline,
        "OBSERVER_LEND_PENDING=60s",
        "OBSERVER_LEND_NO_SWAP_FOR_PODS=true",
        "OBSERVER_LEND_AIRBAG=true",
    ];
    cluster
        .kubectl(&[&["set", "env", "deployment/observer-lend", "-n", "observer"], &faster[..]].concat())?;
    lender_ready(cluster)?;
    deployed::ready(cluster)?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{memory-observer/lend: \"true\"}}}}\n"
    ))?;
    cluster.wait("the default service account", Duration::from_secs(30), || {
        Ok(cluster.kubectl(&["get", "serviceaccount", "default", "-n", NAMESPACE]).is_ok())
    })
}

fn lender_ready(cluster: &Cluster) -> Result<()> {
    let status = ["rollout", "status", "deployment/observer-lend", "-n", "observer", "--timeout=60s"];
    cluster.kubectl(&status)?;
    // There is no service proxy on this node, so that the API server gets the address of a pod.
    let pods = lenders(cluster)?;
    let (_, address) = pods.first().context("no lender runs")?;
    point_service(cluster, address)
}

fn point_service(cluster: &Cluster, address: &str) -> Result<()> {
    cluster.kubectl(&["delete", "service/observer-lend", "-n", "observer", "--ignore-not-found"])?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: observer-lend, namespace: observer}}\nspec: {{type: ExternalName, externalName: {address}, ports: [{{port: 9847}}]}}\n"
    ))
}

/// Names and addresses of the replicas that are ready.
fn lenders(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let pods = cluster.kubectl(&["get", "pods", "-n", "observer", "-l", LENDERS, "-o", "json"])?;
    let pods: Value = serde_json::from_str(&pods)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ready = pods["items"].as_array().into_iter().flatten().filter(|pod| {
        pod["status"]["containerStatuses"][0]["ready"] == true
            && pod["metadata"]["deletionTimestamp"].is_null()
    });
    Ok(ready.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect())
}

pub fn remove(cluster: &Cluster) -> Result<()> {
    deployed::forget()?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s"])?;
    let overlay = deployed::overlay("lend");
    cluster.kubectl(&["delete", "-k", &overlay, "--ignore-not-found", "--timeout=60s"]).map(|_| ())
}

fn deployment(name: &str, replicas: usize, command: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    \
         metadata: {{labels: {{app: {name}}}, annotations: {{memory-observer/start-memory: {}Mi}}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      automountServiceAccountToken: false\n      \
         containers:\n        - name: main\n          image: {IMAGE}\n          imagePullPolicy: Never\n          command: {command}\n          \
         resources: {{requests: {{cpu: 20m, memory: {}Mi}}, limits: {{memory: 200Mi}}}}\n",
        NEED / MIB,
        STEADY / MIB
    )
}

/// A pod that takes all that may be requested on the node but for the room.
fn filler(cluster: &Cluster) -> Result<()> {
    let node: Value = serde_json::from_str(&cluster.kubectl(&["get", "node", NODE, "-o", "json"])?)?;
    let bytes = |value: &Value| parse_bytes(value.as_str().unwrap_or_default()).unwrap_or(0);
    let allocatable = bytes(&node["status"]["allocatable"]["memory"]);
    let pods: Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", "-A", "-o", "json"])?)?;
    let requested: u64 = items(&pods).map(requested).sum();
    let fill = allocatable.checked_sub(requested + ROOM).context("the node is smaller than the room")?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: filler, namespace: default}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: {IMAGE}, imagePullPolicy: Never, command: [/workload, pause], resources: {{requests: {{memory: \"{fill}\"}}}}}}]\n"
    ))?;
    cluster.kubectl(&["wait", "pod/filler", "--for=condition=Ready", "--timeout=30s"]).map(|_| ())
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

/// Of the whole machine, by the kernel.
fn oom_kills() -> Result<u64> {
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let count = vmstat.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.context("no oom_kill in /proc/vmstat")?.trim().parse().context("oom_kill is no number")
}

/// Scales from nothing and looks until all have settled: by the kernel's counters, each had its peak and is below the
/// middle of its spike.
fn play(cluster: &Cluster, name: &str, replicas: usize, command: &str, within: Duration) -> Result<Timeline> {
    let watch = Watch::of(cluster, &format!("app={name}"))?;
    cluster.apply(&deployment(name, replicas, command))?;
    watch.until(within, |pods| pods.values().filter(|pod| pod.settled.is_some()).count() == replicas)
}

const SPIKE: &str =
    r#"["/workload","spike","--peak","160","--steady","60","--ramp","2.5","--hold","0.8","--seconds","900"]"#;

fn small_node(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let done = scale_up(cluster);
    let logs = cluster.kubectl(&["logs", "-n", "observer", "-l", LENDERS, "--tail=80"]);
    for deployment in ["alone", "many"] {
        cluster.kubectl(&["delete", "deployment", deployment, "-n", NAMESPACE, "--ignore-not-found"])?;
    }
    cluster.kubectl(&["delete", "pod", "filler", "--ignore-not-found", "--wait"])?;
    done.map_err(|error| error.context(format!("the lenders said:\n{}", logs.unwrap_or_default())))
}

fn scale_up(cluster: &Cluster) -> Result<()> {
    let alone = play(cluster, "alone", 1, SPIKE, Duration::from_secs(30))?;
    ensure!(raised(&alone), "it was not raised:\n{}", alone.story());
    cluster.kubectl(&["delete", "deployment", "alone", "-n", NAMESPACE])?;
    gone(cluster, "alone")?;
    filler(cluster)?;
    let _small = SmallNode::with_room(ROOM + OWN)?;
    let kills = oom_kills()?;
    let many = play(cluster, "many", PODS, SPIKE, Duration::from_secs(90))?;
    let kills = oom_kills()? - kills;
    let share = many.requested() / (PODS as f64 * (NEED / MIB) as f64 * many.seconds);
    let wanted = 1.3 * WAVES * alone.seconds;
    let mut waves: Vec<f64> = many.pods.values().filter_map(|pod| pod.settled).collect();
    waves.sort_by(f64::total_cmp);
    eprintln!(
        "   one alone {:.1} s; {PODS} settled after {:.1} s ({wanted:.1} are wanted), at {waves:.1?}; {kills} OOM kills; requested {:.0} MiB x s, {:.0} % of the peaks\n{}",
        alone.seconds,
        many.seconds,
        many.requested(),
        share * 100.0,
        many.story()
    );
    if let Some(folder) = std::env::var_os("KEEP_RECORDINGS") {
        let caption =
            format!("{PODS} pods of {} MiB at their peak, {} MiB settled", NEED / MIB, STEADY / MIB);
        let svg = picture::svg(&many, ROOM, &caption).map_err(|error| anyhow!(error))?;
        fs::create_dir_all(&folder)?;
        fs::write(Path::new(&folder).join("lend.svg"), svg)?;
    }
    ensure!(kills == 0, "{kills} OOM kills:\n{}", many.story());
    ensure!(raised(&many), "not all were raised:\n{}", many.story());
    // How fast twelve pods start beside others is the machine's affair; that they go in waves and end is the lender's.
    ensure!(share <= 0.5, "requested {:.0} % of the peaks", share * 100.0);
    ensure!(many.restarts() == 0, "restarts:\n{}", many.story());
    // The verdict comes 17 s after the truth; by then everything is given back.
    // Never below what a pod uses: 60 MiB and the runtime's, and 5 %.
    given_back(cluster, "many", STEADY + 4 * MIB, Duration::from_secs(60))?;
    for (pod, line) in &many.pods {
        let falls = line.requests.is_sorted_by(|a, b| a.1 >= b.1);
        ensure!(line.requests.len() <= 4 && falls, "{pod}: {:?}", line.requests);
    }
    let events = cluster.kubectl(&["get", "events", "-n", NAMESPACE, "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(events.contains("MemoryRequestResized"), "no Event says what was given back: {events}");
    Ok(())
}

/// Each was made with its loan.
fn raised(line: &Timeline) -> bool {
    line.pods.values().all(|pod| pod.requests.first().is_some_and(|(_, bytes)| *bytes == NEED))
}

fn gone(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.wait("the end of the pods", Duration::from_secs(60), || {
        Ok(cluster
            .kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &format!("app={name}"), "-o", "name"])?
            .is_empty())
    })
}

/// Waits until every pod requests what its user wrote, or up to as much as this, in the spec and in force.
fn given_back(cluster: &Cluster, name: &str, most: u64, within: Duration) -> Result<()> {
    cluster.wait("everything to be given back", within, || {
        let pods =
            cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &format!("app={name}"), "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let back = |pod: &Value| {
            let actual = pod["status"]["containerStatuses"][0]["resources"]["requests"]["memory"].as_str();
            let asked = requested(pod);
            (STEADY..=most).contains(&asked) && actual.and_then(|text| parse_bytes(text).ok()) == Some(asked)
        };
        ensure!(items(&pods).count() > 0, "there is no pod");
        match items(&pods).find(|pod| !back(pod)) {
            None => Ok(true),
            Some(pod) => bail!("{} requests {} MiB", pod["metadata"]["name"], requested(pod) / MIB),
        }
    })
}

/// The webhook refuses connections, then nobody gives back: pods start all the same, and loans end by their deadline.
fn without(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let done = without_lender(cluster);
    for name in ["unraised", "lent"] {
        cluster.kubectl(&["delete", "deployment", name, "-n", NAMESPACE, "--ignore-not-found"])?;
    }
    cluster.kubectl(&["scale", "deployment/observer-lend", "-n", "observer", "--replicas=2"])?;
    lender_ready(cluster)?;
    done
}

fn without_lender(cluster: &Cluster) -> Result<()> {
    // A start-up that never settles by itself within the deadline: it swings.
    let swing = r#"["/workload","swing","--low","20","--high","50","--period","3","--seconds","900"]"#;
    cluster.apply(&deployment("lent", 2, swing))?;
    cluster.kubectl(&["rollout", "status", "deployment/lent", "-n", NAMESPACE, "--timeout=30s"])?;
    let requests = |name: &str| -> Result<Vec<u64>> {
        let pods =
            cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", &format!("app={name}"), "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        Ok(items(&pods).map(requested).collect())
    };
    ensure!(requests("lent")? == [NEED, NEED], "not raised: {:?}", requests("lent")?);
    // All lenders end; the webhook's address refuses.
    cluster.kubectl(&["scale", "deployment/observer-lend", "-n", "observer", "--replicas=0"])?;
    // One that is ending answers the webhook until it has.
    cluster.wait("the lenders' end", Duration::from_secs(60), || {
        Ok(cluster
            .kubectl(&["get", "pods", "-n", "observer", "-l", LENDERS, "-o", "name"])?
            .trim()
            .is_empty())
    })?;
    let began = Instant::now();
    cluster.apply(&deployment("unraised", 3, swing))?;
    cluster.kubectl(&["rollout", "status", "deployment/unraised", "-n", NAMESPACE, "--timeout=60s"])?;
    eprintln!("   three pods ready {:.1} s after apply without a webhook", began.elapsed().as_secs_f64());
    ensure!(requests("unraised")? == [STEADY; 3], "raised by whom? {:?}", requests("unraised")?);
    ensure!(requests("lent")? == [NEED, NEED], "given back by whom? {:?}", requests("lent")?);
    // Their deadline passes without a lender; the next one ends them at once.
    sleep(Duration::from_secs(45).saturating_sub(began.elapsed()));
    cluster.kubectl(&["scale", "deployment/observer-lend", "-n", "observer", "--replicas=2"])?;
    lender_ready(cluster)?;
    given_back(cluster, "lent", STEADY, Duration::from_secs(30))
}
