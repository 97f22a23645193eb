//! Runs the fuzz targets: parsers of bytes that others write are fed with what libFuzzer makes of recorded examples.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    run, shell,
    statics::{self, Arch},
};

#[derive(clap::Args)]
pub struct Options {
    /// Only these; the names are in fuzz/fuzz_targets
    targets: Vec<String>,
    /// How long each runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Optimised: some minutes of building for ten times as many executions
    #[arg(long)]
    optimised: bool,
    /// Of libFuzzer's random numbers; a new one each time without it
    #[arg(long)]
    seed: Option<u32>,
}

/// What each target runs with.
#[derive(Clone, Copy)]
pub struct Run {
    pub seconds: u64,
    pub optimised: bool,
    pub seed: Option<u32>,
}

/// Of a recording, enough to meet every kind of event, and small enough to be changed well.
const SEED_LINES: usize = 120;
/// An input that takes longer, or a target that holds more, has failed.
const TIMEOUT_SECONDS: u32 = 10;
const MEMORY_MIB: u32 = 2048;

/// What a run of one target did.
pub struct Report {
    pub target: String,
    pub executions: u64,
    /// Edges of the code that were reached.
    pub edges: u64,
    pub failure: Option<String>,
}

pub fn fuzz(options: &Options) -> Result<()> {
    if let Some(missing) = missing() {
        bail!(missing);
    }
    let reports = run_all(
        &options.targets,
        Run { seconds: options.seconds, optimised: options.optimised, seed: options.seed },
    )?;
    println!("| target | executions | edges reached |\n|---|---|---|");
    for report in &reports {
        println!("| {} | {} | {} |", report.target, report.executions, report.edges);
    }
    let failed: Vec<&str> = reports
        .iter()
        .filter(|report| report.failure.is_some())
        .map(|report| report.target.as_str())
        .collect();
    ensure!(failed.is_empty(), "{} failed", failed.join(", "));
    Ok(())
}

/// Why nothing can be fuzzed here, if so.
pub fn missing() -> Option<&'static str> {
    shell::find("c++")
        .is_none()
        .then_some("libFuzzer is built by a C++ compiler, and there is none (Debian: g++)")
}

/// Every target, or those named, as many at once as there are processors.
pub fn run_all(named: &[String], with: Run) -> Result<Vec<Report>> {
    let all = targets()?;
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("no target {unknown}; there are {}", all.join(", "));
    }
    let wanted = if named.is_empty() { &all } else { named };
    seeds()?;
    let programs = build(wanted, with.optimised)?;
    let left = Mutex::new(wanted.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        while let Some(target) = next() {
            let program = programs.get(target).with_context(|| format!("cargo built no {target}"))?;
            reports.push(run_one(target, program, with)?);
        }
        Ok(reports)
    };
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut reports = thread::scope(|scope| -> Result<Vec<Report>> {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        let mut reports = Vec::new();
        for worker in workers {
            reports.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(reports)
    })?;
    reports.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(reports)
}

fn targets() -> Result<Vec<String>> {
    let folder = shell::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// Only the workspace's own crates are built to be followed by libFuzzer, and unoptimised, without the address
/// sanitizer: unsafe code is few lines. Their dependencies are those of all tests.
fn build(wanted: &[String], optimised: bool) -> Result<BTreeMap<String, PathBuf>> {
    let mut build = statics::cargo(Arch::host())?;
    build.env("RUSTC_WORKSPACE_WRAPPER", shell::root().join("fuzz/instrumented-rustc"));
    build.args(["build", "--workspace", "--features", "observer-fuzz/libfuzzer"]);
    build.args(wanted.iter().flat_map(|target| ["--example", target]));
    if optimised {
        build.args(["--profile", "fuzz"]);
    }
    let built = build.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit()).output();
    let built = built.context("cannot start cargo")?;
    ensure!(built.status.success(), "`{}` ended with {}", shell::show(&build), built.status);
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    };
    Ok(String::from_utf8_lossy(&built.stdout).lines().filter_map(program).collect())
}

