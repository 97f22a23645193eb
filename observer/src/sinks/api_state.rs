//! Findings -> the state for /api/v1 and the page. Everything is bounded: what does not fit is dropped and counted.
//!
//! Pure: no clock, no IO. Every second of the node ([`FindingKind::Node`]) is a *moment*; the changes since the last
//! one are a delta, made only while a client reads ([`stream`]).

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use observer_core::{
    container::{curve::Curve, stability::HORIZON_SECONDS},
    model::{
        container::{CgroupId, Container, ContainerState, Workload},
        event::{AttachOutcome, Host, Limit, Pressure, ProbeStatus},
        finding::{Advised, Finding, FindingKind, Measured, NodeMeasured, OomKilled, OomLinked, ScaleEvent},
        kubernetes::ApiState,
        time::Time,
    },
};

use super::log;

pub mod answers;
mod deltas;
pub mod history;
pub mod stream;
pub mod view;
mod workloads;

use deltas::Changes;
use history::{NodeHistory, Sample, UsageHistory, kib};
use stream::Hub;
use view::{
    AlsoStarting, ContainerRef, ContainerView, CurveView, FindingView, KillView, KubernetesView,
    LimitAheadView, NodeView, ProbeView, ScaleEventView, StartupView,
};

/// Spans of a curve while it is drawn, and of one that is kept.
const SPANS: usize = 240;
const KEPT_SPANS: usize = 60;
const CONTAINERS: usize = 4096;
/// Containers with a day of usage after start-up: the largest part of the memory here (4 KiB each).
const WITH_HISTORY: usize = 1024;
const WORKLOADS: usize = 2048;
const STARTUPS: usize = 1024;
const KILLS: usize = 200;
const SCALE_EVENTS: usize = 100;
const KILLS_OF_AN_EVENT: usize = 50;
const FINDINGS: usize = 200;
const PROBES: usize = 64;
/// Other containers that were starting at a kill, by name; the rest is a number.
const ALSO_STARTING: usize = 12;
/// A change of usage worth a row: what the curve's own error bound leaves open.
const MOVED_BYTES: u64 = 256 << 10;

#[derive(Debug, Default)]
pub struct NodeState {
    /// The file, if this is a recording.
    recording: Option<String>,
    host: Option<Host>,
    /// The tree has been walked: everything that was there is known.
    pub seeded: bool,
    kubernetes: Option<KubernetesView>,
    probes: Vec<ProbeView>,
    missing: Vec<String>,
    now: f64,
    node: NodeView,
    pressure: Option<(Time, Pressure)>,
    node_kills: u32,
    containers: BTreeMap<CgroupId, Box<Card>>,
    startups: VecDeque<StartupView>,
    next_startup: u64,
    kills: VecDeque<KillView>,
    next_kill: u64,
    scale_events: VecDeque<ScaleEventView>,
    findings: VecDeque<FindingView>,
    advice: BTreeMap<Workload, Advised>,
    history: NodeHistory,
    dropped: Dropped,
    changes: Changes,
    /// Somebody read the last delta.
    was_read: bool,
    hub: Hub,
}

/// What did not fit, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Dropped {
    pub containers: u64,
    pub startups: u64,
    pub kills: u64,
    pub scale_events: u64,
}

#[derive(Debug)]
struct Card {
    view: ContainerView,
    began: Option<Time>,
    /// The start-up it is in, or was in last.
    startup: Option<u64>,
    /// Of one that is older than the observer there is none.
    curve: Option<Box<Curve<SPANS>>>,
    history: Option<Box<UsageHistory>>,
    changed: bool,
    /// Usage in the last delta.
    sent: u64,
}

impl Card {
    fn curve(&self) -> CurveView {
        self.curve.as_deref().map_or_else(|| curve(&Curve::<SPANS>::default()), curve)
    }
}

impl NodeState {
    /// Of a recording.
    pub fn of_recording(name: String) -> Self {
        Self { recording: Some(name), seeded: true, history: NodeHistory::of_recording(), ..Self::default() }
    }

    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    fn unix(&self, at: Time) -> f64 {
        at.unix_seconds(self.host.as_ref().map_or(0, |host| host.wall_offset_ns))
    }

