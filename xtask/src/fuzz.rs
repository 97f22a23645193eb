//! Runs the fuzz targets: parsers of bytes that others write are fed with what libFuzzer makes of recorded examples.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{run, shell};

#[derive(clap::Args)]
pub struct Options {
    /// Only these; the names are in fuzz/fuzz_targets
    targets: Vec<String>,
    /// How long each runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// The version that is installed where there is none.
const CARGO_FUZZ: &str = "0.13.1";
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
    if missing().is_some() {
        eprintln!("installing cargo-fuzz {CARGO_FUZZ}");
        shell::run(shell::cargo().args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"]))?;
    }
    let reports = run_all(&options.targets, options.seconds)?;
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
    let there = shell::find("cargo-fuzz").is_some()
        || shell::cargo_bin().is_some_and(|bin| bin.join("cargo-fuzz").is_file());
    (!there).then_some("cargo-fuzz is not installed; `cargo xtask fuzz` installs it")
}

/// Every target, or those named, one after the other.
pub fn run_all(named: &[String], seconds: u64) -> Result<Vec<Report>> {
    let all = targets()?;
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("no target {unknown}; there are {}", all.join(", "));
    }
    let wanted = if named.is_empty() { &all } else { named };
    seeds()?;
    shell::run(cargo_fuzz("build").args(["--fuzz-dir", "fuzz"]))?;
    wanted.iter().map(|target| run_one(target, seconds)).collect()
}

fn targets() -> Result<Vec<String>> {
    let folder = shell::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let name = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// The sanitizers' flags are unstable; any compiler takes them so.
fn cargo_fuzz(what: &str) -> Command {
    let mut cargo = shell::cargo();
    cargo.args(["fuzz", what]).env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", scratch().join("build"));
    cargo.env_remove("RUSTC_WORKSPACE_WRAPPER");
    cargo
}

fn scratch() -> PathBuf {
    run::target().join("fuzz")
}

fn run_one(target: &str, seconds: u64) -> Result<Report> {
    let corpus = scratch().join("corpus").join(target);
    fs::create_dir_all(&corpus)?;
    let mut run = cargo_fuzz("run");
    run.args(["--fuzz-dir", "fuzz", target]).arg(&corpus);
    run.args([shell::root().join("fuzz/seeds").join(target), scratch().join("seeds").join(target)]);
    run.arg("--").arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={TIMEOUT_SECONDS}"));
    run.arg(format!("-rss_limit_mb={MEMORY_MIB}")).args(["-print_final_stats=1", "-detect_leaks=0"]);
    let mut child =
        run.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start cargo fuzz")?;
    let stderr = child.stderr.take().context("no pipe")?;
    let mut report = Report { target: target.to_owned(), executions: 0, edges: 0, failure: None };
    let mut last: Vec<String> = Vec::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("cannot read from cargo fuzz")?;
        let mut words = line.split_whitespace();
        if line.starts_with("stat::number_of_executed_units:") {
            report.executions = words.nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        } else if words.any(|word| word == "cov:") {
            report.edges = words.next().and_then(|count| count.parse().ok()).unwrap_or(report.edges);
        }
        last.push(line);
        last.drain(..last.len().saturating_sub(60));
    }
    if !child.wait()?.success() {
        eprintln!("{}", last.join("\n"));
        report.failure = Some(format!("{target}: `cargo xtask fuzz {target}` failed"));
    } else if report.executions == 0 {
        report.failure = Some(format!("{target}: nothing was executed"));
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
