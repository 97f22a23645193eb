//! How long `observer advise --prometheus` takes over a fleet: `cargo xtask bench fleet`.
//!
//! A real Prometheus (Debian's), a real `observer advise`. The series are generated: those of one workload in a
//! recorded case, as a real observer exposes them, under other names and heights for every workload on every node it
//! has a pod on. What is asked over the window has a sample every `--step`; what is asked of now has an hour of them
//! from now on.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use observer::recording::replay::replay;
use observer_tests::prometheus::Prometheus;

#[derive(Parser)]
struct Cli {
    /// The observer whose `advise` is timed
    #[arg(long)]
    observer: PathBuf,
    /// Where series and blocks are written, and removed from again
    #[arg(long)]
    scratch: PathBuf,
    #[arg(long, default_value_t = 1000)]
    workloads: u64,
    /// Each on a node of its own, as far as there are nodes
    #[arg(long, default_value_t = 10_000)]
    pods: u64,
    #[arg(long, default_value_t = 100)]
    nodes: u64,
    /// Hours of samples, and the window that is asked
    #[arg(long, default_value_t = 168)]
    hours: u64,
    /// Seconds between two samples
    #[arg(long, default_value_t = 3600)]
    step: u64,
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// A recorded case in which an autoscaler scaled a Deployment, and that Deployment's labels.
const CASE: &str = "kubernetes_scale_up_by_a_bot/events.jsonl";
const LABELS: &str = r#"namespace="scene-bot""#;
const WORKLOAD: &str = r#"workload="web""#;

/// Asked over the window; the others that are kept are asked of now.
const PAST: &[&str] = &[
    "observer_workload_history_startups",
    "observer_workload_history_startup_need_bytes",
    "observer_workload_history_startup_need_spread_ratio",
    "observer_workload_history_steady_bytes",
    "observer_workload_history_working_set_bytes",
];
const NOW: &[&str] = &[
    "observer_advice_grade",
    "observer_workload_containers",
    "observer_workload_memory_request_bytes",
    "observer_workload_memory_limit_bytes",
];
const PER_POD: &str = "observer_container_state";

fn main() -> Result<()> {
    let cli = Cli::parse();
    ensure!(cli.workloads > 0 && cli.pods >= cli.workloads && cli.nodes > 0 && cli.step > 0, "nothing to do");
    let scratch = Scratch::new(&cli.scratch)?;
    let began = Instant::now();
    eprintln!("generating series in {}", scratch.0.display());
    let text = scratch.0.join("series.om");
    let (series, samples) = generate(&cli, &text)?;
    eprintln!("{series} series, {samples} samples, {:.0} s; importing", began.elapsed().as_secs_f64());
    let tsdb = scratch.0.join("tsdb");
    let import = Command::new("promtool")
        .args(["tsdb", "create-blocks-from", "openmetrics", "--quiet"])
        .arg(format!("--max-block-duration={}h", cli.hours * 2))
        .args([&text, &tsdb])
        .status()
        .context("cannot start promtool")?;
    ensure!(import.success(), "promtool could not import the series");
    fs::remove_file(&text)?;
    eprintln!("imported, {:.0} s", began.elapsed().as_secs_f64());

    let prometheus = Prometheus::start(&scratch.0, "")?;
    let mut seconds = Vec::new();
    for _ in 0..cli.runs {
        seconds.push(advise(&cli, &prometheus)?);
    }
    println!(
        "{}",
        serde_json::json!({
            "workloads": cli.workloads, "pods": cli.pods, "nodes": cli.nodes, "hours": cli.hours, "step_s": cli.step,
            "series": series, "samples": samples, "seconds": seconds,
        })
    );
    Ok(())
}

/// What one workload's series are, by a real pipeline from a real recording: name, labels, value.
fn template() -> Result<Vec<(String, String, f64)>> {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases").join(CASE);
    let replayed =
        replay(BufReader::new(File::open(&case).with_context(|| case.display().to_string())?), |_| {})?;
    let line = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.trim_end_matches('}').split_once('{')?;
        let kept = PAST.contains(&name) || NOW.contains(&name) || name == PER_POD;
        (kept && labels.contains(LABELS) && labels.contains(WORKLOAD)).then_some((
            name.to_owned(),
            labels.to_owned(),
            value.parse().ok()?,
        ))
    };
    let lines: Vec<_> = replayed.metrics.lines().filter_map(line).collect();
    for name in PAST.iter().chain(NOW).chain([&PER_POD]) {
        ensure!(
            lines.iter().any(|(of, ..)| of == name),
            "{CASE} has no {name}: the case or the metric changed"
        );
    }
    Ok(lines)
}