    pub fn apply(&mut self, finding: &Finding) {
        let at = self.unix(finding.at);
        match &finding.what {
            FindingKind::Host(host) => {
                self.node.memory_total_bytes = host.memory_total;
                self.host = Some(host.clone());
            }
            FindingKind::Probe(status) => self.probe(status),
            FindingKind::ProbeAttached { probe, attached } => {
                let name = probe.to_string();
                if let Some(view) = self.probes.iter_mut().find(|view| view.probe == name) {
                    view.attached = *attached;
                }
            }
            FindingKind::Api(state) => self.kubernetes(state),
            FindingKind::Seen { container } => self.open(container, ContainerState::Running, None),
            FindingKind::Started(started) => {
                self.open(&started.container, ContainerState::Starting, Some(finding.at))
            }
            FindingKind::Caused(caused) => {
                let cause = (&caused.decision).into();
                self.change(&caused.container, |view| view.cause = Some(cause));
            }
            FindingKind::Identified { container, .. } => self.identify(container),
            FindingKind::ScaleEventBegan(event) => {
                push(&mut self.scale_events, event.into(), SCALE_EVENTS, &mut self.dropped.scale_events);
                self.changes.scale_events = true;
            }
            FindingKind::OomLinked(linked) => self.link(linked),
            FindingKind::ScaleEventEnded(ended) => {
                if let Some(event) = self.scale_event(&ended.event) {
                    let kills = std::mem::take(&mut event.kills);
                    let outcome = Some(ended.into());
                    *event = ScaleEventView { outcome, kills, ..(&ended.event).into() };
                    self.changes.scale_events = true;
                }
            }
            FindingKind::Point { container, usage } => self.point(container.cgroup, finding.at, *usage),
            FindingKind::Measured(Measured { container, levels }) => {
                let limit = levels.limit.and_then(Limit::bytes);
                if let Some(card) = self.containers.get_mut(&container.cgroup) {
                    card.view.working_set_bytes = levels.working_set();
                    card.view.anon_bytes = levels.stat.map(|stat| stat.anon);
                    card.view.file_bytes = levels.stat.and_then(|stat| stat.file);
                    card.view.shmem_bytes = levels.stat.and_then(|stat| stat.shmem);
                    card.view.drop_old_parts();
                    card.view.peak_bytes = levels.watermark.unwrap_or(0);
                    card.changed |= card.view.limit_bytes != limit;
                    card.view.limit_bytes = limit;
                }
            }
            FindingKind::State { container, to, .. } => self.turn(container, *to, at),
            FindingKind::Ended(ended) => {
                self.turn(&ended.container, ContainerState::Ended, at);
                self.change(&ended.container, |view| view.exit = ended.status.map(view::exit));
                if ended.oom_killed {
                    self.cut_off(&ended.container);
                }
            }
            FindingKind::StartupPeak(peak) => {
                self.change(&peak.container, |view| {
                    view.startup_peak_bytes = Some(peak.bytes);
                    view.startup_peak_seconds = Some(peak.seconds);
                    view.startup_peak_anon_bytes = peak.anon;
                });
                self.startup(&peak.container, |startup| startup.peak_bytes = peak.bytes);
            }
            FindingKind::Stable(stable) | FindingKind::LateStep { stable, .. } => {
                self.change(&stable.container, |view| {
                    view.time_to_stable_seconds = Some(stable.seconds);
                    view.steady_bytes = Some(stable.level);
                    view.overshoot = Some(stable.overshoot).filter(|overshoot| overshoot.is_finite());
                });
                self.startup(&stable.container, |startup| {
                    startup.time_to_stable_seconds = Some(stable.seconds);
                    startup.steady_bytes = Some(stable.level);
                });
            }
            FindingKind::Drifting { container, bytes_per_second } => {
                self.change(container, |view| view.drift_bytes_per_second = Some(*bytes_per_second));
            }
            FindingKind::Lent { container, lent } => {
                let loan = lent.as_ref().map(Into::into);
                self.change(container, |view| view.loan = loan);
            }
            FindingKind::LimitAhead(ahead) => {
                let view = LimitAheadView::of(at, ahead);
                self.change(&ahead.container, |container| container.limit_ahead = Some(view));
            }
            FindingKind::LimitAheadOver { container } => {
                self.change(container, |view| view.limit_ahead = None);
            }
            FindingKind::OomKilled(killed) => {
                let kill = self.killed(at, killed);
                if let Some(container) = &killed.container {
                    self.change(container, |view| {
                        view.oom_kills = view.oom_kills.saturating_add(killed.kills);
                    });
                }
                let kills = u32::try_from(killed.kills).unwrap_or(u32::MAX);
                self.node_kills = self.node_kills.saturating_add(kills);
                self.changes.kills.push(kill.kill);
                push(&mut self.kills, kill, KILLS, &mut self.dropped.kills);
            }
            FindingKind::Advised(advised) => {
                let workload = &advised.facts.workload;
                if self.advice.contains_key(workload) || self.advice.len() < WORKLOADS {
                    self.advice.insert(workload.clone(), (**advised).clone());
                }
            }
            FindingKind::AdviceDropped { workload } => {
                self.advice.remove(workload);
            }
            // What ended is part of a recording to its end, as long as there is room.
            FindingKind::Forgotten { .. } if self.recording.is_some() => {}
            FindingKind::Forgotten { container } => {
                self.containers.remove(&container.cgroup);
                self.changes.gone.push(container.cgroup);
            }
            FindingKind::Node(node) => self.node(finding.at, node),
            _ => {}
        }
        if let Some(text) = log::line(finding) {
            let finding = FindingView { at, text, alarm: finding.is_alarm() };
            push(&mut self.findings, finding, FINDINGS, &mut 0);
            self.changes.findings = (self.changes.findings + 1).min(FINDINGS);
        }
        if let FindingKind::Node(_) = &finding.what {
            self.moment();
        }
    }

