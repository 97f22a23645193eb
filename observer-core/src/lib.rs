//! The pure core: events in, findings out. No clock, no file, no socket, no async, no unsafe.
//!
//! The modules in the order in which data passes them:
//!
//! ```text
//! model        the vocabulary: time, units, containers, Kubernetes objects, events, findings, and their parts
//! pipeline     step(event) -> findings: admit, observe, conclude
//!   attribution  which container?    cgroup path and id, pods; holds the events of unidentified containers
//!   container    what happened there? start-up, time to stable, OOM kills, end
//!   cause        why did it start?   evidence -> cause with a confidence
//!   scale_event  which scale-up, and which effect on this node?
//!   foreseen     what a container will still take, which limit it will meet
//!   lent         what containers request for their start
//!   history      earlier start-ups of each workload
//!   budget       how much memory the histories may take
//!   node         start-ups under way, forecast, stampedes
//!   advice       facts of a workload -> verdicts, requests, limits
//! simulate     what a scale-up, a rollout or a restart would do to the nodes (for `observer simulate`)
//! ledger       changes of every workload of the cluster (for `observer ledger`)
//! ```
//!
//! The live daemon and the replay of a recording run exactly this code, so a replay cannot differ from the live run.

#![forbid(unsafe_code)]

pub mod advice;
pub mod attribution;
pub mod budget;
pub mod cause;
pub mod conclusions;
pub mod container;
pub mod foreseen;
pub mod history;
pub mod host;
pub mod ledger;
pub mod lent;
pub mod loan;
pub mod model;
pub mod node;
pub mod pipeline;
pub mod scale_event;
pub mod simulate;
