//! The project's tasks. `cargo xtask --help` lists them; each is one file.

mod bench;
mod build_ebpf;
mod cluster;
mod dashboards;
mod demo;
mod deny;
mod docs;
mod fuzz;
mod harness;
mod image;
mod record;
mod release;
mod run;
mod setup;
mod stage;
mod statics;
mod test;
mod test_web;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use observer_tests::{oci, shell};

/// Tasks of the memory observer. `run` and `test` do everything needed on a fresh machine.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what is missing, build, start the observer on this machine; --demo stages a scale-up for it to see
    Run(run::Options),
    /// Formatting, lints, unit, replay and live tests; prints a closing count
    Test(test::Options),
    /// Build only the eBPF programs, into target/bpf/
    BuildEbpf,
    /// Find or install the eBPF tool chain and say what was done
    Setup,
    /// Boot real kernels in virtual machines and run the live tests in them
    Vm(vm::Options),
    /// A real Kubernetes on this machine: start it, test against it, stop it
    Cluster(cluster::Options),
    /// Build the container image as a tar file, without a container engine
    Image(image::Options),
    /// Make and check what is released: image, chart, manifests, bill of materials, checksums
    Release(release::Options),
    /// Check what the product is built of: licences, sources, known holes (deny.toml)
    Deny,
    /// Measure: what a page fault pays, how true a spike is seen
    Bench(bench::Options),
    /// Feed the parsers of bytes that others write with what no test thinks of
    Fuzz(fuzz::Options),
    /// Record the replay cases again on this machine, into tests/cases/
    Record(record::Options),
    /// Write what is generated: docs/metrics.md, docs/probes.md, dashboards, the PrometheusRule
    Docs,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Run(options) => run::run(&options),
        Task::Test(options) => test::test(&options),
        Task::BuildEbpf => build_ebpf::build_ebpf().map(|_| ()),
        Task::Setup => setup::tool_chain().map(|chain| println!("eBPF tool chain: {chain}")),
        Task::Bench(options) => bench::bench(&options),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Record(options) => record::record(&options),
        Task::Vm(options) => vm::vm(&options),
        Task::Cluster(options) => cluster::cluster(&options),
        Task::Release(options) => release::release(&options),
        Task::Image(options) => image::image(&options).map(|_| ()),
        Task::Docs => docs::docs(),
        Task::Deny => deny::deny(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
