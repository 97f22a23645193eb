//! All probes. Adding one: its file, one line here, its programs in `main.rs`.

use crate::probe::Probe;

pub mod cgroup_life;
pub mod cgroup_pass;
pub mod fault_latency;
pub mod growth;
pub mod oom_kill;
pub mod oom_scope;
pub mod page_fault;
pub mod process;
pub mod reclaim;

/// In the order of attaching: groups are known before their faults are counted.
pub const ALL: &[&Probe] = &[
    &cgroup_life::PROBE,
    &cgroup_pass::PROBE,
    &process::PROBE,
    &oom_scope::PROBE,
    &oom_kill::PROBE,
    &reclaim::PROBE,
    &growth::PROBE,
    &page_fault::PROBE,
    &fault_latency::PROBE,
];

/// Attached only while a container starts: a node at rest pays nothing per fault.
pub const WHILE_STARTING: &[&Probe] = &[&growth::PROBE, &page_fault::PROBE];

pub fn is_while_starting(probe: &Probe) -> bool {
    WHILE_STARTING.iter().any(|one| one.name == probe.name)
}
