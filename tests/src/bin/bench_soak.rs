//! Half an hour of everything at once: `cargo xtask bench soak`.
//!
//! The daemon runs in a cgroup with the limit of deploy/base while pods come and go, processes are OOM-killed, it is
//! scraped, and the Kubernetes API (a mock) fails in every way. At the end its counts are compared with the kernel's,
//! and its memory, descriptors and table entries with those of the beginning.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use clap::Parser;
use observer_ebpf::abi::CgroupTotals;
use observer_tests::{
    daemon::{Daemon, binary, sum},
    group::{Group, Tree},
    interrupted,
    mock_api::{Answers, MockApi},
    pod::{self, Pod},
};
use serde_json::{Value, json};

#[derive(Parser)]
struct Cli {
    /// How long it lasts
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// The daemon's memory limit in MiB
    #[arg(long, default_value_t = 64)]
    limit: u64,
}

const MIB: u64 = 1 << 20;
const NAMESPACE: &str = "soak";
const WORKLOADS: [&str; 8] = ["ant", "bee", "cat", "dog", "eel", "fly", "gnu", "hen"];
/// The OOM killer takes it, and what it forks, before all others.
const CHOSEN: &str = r#"echo 1000 >/proc/self/oom_score_adj && exec "$0" "$@""#;
/// Makers of pods.
const MAKERS: u32 = 3;
/// Of the daemon's figures.
const EVERY: Duration = Duration::from_secs(10);
/// Between two scrapes.
const SCRAPE: Duration = Duration::from_secs(5);
/// The API answers this long, and fails for a fifth of it.
const WELL: Duration = Duration::from_secs(75);
const ILL: Duration = Duration::from_secs(15);
/// After it answers again a client may wait half a minute until its next try.
const CAUGHT_UP: Duration = Duration::from_secs(45);