fn generate(cli: &Cli, to: &Path) -> Result<(u64, u64)> {
    let template = template()?;
    // One pod's states stand for each pod's.
    let pod = template.iter().find_map(|(_, labels, _)| pod_of(labels)).context("no pod")?.to_owned();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let past: Vec<u64> = (0..cli.hours * 3600 / cli.step).rev().map(|back| now - back * cli.step).collect();
    // An instant query looks back five minutes, and the import takes longer: these go on for an hour.
    let ahead: Vec<u64> = (0..15).map(|i| now + i * 240).collect();
    let (mut series, mut samples) = (0, 0);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(to)?);
    for i in 0..cli.pods {
        let (workload, node) = (i % cli.workloads, (i / cli.workloads + i) % cli.nodes);
        // Heights differ by workload, from a quarter to sixteen times, and a little by node.
        let height = 2f64.powf((workload % 61) as f64 / 10.0 - 2.0) * (1.0 + 0.02 * (node % 5) as f64);
        for (name, labels, value) in &template {
            if pod_of(labels).is_some_and(|of| of != pod) {
                continue;
            }
            let labels = labels
                .replace(LABELS, &format!(r#"namespace="team-{}""#, workload % 50))
                .replace(WORKLOAD, &format!(r#"workload="service-{workload}""#))
                .replace(&pod, &format!("service-{workload}-{i}"));
            let value = match () {
                () if labels.contains("mean_log") => value + height.ln(),
                () if name.ends_with("_bytes") && !labels.contains("spread_log") => (value * height).round(),
                () => *value,
            };
            let times = if PAST.contains(&name.as_str()) { &past } else { &ahead };
            for at in times {
                writeln!(out, "{name}{{{labels},instance=\"node-{node}\"}} {value} {at}")?;
            }
            series += 1;
            samples += times.len() as u64;
        }
    }
    out.write_all(b"# EOF\n")?;
    out.flush()?;
    Ok((series, samples))
}

/// The pod a series is of; those of workloads have none.
fn pod_of(labels: &str) -> Option<&str> {
    labels.split_once("pod=\"")?.1.split_once('"').map(|(pod, _)| pod)
}

/// Seconds of one `observer advise` of everything, and that it reported everything.
fn advise(cli: &Cli, prometheus: &Prometheus) -> Result<f64> {
    let began = Instant::now();
    let output = Command::new(&cli.observer)
        .args(["advise", "--output", "json", "--prometheus", &prometheus.url, "--window"])
        .arg(format!("{}h", cli.hours))
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", cli.observer.display()))?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(output.status.success(), "observer advise failed");
    let advice: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
    ensure!(advice.len() as u64 == cli.workloads, "{} workloads advised of {}", advice.len(), cli.workloads);
    let whole =
        advice.iter().filter(|one| one["numbers"]["request"].is_u64() && one["numbers"]["limit"].is_object());
    let whole = whole.count() as u64;
    ensure!(whole == cli.workloads, "only {whole} of {} have numbers: {:#}", cli.workloads, advice[0]);
    Ok(seconds)
}

/// Gigabytes that do not stay.
struct Scratch(PathBuf);

impl Scratch {
    fn new(at: &Path) -> Result<Self> {
        let path = at.join(format!("fleet-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
