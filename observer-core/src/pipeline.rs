//! The pure core: one event in, findings out. No clock, no IO, cannot fail.
//!
//! Replay and the live daemon run exactly this; whatever is reported was derived here from events alone.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    attribution::cgroup_index::{Index, Known},
    cause::PreviousExits,
    container::{
        lifecycle::Lifecycle,
        oom::{self, Baselines},
    },
    model::{
        event::{AttachOutcome, CgroupId, Event, EventKind, Host},
        finding::{ContainerState, Finding, FindingKind},
        time::Time,
    },
    workload::history::{Histories, StartupOutcome, Workload},
};

mod advise;
mod cluster;
mod counters;
mod kills;
mod node;
mod waiting;

#[derive(Debug, Default)]
pub struct Pipeline {
    host: Option<Host>,
    index: Index,
    lives: BTreeMap<CgroupId, Lifecycle>,
    counters: counters::Counters,
    baselines: Baselines,
    /// Victims the kernel named by pid only, waiting for their exit.
    unnamed: oom::Unnamed,
    histories: Histories,
    ends: PreviousExits,
    node: node::Node,
    cluster: cluster::Cluster,
    advise: advise::Advise,
    /// Kills are counted from files while no probe sees them.
    oom_probe: bool,
    fault_probe: bool,
    /// Without it no exec will ever tell when the entry point began.
    process_probe: bool,
}

impl Pipeline {
    /// Folds one event into the state and returns what follows from it.
    pub fn step(&mut self, event: &Event) -> Vec<Finding> {
        let mut out = Vec::new();
        self.take(event, &mut out);
        self.learn_from(&mut out);
        self.follow(event.at, &mut out);
        self.note(&mut out);
        out
    }

    /// What is known of every workload's start-ups, to be kept for the next run.
    pub fn histories(&self) -> &Histories {
        &self.histories
    }

