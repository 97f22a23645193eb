//! Findings -> what /api and the page show: every container's card, the probes, the last findings worth reading.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use crate::sinks::log;
use observer_core::{
    cause::Decision,
    container::{curve::Curve, stability::HORIZON_SECONDS},
    model::{
        event::{AttachOutcome, CgroupId, ProbeStatus},
        finding::{
            Advised, Container, ContainerState, Finding, FindingKind, NodeMeasured, OomLinked, ScaleEvent,
            ScaleEventEnded,
        },
        time::Time,
    },
    workload::history::Workload,
};

/// Spans of a drawn curve.
const SPANS: usize = 240;
/// Findings kept for the page.
const NEWS: usize = 100;
const SCALE_EVENTS: usize = 50;

#[derive(Debug, Default, Serialize)]
pub struct ApiView {
    pub probes: Vec<ProbeStatus>,
    pub node: Option<NodeMeasured>,
    pub containers: BTreeMap<CgroupId, ContainerView>,
    pub news: VecDeque<News>,
    /// The last scale events whose pods came here, and what they did.
    pub scale_events: VecDeque<Scaling>,
    /// What is advised for each workload.
    #[serde(skip)]
    pub advice: BTreeMap<Workload, Advised>,
    /// The tree has been walked: everything that was there is known.
    pub seeded: bool,
}

/// A finding worth reading, and how it reads.
#[derive(Debug, Serialize)]
pub struct News {
    pub text: String,
    /// Somebody should look.
    pub alarm: bool,
    #[serde(flatten)]
    pub finding: Finding,
}

#[derive(Debug, Serialize)]
pub struct Scaling {
    pub event: ScaleEvent,
    /// Absent while it is under way.
    pub ended: Option<ScaleEventEnded>,
    /// OOM kills it had a part in.
    pub oom_kills: Vec<OomLinked>,
}

#[derive(Debug, Serialize)]
pub struct ContainerView {
    #[serde(flatten)]
    pub container: Container,
    pub state: ContainerState,
    pub started: Option<Time>,
    /// Why it started, once that is known.
    pub decision: Option<Decision>,
    pub usage: u64,
    pub working_set: u64,
    pub limit: Option<u64>,
    pub peak: u64,
    pub startup_peak: Option<u64>,
    pub startup_peak_seconds: Option<f64>,
    pub time_to_stable_seconds: Option<f64>,
    pub steady: Option<u64>,
    pub overshoot: Option<f64>,
    pub drift_bytes_per_second: Option<f64>,
    pub oom_kills: u64,
    /// The start-up, seconds and bytes: up to the horizon after which nothing is start-up any more.
    pub curve: Curve<SPANS>,
}

