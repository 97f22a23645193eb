//! Two hundred starts that are lent to, while lenders and the kubelet are killed: some have a second spike, some crash
//! at their peak, some end later and start again. No kill by giving back, and every loan ends by its deadline.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::cluster::{Cluster, control};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::process::{Signal, kill_process};

use super::{
    DEADLINE, NAMESPACE, deployment,
    failures::{GRACE, MOST, processes},
    gone, lender_ready, oom_kills,
    timeline::{Line, Timeline, Watch},
};
use crate::Suite;

/// Of each round: its pods, and what they run. Each peak is four times the level afterwards.
const KINDS: [(&str, usize, &str); 4] = [
    ("plain", 22, "--seconds 900"),
    ("twice", 8, "--again 12 --seconds 900"),
    ("crashing", 5, "--seconds 1"),
    ("restarting", 5, "--seconds 25"),
];
const ROUNDS: usize = 5;
/// Forty pods on two processors are started within this long.
const STARTS: Duration = Duration::from_secs(90);
const KUBELET_AWAY: Duration = Duration::from_secs(6);

pub fn case(suite: &Suite) -> Result<()> {
    let cluster = &suite.cluster;
    let seed = rand::rng().random::<u64>();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut starts = 0;
    for number in 1..=ROUNDS {
        let done = round(cluster, &mut rng).with_context(|| format!("round {number}, seed {seed}"));
        for (name, ..) in KINDS {
            cluster.kubectl(&["delete", "deployment", name, "-n", NAMESPACE, "--ignore-not-found"])?;
        }
        for (name, ..) in KINDS {
            gone(cluster, name)?;
        }
        // Those killed may be waited with for a while: new ones are not.
        cluster.kubectl(&["rollout", "restart", "deployment/observer-lend", "-n", "observer"])?;
        lender_ready(cluster)?;
        let line = done?;
        starts += line.pods.len() as u64 + line.restarts();
        eprintln!(
            "   round {number}: {} pods, {} restarts, all loans over after {:.0} s",
            line.pods.len(),
            line.restarts(),
            line.seconds
        );
    }
    ensure!(starts >= 200, "only {starts} starts");
    Ok(())
}

fn round(cluster: &Cluster, rng: &mut StdRng) -> Result<Timeline> {
    let names: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
    let kills = oom_kills()?;
    let watch = Watch::of(cluster, &format!("app in ({})", names.join(",")))?;
    let pods: usize = KINDS.iter().map(|(_, pods, _)| pods).sum();
    for (name, replicas, end) in KINDS {
        let command = format!("/workload spike --peak 160 --steady 40 --ramp 1.5 --hold 0.5 {end}");
        let command: Vec<&str> = command.split(' ').collect();
        cluster.apply(&deployment(name, replicas, &serde_json::to_string(&command)?))?;
    }
    let faults = [rng.random_range(5.0..25.0), rng.random_range(5.0..25.0)];
    let nth = rng.random_range(0..2);
    let disturb = || -> Result<()> {
        sleep(Duration::from_secs_f64(faults[0]));
        if let Some(lender) = processes(cluster)?.values().nth(nth) {
            let _ = kill_process(*lender, Signal::KILL); // it may just have ended
        }
        sleep(Duration::from_secs_f64(faults[1]));
        control::kill_kubelet(cluster, KUBELET_AWAY)
    };
    let within = STARTS + Duration::from_secs_f64(DEADLINE + GRACE) + KUBELET_AWAY;
    let began = Instant::now();
    let line = std::thread::scope(|scope| {
        let disturbing = scope.spawn(disturb);
        let line = watch.until(within, |all| {
            let over = |pod: &Line| pod.requests.last().is_some_and(|(_, bytes)| *bytes <= MOST);
            let ended = |pod: &Line| pod.running.is_some() && over(pod);
            // Not before what is to happen in it has.
            all.len() == pods
                && all.values().all(ended)
                && began.elapsed() > Duration::from_secs(60)
                && all.iter().all(|(name, pod)| !name.starts_with("crashing") || pod.restarts > 0)
        });
        disturbing.join().map_err(|_| anyhow::anyhow!("the killing ended in a panic"))??;
        line
    })?;
    let kills = oom_kills()? - kills;
    ensure!(kills == 0, "{kills} OOM kills:\n{}", line.story());
    for (name, pod) in &line.pods {
        let story = || format!("{name}:\n{}", line.story());
        let rises = pod.requests.windows(2).filter(|pair| pair[1].1 > pair[0].1).count() as u64;
        ensure!(rises <= pod.restarts, "lent again without a restart: {}", story());
        if name.starts_with("plain") || name.starts_with("twice") {
            let over = pod.requests.last().map_or(0.0, |last| last.0) - pod.running.unwrap_or(0.0);
            ensure!(pod.restarts == 0, "{}", story());
            ensure!(over <= DEADLINE + GRACE, "over after {over:.0} s: {}", story());
        }
    }
    Ok(line)
}