    fn probe(&mut self, status: &ProbeStatus) {
        if self.probes.len() == PROBES {
            return;
        }
        self.probes.push(status.into());
        if status.required && !matches!(status.outcome, AttachOutcome::Attached { .. }) {
            let why = status.outcome.why().map_or(String::new(), |why| format!(" ({why})"));
            self.missing.push(format!("required probe {} is {}{why}", status.probe, status.outcome.name()));
        }
    }

    fn kubernetes(&mut self, state: &ApiState) {
        // The finding says it; how the API answers is as it was.
        if let ApiState::Clock { .. } = state {
            return;
        }
        let node = self.kubernetes.take().map(|view| view.node).unwrap_or_default();
        self.kubernetes = Some(match state {
            ApiState::Watching { node, .. } => {
                KubernetesView { state: "watching", node: node.clone(), why: String::new() }
            }
            ApiState::Synced | ApiState::Clock { .. } => {
                KubernetesView { state: "synced", node, why: String::new() }
            }
            ApiState::Away { why } => KubernetesView { state: "away", node, why: why.clone() },
            ApiState::Forbidden { what, lost, .. } => {
                KubernetesView { state: "forbidden", node, why: format!("{what}: {lost}") }
            }
        });
    }

    fn open(&mut self, container: &Container, state: ContainerState, began: Option<Time>) {
        let known = self.containers.remove(&container.cgroup);
        if self.recording.is_some() && self.containers.len() >= CONTAINERS {
            self.make_room();
        }
        if known.is_none() && self.containers.len() >= CONTAINERS {
            self.dropped.containers += 1;
            return;
        }
        let started = began.map(|began| self.unix(began));
        let container: ContainerRef = container.into();
        let startup = started.map(|started| {
            self.next_startup += 1;
            let startup = StartupView {
                startup: self.next_startup,
                container: container.clone(),
                started,
                seconds: None,
                outcome: state.name(),
                peak_bytes: 0,
                time_to_stable_seconds: None,
                steady_bytes: None,
                curve: CurveView::default(),
            };
            push(&mut self.startups, startup, STARTUPS, &mut self.dropped.startups);
            self.changes.startups.push(self.next_startup);
            self.next_startup
        });
        let view = ContainerView {
            container: container.clone(),
            state: state.name(),
            started,
            ended: None,
            exit: None,
            cause: None,
            usage_bytes: 0,
            working_set_bytes: 0,
            anon_bytes: None,
            file_bytes: None,
            shmem_bytes: None,
            peak_bytes: 0,
            limit_bytes: None,
            startup_peak_bytes: None,
            startup_peak_seconds: None,
            startup_peak_anon_bytes: None,
            time_to_stable_seconds: None,
            steady_bytes: None,
            overshoot: None,
            drift_bytes_per_second: None,
            limit_ahead: None,
            loan: None,
            oom_kills: 0,
        };
        let history = (self.containers.len() < WITH_HISTORY).then(Default::default);
        let curve = began.map(|_| Box::default());
        let card = Card { view, began, startup, curve, history, changed: true, sent: 0 };
        self.containers.insert(container.id, Box::new(card));
    }

    /// In a recording: what ended first leaves, of those that were not killed if there are any.
    fn make_room(&mut self) {
        let ended = self.containers.iter().filter_map(|(id, card)| Some((*id, card.view.ended?, card)));
        let first = ended.min_by(|(_, a, one), (_, b, other)| {
            (one.view.oom_kills > 0).cmp(&(other.view.oom_kills > 0)).then(a.total_cmp(b))
        });
        if let Some((id, ..)) = first {
            self.containers.remove(&id);
            self.changes.gone.push(id);
            self.dropped.containers += 1;
        }
    }