impl ApiView {
    pub fn apply(&mut self, finding: &Finding) {
        let at = finding.at;
        match &finding.what {
            FindingKind::Probe(status) => self.probes.push(status.clone()),
            FindingKind::Seen { container } => self.open(container, ContainerState::Running, None),
            FindingKind::Started(started) => {
                self.open(&started.container, ContainerState::Starting, Some(at))
            }
            FindingKind::Caused(caused) => self.with(&caused.container, |card| {
                card.decision = Some(caused.decision.clone());
            }),
            FindingKind::Identified { container, .. } => {
                self.with(container, |card| card.container = container.clone())
            }
            FindingKind::ScaleEventBegan(event) => {
                if self.scale_events.len() == SCALE_EVENTS {
                    self.scale_events.pop_front();
                }
                let scaling = Scaling { event: event.clone(), ended: None, oom_kills: Vec::new() };
                self.scale_events.push_back(scaling);
            }
            FindingKind::OomLinked(linked) => {
                if let Some(scaling) = self.scaling(&linked.scale_event) {
                    scaling.oom_kills.push(linked.clone());
                }
            }
            FindingKind::ScaleEventEnded(ended) => {
                if let Some(scaling) = self.scaling(&ended.event) {
                    scaling.event = ended.event.clone();
                    scaling.ended = Some(ended.clone());
                }
            }
            FindingKind::Point { container, usage } => self.with(container, |card| {
                card.usage = *usage;
                let seconds = card.started.map(|started| at.seconds_since(started));
                if let Some(seconds) = seconds.filter(|seconds| (0.0..HORIZON_SECONDS).contains(seconds)) {
                    card.curve.push(seconds, *usage as f64);
                }
            }),
            FindingKind::Measured(measured) => self.with(&measured.container, |card| {
                card.working_set = measured.working_set;
                card.peak = measured.peak;
                card.limit = measured.limit.and_then(|limit| limit.bytes());
            }),
            FindingKind::State { container, to, .. } => self.with(container, |card| card.state = *to),
            FindingKind::StartupPeak(peak) => self.with(&peak.container, |card| {
                (card.startup_peak, card.startup_peak_seconds) = (Some(peak.bytes), Some(peak.seconds));
            }),
            FindingKind::Stable(stable) | FindingKind::LateStep { stable, .. } => {
                self.with(&stable.container, |card| {
                    card.time_to_stable_seconds = Some(stable.seconds);
                    card.steady = Some(stable.level);
                    card.overshoot = Some(stable.overshoot);
                })
            }
            FindingKind::Drifting { container, bytes_per_second } => {
                self.with(container, |card| card.drift_bytes_per_second = Some(*bytes_per_second));
            }
            FindingKind::OomKilled(killed) => {
                if let Some(container) = &killed.container {
                    self.with(container, |card| card.oom_kills += killed.kills);
                }
            }
            FindingKind::Advised(advised) => {
                self.advice.insert(advised.facts.workload.clone(), (**advised).clone());
            }
            FindingKind::Forgotten { container } => {
                self.containers.remove(&container.cgroup);
            }
            FindingKind::Node(node) => {
                let reading = node.reading.clone().or(self.node.take().and_then(|node| node.reading));
                self.node = Some(NodeMeasured { reading, ..node.clone() });
            }
            _ => {}
        }
        if let Some(text) = log::line(finding) {
            if self.news.len() == NEWS {
                self.news.pop_front();
            }
            self.news.push_back(News { text, alarm: finding.is_alarm(), finding: finding.clone() });
        }
    }

    /// Ready: the tree is known and every required probe is attached. `Err` says what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if !self.seeded {
            return Err("the cgroup tree has not been walked yet".into());
        }
        let missing: Vec<String> = self
            .probes
            .iter()
            .filter(|status| status.required && !matches!(status.outcome, AttachOutcome::Attached { .. }))
            .map(|status| {
                let why = status.outcome.why().map_or(String::new(), |why| format!(" ({why})"));
                format!("required probe {} is {}{why}", status.probe, status.outcome.name())
            })
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }

    fn scaling(&mut self, event: &ScaleEvent) -> Option<&mut Scaling> {
        let same = |of: &ScaleEvent| {
            of.unix_seconds == event.unix_seconds
                && of.workload == event.workload
                && of.namespace == event.namespace
        };
        self.scale_events.iter_mut().rev().find(|scaling| same(&scaling.event))
    }

    fn open(&mut self, container: &Container, state: ContainerState, started: Option<Time>) {
        let card = ContainerView {
            container: container.clone(),
            state,
            started,
            decision: None,
            usage: 0,
            working_set: 0,
            limit: None,
            peak: 0,
            startup_peak: None,
            startup_peak_seconds: None,
            time_to_stable_seconds: None,
            steady: None,
            overshoot: None,
            drift_bytes_per_second: None,
            oom_kills: 0,
            curve: Curve::default(),
        };
        self.containers.insert(container.cgroup, card);
    }

    fn with(&mut self, container: &Container, change: impl FnOnce(&mut ContainerView)) {
        if let Some(card) = self.containers.get_mut(&container.cgroup) {
            change(card);
        }
    }
}