    fn take(&mut self, event: &Event, out: &mut Vec<Finding>) {
        let at = event.at;
        if let Some((cgroup, path)) = place(event) {
            self.learn(at, cgroup, path, out);
        }
        // Who died names a victim the kernel named by pid only, and that before anybody waits.
        if let EventKind::Exit { cgroup, pid, comm, .. } = &event.what
            && let Some((kill, level_index)) = self.unnamed.resolve(*pid, *cgroup, comm)
        {
            self.oom_kill(at, kill, level_index, out);
        }
        if let Some(cgroup) = subject(event)
            && self.waits(cgroup, event, out)
        {
            if let EventKind::CgroupRemoved { .. } = event.what
                && self.dormant_removed(cgroup)
            {
                self.removed(at, cgroup, out);
            }
            return;
        }
        match &event.what {
            EventKind::Host(host) => {
                self.host = Some(host.clone());
                if let Some(booted) = host.booted {
                    self.cluster.booted(booted);
                }
                out.push(Finding { at, what: FindingKind::Host(host.clone()) });
            }
            EventKind::Probe(status) => {
                let attached = matches!(status.outcome, AttachOutcome::Attached { .. });
                match status.probe.as_str() {
                    "oom_kill" => self.oom_probe = attached,
                    "page_fault" => self.fault_probe = attached,
                    "process" => self.process_probe = attached,
                    _ => {}
                }
                out.push(Finding { at, what: FindingKind::Probe(status.clone()) });
            }
            EventKind::History { workload, startups, levels } => {
                self.histories.restore(workload.clone(), startups.clone(), levels.clone());
                self.tell_history(at, workload, out);
            }
            EventKind::CgroupSeeded { cgroup, populated, .. } => {
                if *populated && let Some(life) = self.owner_of(*cgroup) {
                    life.seen_running(at, out);
                }
            }
            EventKind::CgroupMade { cgroup, .. } => {
                self.baselines.made(*cgroup);
                self.counters.made(*cgroup);
            }
            EventKind::CgroupAttached { cgroup, .. } => {
                let (exec_will_come, wall_ns) = (self.process_probe, self.wall_ns());
                if let Some(life) = self.owner_of(*cgroup) {
                    life.joined(at, exec_will_come, wall_ns, out);
                }
            }
            EventKind::CgroupPopulated { .. } => {}
            EventKind::CgroupEmptied { cgroup, watermark, .. } => {
                if let Some(life) = self.lives.get_mut(cgroup) {
                    life.emptied(at, Some(*watermark), out);
                }
            }
            EventKind::CgroupRemoved { cgroup } => self.removed(at, *cgroup, out),
            EventKind::Usage { cgroup, usage, watermark } => {
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    life.used(at, *usage, Some(*watermark), out);
                }
            }
            EventKind::Memory { cgroup, reading } => {
                self.file_counters(at, *cgroup, reading, out);
                if let Some(life) = self.lives.get_mut(cgroup) {
                    life.read(at, reading, out);
                }
            }
            EventKind::Totals { cgroup, totals } => self.totals(at, event, *cgroup, *totals, out),
            EventKind::FaultLatency { cgroup, latency } => self.latency(at, event, *cgroup, latency, out),
            EventKind::Exec { cgroup, comm, watermark, .. } => {
                let wall_ns = self.wall_ns();
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    life.executed(at, comm, *watermark, wall_ns, out);
                }
            }
            EventKind::Exit { cgroup, status, .. } => {
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    life.exited(*status);
                }
            }
            EventKind::OomKill(kill) => {
                let level_index = self.baselines.level_index(at, kill);
                if let Some(kill) = self.unnamed.complete_or_keep(at, kill, level_index) {
                    self.oom_kill(at, kill, level_index, out);
                }
            }
            EventKind::Api(state) => self.api(at, state, out),
            EventKind::Pod(pod) => self.pod(at, pod, out),
            EventKind::PodGone { uid } => self.pod_gone(at, uid),
            EventKind::Owner(owner) => self.owner_told(at, owner, out),
            EventKind::Record(record) => self.record(at, record),
            EventKind::Node(reading) => self.node.read(reading),
            EventKind::Observer(reading) => {
                out.push(Finding { at, what: FindingKind::Observer(*reading) });
            }
            EventKind::Lost { at: loss, count } => {
                out.push(Finding { at, what: FindingKind::Lost { loss: *loss, count: *count } });
            }
            EventKind::Tick => self.tick(at, out),
        }
    }

    fn wall_ns(&self) -> i64 {
        self.host.as_ref().map_or(0, |host| host.wall_offset_ns)
    }

    /// Learns a cgroup, and works off what was held for it.
    fn learn(&mut self, at: Time, cgroup: CgroupId, path: &str, out: &mut Vec<Finding>) {
        if !self.index.learn(cgroup, path) {
            return;
        }
        if self.index.container(cgroup) == Some(cgroup) {
            self.open_or_wait(at, cgroup, path, out);
        }
        for event in self.index.release(|held| subject(held) == Some(cgroup)) {
            self.take(&event, out);
        }
    }

    fn owner_of(&mut self, cgroup: CgroupId) -> Option<&mut Lifecycle> {
        let owner = self.index.container(cgroup)?;
        self.lives.get_mut(&owner)
    }

    /// The container's life; the event is held if nobody knows the cgroup yet.
    fn owner_or_hold(
        &mut self,
        cgroup: CgroupId,
        event: &Event,
        out: &mut Vec<Finding>,
    ) -> Option<&mut Lifecycle> {
        match self.index.known(cgroup) {
            Known::Container(owner) => self.lives.get_mut(&owner),
            Known::Group => None,
            Known::No => {
                if let Some(crowded_out) = self.index.hold(event.clone()) {
                    unattributed(event.at, &crowded_out, out);
                }
                None
            }
        }
    }

    fn removed(&mut self, at: Time, cgroup: CgroupId, out: &mut Vec<Finding>) {
        if let Some(life) = self.lives.get_mut(&cgroup) {
            life.emptied(at, None, out);
            if life.state().is_none() {
                self.lives.remove(&cgroup); // never lived
            }
        }
        self.index.forget(cgroup);
        self.counters.removed(cgroup);
        self.baselines.removed(cgroup);
    }

    /// Adds start-ups that got a verdict, or ended without one, to their workload's history.
    fn learn_from(&mut self, out: &mut Vec<Finding>) {
        let mut learned = Vec::new();
        for finding in out.iter() {
            if let FindingKind::Ended(ended) = &finding.what {
                self.ends.ended(ended);
            }
            let (container, outcome) = match &finding.what {
                FindingKind::State { container, to, .. } if *to != ContainerState::Ended => {
                    (container, StartupOutcome::of(*to, false))
                }
                FindingKind::LateStep { container, .. } => (container, Some(StartupOutcome::Stable)),
                FindingKind::Ended(ended) if ended.was == ContainerState::Starting => {
                    (&ended.container, StartupOutcome::of(ContainerState::Ended, ended.oom_killed))
                }
                _ => continue,
            };
            let life = self.lives.get(&container.cgroup);
            if let Some(past) = outcome.and_then(|outcome| life?.past(self.wall_ns(), outcome)) {
                learned.push((finding.at, Workload::of(&container.labels), past));
            }
        }
        for (at, workload, past) in learned {
            self.histories.remember(&workload, past);
            self.tell_history(at, &workload, out);
        }
    }

    fn tell_history(&self, at: Time, workload: &Workload, out: &mut Vec<Finding>) {
        if let Some(summary) = self.histories.summary(workload) {
            out.push(Finding { at, what: FindingKind::Learned { workload: workload.clone(), summary } });
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Finding>) {
        let wall_ns = self.wall_ns();
        let retention =
            self.host.as_ref().map_or(Duration::MAX, |host| Duration::from_nanos(host.retention_ns));
        for life in self.lives.values_mut() {
            life.tick(now, wall_ns, out);
        }
        self.lives.retain(|_, life| {
            let over = life.is_over(now, retention);
            if over {
                out.push(Finding {
                    at: now,
                    what: FindingKind::Forgotten { container: life.container().clone() },
                });
            }
            !over
        });
        for event in self.index.expire(now) {
            unattributed(now, &event, out);
        }
        for (kill, level_index) in self.unnamed.expire(now) {
            self.oom_kill(now, kill, level_index, out);
        }
        self.tick_cluster(now, out);
        self.tick_node(now, out);
    }
}