    fn change(&mut self, container: &Container, change: impl FnOnce(&mut ContainerView)) {
        if let Some(card) = self.containers.get_mut(&container.cgroup) {
            change(&mut card.view);
            card.changed = true;
        }
    }

    /// The start-up a container is in, or was in last.
    fn startup(&mut self, container: &Container, change: impl FnOnce(&mut StartupView)) {
        let number = self.containers.get(&container.cgroup).and_then(|card| card.startup);
        if let Some(number) = number
            && let Some(startup) = self.startups.iter_mut().rev().find(|startup| startup.startup == number)
        {
            change(startup);
            self.changes.startups.push(number);
        }
    }

    fn point(&mut self, cgroup: CgroupId, at: Time, usage: u64) {
        let unix = self.unix(at);
        let Some(card) = self.containers.get_mut(&cgroup) else { return };
        card.view.usage_bytes = usage;
        card.view.drop_old_parts();
        card.view.peak_bytes = card.view.peak_bytes.max(usage);
        if let Some(history) = &mut card.history {
            history.push(unix, usage);
        }
        let seconds = card.began.map(|began| at.seconds_since(began));
        if let Some(seconds) = seconds.filter(|seconds| (0.0..HORIZON_SECONDS).contains(seconds))
            && let Some(curve) = &mut card.curve
        {
            curve.push(seconds, usage as f64);
        }
    }

    fn turn(&mut self, container: &Container, to: ContainerState, at: f64) {
        let Some(card) = self.containers.get_mut(&container.cgroup) else { return };
        if card.view.state == to.name() {
            return;
        }
        card.view.state = to.name();
        card.changed = true;
        if to == ContainerState::Ended {
            card.view.ended = Some(at);
        }
        let curve = card.curve();
        let peak = curve.kib.iter().max().map_or(0, |kib| u64::from(*kib) << 10);
        self.startup(container, |startup| {
            if startup.seconds.is_none() && to != ContainerState::Starting {
                startup.seconds = Some((at - startup.started).max(0.0));
                startup.peak_bytes = startup.peak_bytes.max(peak);
                startup.curve = shortened(curve);
                startup.outcome = to.name();
            } else if to != ContainerState::Ended {
                startup.outcome = to.name();
            }
        });
    }

    /// Its end was the kernel's: a start-up that had no verdict was cut off.
    fn cut_off(&mut self, container: &Container) {
        self.startup(container, |startup| {
            if startup.outcome == ContainerState::Ended.name() {
                startup.outcome = "oom_killed";
            }
        });
    }

    /// Its names are known now: they are put right wherever they were given.
    fn identify(&mut self, container: &Container) {
        let named: ContainerRef = container.into();
        self.change(container, |view| view.container = named.clone());
        for startup in self.startups.iter_mut().filter(|startup| startup.container.id == named.id) {
            startup.container = named.clone();
            self.changes.startups.push(startup.startup);
        }
        for kill in &mut self.kills {
            let here = |of: &Option<ContainerRef>| of.as_ref().is_some_and(|of| of.id == named.id);
            if here(&kill.container) {
                kill.container = Some(named.clone());
                self.changes.kills.push(kill.kill);
            }
            if here(&kill.invoker) {
                kill.invoker = Some(named.clone());
                self.changes.kills.push(kill.kill);
            }
        }
    }

    fn killed(&mut self, at: f64, killed: &OomKilled) -> KillView {
        self.next_kill += 1;
        let victim = killed.container.as_ref().map(|container| container.cgroup);
        let mut starting: Vec<&Card> = self
            .containers
            .values()
            .map(|card| &**card)
            .filter(|card| {
                card.view.state == ContainerState::Starting.name() && Some(card.view.container.id) != victim
            })
            .collect();
        starting.sort_by_key(|card| std::cmp::Reverse(card.view.usage_bytes));
        let also = |card: &&Card| AlsoStarting {
            container: card.view.container.clone(),
            usage_bytes: card.view.usage_bytes,
        };
        KillView {
            also_starting_count: starting.len() as u64,
            also_starting: starting.iter().take(ALSO_STARTING).map(also).collect(),
            ..KillView::of(self.next_kill, at, killed)
        }
    }

