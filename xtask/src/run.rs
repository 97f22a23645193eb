//! Set up, build, start the observer here.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};

use crate::{build_ebpf, demo, shell};

#[derive(clap::Args)]
pub struct Options {
    /// Also stage a small scale-up: a dozen cgroups that spike, settle, leak, swing, or are OOM-killed
    #[arg(long)]
    demo: bool,
    /// How long the demo lasts; a leak is distinguished from a slow start only after two minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    seconds: u64,
    /// Options for `observer run`, after --
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let interrupted = Arc::new(AtomicBool::new(false));
    if options.demo {
        let observer = build_for_demo()?;
        let workload = workload(DEMO)?;
        outlive(&interrupted)?;
        return demo::demo(&observer, &workload, options.seconds, &options.args, &interrupted);
    }
    let observer = build()?;
    outlive(&interrupted)?;
    if !shell::is_root() {
        eprintln!(
            "not root: the probes need CAP_BPF and CAP_PERFMON; what cgroup files report will be measured"
        );
    }
    eprintln!("starting the observer: it prints where its page is; stop with Ctrl-C");
    shell::run(Command::new(observer).arg("run").args(&options.args))
}

/// The observer is in the same process group and gets Ctrl-C itself; this task only must outlive it.
fn outlive(interrupted: &Arc<AtomicBool>) -> Result<()> {
    let flag = Arc::clone(interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot handle Ctrl-C")
}

/// Processor seconds of the first build, of some three hundred crates.
const RELEASE_CPU_SECONDS: u64 = 450;
const DEMO_CPU_SECONDS: u64 = 440;

/// The release binary with the programs in it.
pub fn build() -> Result<PathBuf> {
    announce("release", RELEASE_CPU_SECONDS);
    built(RELEASE)
}

/// The daemon, as fast as it can be had: what this task itself is made of is there already.
fn build_for_demo() -> Result<PathBuf> {
    announce("debug", DEMO_CPU_SECONDS);
    built(DEMO)
}

fn built(profile: &str) -> Result<PathBuf> {
    let (ebpf, observer) = build_ebpf::beside(|| executable(profile, "observer"));
    ebpf?;
    // They may have changed after cargo had looked.
    observer.and_then(|_| executable(profile, "observer"))
}

const RELEASE: &str = "release";
const DEMO: &str = "dev";

/// What plays a workload, in the same way.
pub fn workload(profile: &str) -> Result<PathBuf> {
    executable(profile, "workload")
}

fn announce(directory: &str, cpu_seconds: u64) {
    if target().join(directory).join("observer").exists() {
        return eprintln!("building the observer");
    }
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let minutes = cpu_seconds.div_ceil(60 * processors);
    eprintln!("building the observer for the first time: {minutes} min on {processors} processor(s)");
}

/// All that runs is built at once, so that what it shares is compiled once.
fn executable(profile: &str, name: &str) -> Result<PathBuf> {
    let mut build = shell::cargo();
    build.args(["build", "--profile", profile, "--package", "observer", "--package", "observer-tests"]);
    build_ebpf::one_job_more(&mut build);
    // It is run and not changed: the soonest there. Neither changes the release profile.
    build.envs([("CARGO_PROFILE_DEV_DEBUG", "false"), ("CARGO_INCREMENTAL", "0")]);
    shell::executable(build.args(["--bin", "observer", "--bin", "workload"]), name)
}

pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from)
}
