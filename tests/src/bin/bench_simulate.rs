//! `observer simulate`: how long it takes for 1,000 workloads of 10 pods on 100 nodes, and how right it is: 200 staged
//! scale-ups, foretold and then done in cgroups (`observer_tests::staged`).

use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use observer_core::simulate::{Change, Kind, Node, Requests, plan, simulate};
use observer_tests::{daemon::binary, group::Tree, interrupted, staged};

#[derive(Parser)]
struct Cli {
    /// Staged scale-ups; as root
    #[arg(long, default_value_t = 200)]
    scenes: usize,
    /// Others with another one
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const MIB: u64 = 1 << 20;

fn main() -> Result<()> {
    let cli = Cli::parse();
    durations();
    match Tree::find() {
        Ok(tree) if cli.scenes > 0 => truth(&cli, &tree)?,
        Ok(_) => {}
        Err(why) => println!("no scale-up is staged: {why:#}"),
    }
    Ok(())
}

fn truth(cli: &Cli, tree: &Tree) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("observer-simulate-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    interrupted::clean_up(directory.clone())?;
    let stage = staged::Stage {
        tree,
        observer: binary("observer")?,
        workload: binary("workload")?,
        directory: &directory,
    };
    eprintln!(
        "seeing {} workloads start, then {} scale-ups",
        cli.scenes.div_ceil(staged::OF_EACH),
        cli.scenes
    );
    let tally = staged::scale_ups(&stage, cli.scenes, cli.seed, |done| eprint!("\r{done} of {}", cli.scenes));
    std::fs::remove_dir_all(&directory)?;
    eprintln!();
    println!("{}", tally?.text());
    Ok(())
}

fn durations() {
    let kinds: Vec<Kind> = (0..1000)
        .map(|i| {
            let steady = (40 + i % 160) * MIB;
            let curve = (1..=60).map(|span| steady * span.min(60 - span / 2) / 20).collect();
            Kind {
                name: format!("w{i}"),
                request: steady + steady / 16,
                start_need: steady * 5 / 2,
                limit: None,
                span: 0.5,
                curve,
                steady,
            }
        })
        .collect();
    let mut nodes: Vec<Node> = (0..100)
        .map(|i| Node { name: format!("n{i}"), allocatable: 16 << 30, taken: (0, 0), pods: Vec::new() })
        .collect();
    for pod in 0..10_000 {
        nodes[pod % 100].pods.push((pod / 10, 1));
    }
    let changes = [
        ("restart of a node", Change::Restart { node: 0 }),
        ("10 to 1,000 replicas", Change::Add { kind: 7, pods: 990 }),
        ("rollout", Change::Rollout { kind: 7, surge: 3, unavailable: 2 }),
    ];
    for (name, change) in changes {
        let began = Instant::now();
        let outcomes: Vec<_> =
            Requests::ALL.iter().filter_map(|requests| simulate(&kinds, &nodes, change, *requests)).collect();
        let short: Vec<usize> = outcomes.iter().map(|outcome| outcome.short().count()).collect();
        println!("{name}: {:.3} s; nodes short: {short:?}", began.elapsed().as_secs_f64());
    }
    let began = Instant::now();
    let step = plan::largest_step(&kinds, &nodes, 7, 990);
    println!("largest step: {step} pods, {:.3} s", began.elapsed().as_secs_f64());
}
