//! The pure core: one event in, findings out. No clock, no IO, cannot fail.
//!
//! Replay and the live daemon run exactly this; whatever is reported was derived here from events alone.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    attribution::{Index, Known},
    cause::Ends,
    event::{CgroupId, Event, Host, Outcome, What as Happened},
    finding::{Finding, State, What},
    history::{Histories, Outcome as Remembered, Workload},
    lifecycle::Life,
    oom::{self, Baselines},
    time::Time,
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
    lives: BTreeMap<CgroupId, Life>,
    counters: counters::Counters,
    baselines: Baselines,
    /// Victims the kernel named by pid only, waiting for their exit.
    unnamed: oom::Unnamed,
    histories: Histories,
    ends: Ends,
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
        if let Happened::Exit { cgroup, pid, comm, .. } = &event.what
            && let Some((kill, height)) = self.unnamed.resolve(*pid, *cgroup, comm)
        {
            self.oom_kill(at, kill, height, out);
        }
        if let Some(cgroup) = subject(event)
            && self.waits(cgroup, event, out)
        {
            if let Happened::CgroupRemoved { .. } = event.what
                && self.dormant_removed(cgroup)
            {
                self.removed(at, cgroup, out);
            }
            return;
        }
        match &event.what {
            Happened::Host(host) => {
                self.host = Some(host.clone());
                if let Some(booted) = host.booted {
                    self.cluster.booted(booted);
                }
                out.push(Finding { at, what: What::Host(host.clone()) });
            }
            Happened::Probe(status) => {
                let attached = matches!(status.outcome, Outcome::Attached { .. });
                match status.probe.as_str() {
                    "oom_kill" => self.oom_probe = attached,
                    "page_fault" => self.fault_probe = attached,
                    "process" => self.process_probe = attached,
                    _ => {}
                }
                out.push(Finding { at, what: What::Probe(status.clone()) });
            }
            Happened::History { workload, startups, levels } => {
                self.histories.restore(workload.clone(), startups.clone(), levels.clone());
                self.tell_history(at, workload, out);
            }
            Happened::CgroupSeeded { cgroup, populated, .. } => {
                if *populated && let Some(life) = self.owner_of(*cgroup) {
                    life.seen_running(at, out);
                }
            }
            Happened::CgroupMade { cgroup, .. } => {
                self.baselines.made(*cgroup);
                self.counters.made(*cgroup);
            }
            Happened::CgroupAttached { cgroup, .. } => {
                let (exec_will_come, wall_ns) = (self.process_probe, self.wall_ns());
                if let Some(life) = self.owner_of(*cgroup) {
                    life.joined(at, exec_will_come, wall_ns, out);
                }
            }
            Happened::CgroupPopulated { .. } => {}
            Happened::CgroupEmptied { cgroup, watermark, .. } => {
                if let Some(life) = self.lives.get_mut(cgroup) {
                    life.emptied(at, Some(*watermark), out);
                }
            }
            Happened::CgroupRemoved { cgroup } => self.removed(at, *cgroup, out),
            Happened::Usage { cgroup, usage, watermark } => {
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    life.used(at, *usage, Some(*watermark), out);
                }
            }
            Happened::Memory { cgroup, reading } => {
                self.file_counters(at, *cgroup, reading, out);
                if let Some(life) = self.lives.get_mut(cgroup) {
                    life.read(at, reading, out);
                }
            }
            Happened::Totals { cgroup, totals } => self.totals(at, event, *cgroup, *totals, out),
            Happened::FaultLatency { cgroup, latency } => self.latency(at, event, *cgroup, latency, out),
            Happened::Exec { cgroup, comm, watermark, .. } => {
                let wall_ns = self.wall_ns();
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    life.executed(at, comm, *watermark, wall_ns, out);
                }
            }
            Happened::Exit { cgroup, status, .. } => {
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    life.exited(*status);
                }
            }
            Happened::OomKill(kill) => {
                let height = self.baselines.height(at, kill);
                if let Some(kill) = self.unnamed.complete_or_keep(at, kill, height) {
                    self.oom_kill(at, kill, height, out);
                }
            }
            Happened::Api(state) => self.api(at, state, out),
            Happened::Pod(pod) => self.pod(at, pod, out),
            Happened::PodGone { uid } => self.pod_gone(at, uid),
            Happened::Owner(owner) => self.owner_told(at, owner, out),
            Happened::Record(record) => self.record(at, record),
            Happened::Node(reading) => self.node.read(reading),
            Happened::Observer(reading) => {
                out.push(Finding { at, what: What::Observer(*reading) });
            }
            Happened::Lost { at: loss, count } => {
                out.push(Finding { at, what: What::Lost { loss: *loss, count: *count } });
            }
            Happened::Tick => self.tick(at, out),
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

    fn owner_of(&mut self, cgroup: CgroupId) -> Option<&mut Life> {
        let owner = self.index.container(cgroup)?;
        self.lives.get_mut(&owner)
    }

    /// The container's life; the event is held if nobody knows the cgroup yet.
    fn owner_or_hold(
        &mut self,
        cgroup: CgroupId,
        event: &Event,
        out: &mut Vec<Finding>,
    ) -> Option<&mut Life> {
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
            if let What::Ended(ended) = &finding.what {
                self.ends.ended(ended);
            }
            let (container, outcome) = match &finding.what {
                What::State { container, to, .. } if *to != State::Ended => {
                    (container, Remembered::of(*to, false))
                }
                What::LateStep { container, .. } => (container, Some(Remembered::Stable)),
                What::Ended(ended) if ended.was == State::Starting => {
                    (&ended.container, Remembered::of(State::Ended, ended.oom_killed))
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
            out.push(Finding { at, what: What::Learned { workload: workload.clone(), summary } });
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
                out.push(Finding { at: now, what: What::Forgotten { container: life.container().clone() } });
            }
            !over
        });
        for event in self.index.expire(now) {
            unattributed(now, &event, out);
        }
        for (kill, height) in self.unnamed.expire(now) {
            self.oom_kill(now, kill, height, out);
        }
        self.tick_cluster(now, out);
        self.tick_node(now, out);
    }
}

fn unattributed(at: Time, event: &Event, out: &mut Vec<Finding>) {
    if let Some(cgroup) = subject(event) {
        out.push(Finding { at, what: What::Unattributed { cgroup } });
    }
}

/// Where an event that tells a path happened.
fn place(event: &Event) -> Option<(CgroupId, &str)> {
    match &event.what {
        Happened::CgroupSeeded { cgroup, path, .. }
        | Happened::CgroupMade { cgroup, path }
        | Happened::CgroupAttached { cgroup, path, .. }
        | Happened::CgroupPopulated { cgroup, path } => Some((*cgroup, path)),
        _ => None,
    }
}

/// The cgroup an event that may be held is about.
fn subject(event: &Event) -> Option<CgroupId> {
    match &event.what {
        Happened::CgroupSeeded { cgroup, .. }
        | Happened::CgroupAttached { cgroup, .. }
        | Happened::CgroupEmptied { cgroup, .. }
        | Happened::CgroupRemoved { cgroup }
        | Happened::Usage { cgroup, .. }
        | Happened::Memory { cgroup, .. }
        | Happened::Totals { cgroup, .. }
        | Happened::FaultLatency { cgroup, .. }
        | Happened::Exec { cgroup, .. }
        | Happened::Exit { cgroup, .. } => Some(*cgroup),
        // Only once it is settled whose limit it was.
        Happened::OomKill(kill) => kill.whose.and(kill.victim_cgroup),
        _ => None,
    }
}
