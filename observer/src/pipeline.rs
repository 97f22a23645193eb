//! The pure core: one event in, findings out. No clock, no IO, cannot fail.
//!
//! Replay and the live daemon run exactly this; whatever is reported was derived here from events alone.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    attribution::{Index, Known},
    cause::Ends,
    event::{
        CgroupId, Event, Host, MemoryEvents, MemoryReading, MemoryStat, NodeReading, Outcome, Pressure,
        Totals, What as Happened, Whose,
    },
    finding::{
        Container, Finding, LimitEvent, NodeMeasured, OomKilled, OomScope, ShortAhead, StalledBy,
        StampedeBegan, StampedeEnded, State, What,
    },
    forecast::{self, Starting},
    history::{Histories, Outcome as Remembered, Workload},
    lifecycle::Life,
    oom::{self, Baselines},
    stampede::{self, Member, Stampede},
    time::Time,
};

mod advise;
mod cluster;

/// The kubelet evicts pods when less than this is available (KubeletConfiguration, evictionHard memory.available).
const EVICTION_RESERVE: u64 = 100 << 20;

#[derive(Debug, Default)]
pub struct Pipeline {
    host: Option<Host>,
    index: Index,
    lives: BTreeMap<CgroupId, Life>,
    totals: HashMap<CgroupId, Totals>,
    latencies: HashMap<CgroupId, Vec<u64>>,
    /// Last counters of the files, to tell what moved.
    files: HashMap<CgroupId, FileCounters>,
    baselines: Baselines,
    /// Victims the kernel named by pid only, waiting for their exit.
    unnamed: oom::Unnamed,
    histories: Histories,
    ends: Ends,
    stampede: stampede::Watch,
    cluster: cluster::Cluster,
    advise: advise::Advise,
    /// MemAvailable, once it was read.
    available: Option<u64>,
    /// Read and not told yet.
    reading: Option<NodeReading>,
    /// A shortage ahead has been told and is not over.
    short: bool,
    /// Kills are counted from files while no probe sees them.
    oom_probe: bool,
    fault_probe: bool,
    /// Without it no exec will ever tell when the entry point began.
    process_probe: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct FileCounters {
    stat: Option<MemoryStat>,
    events: Option<MemoryEvents>,
    pressure: Option<Pressure>,
}

impl FileCounters {
    fn zero() -> Self {
        Self {
            stat: Some(MemoryStat::default()),
            events: Some(MemoryEvents::default()),
            pressure: Some(Pressure::default()),
        }
    }
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
                // All that a new group's files count happened under our eyes.
                self.files.entry(*cgroup).or_insert_with(FileCounters::zero);
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
            Happened::FaultLatency { cgroup, latency } => {
                if let Some(life) = self.owner_or_hold(*cgroup, event, out) {
                    let container = life.container().clone();
                    let before = self.latencies.insert(*cgroup, latency.buckets.clone()).unwrap_or_default();
                    let grew = |(index, now): (usize, &u64)| now - before.get(index).unwrap_or(&0).min(now);
                    let buckets = latency.buckets.iter().enumerate().map(grew).collect();
                    out.push(Finding { at, what: What::FaultsTimed { container, buckets } });
                }
            }
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
            Happened::Node(reading) => {
                self.available = Some(reading.headroom());
                self.reading = Some(reading.clone()); // told with the tick that follows it
            }
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
        self.totals.remove(&cgroup);
        self.latencies.remove(&cgroup);
        self.files.remove(&cgroup);
        self.baselines.removed(cgroup);
    }

    fn totals(&mut self, at: Time, event: &Event, cgroup: CgroupId, now: Totals, out: &mut Vec<Finding>) {
        let Some(life) = self.owner_or_hold(cgroup, event, out) else { return };
        let container = life.container().clone();
        let before = self.totals.insert(cgroup, now).unwrap_or_default();
        let faults = now.faults.saturating_sub(before.faults);
        if faults > 0 {
            out.push(Finding { at, what: What::Faulted { container: container.clone(), faults } });
        }
        let stalls = [
            (
                StalledBy::Limit,
                (now.memcg_stalls, before.memcg_stalls),
                (now.memcg_stall_ns, before.memcg_stall_ns),
            ),
            (
                StalledBy::Node,
                (now.direct_stalls, before.direct_stalls),
                (now.direct_stall_ns, before.direct_stall_ns),
            ),
        ];
        for (by, count, ns) in stalls {
            let stalls = count.0.saturating_sub(count.1);
            let seconds = ns.0.saturating_sub(ns.1) as f64 / 1e9;
            if stalls > 0 {
                out.push(Finding {
                    at,
                    what: What::Stalled { container: container.clone(), by, stalls, seconds },
                });
            }
        }
    }