fn main() -> Result<()> {
    let cli = Cli::parse();
    let directory = std::env::temp_dir().join(format!("observer-soak-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    interrupted::clean_up(directory.clone())?;
    let done = soak(&cli, &directory);
    match &done {
        Ok(_) => {
            let _ = fs::remove_dir_all(&directory);
        }
        Err(_) => eprintln!("what the daemon wrote is in {}", directory.display()),
    }
    println!("{}", done?);
    Ok(())
}

/// What was done to it, as the kernel and this program counted it.
#[derive(Default)]
struct Done {
    over: AtomicBool,
    pods: AtomicU32,
    containers: AtomicU64,
    /// By the counters of the groups.
    kills: AtomicU64,
    api_failures: AtomicU32,
    scrapes: AtomicU32,
    slowest_scrape_ms: AtomicU64,
    /// Pods without containers whose objects are still there.
    ended: Mutex<Vec<String>>,
    errors: Mutex<Vec<String>>,
}

impl Done {
    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn try_or_end(&self, result: Result<()>) {
        if let Err(error) = result {
            self.errors.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
            self.over.store(true, Ordering::Relaxed);
        }
    }

    /// In small steps, so that an end is seen soon.
    fn pause(&self, span: Duration) {
        let until = Instant::now() + span;
        while !self.over() && Instant::now() < until {
            sleep(Duration::from_millis(100).min(until.saturating_duration_since(Instant::now())));
        }
    }
}

struct Soak<'a> {
    tree: &'a Tree,
    api: &'a MockApi,
    daemon: &'a Daemon,
    own: &'a Group,
    workload: PathBuf,
    done: &'a Done,
}

fn soak(cli: &Cli, directory: &std::path::Path) -> Result<Value> {
    let tree = Tree::find().context("the soak needs memory cgroups: run as root")?;
    let api = MockApi::start()?;
    for name in WORKLOADS {
        pod::workload(&api, NAMESPACE, name, 1);
    }
    let own = tree.group(&format!("observer-soak-{}", std::process::id()))?;
    own.limit(cli.limit * MIB)?;
    let kubeconfig = api.kubeconfig(directory)?.display().to_string();
    let state = directory.join("state.json").display().to_string();
    let args = ["--node-name", "mock", "--kubeconfig", &kubeconfig, "--state", &state, "--retention", "1m"];
    let mut daemon = Daemon::start_in(&own, &binary("observer")?, directory, &args)?;
    daemon.ready(Duration::from_secs(60))?;
    let done = Done::default();
    let soak = Soak {
        tree: &tree,
        api: &api,
        daemon: &daemon,
        own: &own,
        workload: binary("workload")?,
        done: &done,
    };
    // One of each workload stays, so that its series do.
    let mut stays = Vec::new();
    for name in WORKLOADS {
        let (pod, n) = soak.pod(name, 2)?;
        let sleep = |group: &Group| group.spawn("/bin/sleep".as_ref(), &["36000"]);
        let children = pod.groups.iter().map(sleep).collect::<Result<Vec<_>>>()?;
        pod.report(&api, n);
        stays.push((children, pod));
    }
    let (began, span) = (Instant::now(), Duration::from_secs_f64(cli.minutes * 60.0));
    let first_fds = descriptors(daemon.pid())?;
    let mut figures = Vec::new();
    thread::scope(|scope| {
        for maker in 0..MAKERS {
            let soak = &soak;
            scope.spawn(move || done_by(soak.done, || soak.pods(maker)));
        }
        scope.spawn(|| done_by(&done, || soak.scrapes()));
        scope.spawn(|| done_by(&done, || soak.api_fails()));
        while !done.over() && began.elapsed() < span {
            match soak.figures(began) {
                Ok(row) => {
                    eprintln!("{row}");
                    figures.push(row);
                }
                Err(error) => done.try_or_end(Err(error)),
            }
            done.pause(EVERY);
        }
        done.over.store(true, Ordering::Relaxed);
    });
    let errors = std::mem::take(&mut *done.errors.lock().unwrap_or_else(PoisonError::into_inner));
    if let Some(error) = errors.first() {
        bail!("{error}\nlog: {}", daemon.log_text());
    }
    let report = soak.judge(&figures, first_fds, cli)?;
    for child in stays.iter_mut().flat_map(|(children, _)| children) {
        ensure!(child.try_wait()?.is_none(), "a pod that was to stay is gone");
        child.kill()?;
        child.wait()?;
    }
    drop(stays);
    ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
    Ok(report)
}

fn done_by(done: &Done, run: impl FnOnce() -> Result<()>) {
    done.try_or_end(run());
}

impl Soak<'_> {
    fn pod(&self, workload: &str, containers: u32) -> Result<(Pod, u32)> {
        let n = self.done.pods.fetch_add(1, Ordering::Relaxed);
        self.done.containers.fetch_add(u64::from(containers), Ordering::Relaxed);
        Ok((Pod::make(self.tree, NAMESPACE, workload, n, containers)?, n))
    }

    /// Pods one after the other; each third has processes killed.
    fn pods(&self, maker: u32) -> Result<()> {
        for turn in maker.. {
            if self.done.over() {
                break;
            }
            let (mut pod, n) = self.pod(WORKLOADS[turn as usize % WORKLOADS.len()], 1 + turn % 2)?;
            let seconds = (1 + turn % 5).to_string();
            let spike = ["spike", "--peak", "24", "--steady", "8", "--ramp", "0.2", "--seconds", &seconds];
            let mut children = Vec::new();
            for group in &pod.groups {
                children.push(match turn % 3 {
                    // What is killed in it is never its first process: with that the container would end, and what
                    // is left of the storm would be another start of it.
                    0 => group.spawn("/bin/sleep".as_ref(), &["600"])?,
                    _ => group.spawn(&self.workload, &spike)?,
                });
            }
            pod.report(self.api, n);
            if turn % 3 == 0 {
                pod.groups[0].limit(16 * MIB)?;
                let kills = (1 + turn % 7).to_string();
                let mut storm = Command::new("/bin/sh");
                storm.args(["-c", CHOSEN]).arg(&self.workload);
                storm.args(["storm", "--birth", "fork", "--kills", &kills, "--threads", "2", "--group"]);
                let status = storm.arg(pod.groups[0].directory()).stdout(Stdio::null()).status()?;
                ensure!(status.success(), "the storm ended with {status}");
                for child in &mut children {
                    ensure!(child.try_wait()?.is_none(), "the storm killed the first process");
                    child.kill()?;
                }
            }
            for mut child in children {
                child.wait()?;
            }
            let kills = pod.groups.iter().map(Group::oom_kills).sum::<Result<u64>>()?;
            self.done.kills.fetch_add(kills, Ordering::Relaxed);
            pod.groups.iter_mut().for_each(Group::remove);
            self.done.ended.lock().unwrap_or_else(PoisonError::into_inner).push(pod.uid.clone());
        }
        Ok(())
    }

    fn scrapes(&self) -> Result<()> {
        while !self.done.over() {
            for path in ["/healthz", "/metrics", "/metrics/history", "/api/v1/state"] {
                let began = Instant::now();
                self.daemon.get(path)?;
                let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.done.slowest_scrape_ms.fetch_max(took, Ordering::Relaxed);
                self.done.scrapes.fetch_add(1, Ordering::Relaxed);
            }
            self.done.pause(SCRAPE);
        }
        Ok(())
    }

    /// Well and ill by turns. Objects leave only when the agent must have seen them, as a kubelet that cannot reach the
    /// API removes none either.
    fn api_fails(&self) -> Result<()> {
        for failure in Answers::FAILURES.iter().cycle() {
            if self.done.over() {
                break;
            }
            self.done.pause(CAUGHT_UP);
            let ended = std::mem::take(&mut *self.done.ended.lock().unwrap_or_else(PoisonError::into_inner));
            for uid in &ended {
                Pod::gone(self.api, uid);
            }
            self.done.pause(WELL - CAUGHT_UP);
            self.api.answer(*failure);
            self.done.api_failures.fetch_add(1, Ordering::Relaxed);
            self.done.pause(ILL);
            self.api.answer(Answers::Well);
        }
        self.api.answer(Answers::Well);
        Ok(())
    }

    fn figures(&self, began: Instant) -> Result<Value> {
        let pid = self.daemon.pid();
        Ok(json!({
            "second": began.elapsed().as_secs(),
            "anonymous_bytes": anonymous_bytes(pid)?,
            "charged_bytes": self.own.usage()?,
            "descriptors": descriptors(pid)?,
            "table_entries": table_entries(pid)?,
            "kills": self.done.kills.load(Ordering::Relaxed),
            "containers": self.done.containers.load(Ordering::Relaxed),
        }))
    }

    /// Its counts beside the kernel's, once the API has answered long enough.
    fn judge(&self, figures: &[Value], first_fds: usize, cli: &Cli) -> Result<Value> {
        let of = |name: &str| {
            let with = [format!("namespace=\"{NAMESPACE}\"")];
            let text = self.daemon.get("/metrics")?;
            Ok::<_, anyhow::Error>(sum(&text, name, &[&with[0]]).unwrap_or(0.0) as u64)
        };
        let (kills, containers) =
            (self.done.kills.load(Ordering::Relaxed), self.done.containers.load(Ordering::Relaxed));
        let counts = || -> Result<(u64, u64)> {
            Ok((of("observer_workload_oom_kills_total")?, of("observer_workload_starts_total")?))
        };
        let began = Instant::now();
        while counts()? != (kills, containers) && began.elapsed() < 3 * CAUGHT_UP {
            sleep(Duration::from_secs(1));
        }
        sleep(Duration::from_secs(12)); // not one more
        let (told_kills, told_starts) = counts()?;
        let text = self.daemon.get("/metrics")?;
        let total = |name: &str| sum(&text, name, &[]).unwrap_or(0.0) as u64;
        let all = |name: &str| -> Vec<u64> { figures.iter().filter_map(|row| row[name].as_u64()).collect() };
        let (anonymous, entries) = (all("anonymous_bytes"), all("table_entries"));
        // The first tenth is its start-up.
        let steady = &anonymous[anonymous.len() / 10..];
        let half = |part: &[u64]| part.iter().copied().max().unwrap_or(0) as f64 / MIB as f64;
        let (first, second) = steady.split_at(steady.len() / 2);
        let report = json!({
            "minutes": cli.minutes,
            "containers": containers, "starts_reported": told_starts,
            "kills_by_the_kernel": kills, "kills_reported": told_kills,
            "api_failures": self.done.api_failures.load(Ordering::Relaxed),
            "api_requests_failed": self.api.refused(),
            "scrapes": self.done.scrapes.load(Ordering::Relaxed),
            "slowest_scrape_ms": self.done.slowest_scrape_ms.load(Ordering::Relaxed),
            "limit_mib": cli.limit,
            "own_peak_mib": self.own.peak().map(|peak| peak as f64 / MIB as f64),
            "own_oom_kills": self.own.oom_kills()?,
            "anonymous_most_mib_first_half": half(first), "anonymous_most_mib_second_half": half(second),
            "descriptors_first": first_fds, "descriptors_last": descriptors(self.daemon.pid())?,
            "table_entries_first": entries.first(), "table_entries_last": table_entries(self.daemon.pid())?,
            "table_entries_most": entries.iter().max(),
            "lost_records": lost(&text),
            "unattributed_events": total("observer_unattributed_events_total"),
        });
        let panicked = self.daemon.log_text().contains("panicked");
        let right =
            told_kills == kills && told_starts == containers && self.own.oom_kills()? == 0 && !panicked;
        ensure!(right, "it does not agree with the kernel: {report}");
        Ok(report)
    }
}

/// By reason, those that are not 0.
fn lost(exposition: &str) -> Vec<&str> {
    let lines = exposition.lines().filter_map(|line| line.strip_prefix("observer_lost_records_total"));
    lines.filter(|line| !line.ends_with(" 0")).collect()
}

/// Without the pages of its program, which belong to whoever read them first.
fn anonymous_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon in status")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Of the daemon's tables by cgroup: those of which it holds a descriptor.
fn table_entries(pid: u32) -> Result<usize> {
    let mut entries = 0;
    for info in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(info?.path()) else { continue }; // closed meanwhile
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok());
        let Some(id) = id else { continue };
        let map = MapData::from_id(id)?;
        entries += match map.info()?.name_as_str() {
            Some("CONTAINERS") => HashMap::<_, u64, u32>::try_from(Map::HashMap(map))?.keys().count(),
            Some("CGROUPS") => {
                HashMap::<_, u64, [u8; size_of::<CgroupTotals>()]>::try_from(Map::HashMap(map))?
                    .keys()
                    .count()
            }
            _ => 0,
        };
    }
    Ok(entries)
}
