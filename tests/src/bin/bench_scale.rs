//! What the daemon costs by the number of cgroups: `cargo xtask bench scale`.
//!
//! Every setting is measured with the pass and with the files in turn, in one run on one machine. Processor time is the
//! daemon's own (/proc/PID/stat), between two scrapes.

use std::{
    fs,
    path::PathBuf,
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use observer_tests::{
    daemon::{Daemon, binary},
    group::{Group, Tree},
};
use serde_json::{Value, json};

#[derive(Parser)]
struct Cli {
    /// Cgroups, each with a process that sleeps
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 5000])]
    cgroups: Vec<usize>,
    /// How long each setting is measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Only these loads
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Load::Idle, Load::Starts, Load::Churn])]
    load: Vec<Load>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum Load {
    /// Nothing happens
    Idle,
    /// 100 starts a minute, of 32 MiB each
    Starts,
    /// Groups are made and removed, 100 a second
    Churn,
}

/// Start-ups of before are over, and what follows growth is detached.
const SETTLE: Duration = Duration::from_secs(15);

fn main() -> Result<()> {
    let cli = Cli::parse();
    let tree = Tree::find().context("the benchmark needs memory cgroups: run as root")?;
    let (observer, workload) = (binary("observer")?, binary("workload")?);
    let directory = std::env::temp_dir().join(format!("observer-scale-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    println!("| cgroups | load | read by | CPU, % of a core | resident, MiB | scrape: CPU ms | series |");
    println!("|---|---|---|---|---|---|---|");
    for cgroups in &cli.cgroups {
        let crowd = Crowd::new(&tree, *cgroups)?;
        for load in &cli.load {
            for (by, args) in [("pass", &[][..]), ("files", &["--disable-probe", "cgroup_pass"][..])] {
                let bench =
                    Bench { tree: &tree, observer: &observer, workload: &workload, directory: &directory };
                let row = bench.measure(args, *load, Duration::from_secs(cli.seconds), *cgroups)?;
                println!(
                    "| {cgroups} | {load:?} | {by} | {:.3} | {:.1} | {:.1} | {} |",
                    row["cpu_percent"].as_f64().unwrap_or(0.0),
                    row["resident_mib"].as_f64().unwrap_or(0.0),
                    row["scrape_cpu_ms"].as_f64().unwrap_or(0.0),
                    row["series"]
                );
                eprintln!(
                    "{}",
                    json!({ "cgroups": cgroups, "load": format!("{load:?}"), "by": by, "row": row })
                );
            }
        }
        drop(crowd);
    }
    fs::remove_dir_all(directory)?;
    Ok(())
}

struct Crowd {
    groups: Vec<Group>,
    children: Vec<Child>,
}

impl Crowd {
    fn new(tree: &Tree, cgroups: usize) -> Result<Self> {
        let mut crowd = Self { groups: Vec::new(), children: Vec::new() };
        for n in 0..cgroups {
            let group =
                tree.group(&format!("observer-scale-{}/workload-{}/{n}", std::process::id(), n / 4))?;
            crowd.children.push(group.spawn("/bin/sleep".as_ref(), &["36000"])?);
            crowd.groups.push(group);
        }
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill(); // ended already is what is wanted
            let _ = child.wait();
        }
        self.groups.clear();
    }
}

struct Bench<'a> {
    tree: &'a Tree,
    observer: &'a PathBuf,
    workload: &'a PathBuf,
    directory: &'a PathBuf,
}

impl Bench<'_> {
    fn measure(&self, args: &[&str], load: Load, span: Duration, cgroups: usize) -> Result<Value> {
        let mut daemon = Daemon::start(self.observer, self.directory, args)?;
        daemon.ready(Duration::from_secs(60))?;
        sleep(SETTLE);
        let known = daemon.metric("observer_node_containers", &[])?.unwrap_or(0.0);
        ensure!(known >= cgroups as f64, "{known} containers known of {cgroups}");
        let (before, began) = (cpu_seconds(daemon.pid())?, Instant::now());
        self.load(load, span)?;
        let cpu = (cpu_seconds(daemon.pid())? - before) / began.elapsed().as_secs_f64();
        let before = cpu_seconds(daemon.pid())?;
        const SCRAPES: u32 = 5;
        let mut text = String::new();
        for _ in 0..SCRAPES {
            text = daemon.get("/metrics")?;
            sleep(Duration::from_millis(1100)); // rendered at most once a second
        }
        let scrapes = cpu_seconds(daemon.pid())? - before - cpu * 1.1 * f64::from(SCRAPES);
        let resident = daemon.metric("observer_resident_memory_bytes", &[])?.unwrap_or(0.0);
        Ok(json!({
            "cpu_percent": cpu * 100.0,
            "resident_mib": resident / f64::from(1 << 20),
            "scrape_cpu_ms": scrapes.max(0.0) * 1000.0 / f64::from(SCRAPES),
            "series": text.lines().filter(|line| !line.starts_with('#')).count(),
            "bytes": text.len(),
        }))
    }

    fn load(&self, load: Load, span: Duration) -> Result<()> {
        let began = Instant::now();
        let mut n = 0;
        let name = |n: u64| format!("observer-scale-{}/moving/{n}", std::process::id());
        while began.elapsed() < span {
            match load {
                Load::Idle => sleep(span.saturating_sub(began.elapsed())),
                Load::Starts => {
                    let group = self.tree.group(&name(n))?;
                    let args =
                        ["spike", "--peak", "32", "--steady", "16", "--ramp", "0.1", "--seconds", "0.4"];
                    group.spawn(self.workload, &args)?.wait()?;
                    sleep(Duration::from_millis(100)); // with the 0.5 s it runs: 100 a minute
                }
                Load::Churn => {
                    drop(self.tree.group(&name(n))?);
                    sleep(Duration::from_millis(10));
                }
            }
            n += 1;
        }
        Ok(())
    }
}

/// User and system time of a process.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold anything but a closing bracket after the last one.
    let (_, after) = text.rsplit_once(')').context("no name in stat")?;
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    ensure!(ticks.len() == 2, "no times in {text}");
    Ok((ticks[0] + ticks[1]) / rustix::param::clock_ticks_per_second() as f64)
}