    /// What the files count and no probe does: major faults, limits met and pressure always, faults and kills where a probe
    /// is missing.
    fn file_counters(&mut self, at: Time, cgroup: CgroupId, reading: &MemoryReading, out: &mut Vec<Finding>) {
        let (stat, events) = (reading.stat, reading.events);
        let Some(life) = self.lives.get_mut(&cgroup) else { return };
        let container = life.container().clone();
        let entry = self.files.entry(cgroup).or_default();
        let before = *entry;
        entry.stat = stat.or(before.stat);
        entry.events = events.or(before.events);
        entry.pressure = reading.pressure.or(before.pressure);
        if let (Some(now), Some(before)) = (reading.pressure, before.pressure) {
            let seconds = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9;
            let (waiting_seconds, stalled_seconds) =
                (seconds(now.some_ns, before.some_ns), seconds(now.full_ns, before.full_ns));
            let container = container.clone();
            out.push(Finding { at, what: What::Pressed { container, waiting_seconds, stalled_seconds } });
        }
        if let (Some(now), Some(before)) = (stat, before.stat) {
            let major = now.major_faults.saturating_sub(before.major_faults);
            if major > 0 {
                out.push(Finding {
                    at,
                    what: What::MajorFaulted { container: container.clone(), faults: major },
                });
            }
            let faults = now.faults.saturating_sub(before.faults);
            if faults > 0 && !self.fault_probe {
                out.push(Finding { at, what: What::Faulted { container: container.clone(), faults } });
            }
        }
        if let (Some(now), Some(before)) = (events, before.events) {
            for event in LimitEvent::ALL {
                // A counter this kernel has, but an older reading did not, begins now.
                let (Some(now), before) = (event.of(&now), event.of(&before)) else { continue };
                let times = now.saturating_sub(before.unwrap_or(0));
                if times > 0 {
                    let container = container.clone();
                    out.push(Finding { at, what: What::LimitMet { container, event, times } });
                }
            }
            let kills = now.oom_kill.saturating_sub(before.oom_kill);
            if kills > 0 && !self.oom_probe {
                life.oom_killed(None);
                let killed = OomKilled {
                    usage: life.usage(),
                    peak: life.peak(),
                    limit: life.limit().and_then(|limit| limit.bytes()),
                    starting: life.is_starting(),
                    age_seconds: life.age(at),
                    container: Some(container),
                    scope: OomScope::Unknown,
                    victim_pid: 0,
                    victim_command: String::new(),
                    asker_pid: 0,
                    asker_command: String::new(),
                    asker: None,
                    kills,
                };
                self.stampede.oom_killed(kills);
                out.push(Finding { at, what: What::OomKilled(killed) });
            }
        }
        if let Some(local) = events.and_then(|events| events.oom_local) {
            self.baselines.read(at, cgroup, local);
        }
    }