    fn link(&mut self, linked: &OomLinked) {
        let at = self.unix(linked.killed);
        let victim = |kill: &&KillView| {
            kill.container.as_ref().is_some_and(|container| container.id == linked.container.cgroup)
                && (kill.at - at).abs() < 1e-3
        };
        let Some(kill) = self.kills.iter().rev().find(victim).map(|kill| kill.kill) else { return };
        if let Some(event) = self.scale_event(&linked.scale_event)
            && event.kills.len() < KILLS_OF_AN_EVENT
            && !event.kills.contains(&kill)
        {
            event.kills.push(kill);
            self.changes.scale_events = true;
        }
    }

    fn scale_event(&mut self, event: &ScaleEvent) -> Option<&mut ScaleEventView> {
        self.scale_events.iter_mut().rev().find(|known| {
            known.at == event.unix_seconds
                && known.workload == event.workload
                && known.namespace == event.namespace
        })
    }

    fn node(&mut self, at: Time, measured: &NodeMeasured) {
        self.now = self.unix(at);
        let node = &mut self.node;
        let (mut waiting, mut stalled) = (0.0, 0.0);
        if let Some(reading) = &measured.reading {
            node.available_bytes = Some(reading.available);
            node.pods_available_bytes = reading.pods_available;
            if let (Some(now), Some((then, before))) = (reading.pressure, self.pressure) {
                let seconds = |now: u64, before: u64| now.saturating_sub(before) as f64 / 1e9;
                waiting = seconds(now.some_ns, before.some_ns);
                stalled = seconds(now.full_ns, before.full_ns);
                let span = at.seconds_since(then).max(1e-3);
                node.waiting_ratio = Some((waiting / span).clamp(0.0, 1.0));
                node.stalled_ratio = Some((stalled / span).clamp(0.0, 1.0));
            }
            self.pressure = reading.pressure.map(|pressure| (at, pressure));
        }
        node.containers = measured.containers;
        node.cgroups = measured.cgroups;
        node.starting = measured.starting;
        node.starting_bytes = measured.starting_usage;
        node.forecast_bytes = measured.forecast.growth;
        node.forecast_in_seconds = measured.forecast.in_seconds;
        node.forecast_unknown = measured.forecast.unknown;
        node.stampede = measured.stampede;
        let sample = Sample {
            available: node.available_bytes,
            pods_available: node.pods_available_bytes,
            starting: node.starting as u32,
            starting_bytes: node.starting_bytes,
            forecast_bytes: node.forecast_bytes,
            stampede: node.stampede,
            waiting_seconds: waiting as f32,
            stalled_seconds: stalled as f32,
            oom_kills: std::mem::take(&mut self.node_kills),
        };
        self.history.push(self.now, sample);
    }
}

/// To the end of a list that keeps so many.
fn push<T>(list: &mut VecDeque<T>, new: T, keep: usize, dropped: &mut u64) {
    if list.len() >= keep {
        list.pop_front();
        *dropped += 1;
    }
    list.push_back(new);
}

fn curve<const N: usize>(curve: &Curve<N>) -> CurveView {
    let kib = curve.highest().iter().map(|bytes| kib(*bytes as u64)).collect();
    CurveView { width_seconds: curve.width(), kib }
}

/// In fewer spans, each as high as its highest.
fn shortened(mut curve: CurveView) -> CurveView {
    while curve.kib.len() > KEPT_SPANS {
        curve.kib = curve.kib.chunks(2).filter_map(|pair| pair.iter().max().copied()).collect();
        curve.width_seconds *= 2.0;
    }
    curve
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A day of 250 containers: the daemon's memory budget has a few MiB for it.
    #[test]
    fn a_day_of_250_containers_fits_in_3_mib() {
        let mut history = UsageHistory::default();
        let began = 1_700_000_000.0;
        for second in 0..90_000 {
            history.push(began + f64::from(second), 1 << 30);
        }
        let containers = 250
            * (size_of::<Card>()
                + size_of::<Curve<SPANS>>()
                + size_of::<UsageHistory>()
                + history.heap_bytes());
        let startups = STARTUPS * (size_of::<StartupView>() + 4 * 2 * KEPT_SPANS);
        assert!(containers + startups < 3 << 20, "{containers} and {startups}");
    }

    #[test]
    fn a_shortened_curve_keeps_its_peak_and_its_length() {
        let mut kib = vec![3; 239];
        kib[101] = 900;
        let short = shortened(CurveView { width_seconds: 0.05, kib });
        assert!(short.kib.len() <= KEPT_SPANS && short.kib.contains(&900));
        assert!(
            (short.width_seconds * short.kib.len() as f64 - 239.0 * 0.05).abs() < 2.0 * short.width_seconds
        );
    }
}
