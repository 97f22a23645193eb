//! What the observer costs and how true it sees: the numbers of `cargo xtask bench faults`, all from one run.
//!
//! Costs are ratios within this run, because machines are noisy: the real program against a null program on the same
//! hook at the same time (bpf_stats), a fault-heavy process with and without the observer in turn.

use std::{
    any::Any,
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, loaded_programs},
    sys::{Stats, enable_stats},
};
use clap::Parser;
use observer::{
    config::{ProbeChoice, Roots},
    sources::kernel::{Kernel, support::Support},
};
use observer_tests::{
    daemon::{Daemon, binary},
    group::{Group, Tree},
};
use serde_json::{Value, json};

#[derive(Parser)]
struct Cli {
    /// The null program's object, target/bpf/null.o
    #[arg(long)]
    null: PathBuf,
    /// Pairs of the fault-heavy process with and without the observer
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Only one part: the cost per fault by bpf_stats, or the spike beside a poller
    #[arg(long)]
    only: Option<Part>,
    /// Leave out bpftrace
    #[arg(long)]
    no_bpftrace: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Part {
    Cost,
    Spike,
}

struct Bench {
    tree: Tree,
    observer: PathBuf,
    workload: PathBuf,
    directory: PathBuf,
}

/// Daemon starts over which the cost per fault is taken.
const LOADS: usize = 9;
const READY: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let cli = Cli::parse();
    let directory = std::env::temp_dir().join(format!("observer-bench-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    observer_tests::interrupted::clean_up(directory.clone())?;
    let bench = Bench {
        tree: Tree::find().context("the benchmark needs memory cgroups: run as root")?,
        observer: binary("observer")?,
        workload: binary("workload")?,
        directory: directory.clone(),
    };
    let done = bench.all(&cli);
    let _ = fs::remove_dir_all(directory);
    println!("{}", done?);
    Ok(())
}

impl Bench {
    fn all(&self, cli: &Cli) -> Result<Value> {
        if cli.only == Some(Part::Spike) {
            return self.spike();
        }
        eprintln!("cost per fault by bpf_stats");
        // Where the kernel puts the programs changes from load to load, and their cost with it by a third.
        let loads = (0..LOADS).map(|_| self.per_fault(&cli.null)).collect::<Result<Vec<_>>>()?;
        let over_loads = |of: &dyn Fn(&PerFault) -> f64| Quartiles::of(loads.iter().map(of).collect());
        let (null, observer) = (over_loads(&|load| load.null), over_loads(&|load| load.page_fault));
        let growth = over_loads(&|load| load.growth);
        let extra = over_loads(&|load| load.page_fault + load.growth - load.null);
        let cost = json!({
            "null_ns": round(null.median, 1),
            "page_fault_ns": round(observer.median, 1),
            "growth_ns": round(growth.median, 1),
            "extra_ns": round(extra.median, 1),
            "extra_ns_quartiles": [round(extra.low, 1), round(extra.high, 1)],
            "loads": LOADS,
        });
        if cli.only == Some(Part::Cost) {
            return Ok(cost);
        }
        eprintln!("{} pairs with and without the observer", cli.pairs);
        let slowdown = self.pairs(cli.pairs, &|bench| {
            let mut daemon = Daemon::start(&bench.observer, &bench.directory, &[])?;
            daemon.ready(READY)?;
            sleep(Duration::from_secs(1)); // its start-up is over
            Ok(Box::new(daemon))
        })?;
        eprintln!("{} short pairs with the programs attached and not, in one process", 4 * cli.pairs);
        let attached = self.programs_alone(4 * cli.pairs)?;
        eprintln!("{} pairs with and without the null program", cli.pairs);
        let floor = self.pairs(cli.pairs, &|_| Ok(Box::new(attach_null(&cli.null)?)))?;
        let bpftrace = match cli.no_bpftrace {
            true => Err(anyhow::anyhow!("left out")),
            false => {
                eprintln!("{} pairs with and without bpftrace", cli.pairs.min(7));
                self.pairs(cli.pairs.min(7), &bpftrace)
            }
        };
        let bpftrace_why = bpftrace.as_ref().err().map(|error| format!("{error:#}"));
        eprintln!("a spike to 1 GiB for 300 ms beside a 1 ms poller");
        let spike = self.spike()?;
        eprintln!("ready time and resident memory with 200 cgroups");
        let (ready_ms, resident) = self.resident(200)?;
        let mut all = json!({
            "slowdown_ratio": round(slowdown.median, 4),
            "slowdown_quartiles": [round(slowdown.low, 4), round(slowdown.high, 4)],
            "programs_slowdown_ratio": round(attached.median, 4),
            "programs_slowdown_quartiles": [round(attached.low, 4), round(attached.high, 4)],
            "programs_slowdown_pairs": 4 * cli.pairs,
            "null_slowdown_ratio": round(floor.median, 4),
            "bpftrace_slowdown_ratio": bpftrace.as_ref().ok().map(|ratio| round(ratio.median, 4)),
            "bpftrace_skipped": bpftrace_why,
            "spike": spike,
            "ready_ms": ready_ms,
            "resident_mib_200_cgroups": round(resident as f64 / 1048576.0, 1),
        });
        for (name, value) in cost.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        Ok(all)
    }

    /// Nanoseconds per fault of the null program and of the observer's, over the same faults.
    fn per_fault(&self, null: &std::path::Path) -> Result<PerFault> {
        let mut daemon = Daemon::start(&self.observer, &self.directory, &[])?;
        daemon.ready(READY)?;
        let _null = attach_null(null)?;
        let _stats = enable_stats(Stats::RunTime)?;
        self.fault(None)?; // warm
        let before = runs()?;
        for _ in 0..5 {
            self.fault(None)?;
        }
        let after = runs()?;
        let cost = |name: &str| -> Result<(f64, f64)> {
            let ((runs_a, ns_a), (runs_b, ns_b)) =
                (before.get(name).context("not loaded")?, after.get(name).context("not loaded")?);
            Ok(((runs_b - runs_a) as f64, (ns_b - ns_a) as f64))
        };
        let ((faults, null), (runs, page_fault)) = (cost("null")?, cost("page_fault")?);
        ensure!(faults > 0.0 && runs > 0.0, "page_fault did not run");
        // Before folios there is another one, which no fault runs.
        let growth = cost("growth_listed").map_or(0.0, |(_, ns)| ns / faults);
        Ok(PerFault { null: null / faults, page_fault: page_fault / runs, growth })
    }

    /// A fault-heavy process; nanoseconds per fault as it measures them itself.
    fn fault(&self, group: Option<&Group>) -> Result<f64> {
        let args = ["fault", "--size", "128", "--rounds", "12"];
        let output = match group {
            Some(group) => group.spawn(&self.workload, &args)?.wait_with_output()?,
            None => Command::new(&self.workload).args(args).output()?,
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut words = text.split_whitespace().map(str::parse::<f64>);
        let (Some(Ok(faults)), Some(Ok(ns))) = (words.next(), words.next()) else {
            bail!("workload said {text:?}")
        };
        Ok(ns / faults)
    }

    /// Ratio of the time per fault with and without, pair by pair, the order changing from pair to pair.
    fn pairs(&self, pairs: usize, with: &dyn Fn(&Bench) -> Result<Box<dyn Any>>) -> Result<Quartiles> {
        let group = self.tree.group(&format!("observer-bench-{}/pairs", std::process::id()))?;
        self.fault(Some(&group))?; // warm
        let measure = |on: bool| -> Result<f64> {
            let _running = if on { Some(with(self)?) } else { None };
            // The best of three: what disturbs a run only ever makes it slower.
            let times = (0..3).map(|_| self.fault(Some(&group))).collect::<Result<Vec<f64>>>()?;
            Ok(times.into_iter().fold(f64::INFINITY, f64::min))
        };
        ratios(pairs, measure)
    }

    /// The same ratio with what makes it vary taken out: the programs attached and detached within one second, no
    /// daemon started or stopped between, and many pairs, so that the machine's drift falls on both sides alike.
    fn programs_alone(&self, pairs: usize) -> Result<Quartiles> {
        let group = self.tree.group(&format!("observer-bench-{}/alone", std::process::id()))?;
        self.fault(Some(&group))?; // warm
        let roots = Roots { proc: "/proc".into(), sys: "/sys".into(), cgroup: None };
        let support = Support::gather(&roots);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let _inside = runtime.enter(); // the ring is waited for by a reactor
        ratios(pairs, |on| {
            let programs = on.then(|| Kernel::open(&support, &ProbeChoice::default()).0);
            ensure!(!matches!(programs, Some(None)), "the programs cannot be attached");
            self.fault(Some(&group))
        })
    }

    /// A 300 ms spike to 1 GiB and back, reported by the observer and by a poller that reads usage every millisecond.
    fn spike(&self) -> Result<Value> {
        let recording = self.directory.join("spike.jsonl");
        let record = recording.display().to_string();
        let mut daemon = Daemon::start(&self.observer, &self.directory, &["--record", &record])?;
        daemon.ready(READY)?;
        let group = self.tree.group(&format!("observer-bench-{}/spike", std::process::id()))?;
        let args = "spike --peak 1024 --steady 32 --ramp 0.15 --hold 0.15 --seconds 2.0";
        let mut child = group.spawn(&self.workload, &args.split(' ').collect::<Vec<_>>())?;
        let mut polled: Vec<(u64, u64)> = Vec::new();
        while child.try_wait()?.is_none() {
            polled.push((monotonic_ns(), group.usage()?));
            sleep(Duration::from_millis(1));
        }
        let name = format!("container=\"{}\"", group.path());
        let within = Duration::from_secs(5);
        let reported =
            daemon.wait_metric("observer_container_startup_peak_bytes", &[&name], within, |v| v > 0.0)?;
        let peak = group.peak().context("this kernel does not report a group's peak")?;
        ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
        let id = fs::metadata(group.directory()).map(|m| std::os::unix::fs::MetadataExt::ino(&m))?;
        let curve = curve(&fs::read_to_string(&recording)?, id)?;
        let (within_bound, compared, worst) = compare(&polled, &curve);
        Ok(json!({
            "peak_bytes": peak,
            "reported_peak_bytes": reported,
            "peak_error_ratio": round((reported / peak as f64 - 1.0).abs(), 5),
            "curve_points": curve.len(),
            "poller_samples": compared,
            "curve_within_bound_ratio": round(within_bound, 4),
            "curve_worst_error_bytes": worst,
        }))
    }

    fn resident(&self, cgroups: usize) -> Result<(u64, u64)> {
        let mut groups = Vec::new();
        let mut children: Vec<Child> = Vec::new();
        for n in 0..cgroups {
            let group = self.tree.group(&format!("observer-bench-{}/many/{n}", std::process::id()))?;
            children.push(group.spawn("/bin/sleep".as_ref(), &["30"])?);
            groups.push(group);
        }
        let mut daemon = Daemon::start(&self.observer, &self.directory, &[])?;
        let ready = daemon.ready(READY)?;
        sleep(Duration::from_secs(3));
        daemon.get("/metrics")?;
        sleep(Duration::from_secs(2));
        let resident = daemon.metric("observer_resident_memory_bytes", &[])?.context("no resident memory")?;
        let known = daemon.metric("observer_node_containers", &[])?.unwrap_or(0.0);
        ensure!(known >= cgroups as f64, "{known} containers known of {cgroups}");
        drop(groups);
        for mut child in children {
            child.wait()?;
        }
        Ok((ready.as_millis() as u64, resident as u64))
    }
}

struct PerFault {
    null: f64,
    page_fault: f64,
    growth: f64,
}

/// Ratio of what `measure` says with and without, pair by pair, the order changing from pair to pair.
fn ratios(pairs: usize, measure: impl Fn(bool) -> Result<f64>) -> Result<Quartiles> {
    let mut ratios = Vec::new();
    for pair in 0..pairs {
        let (off, on) = if pair % 2 == 0 {
            let off = measure(false)?;
            (off, measure(true)?)
        } else {
            let on = measure(true)?;
            (measure(false)?, on)
        };
        ratios.push(on / off);
    }
    Ok(Quartiles::of(ratios))
}

struct Quartiles {
    median: f64,
    low: f64,
    high: f64,
}

impl Quartiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
        Self { median: at(0.5), low: at(0.25), high: at(0.75) }
    }
}

/// A program on the same hook that does nothing.
fn attach_null(null: &std::path::Path) -> Result<Ebpf> {
    let bytes = fs::read(null).with_context(|| format!("cannot read {}", null.display()))?;
    let btf = Btf::from_sys_fs()?;
    let mut programs = EbpfLoader::new().btf(Some(&btf)).load(&bytes)?;
    let program: &mut BtfTracePoint = programs.program_mut("null").context("no program null")?.try_into()?;
    program.load("page_fault_user", &btf)?;
    program.attach()?;
    Ok(programs)
}

/// bpftrace counting faults per cgroup, as one would by hand.
fn bpftrace(bench: &Bench) -> Result<Box<dyn Any>> {
    struct Tracer(Child);
    impl Drop for Tracer {
        fn drop(&mut self) {
            let _ = self.0.kill(); // ended already is what is wanted
            let _ = self.0.wait();
        }
    }
    let log = bench.directory.join("bpftrace.log");
    let out = fs::File::create(&log)?;
    let program =
        "tracepoint:exceptions:page_fault_user { @[cgroup] = count(); } BEGIN { printf(\"running\\n\"); }";
    let child = Command::new("bpftrace")
        .args(["-B", "line", "-e", program])
        .env("BPFTRACE_BTF", "1")
        .stdout(out.try_clone()?)
        .stderr(out)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start bpftrace")?;
    let mut tracer = Tracer(child);
    let began = Instant::now();
    loop {
        let said = fs::read_to_string(&log).unwrap_or_default();
        if said.contains("running") {
            sleep(Duration::from_millis(200));
            return Ok(Box::new(tracer));
        }
        if tracer.0.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(15) {
            bail!("bpftrace does not run here: {}", said.lines().last().unwrap_or("it said nothing"));
        }
        sleep(Duration::from_millis(50));
    }
}

/// Runs and nanoseconds of every loaded program, by name.
fn runs() -> Result<BTreeMap<String, (u64, u64)>> {
    let mut runs = BTreeMap::new();
    for program in loaded_programs() {
        let program = program?;
        let name = program.name_as_str().unwrap_or_default().to_owned();
        runs.insert(name, (program.run_count(), program.run_time().as_nanos() as u64));
    }
    Ok(runs)
}

/// The recorded curve of one cgroup: pushed points and file readings.
fn curve(recording: &str, cgroup: u64) -> Result<Vec<(u64, u64)>> {
    let mut curve = Vec::new();
    for line in recording.lines() {
        let event: Value = serde_json::from_str(line)?;
        let usage = |of: &Value| (of["cgroup"] == cgroup).then(|| of["usage"].as_u64()).flatten();
        let what = &event["what"];
        let read = (what["memory"]["cgroup"] == cgroup)
            .then(|| what["memory"]["reading"]["usage"].as_u64())
            .flatten();
        if let (Some(at), Some(usage)) = (event["at"].as_u64(), usage(&what["usage"]).or(read)) {
            curve.push((at, usage));
        }
    }
    curve.sort_unstable();
    Ok(curve)
}

/// Share of the poller's samples for which the curve says the same within its bound: max(1 MiB, 1/128) and 64 pages per
/// processor in value, 25 ms in time (the fast look at memory given back). Each sample is compared with the values the
/// curve takes in that window, and with all between them: a poll falls anywhere on a vertical flank.
fn compare(polled: &[(u64, u64)], curve: &[(u64, u64)]) -> (f64, usize, u64) {
    const WINDOW_NS: u64 = 25_000_000;
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let slack = |value: u64| (value / 128).max(1 << 20) + 64 * 4096 * cpus;
    let (mut good, mut worst) = (0usize, 0u64);
    for &(at, usage) in polled {
        let from = curve.partition_point(|point| point.0 < at.saturating_sub(WINDOW_NS)).saturating_sub(1);
        let until = curve.partition_point(|point| point.0 <= at + WINDOW_NS);
        let values = || curve[from..until].iter().map(|point| point.1);
        let (low, high) = (values().min().unwrap_or(0), values().max().unwrap_or(0));
        let error = low.saturating_sub(usage).max(usage.saturating_sub(high));
        worst = worst.max(error);
        good += usize::from(error <= slack(usage));
    }
    (good as f64 / polled.len().max(1) as f64, polled.len(), worst)
}

fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
