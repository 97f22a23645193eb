//! All probes. Adding one: its file, one line here, its programs in `main.rs`.

use crate::probe::Probe;

pub mod cgroup_life;
pub mod fault_latency;
pub mod oom_kill;
pub mod oom_scope;
pub mod page_cache;
pub mod page_fault;
pub mod process;
pub mod reclaim;

/// In the order of attaching: groups are known before their faults are counted.
pub const ALL: &[&Probe] = &[
    &cgroup_life::PROBE,
    &process::PROBE,
    &oom_scope::PROBE,
    &oom_kill::PROBE,
    &reclaim::PROBE,
    &page_cache::PROBE,
    &page_fault::PROBE,
    &fault_latency::PROBE,
];
