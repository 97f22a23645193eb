//! What the daemon costs by the number of cgroups: `cargo xtask bench scale`.
//!
//! Every setting is measured with the pass and with the files in turn, in one run on one machine, and cAdvisor beside
//! them where there is one. Processor time is the process's own as the scheduler counts it, between two scrapes. Rows
//! are written as they come; `--report` makes performance.md of them.

#[path = "bench_scale/report.rs"]
mod report;

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use observer_tests::{
    daemon::{Daemon, binary, free_port},
    group::{Group, Tree},
};
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Cli {
    /// Cgroups, each with a process that sleeps; four to a workload
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 5000])]
    cgroups: Vec<usize>,
    /// How long each setting is measured
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Only these loads
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Load::Idle, Load::Starts, Load::Churn])]
    load: Vec<Load>,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Reader::Pass, Reader::Files, Reader::Cadvisor])]
    by: Vec<Reader>,
    /// A program that serves cAdvisor's memory metrics at the address it is given; without one it is left out
    #[arg(long)]
    cadvisor: Option<PathBuf>,
    /// Rows are added here, one JSON object a line
    #[arg(long)]
    rows: Option<PathBuf>,
    /// Measure nothing: write performance.md and its curves into this folder, from the rows
    #[arg(long, requires = "rows")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Load {
    /// Nothing happens
    Idle,
    /// 100 starts a minute, of 32 MiB each
    Starts,
    /// Groups with names of their own are made and removed, 100 a second
    Churn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Reader {
    Pass,
    Files,
    Cadvisor,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    cgroups: usize,
    load: Load,
    by: Reader,
    cpu_percent: f64,
    resident_mib: f64,
    scrape_cpu_ms: f64,
    scrape_gzip_bytes: usize,
    series: usize,
    /// Not of cAdvisor.
    lost: Option<f64>,
    machine: String,
    date: String,
}

/// Start-ups of before are over, and what follows growth is detached.
const SETTLE: Duration = Duration::from_secs(15);

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let (Some(folder), Some(rows)) = (&cli.report, &cli.rows) {
        let text = fs::read_to_string(rows).with_context(|| format!("cannot read {}", rows.display()))?;
        let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>()?;
        return report::write(folder, &rows);
    }
    let tree = Tree::find().context("the benchmark needs memory cgroups: run as root")?;
    let directory = std::env::temp_dir().join(format!("observer-scale-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let bench =
        Bench { tree, observer: binary("observer")?, workload: binary("workload")?, directory, cli: &cli };
    let done = bench.all();
    let _ = fs::remove_dir_all(&bench.directory);
    done
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

/// Whoever is measured.
struct Running {
    pid: u32,
    address: String,
    _ends: Ends,
}

/// Held for its drop.
#[allow(dead_code)]
enum Ends {
    Daemon(Daemon),
    Peer(Peer),
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill(); // ended already is what is wanted
        let _ = self.0.wait();
    }
}

struct Bench<'a> {
    tree: Tree,
    observer: PathBuf,
    workload: PathBuf,
    directory: PathBuf,
    cli: &'a Cli,
}