fn unattributed(at: Time, event: &Event, out: &mut Vec<Finding>) {
    if let Some(cgroup) = subject(event) {
        out.push(Finding { at, what: FindingKind::Unattributed { cgroup } });
    }
}

/// Where an event that tells a path happened.
fn place(event: &Event) -> Option<(CgroupId, &str)> {
    match &event.what {
        EventKind::CgroupSeeded { cgroup, path, .. }
        | EventKind::CgroupMade { cgroup, path }
        | EventKind::CgroupAttached { cgroup, path, .. }
        | EventKind::CgroupPopulated { cgroup, path } => Some((*cgroup, path)),
        _ => None,
    }
}

/// The cgroup an event that may be held is about.
fn subject(event: &Event) -> Option<CgroupId> {
    match &event.what {
        EventKind::CgroupSeeded { cgroup, .. }
        | EventKind::CgroupAttached { cgroup, .. }
        | EventKind::CgroupEmptied { cgroup, .. }
        | EventKind::CgroupRemoved { cgroup }
        | EventKind::Usage { cgroup, .. }
        | EventKind::Memory { cgroup, .. }
        | EventKind::Totals { cgroup, .. }
        | EventKind::FaultLatency { cgroup, .. }
        | EventKind::Exec { cgroup, .. }
        | EventKind::Exit { cgroup, .. } => Some(*cgroup),
        // Only once it is settled whose limit it was.
        EventKind::OomKill(kill) => kill.exceeded.and(kill.victim_cgroup),
        _ => None,
    }
}
