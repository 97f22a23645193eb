//! What a change of the number of pods, a rollout or the restart of a node would do to the memory of its nodes. Pure: a
//! scheduler that counts requests, nodes whose room is what is allocatable, and pods that follow recorded curves.
//!
//! The scheduler binds a pod to the node with the most room by requests, in order, as soon as one has enough. Where
//! more is used than the node has, the kernel kills the container with the most above its pod's request (as the score
//! of a Burstable pod does). It is restarted after a second, then after 10 s, 20 s, ...
//!
//! **Known wrong answers.** Every start follows the same curve, the highest seen at each age: starts that differ do not
//! meet in their peaks. A start is as fast beside others as alone. Nothing but memory keeps a pod from a node: no
//! affinity, taint, topology or CPU. All of a node's pods are known, or what they take counts as free.

use serde::Serialize;

pub mod plan;
mod run;

pub use run::simulate;

/// One kind of pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    pub name: String,
    /// What the scheduler counts. Bytes.
    pub request: u64,
    /// What it asks for while it starts, if it is lent to.
    pub start_need: u64,
    /// Its containers' limits, all together; `None`: one of them has none.
    pub limit: Option<u64>,
    /// Highest usage in each span of this many seconds since its start.
    pub span: f64,
    pub curve: Vec<u64>,
    /// What it uses after that.
    pub steady: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub name: String,
    /// What pods may request, and use, together. Bytes.
    pub allocatable: u64,
    /// Of that, what pods that are not among the kinds have: requested, used.
    pub taken: (u64, u64),
    /// Settled pods on it: which kind, how many.
    pub pods: Vec<(usize, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// So many more pods of a kind, at once.
    Add { kind: usize, pods: u64 },
    /// Every pod of a kind is replaced.
    Rollout { kind: usize, surge: u64, unavailable: u64 },
    /// All containers of a node start at once. They stay where they are.
    Restart { node: usize },
}

/// What is requested while a pod starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Requests {
    /// What is set.
    AsSet,
    /// The start-up need, for as long as the pod lives.
    PeakKept,
    /// The start-up need, given back once the spike has passed.
    Lent,
}

impl Requests {
    pub const ALL: [Requests; 3] = [Requests::AsSet, Requests::PeakKept, Requests::Lent];

    pub fn name(self) -> &'static str {
        match self {
            Requests::AsSet => "as set",
            Requests::PeakKept => "peak kept",
            Requests::Lent => "lent",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    pub requests: Requests,
    /// Pods that were to start.
    pub starts: u64,
    /// How many began at each time at which some did, in order: with lending, the waves.
    pub waves: Vec<u64>,
    /// No node ever has room for these.
    pub pending_forever: u64,
    pub kills: Vec<Kill>,
    /// Kills that were not kept in the list.
    pub more_kills: u64,
    /// Until every pod that could start was settled; absent: some never are.
    pub settled_seconds: Option<f64>,
    /// Requested, over time, of the pods that start. Byte seconds.
    pub requested: f64,
    /// Those where anything starts.
    pub nodes: Vec<NodeOutcome>,
}

impl Outcome {
    pub fn killed(&self) -> u64 {
        self.kills.len() as u64 + self.more_kills
    }

    pub fn short(&self) -> impl Iterator<Item = &NodeOutcome> {
        self.nodes.iter().filter(|node| node.short_by > 0)
    }

    /// Everything starts, and nothing is killed.
    pub fn fits(&self) -> bool {
        self.killed() == 0 && self.pending_forever == 0 && self.short().next().is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kill {
    pub at: f64,
    pub node: String,
    pub kind: String,
    /// Its pods' own limit, not the node's room.
    pub own_limit: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeOutcome {
    pub name: String,
    pub allocatable: u64,
    /// Pods that started on it.
    pub starts: u64,
    /// Highest use, had nothing been killed. Bytes.
    pub demand: u64,
    pub demand_at: f64,
    /// By how much that is more than there is.
    pub short_by: u64,
    /// When it is first.
    pub short_at: Option<f64>,
    /// Use over time, had nothing been killed: for the picture. In equal spans of `span` seconds.
    pub span: f64,
    pub curve: Vec<u64>,
}