impl Bench<'_> {
    fn all(&self) -> Result<()> {
        println!(
            "| cgroups | load | read by | CPU, % of a core | resident, MiB | scrape: CPU ms | KiB gzipped | series | lost |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
        for cgroups in &self.cli.cgroups {
            let crowd = Crowd::new(&self.tree, *cgroups)?;
            for load in &self.cli.load {
                for by in &self.cli.by {
                    let Some(row) = self.measure(*by, *load, *cgroups)? else { continue };
                    println!("{}", report::line(&row));
                    if let Some(rows) = &self.cli.rows {
                        let mut rows = OpenOptions::new().create(true).append(true).open(rows)?;
                        writeln!(rows, "{}", serde_json::to_string(&row)?)?;
                    }
                }
            }
            drop(crowd);
        }
        Ok(())
    }

    /// `None`: there is no such reader here.
    fn start(&self, by: Reader) -> Result<Option<Running>> {
        let args: &[&str] = match by {
            Reader::Pass => &[],
            Reader::Files => &["--disable-probe", "cgroup_pass"],
            Reader::Cadvisor => {
                let Some(program) = &self.cli.cadvisor else { return Ok(None) };
                let address = format!("127.0.0.1:{}", free_port()?);
                let mut peer = Command::new(program);
                peer.arg(&address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let peer = peer.spawn().with_context(|| format!("cannot start {}", program.display()))?;
                return Ok(Some(Running { pid: peer.id(), address, _ends: Ends::Peer(Peer(peer)) }));
            }
        };
        let mut daemon = Daemon::start(&self.observer, &self.directory, args)?;
        daemon.ready(Duration::from_secs(60))?;
        Ok(Some(Running { pid: daemon.pid(), address: daemon.address.clone(), _ends: Ends::Daemon(daemon) }))
    }

    fn measure(&self, by: Reader, load: Load, cgroups: usize) -> Result<Option<Row>> {
        let Some(running) = self.start(by)? else { return Ok(None) };
        sleep(SETTLE);
        let known = running.text()?;
        if by != Reader::Cadvisor {
            let known = observer_tests::daemon::sum(&known, "observer_node_containers", &[]).unwrap_or(0.0);
            ensure!(known >= cgroups as f64, "{known} containers known of {cgroups}");
        }
        let (before, began) = (cpu_seconds(running.pid)?, Instant::now());
        self.load(load, Duration::from_secs(self.cli.seconds))?;
        let cpu = (cpu_seconds(running.pid)? - before) / began.elapsed().as_secs_f64();
        let (before, began) = (cpu_seconds(running.pid)?, Instant::now());
        const SCRAPES: u32 = 5;
        let mut zipped = 0;
        for _ in 0..SCRAPES {
            zipped = running.scrape()?.len();
            sleep(Duration::from_millis(1100)); // rendered at most once a second
        }
        let beside = cpu * began.elapsed().as_secs_f64();
        let scrapes = cpu_seconds(running.pid)? - before - beside;
        let resident_mib = resident_bytes(running.pid)? as f64 / f64::from(1 << 20);
        let text = running.text()?;
        let lost = observer_tests::daemon::sum(&text, "observer_lost_records_total", &[]);
        Ok(Some(Row {
            cgroups,
            load,
            by,
            cpu_percent: cpu * 100.0,
            resident_mib,
            scrape_cpu_ms: scrapes.max(0.0) * 1000.0 / f64::from(SCRAPES),
            scrape_gzip_bytes: zipped,
            series: text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count(),
            lost,
            machine: machine(&self.tree),
            date: date()?,
        }))
    }

    fn load(&self, load: Load, span: Duration) -> Result<()> {
        let began = Instant::now();
        let mut n = 0;
        let name = |n: u64| format!("observer-scale-{}/moving/one-{n}-x", std::process::id());
        while began.elapsed() < span {
            match load {
                Load::Idle => sleep(span.saturating_sub(began.elapsed())),
                Load::Starts => {
                    let group = self.tree.group(&name(n))?;
                    let args =
                        ["spike", "--peak", "32", "--steady", "16", "--ramp", "0.1", "--seconds", "0.4"];
                    group.spawn(&self.workload, &args)?.wait()?;
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

impl Running {
    fn text(&self) -> Result<String> {
        observer_tests::daemon::get(&format!("http://{}/metrics", self.address))
    }

    /// As Prometheus asks for it.
    fn scrape(&self) -> Result<Vec<u8>> {
        let ask = ureq::get(format!("http://{}/metrics", self.address)).header("accept-encoding", "gzip");
        let ask = ask.config().timeout_global(Some(Duration::from_secs(30))).build();
        Ok(ask.call()?.body_mut().with_config().limit(1 << 30).read_to_vec()?)
    }
}

/// On a processor, of all threads that live: nanoseconds by the scheduler's count.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One may end meanwhile.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next().context("no time in schedstat")?.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = text.split_whitespace().nth(1).context("no resident pages in statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn machine(tree: &Tree) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("an unnamed processor", |(_, model)| model);
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get());
    let version = if tree.is_v1() { "v1" } else { "v2" };
    format!("{processors} processors ({model}), Linux {}, cgroup {version}", kernel.trim())
}

fn date() -> Result<String> {
    let output = Command::new("date").arg("+%F").output().context("cannot start date")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
