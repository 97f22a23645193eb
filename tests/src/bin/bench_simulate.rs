//! How long a simulation takes: 1,000 workloads of 10 pods on 100 nodes; a node that restarts, a scale-up, a rollout,
//! each with the requests as set, the peak kept and lent, and the largest step.

use std::time::Instant;

use observer_core::simulate::{Change, Kind, Node, Requests, plan, simulate};

const MIB: u64 = 1 << 20;

fn main() {
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
