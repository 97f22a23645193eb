//! A webhook that hangs, lenders that are killed, containers that end while they are lent to: every pod starts, every
//! loan ends by its deadline, and nothing is given back twice.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{cluster::Cluster, group::Tree};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    DEADLINE, MIB, NAMESPACE, NEED, SPIKE, STEADY, deployment, items, lender_ready, lenders,
    timeline::{Line, Watch, requested},
};
use crate::Suite;

/// Ends at its peak, 3.3 s after each start.
const CRASHES: &str =
    r#"["/workload","spike","--peak","160","--steady","60","--ramp","2.5","--hold","0.8","--seconds","1"]"#;
const DEPLOYMENTS: [&str; 3] = ["hung", "spiking", "crashing"];
/// Lenders are killed so often, while all that is started is lent to.
const KILLS: u32 = 4;
const BETWEEN: Duration = Duration::from_secs(5);
/// A killed lender is started again by the kubelet, and a new leader takes over within 15 s.
pub const GRACE: f64 = 25.0;
/// Beside the steady request: what a pod uses may be a little more.
pub const MOST: u64 = STEADY + 4 * MIB;

pub fn case(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let done = hang(cluster).and_then(|()| kill(cluster));
    for name in DEPLOYMENTS {
        cluster.kubectl(&["delete", "deployment", name, "-n", NAMESPACE, "--ignore-not-found"])?;
    }
    // Those killed may be waited with for a while: new ones are not.
    cluster.kubectl(&["rollout", "restart", "deployment/observer-lend", "-n", "observer"])?;
    lender_ready(cluster)?;
    done
}

/// Processes of the lenders that run, by the names of their pods. All of them were begun by this test's cluster.
pub fn processes(cluster: &Cluster) -> Result<BTreeMap<String, Pid>> {
    let pods = cluster.kubectl(&["get", "pods", "-n", "observer", "-l", super::LENDERS, "-o", "json"])?;
    let pods: serde_json::Value = serde_json::from_str(&pods)?;
    let all = Tree::find()?.group("kubepods")?; // the kubelet's: only looked at
    let mut found = BTreeMap::new();
    for pod in items(&pods) {
        let [name, uid] = ["name", "uid"].map(|field| pod["metadata"][field].as_str().unwrap_or_default());
        let directory = all.directory().join(format!("burstable/pod{uid}"));
        for container in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let processes = fs::read_to_string(container.path().join("cgroup.procs")).unwrap_or_default();
            let lender = processes.lines().find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "observer")
            });
            if let Some(pid) = lender.and_then(|pid| Pid::from_raw(pid.parse().ok()?)) {
                found.insert(name.to_owned(), pid);
            }
        }
    }
    Ok(found)
}

/// Goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Result<Self> {
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT); // it may have been ended by its probe
    }
}

fn hang(cluster: &Cluster) -> Result<()> {
    let (asked, _) = lenders(cluster)?.into_iter().next().context("no lender runs")?;
    let pid = *processes(cluster)?.get(&asked).context("the lender that is asked has no process")?;
    let stopped = Stopped::new(pid)?;
    let began = Instant::now();
    let watch = Watch::of(cluster, "app=hung")?;
    cluster.apply(&deployment("hung", 3, SPIKE))?;
    let line = watch.until(Duration::from_secs(30), |pods| {
        pods.len() == 3 && pods.values().all(|pod| pod.running.is_some())
    })?;
    drop(stopped);
    eprintln!("   three pods run {:.1} s after apply while the webhook hangs", began.elapsed().as_secs_f64());
    ensure!(line.pods.values().all(|pod| pod.requests[0].1 == STEADY), "raised by whom?\n{}", line.story());
    ensure!(began.elapsed() >= Duration::from_secs(1), "the webhook answered");
    cluster.kubectl(&["delete", "deployment", "hung", "-n", NAMESPACE])?;
    lender_ready(cluster)
}

fn kill(cluster: &Cluster) -> Result<()> {
    let seed = rand::rng().random::<u64>();
    let mut rng = StdRng::seed_from_u64(seed);
    let watch = Watch::of(cluster, "app in (spiking,crashing)")?;
    cluster.apply(&deployment("spiking", 6, SPIKE))?;
    cluster.apply(&deployment("crashing", 3, CRASHES))?;
    let killing = || -> Result<()> {
        let mut killed = 0;
        while killed < KILLS {
            std::thread::sleep(BETWEEN.mul_f64(rng.random_range(0.5..1.5)));
            let running = processes(cluster)?;
            let Some(pid) = running.values().nth(rng.random_range(0..running.len().max(1))) else { continue };
            killed += u32::from(kill_process(*pid, Signal::KILL).is_ok());
        }
        Ok(())
    };
    // Until the latest loan must be over; a container that is started again is lent to anew.
    let line = std::thread::scope(|scope| {
        let killing = scope.spawn(killing);
        let line = watch.until(Duration::from_secs(110), |pods| {
            let over = |pod: &Line| pod.requests.last().is_some_and(|(_, bytes)| *bytes <= MOST);
            let started = |pod: &Line| pod.running.is_some();
            let ended = pods.iter().filter(|(name, _)| name.starts_with("crashing"));
            pods.len() == 9
                && pods.values().all(|pod| over(pod) && started(pod))
                && ended.clone().all(|(_, pod)| pod.restarts >= 2)
        });
        killing.join().map_err(|_| anyhow::anyhow!("the killing ended in a panic"))??;
        line
    })
    .with_context(|| format!("seed {seed}"))?;
    eprintln!("   all loans were over {:.1} s after apply, with {KILLS} lenders killed", line.seconds);
    for (name, pod) in &line.pods {
        let story = || format!("seed {seed}, {name}:\n{}", line.story());
        let first = pod.requests.first().map(|(_, bytes)| *bytes);
        // The webhook may have been away at that moment: then it is created as it is.
        ensure!(matches!(first, Some(NEED | STEADY)), "{}", story());
        let (mut rises, mut falls) = (0, 0);
        for pair in pod.requests.windows(2) {
            let (before, after) = (pair[0].1, pair[1].1);
            ensure!((STEADY..=NEED).contains(&after), "{}", story());
            match after > before {
                true => (rises, falls) = (rises + 1, 0),
                false => falls += 1,
            }
            // What was remembered of the steps ends with the leader.
            ensure!(falls <= 3 + KILLS, "{}", story());
        }
        ensure!(rises <= pod.restarts, "lent again without a restart: {}", story());
        if name.starts_with("spiking") {
            ensure!(pod.restarts == 0, "{}", story());
            let (over, running) =
                (pod.requests.last().map_or(0.0, |last| last.0), pod.running.unwrap_or(0.0));
            ensure!(over - running <= DEADLINE + GRACE, "{}", story());
        }
    }
    // As the API has it now, and in force.
    let pods = cluster.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", "app=spiking", "-o", "json"])?;
    let pods: serde_json::Value = serde_json::from_str(&pods)?;
    ensure!(items(&pods).all(|pod| requested(pod) <= MOST), "{}", line.story());
    Ok(())
}
