//! Measurements. Never part of the tests: a timed test is a coin toss.

use std::{path::PathBuf, process::Command};

use anyhow::Result;
use observer_tests::interrupted;

use crate::{run, shell, test_web};

#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// How true peak and time to stable are: synthetic classes, recorded traces, baselines beside them
    Stability {
        /// Options of the benchmark and recorded traces (CSV), after --
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// How long `observer simulate` takes for 1,000 workloads on 100 nodes, and how right it is of 200 staged scale-ups
    Simulate {
        /// Options of the benchmark, after --
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// What following the advice does, beside the rules of others: kills and memory reserved on replayed start-ups
    Advise {
        /// Options of the benchmark, after --
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// How long advising a fleet takes, from generated series in a real Prometheus (some 10 GB of disk, ten minutes)
    Fleet {
        /// Options of the benchmark, after --
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// What the daemon costs by the number of cgroups, with the pass, with files, cAdvisor beside it (needs Go; three
    /// hours, -- --short 50 minutes, -- --help shows more)
    Scale {
        /// Options of the benchmark, after --
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// The page in a real Chromium: first frame with data, frames while scrolling, what 50 open pages cost
    Page,
    /// Half an hour of churn, kills, scrapes and a failing API at once, within the memory limit: one JSON line
    Soak {
        /// Options of the benchmark, after --
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// What a page fault pays, how true a spike is seen, what the daemon holds: one JSON line
    Faults {
        /// Options of the benchmark, after --
        #[arg(last = true)]
        args: Vec<String>,
    },
}

pub fn bench(options: &Options) -> Result<()> {
    match &options.what {
        What::Stability { args } => pure("bench-stability", args),
        What::Simulate { args } => {
            run::build()?;
            interrupted::run(Command::new(build_bench("bench-simulate")?).args(args))
        }
        What::Advise { args } => pure("bench-advise", args),
        What::Fleet { args } => {
            let observer = run::build()?;
            shell::apt(&["prometheus"])?;
            let bench = build_bench("bench-fleet")?;
            let mut fleet = Command::new(bench);
            shell::run(fleet.arg("--observer").arg(observer).arg("--scratch").arg(run::target()).args(args))
        }
        What::Scale { args } => {
            run::build()?;
            let mut bench = Command::new(build_bench("bench-scale")?);
            let measures = !args.iter().any(|arg| ["--help", "-h", "--report"].contains(&arg.as_str()));
            if measures && !args.iter().any(|arg| arg.starts_with("--cadvisor")) {
                match build_peer() {
                    Ok(peer) => drop(bench.arg("--cadvisor").arg(peer)),
                    Err(error) => eprintln!("without cAdvisor: {error:#}"),
                }
            }
            interrupted::run(bench.args(args))
        }
        What::Page => test_web::measure(&run::build()?),
        What::Soak { args } => {
            run::build()?;
            interrupted::run(Command::new(build_bench("bench-soak")?).args(args))
        }
        What::Faults { args } => {
            run::build()?;
            // Beside it, for comparison; where it cannot be had the benchmark says so.
            if shell::find("bpftrace").is_none()
                && let Err(error) = shell::apt(&["bpftrace"])
            {
                eprintln!("no bpftrace: {error:#}");
            }
            let bench = build_bench("bench-faults")?;
            let null = shell::root().join("target/bpf/null.o");
            interrupted::run(Command::new(bench).arg("--null").arg(null).args(args))
        }
    }
}

/// Built beside the observer and the workload, which it starts.
fn build_bench(name: &str) -> Result<PathBuf> {
    let mut build = shell::cargo();
    build.args(["build", "--release", "--package", "observer-tests", "--features", "bench", "--bins"]);
    shell::executable(&mut build, name)
}

/// cAdvisor, of the versions in tests/peer/go.mod.
fn build_peer() -> Result<PathBuf> {
    let peer = run::target().join("cadvisor-peer");
    eprintln!("building cAdvisor");
    let mut build = Command::new("go");
    build.args(["build", "-C"]).arg(shell::root().join("tests/peer")).arg("-o").arg(&peer).arg(".");
    shell::run(&mut build)?;
    Ok(peer)
}

/// One that needs no kernel.
fn pure(name: &str, args: &[String]) -> Result<()> {
    let mut run = shell::cargo();
    run.args(["run", "--release", "--quiet", "--package", "observer-tests", "--features", "bench"]);
    shell::run(run.args(["--bin", name, "--"]).args(args))
}
