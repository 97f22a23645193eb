//! The daemon in a cgroup with the memory limit of deploy/base: what it is killed by is counted by the kernel.

use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    daemon::{Daemon, patience, until},
    group::Group,
    mock_api::MockApi,
    pod::{self, Pod},
};
use serde_json::{Value, json};

use super::kernel::{MIB, group};
use crate::{Case, Needs::Probes, Stage};

pub const CASES: &[Case] = &[
    Case {
        name: "a_thousand_containers_fit_the_memory_limit_as_they_start_and_after_a_restart",
        needs: Probes,
        run: dense,
    },
    Case { name: "a_state_file_at_its_bounds_fits_the_memory_limit", needs: Probes, run: full_state },
    Case { name: "ten_thousand_jobs_that_ended_fit_the_memory_limit", needs: Probes, run: dead_jobs },
];

/// deploy/base/daemonset.yaml
const LIMIT: u64 = 64 * MIB;
const PODS: u32 = 250;
const CONTAINERS: u32 = 4;
/// Of many containers at once, on a machine that also starts them.
const SLOW: Duration = Duration::from_secs(180);

/// A daemon in its limit, and the group that has it.
struct Limited {
    group: Group,
    daemon: Daemon,
}

impl Limited {
    fn start(stage: &Stage, name: &str, args: &[&str]) -> Result<Self> {
        let group = group(stage, name)?;
        group.limit(LIMIT)?;
        let mut daemon = Daemon::start_in(&group, &stage.observer, &stage.directory, args)?;
        daemon.ready(Duration::from_secs(30))?;
        Ok(Self { group, daemon })
    }

    /// It lives, answers everything, and the kernel killed nothing in it.
    fn unharmed(&self, what: &str) -> Result<()> {
        let mut answers = Vec::new();
        for path in ["/healthz", "/metrics", "/metrics/history", "/api/v1/state"] {
            let began = Instant::now();
            let answer = self.daemon.get(path)?;
            answers.push(format!("{path} {} KiB in {} ms", answer.len() >> 10, began.elapsed().as_millis()));
        }
        let kills = self.group.oom_kills()?;
        ensure!(kills == 0, "{what}: the kernel killed it {kills} times:\n{}", self.daemon.log_text());
        ensure!(!self.daemon.log_text().contains("panicked"), "{}", self.daemon.log_text());
        let mib = |bytes: u64| bytes.div_ceil(MIB);
        let taken = self.daemon.metric("observer_memory_taken_bytes", &[])?.unwrap_or(0.0);
        let peak = self.group.peak().map_or("unknown".to_owned(), |peak| mib(peak).to_string());
        println!(
            "{what}: peak {peak} MiB of {}, {} MiB that cannot be taken back; {}",
            mib(LIMIT),
            mib(taken as u64),
            answers.join(", ")
        );
        Ok(())
    }
}

/// Without the log, which has a line for each container.
fn within_reason(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    until(what, SLOW, Duration::from_millis(500), is_so)
}

/// Processes that sleep, ended when dropped.
#[derive(Default)]
struct Sleepers(Vec<Child>);

impl Sleepers {
    fn add(&mut self, group: &Group) -> Result<()> {
        let mut sleep = group.command("/bin/sleep".as_ref());
        sleep.arg("3600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.0.push(sleep.spawn().context("cannot start sleep")?);
        Ok(())
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill(); // ended already is what is wanted
            let _ = child.wait();
        }
    }
}

fn dense(stage: &Stage) -> Result<()> {
    let api = MockApi::start()?;
    let kubeconfig = api.kubeconfig(&stage.directory)?.display().to_string();
    let state = stage.directory.join("dense.json").display().to_string();
    let args = ["--node-name", "mock", "--kubeconfig", &kubeconfig, "--state", &state];
    let limited = Limited::start(stage, "own-dense", &args)?;
    let (mut pods, mut sleepers) = (Vec::new(), Sleepers::default());
    for n in 0..PODS {
        let name = format!("team-{n}-service");
        pod::workload(&api, "dense", &name, 1);
        let pod = Pod::make(stage.tree()?, "dense", &name, n, CONTAINERS)?;
        pod.groups.iter().try_for_each(|group| sleepers.add(group))?;
        pod.report(&api, n);
        pods.push(pod);
    }
    let all = f64::from(PODS * CONTAINERS);
    let of_pods = ["namespace=\"dense\""];
    // Series are kept of 1,000 workloads, and this machine has others besides these.
    let counted = |daemon: &Daemon| -> Result<f64> {
        let of =
            |name: &str, with: &[&str]| Ok::<_, anyhow::Error>(daemon.metric(name, with)?.unwrap_or(0.0));
        Ok(of("observer_workload_starts_total", &of_pods)?
            + of("observer_workload_series_dropped_total", &[])?)
    };
    within_reason("all are counted", || Ok(counted(&limited.daemon)? >= all))?;
    limited.unharmed("250 pods of 250 workloads, 4 containers each, as they start")?;
    let Limited { group, daemon } = limited;
    ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
    drop(group);

    let limited = Limited::start(stage, "own-restarted", &args)?;
    let named = |daemon: &Daemon| -> Result<usize> {
        let text = daemon.get("/metrics")?;
        let running = |line: &&str| {
            line.starts_with("observer_container_state{") && line.contains(of_pods[0]) && line.ends_with(" 1")
        };
        Ok(text.lines().filter(running).count())
    };
    within_reason("all are named", || Ok(named(&limited.daemon)? as f64 == all))?;
    limited.unharmed("a restart over 1,000 running containers")?;
    let starts = limited.daemon.metric("observer_workload_starts_total", &of_pods)?.unwrap_or(0.0);
    ensure!(starts == 0.0, "{starts} containers that ran are counted as started");
    ensure!(limited.daemon.stop()?.success(), "the observer did not stop cleanly");
    Ok(())
}

