//! Stage two: what happened to it? One table of the containers that are reported; the end of one is one removal.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    attribution::{Admitted, Attribution},
    cause::previous_exit::PreviousExits,
    container::tracked::{Running, StartLevels, Tracked},
    host::HostFacts,
    model::{
        cause::Cause,
        container::{CgroupId, Container, Workload},
        event::{Event, EventKind},
        finding::{Finding, FindingKind},
        time::Time,
    },
};

pub mod counters;
pub mod curve;
pub mod ending;
pub mod lifecycle;
pub mod oom;
pub mod oom_counts;
pub mod oom_report;
pub mod page_faults;
mod peaks;
pub mod stability;
pub mod startup;
pub mod tracked;

use counters::Counters;
use lifecycle::Lifecycle;

#[derive(Debug, Default)]
pub struct Containers {
    /// Boxed, as what else is kept of each container is: a node of a tree that is filled in order is half empty.
    tracked: BTreeMap<CgroupId, Box<Tracked>>,
    /// Those that time alone may change; a tick touches no other.
    awake: BTreeSet<CgroupId>,
    /// The others that live.
    at_rest: BTreeSet<CgroupId>,
    previous_exits: PreviousExits,
}

impl Containers {
    pub fn get(&self, cgroup: CgroupId) -> Option<&Tracked> {
        self.tracked.get(&cgroup).map(|tracked| &**tracked)
    }

    pub fn get_mut(&mut self, cgroup: CgroupId) -> Option<&mut Tracked> {
        self.tracked.get_mut(&cgroup).map(|tracked| &mut **tracked)
    }

    pub fn iter(&self) -> impl Iterator<Item = (CgroupId, &Tracked)> {
        self.tracked.iter().map(|(cgroup, tracked)| (*cgroup, &**tracked))
    }

    pub fn life(&self, cgroup: CgroupId) -> Option<&Lifecycle> {
        self.tracked.get(&cgroup).map(|tracked| &tracked.life)
    }

    pub fn lives(&self) -> impl Iterator<Item = &Lifecycle> {
        self.tracked.values().map(|tracked| &tracked.life)
    }

    /// How many live.
    pub fn live(&self) -> usize {
        self.at_rest.len() + self.awake().filter(|life| life.is_live()).count()
    }

    /// What starts is among them.
    pub fn awake(&self) -> impl Iterator<Item = &Lifecycle> {
        self.awake.iter().filter_map(|cgroup| self.life(*cgroup))
    }

    /// Containers alive, as advice sees them, by cgroup.
    pub fn running_by_cgroup(&self) -> impl Iterator<Item = (CgroupId, &Running)> {
        self.iter().filter_map(|(cgroup, tracked)| Some((cgroup, tracked.running.as_ref()?)))
    }

    pub fn running(&self) -> impl Iterator<Item = &Running> {
        self.tracked.values().filter_map(|tracked| tracked.running.as_ref())
    }

    pub fn running_mut(&mut self, cgroup: CgroupId) -> Option<&mut Running> {
        self.tracked.get_mut(&cgroup)?.running.as_mut()
    }

    pub fn set_running(&mut self, cgroup: CgroupId, running: Option<Running>) {
        if let Some(tracked) = self.tracked.get_mut(&cgroup) {
            tracked.running = running;
        }
    }

    /// What follows for the container from what was admitted.
    pub fn observe(
        &mut self,
        admitted: Admitted,
        attribution: &Attribution,
        host: &HostFacts,
        out: &mut Vec<Finding>,
    ) {
        match admitted {
            Admitted::Opened { container, pod } => {
                // Of a container outside Kubernetes the node knows all there is to know.
                let cause = match pod {
                    None => self.previous_exits.cause(&container),
                    Some(_) => Cause::Unknown,
                };
                let cgroup = container.cgroup;
                let tracked = Tracked {
                    life: Lifecycle::new(container, cause),
                    pod,
                    counters: BTreeMap::new(),
                    levels: StartLevels::default(),
                    running: None,
                };
                self.at_rest.remove(&cgroup);
                self.awake.insert(cgroup);
                self.tracked.insert(cgroup, Box::new(tracked));
            }
            Admitted::Identified { .. } | Admitted::Dropped { .. } => {}
            Admitted::Event { owner, event } => self.event(&event, owner, attribution, host, out),
        }
    }

    /// The API said late who it is. Returns whether that is news.
    pub fn rename(
        &mut self,
        container: &Container,
        presumed: bool,
        at: Time,
        out: &mut Vec<Finding>,
    ) -> bool {
        let Some(tracked) = self.tracked.get_mut(&container.cgroup) else { return false };
        if tracked.life.container().labels == container.labels {
            return false; // as was presumed
        }
        let before = tracked.life.rename(container.labels.clone());
        let (old, new) = (Workload::of(&before), Workload::of(&container.labels));
        if let Some(running) = &mut tracked.running {
            running.workload = new.clone();
        }
        // Another that has the old name still may be all that was reported under it.
        let whole = !presumed && old != new && self.running().all(|running| running.workload != old);
        let container = container.clone();
        out.push(Finding { at, what: FindingKind::Identified { container, before, whole } });
        true
    }