    fn oom_kill(
        &mut self,
        at: Time,
        kill: crate::event::OomKill,
        height: oom::Height,
        out: &mut Vec<Finding>,
    ) {
        if let Some(victim) = kill.victim_cgroup {
            // The counts are told from those before only now.
            let whose = height.and_then(|height| kill.levels.get(height));
            let whose = whose.map_or(Whose::Node, |level| Whose::Group(level.cgroup));
            let what = Happened::OomKill(crate::event::OomKill { whose: Some(whose), ..kill.clone() });
            if self.waits(victim, &Event { at, what }, out) {
                return;
            }
        }
        let owner = kill.victim_cgroup.and_then(|cgroup| self.index.container(cgroup));
        let verdict = oom::judge(&kill, height, owner, |cgroup| self.index.container(cgroup));
        let asker = self
            .index
            .container(kill.asker_cgroup)
            .filter(|asker| Some(*asker) != owner)
            .and_then(|asker| self.lives.get(&asker))
            .map(|life| life.container().clone());
        let level = kill.levels.iter().find(|level| Some(level.cgroup) == owner).or(kill.levels.first());
        let (usage, peak) = level.map_or((0, 0), |level| (level.usage, level.watermark));
        let life = owner.and_then(|owner| self.lives.get_mut(&owner));
        let killed = OomKilled {
            starting: life.as_ref().is_some_and(|life| life.is_starting()),
            age_seconds: life.as_ref().and_then(|life| life.age(at)),
            container: life.as_ref().map(|life| life.container().clone()),
            scope: verdict.scope,
            limit: verdict.limit,
            victim_pid: kill.victim_pid,
            victim_command: kill.victim_comm,
            usage,
            peak,
            asker_pid: kill.asker_pid,
            asker_command: kill.asker_comm,
            asker,
            kills: 1,
        };
        if let Some(life) = life {
            life.oom_killed(Some(peak));
        }
        self.stampede.oom_killed(killed.kills);
        out.push(Finding { at, what: What::OomKilled(killed) });
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

    fn node(&mut self, at: Time, out: &mut Vec<Finding>) {
        let reading = self.reading.take();
        let live = || self.lives.values().filter(|life| life.is_live());
        let starting: Vec<&Life> = live().filter(|life| life.is_starting()).collect();
        let ahead: Vec<Starting> = starting
            .iter()
            .map(|life| Starting {
                age: life.age(at).unwrap_or(0.0),
                usage: life.usage(),
                limit: life.limit().and_then(|limit| limit.bytes()),
                past: self.histories.get(&Workload::of(&life.container().labels)),
            })
            .collect();
        let forecast = forecast::forecast(&ahead);
        let measured = NodeMeasured {
            reading,
            cgroups: self.index.count() as u64,
            containers: live().count() as u64,
            starting: starting.len() as u64,
            starting_usage: starting.iter().map(|life| life.usage()).sum(),
            forecast,
            stampede: self.stampede.now().is_some(),
        };
        let members: Vec<Member> = starting
            .iter()
            .map(|life| Member { cgroup: life.container().cgroup, usage: life.usage() })
            .collect();
        if let Some(available) = self.available {
            self.headroom(at, &measured, available, &members, out);
        }
        out.push(Finding { at, what: What::Node(measured) });
    }

    /// Whether those starting run the node short, or will.
    fn headroom(
        &mut self,
        at: Time,
        node: &NodeMeasured,
        available: u64,
        starting: &[Member],
        out: &mut Vec<Finding>,
    ) {
        let forecast = node.forecast;
        match self.stampede.look(at, starting, forecast.growth, available) {
            stampede::Change::None => {}
            stampede::Change::Began => {
                let began = StampedeBegan {
                    members: self.containers(starting.iter().map(|member| member.cgroup)),
                    held: node.starting_usage,
                    growth: forecast.growth,
                    available,
                };
                out.push(Finding { at, what: What::StampedeBegan(began) });
            }
            stampede::Change::Ended => {
                if let Some(stampede) = self.stampede.take() {
                    out.push(Finding { at, what: What::StampedeEnded(self.stampede_ended(at, &stampede)) });
                }
            }
        }
        let short = forecast.growth > available.saturating_sub(EVICTION_RESERVE);
        if short && !self.short {
            let ahead = ShortAhead { forecast, available, starting: node.starting };
            out.push(Finding { at, what: What::ShortAhead(ahead) });
        }
        self.short = short;
    }

    fn stampede_ended(&self, at: Time, stampede: &Stampede) -> StampedeEnded {
        let alive = |cgroup: &&CgroupId| self.lives.get(cgroup).is_some_and(Life::is_live);
        StampedeEnded {
            members: self.containers(stampede.members.keys().copied()),
            seconds: at.seconds_since(stampede.began),
            highest_sum: stampede.highest_sum,
            held_now: stampede.members.keys().filter(alive).map(|cgroup| self.lives[cgroup].usage()).sum(),
            lowest_available: stampede.lowest_available,
            oom_kills: stampede.oom_kills,
        }
    }

    fn containers(&self, cgroups: impl Iterator<Item = CgroupId>) -> Vec<Container> {
        cgroups.filter_map(|cgroup| Some(self.lives.get(&cgroup)?.container().clone())).collect()
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
        self.node(now, out);
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