/// 1,000 workloads of 24 start-ups with whole curves, as an observer without a bound in bytes wrote it.
fn full_state(stage: &Stage) -> Result<()> {
    let path = stage.directory.join("full.json");
    let startup = |workload: u64, n: u64| {
        let curve: Vec<u64> = (0..64)
            .map(|span| 1_000_000 + (workload * 7919 + n * 104_729 + span * 15_485_863) % 900_000_000)
            .collect();
        json!({ "started": 1_795_000_000 + n * 1000, "outcome": "stable", "peak": 900_000_000, "peak_seconds": 0.5,
            "working_set_peak": 900_000_000, "growth": 9e7, "time_to_stable": 0.4, "steady": 800_000_000,
            "overshoot": 1.1, "span": 0.4, "curve": curve })
    };
    let workload = |n: u64| {
        let startups: Vec<Value> = (0..24).map(|startup_n| startup(n, startup_n)).collect();
        let seconds: Vec<Value> = (60..240).map(|bucket| json!([bucket, (n + bucket) as f64])).collect();
        json!({ "namespace": "", "workload": format!("/batch/job-w{n}x"), "workload_type": "cgroup", "container": "",
            "startups": startups, "levels": { "seconds": seconds, "until": 1_795_100_000.0, "halved": 1_795_000_000.0 } })
    };
    let workloads: Vec<Value> = (0..1000).map(workload).collect();
    fs::write(&path, json!({ "version": 1, "workloads": workloads }).to_string())?;
    let bytes = fs::metadata(&path)?.len();
    ensure!(bytes > 14 << 20, "it has only {bytes} bytes");
    let state = path.display().to_string();
    // As it was, and as the first run writes it anew.
    for run in ["as it was found", "as it was written anew"] {
        let limited = Limited::start(stage, "own-state", &["--state", &state])?;
        let known = || -> Result<usize> {
            let text = limited.daemon.get("/metrics/history")?;
            let name = "observer_workload_history_startups{";
            Ok(text.lines().filter(|line| line.starts_with(name) && line.contains("/batch/job-w")).count())
        };
        within_reason("most of the workloads are known", || Ok(known()? > 500))?;
        let known = known()?;
        limited.unharmed(&format!("a state file of {} MiB {run}, {known} workloads used", bytes >> 20))?;
        ensure!(limited.daemon.stop()?.success(), "the observer did not stop cleanly");
    }
    Ok(())
}

const JOBS: u32 = 10_000;
const MAKERS: u32 = 2;

/// Names in which no number makes them instances of one workload.
fn word(mut n: u32) -> String {
    let mut word = String::new();
    for _ in 0..4 {
        word.push(char::from(b'a' + (n % 26) as u8));
        n /= 26;
    }
    word
}

fn dead_jobs(stage: &Stage) -> Result<()> {
    let limited = Limited::start(stage, "own-jobs", &["--retention", "5s"])?;
    let jobs = JOBS / patience();
    thread::scope(|scope| {
        let make = |maker: u32| -> Result<()> {
            for n in (maker..jobs).step_by(MAKERS as usize) {
                let mut job = group(stage, &format!("job-{}", word(n)))?;
                let mut program = job.command("/bin/true".as_ref());
                let status = program.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
                ensure!(status.success(), "a job ended with {status}");
                job.remove();
            }
            Ok(())
        };
        let makers: Vec<_> = (0..MAKERS).map(|maker| scope.spawn(move || make(maker))).collect();
        makers
            .into_iter()
            .try_for_each(|maker| maker.join().unwrap_or_else(|_| anyhow::bail!("a maker panicked")))
    })?;
    // Where they come faster than a slow machine reads them, records of some are lost.
    let many = f64::from(jobs / 2) - 1000.0;
    let dropped = || limited.daemon.metric("observer_workload_series_dropped_total", &[]);
    within_reason("jobs make room for others", || Ok(dropped()?.unwrap_or(0.0) >= many))?;
    limited.unharmed(&format!("{jobs} jobs of unique names that ended"))?;
    ensure!(limited.daemon.stop()?.success(), "the observer did not stop cleanly");
    Ok(())
}