    fn event(
        &mut self,
        event: &Event,
        owner: Option<CgroupId>,
        attribution: &Attribution,
        host: &HostFacts,
        out: &mut Vec<Finding>,
    ) {
        let at = event.at;
        if let EventKind::Tick = event.what {
            return self.tick(at, attribution, host, out);
        }
        if let Some(owner) = owner.filter(|owner| self.tracked.contains_key(owner)) {
            self.at_rest.remove(&owner);
            self.awake.insert(owner);
        }
        if let EventKind::OomKill(kill) = &event.what {
            return self.oom_killed(at, kill, owner, attribution, host, out);
        }
        let Some((owner, tracked)) = owner.and_then(|owner| Some((owner, self.tracked.get_mut(&owner)?)))
        else {
            return;
        };
        let wall_ns = host.wall_ns();
        let life = &mut tracked.life;
        match &event.what {
            EventKind::CgroupSeeded { populated: true, .. } => life.seen_running(at, out),
            EventKind::CgroupMade { cgroup, .. } => {
                tracked.counters.entry(*cgroup).or_insert_with(|| Box::new(Counters::of_a_new_cgroup()));
            }
            EventKind::CgroupAttached { pid, .. } => {
                life.joined(at, *pid, host.process_probe, wall_ns, out);
            }
            // A process that was made in the group (CLONE_INTO_CGROUP) was attached to none.
            EventKind::CgroupPopulated { cgroup, .. } if *cgroup == owner && host.process_probe => {
                life.joined(at, 0, true, wall_ns, out);
            }
            EventKind::CgroupEmptied { cgroup, watermark, .. } if *cgroup == owner => {
                life.emptied(at, Some(*watermark), out);
            }
            EventKind::CgroupRemoved { cgroup } => {
                tracked.counters.remove(cgroup);
                if *cgroup == owner {
                    life.emptied(at, None, out);
                    if life.state().is_none() {
                        self.tracked.remove(&owner); // never lived
                    }
                }
            }
            EventKind::Usage { usage, watermark, .. } => life.used(at, *usage, Some(*watermark), out),
            EventKind::Memory { cgroup, reading } if *cgroup == owner => {
                let counters = tracked.counters.entry(*cgroup).or_default();
                counters.files(at, life, reading, out);
                life.read(at, reading, out);
            }
            EventKind::Totals { cgroup, totals } => {
                let counters = tracked.counters.entry(*cgroup).or_default();
                counters.totals(at, life.container(), *totals, out);
            }
            EventKind::FaultLatency { cgroup, latency } => {
                let counters = tracked.counters.entry(*cgroup).or_default();
                counters.latency(at, life.container(), latency, out);
            }
            EventKind::Exec { pid, comm, watermark, .. } => {
                life.executed(at, *pid, comm, *watermark, wall_ns, out);
            }
            EventKind::Exit { pid, status, init, depth, .. } => {
                life.exited(*pid, *status, init.then_some(*depth));
            }
            _ => {}
        }
    }

    /// Why a container started has become known.
    pub fn caused(&mut self, cgroup: CgroupId, cause: Cause) {
        if let Some(tracked) = self.tracked.get_mut(&cgroup) {
            tracked.life.caused(cause);
        }
    }

    /// How a container ended decides what a later start under its name is.
    pub fn remember_exit(&mut self, ended: &crate::model::finding::Ended) {
        self.previous_exits.ended(ended);
    }

    fn tick(&mut self, now: Time, attribution: &Attribution, host: &HostFacts, out: &mut Vec<Finding>) {
        let awake = std::mem::take(&mut self.awake);
        for cgroup in &awake {
            if let Some(tracked) = self.tracked.get_mut(cgroup) {
                tracked.life.tick(now, host.wall_ns(), out);
            }
        }
        for cgroup in awake {
            let Some(tracked) = self.tracked.get_mut(&cgroup) else { continue };
            if tracked.life.is_over(now, host.retention()) {
                let container = tracked.life.container().clone();
                out.push(Finding { at: now, what: FindingKind::Forgotten { container: container.clone() } });
                // Outside Kubernetes a group may get processes again, however long after.
                if tracked.pod.is_some() || !attribution.exists(cgroup) {
                    self.tracked.remove(&cgroup);
                    continue;
                }
                let cause = self.previous_exits.cause(&container);
                tracked.life = Lifecycle::new(container, cause);
                (tracked.levels, tracked.running) = (StartLevels::default(), None);
            }
            if tracked.life.has_timeouts() {
                self.awake.insert(cgroup);
            } else if tracked.life.is_live() {
                self.at_rest.insert(cgroup);
            }
        }
    }
}
