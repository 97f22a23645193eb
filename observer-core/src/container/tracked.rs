//! One row of the table of containers: what each stage keeps of one, so that its end is one removal.

use std::collections::BTreeMap;

use crate::{
    attribution::PodKey,
    container::{counters::Counters, lifecycle::Lifecycle},
    model::{
        container::{CgroupId, ContainerState, Workload},
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
    pub counters: BTreeMap<CgroupId, Box<Counters>>,
    /// For scale events.
    pub levels: StartLevels,
    /// For advice, while it runs.
    pub running: Option<Running>,
}

/// What scale events need to know of a container. Bytes; 0 while not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartLevels {
    pub starting: bool,
    /// When it was no longer starting, last.
    pub settled: Option<Time>,
    /// It had a verdict.
    pub judged: bool,
    pub ended: bool,
    pub peak: u64,
    pub steady: u64,
    /// While it started, from its first process on.
    pub stall_seconds: f64,
}

impl StartLevels {
    pub fn reached(&mut self, at: Time, state: ContainerState) {
        self.starting = state == ContainerState::Starting;
        match state {
            ContainerState::Starting if self.ended => *self = Self { starting: true, ..Self::default() },
            ContainerState::Starting => {}
            ContainerState::Ended => (self.settled, self.ended) = (Some(at), true),
            _ => (self.settled, self.judged) = (Some(at), true),
        }
    }

    /// Stalls are read once a second: of a start-up that was killed after its end, and of a runtime that is held up
    /// itself before the start. `alive`: a process is in it.
    pub fn stalled(&mut self, seconds: f64, alive: bool) {
        if self.ended && alive {
            *self = Self::default();
        }
        if !self.judged {
            self.stall_seconds += seconds;
        }
    }
}

/// What advice needs to know of a container alive.
#[derive(Debug)]
pub struct Running {
    pub workload: Workload,
    pub started: Option<Time>,
    pub starting: bool,
    pub settled: Option<Time>,
    pub looked: Option<Time>,
    pub limit: Option<Limit>,
    pub ready: Option<f64>,
    pub stable: Option<f64>,
    /// Its own limit killed a process of it while it started.
    pub cut_short: bool,
}

impl Running {
    /// Of several containers that were identified late, each is reported completely before the next.
    pub fn was_starting(&self, at: Time) -> bool {
        self.started.is_some_and(|started| started <= at) && self.settled.is_none_or(|settled| settled > at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_before_the_start_are_of_it_and_those_after_are_not() {
        use ContainerState::{Ended, Stable, Starting};
        let at = Time::from_nanos;
        let mut levels = StartLevels::default();
        levels.stalled(1.0, true); // the runtime's
        levels.reached(at(1), Starting);
        levels.stalled(2.0, true);
        levels.reached(at(2), Stable);
        levels.stalled(4.0, true);
        levels.reached(at(3), Ended);
        levels.stalled(8.0, false);
        assert_eq!(levels.stall_seconds, 3.0);
        levels.stalled(16.0, true);
        levels.reached(at(4), Starting);
        levels.peak = 7;
        levels.reached(at(5), Ended);
        levels.stalled(32.0, false);
        assert_eq!((levels.stall_seconds, levels.peak), (48.0, 7), "of the next start, which was cut off");
    }
}
