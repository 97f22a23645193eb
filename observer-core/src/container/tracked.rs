//! One row of the table of containers: what each stage keeps of one, so that its end is one removal.

use std::collections::BTreeMap;

use crate::{
    attribution::PodKey,
    container::{counters::Counters, lifecycle::Lifecycle},
    model::{
        container::{CgroupId, Workload},
        event::Limit,
        time::Time,
    },
};

/// All that is known of one container.
#[derive(Debug)]
pub struct Tracked {
    pub life: Lifecycle,
    /// Which container of which pod it is.
    pub pod: Option<PodKey>,
    /// Of its own cgroup and those inside it.
    pub counters: BTreeMap<CgroupId, Counters>,
    /// For scale events.
    pub levels: StartLevels,
    /// For advice, while it runs.
    pub running: Option<Running>,
}

/// What scale events need to know of a container. Bytes; 0 while not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartLevels {
    pub starting: bool,
    pub peak: u64,
    pub steady: u64,
}

/// What advice needs to know of a container alive.
#[derive(Debug)]
pub struct Running {
    pub workload: Workload,
    pub started: Option<Time>,
    pub starting: bool,
    pub looked: Option<Time>,
    pub limit: Option<Limit>,
    pub ready: Option<f64>,
    pub stable: Option<f64>,
    /// Its own limit killed a process of it while it started.
    pub cut_short: bool,
}
