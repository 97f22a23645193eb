//! Starts, tests and stops the Kubernetes of tests/src/cluster.rs; the tests are in tests/cluster/.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use observer_tests::cluster::{Cluster, control};

use crate::{
    build_ebpf, shell,
    statics::{self, Arch},
};

#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Build what is missing (minutes at the first time), start the cluster, say how to talk to it
    Up,
    /// Why containers start, outages of the API, deploy/, a whole scale-up: what the observer reports, and the truth
    Test(Selection),
    /// Stop the cluster and remove what it made
    Down,
    /// kubectl, talking to the cluster
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(clap::Args, Default)]
pub struct Selection {
    /// Only tests whose name holds this: causes, outage, deploy, e2e, lend, or the name of one
    filter: Option<String>,
    /// Also what needs minutes to build: Argo Rollouts, and KEDA's operator
    #[arg(long)]
    full: bool,
    /// Only list the tests
    #[arg(long)]
    list: bool,
    /// Keep recordings and logs of the causes in this folder
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

pub fn cluster(options: &Options) -> Result<()> {
    match &options.what {
        What::Up => {
            let cluster = up()?;
            println!(
                "the cluster is up: cargo xtask cluster kubectl get pods -A; KUBECONFIG={}",
                cluster.kubeconfig().display()
            );
            Ok(())
        }
        What::Test(selection) => {
            build_ebpf::build_ebpf()?;
            let mut tests = tests(selection)?;
            if selection.list {
                return shell::run(&mut tests);
            }
            let was_up = Cluster::running().is_some();
            up()?;
            let done = shell::run(&mut tests);
            if !was_up {
                control::down()?;
            }
            done
        }
        What::Down => control::down(),
        What::Kubectl { args } => {
            let cluster = Cluster::running().context("the cluster is not up: cargo xtask cluster up")?;
            shell::run(cluster.kubectl_command().args(args))
        }
    }
}

pub fn up() -> Result<Cluster> {
    match Cluster::running() {
        Some(cluster) => Ok(cluster),
        None => control::up(&statics::program("workload")?),
    }
}

/// The tests, on the cluster that runs. They are of the same build as all tests: the observer in its image is linked
/// statically.
pub fn tests(selection: &Selection) -> Result<Command> {
    statics::program("observer")?;
    let mut tests = statics::linting_cargo(Arch::host())?;
    tests.args(["test", "--workspace", "--test", "cluster", "--"]);
    tests.args(&selection.filter);
    tests.args(selection.full.then_some("--include-ignored"));
    tests.args(selection.list.then_some("--list"));
    if let Some(folder) = &selection.keep {
        tests.env("KEEP_RECORDINGS", std::path::absolute(folder)?);
    }
    Ok(tests)
}
