//! Set up, build, start the observer here.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result};

use crate::{build_ebpf, demo, shell};

#[derive(clap::Args)]
pub struct Options {
    /// Also stage a small scale-up: a dozen cgroups that spike, settle, leak, swing, or are OOM-killed
    #[arg(long)]
    demo: bool,
    /// How long the demo lasts; a leak is told from a slow start only after two minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 150)]
    seconds: u64,
    /// Options for `observer run`, after --
    #[arg(last = true)]
    args: Vec<String>,
}

pub fn run(options: &Options) -> Result<()> {
    let observer = build()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    // The observer is in the same process group and gets Ctrl-C itself; this task only must outlive it.
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot handle Ctrl-C")?;
    if options.demo {
        return demo::demo(&observer, options.seconds, &options.args, &interrupted);
    }
    if !shell::is_root() {
        eprintln!(
            "not root: the probes need CAP_BPF and CAP_PERFMON; what cgroup files tell will be measured"
        );
    }
    eprintln!("starting the observer; the page is at http://127.0.0.1:9843/ ; stop with Ctrl-C");
    shell::run(Command::new(observer).arg("run").args(&options.args))
}

/// The release binary with the programs in it.
pub fn build() -> Result<PathBuf> {
    eprintln!("building the eBPF programs");
    build_ebpf::build_ebpf()?;
    eprintln!("building the observer (the first time takes a minute or two)");
    let mut build = shell::cargo();
    build.args(["build", "--release", "--quiet", "--package", "observer", "--package", "observer-tests"]);
    shell::run(&mut build)?;
    Ok(target().join("release/observer"))
}

pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from)
}