fn scratch() -> PathBuf {
    run::target().join("fuzz")
}

/// What fails is kept below target/fuzz/found.
fn run_one(target: &str, program: &Path, with: Run) -> Result<Report> {
    let (corpus, found) = (scratch().join("corpus").join(target), scratch().join("found"));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    // Where it writes; libFuzzer ends a program without a word.
    let temporary = scratch().join("tmp").join(target);
    fs::create_dir_all(&temporary)?;
    let mut run = Command::new(program);
    run.env("TMPDIR", &temporary);
    run.arg(&corpus);
    run.args([shell::root().join("fuzz/seeds").join(target), scratch().join("seeds").join(target)]);
    run.arg(format!("-max_total_time={}", with.seconds)).arg(format!("-timeout={TIMEOUT_SECONDS}"));
    run.arg(format!("-rss_limit_mb={MEMORY_MIB}")).args(["-print_final_stats=1", "-detect_leaks=0"]);
    run.arg(format!("-artifact_prefix={}/{target}-", found.display()));
    run.args(with.seed.map(|seed| format!("-seed={seed}")));
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = run.spawn().with_context(|| format!("cannot start {target}"))?;
    let stderr = child.stderr.take().context("no pipe")?;
    let mut report = Report { target: target.to_owned(), executions: 0, edges: 0, failure: None };
    let mut last: Vec<String> = Vec::new();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line.with_context(|| format!("cannot read from {target}"))?;
        let line = String::from_utf8_lossy(&line).into_owned(); // it shows inputs, too
        let mut words = line.split_whitespace();
        if line.starts_with("stat::number_of_executed_units:") {
            report.executions = words.nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        } else if words.any(|word| word == "cov:") {
            report.edges = words.next().and_then(|count| count.parse().ok()).unwrap_or(report.edges);
        }
        last.push(line);
        last.drain(..last.len().saturating_sub(60));
    }
    let ended = child.wait()?;
    let _ = fs::remove_dir_all(temporary); // the next run uses it again
    if !ended.success() {
        eprintln!("{}", last.join("\n"));
        report.failure = Some(format!("{target}: `cargo xtask fuzz {target}` failed"));
    } else if report.executions == 0 || report.edges == 0 {
        report.failure = Some(format!("{target}: nothing was executed, or none of it was followed"));
    }
    Ok(report)
}

/// What was recorded and written for other tests, cut into examples.
fn seeds() -> Result<()> {
    let write = |target: &str, name: &str, bytes: &[u8]| -> Result<()> {
        let folder = scratch().join("seeds").join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes).with_context(|| format!("cannot write a seed of {target}"))
    };
    for target in targets()? {
        fs::create_dir_all(scratch().join("seeds").join(&target))?;
        fs::create_dir_all(shell::root().join("fuzz/seeds").join(target))?;
    }
    let paths = fs::read_to_string(shell::root().join("observer-core/src/attribution/trees.txt"))?;
    for (number, path) in paths.lines().enumerate() {
        write("cgroup_path", &number.to_string(), path.as_bytes())?;
    }
    let cases = shell::root().join("tests/cases");
    for case in fs::read_dir(&cases)?.flatten() {
        let name = case.file_name().to_string_lossy().into_owned();
        let Some(text) = recording(&case.path()) else { continue };
        let head: String = text.lines().take(SEED_LINES).map(|line| format!("{line}\n")).collect();
        write("recording", &name, head.as_bytes())?;
        let records = text.lines().filter_map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            event["what"].get("record").cloned()
        });
        let records: Vec<_> = records.take(8).collect();
        if !records.is_empty() {
            write("ledger_answer", &name, serde_json::to_string(&records)?.as_bytes())?;
        }
    }
    Ok(())
}

fn recording(case: &Path) -> Option<String> {
    fs::read_to_string(case.join("events.jsonl")).ok()
}
