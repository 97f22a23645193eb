//! What of a recording is in a report, in a stated size: each kind has a share, and of what does not fit the least
//! important is left out and counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
};

use observer_core::model::container::ContainerState;
use serde::Serialize;

use super::Incident;
use crate::sinks::api_state::{
    NodeState,
    answers::{HostView, Status},
    history::{NodeHistoryView, UsageHistoryView},
    view::{
        ContainerRef, ContainerView, CurveView, FindingView, KillView, NodeView, ProbeView, ScaleEventView,
        StartupView, WorkloadView,
    },
};

/// Bytes of each kind, as they are written; and of all together. Mail takes 25 MiB at most, encoded 18 MiB.
const KILLS: usize = 1 << 20;
const SCALE_EVENTS: usize = 512 << 10;
const FINDINGS: usize = 512 << 10;
const STARTUPS: usize = 2 << 20;
const WORKLOADS: usize = 3 << 20;
const CONTAINERS: usize = 2 << 20;
const CURVES: usize = 4 << 20;
const ALL: usize = 15 << 20;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    incident: &'a Incident,
    span_seconds: f64,
    /// By kind: how many did not fit.
    left_out: BTreeMap<&'static str, usize>,
    state: State<'a>,
    startups: Vec<StartupView>,
    /// Ever further back, each as fine as it is known.
    histories: Vec<History>,
    curves: BTreeMap<String, Curves>,
}

/// As /api/v1/state.
#[derive(Serialize)]
struct State<'a> {
    moment: u64,
    status: Status,
    host: Option<HostView<'a>>,
    probes: &'a [ProbeView],
    node: &'a NodeView,
    containers: Vec<&'a ContainerView>,
    workloads: Vec<WorkloadView>,
    scale_events: Vec<&'a ScaleEventView>,
    kills: Vec<&'a KillView>,
    findings: Vec<&'a FindingView>,
}

#[derive(Serialize)]
struct History {
    from: f64,
    history: NodeHistoryView,
}

/// As /api/v1/containers/{id}, without what else is here.
#[derive(Serialize)]
struct Curves {
    curve: CurveView,
    error_bytes: u64,
    band_bytes: Option<u64>,
    history: UsageHistoryView,
    /// Numbers of start-ups.
    earlier: Vec<u64>,
}

/// As text that can stand in a script element: nothing in it ends the element.
pub fn json(state: &NodeState, incident: &Incident) -> Result<String, String> {
    let view = state.view();
    let mut left_out = BTreeMap::new();
    let mut count = |what, out: usize| {
        if out > 0 {
            left_out.insert(what, out);
        }
    };

    let (mut kills, out) = fitting(view.kills.iter().rev(), KILLS);
    count("OOM kills", out);
    kills.reverse();
    let (mut scale_events, out) = fitting(view.scale_events.iter().rev(), SCALE_EVENTS);
    count("scale events", out);
    scale_events.reverse();
    let (mut findings, out) = fitting(view.findings.iter().rev(), FINDINGS);
    count("findings", out);
    findings.reverse();
    let (mut startups, out) =
        fitting(state.startups(f64::NEG_INFINITY, f64::INFINITY).into_iter().rev(), STARTUPS);
    count("start-ups", out);
    startups.reverse();
    let mut workloads = view.workloads;
    workloads.sort_by_key(|one| std::cmp::Reverse(one.risk.score));
    let (workloads, out) = fitting(workloads, WORKLOADS);
    count("workloads", out);
    let mut containers = view.containers;
    order(&mut containers, &kills);
    let (containers, out) = fitting(containers, CONTAINERS);
    count("containers", out);
    let curves = containers.iter().filter_map(|one| curves(state, one));
    let (curves, out) = fitting(curves, CURVES);
    count("curves of containers", out);

    let histories = state.node_histories();
    let report = Report {
        incident,
        span_seconds: state.span_seconds(),
        left_out,
        state: State {
            moment: view.moment,
            status: view.status,
            host: view.host,
            probes: view.probes,
            node: view.node,
            containers,
            workloads,
            scale_events,
            kills,
            findings,
        },
        startups,
        histories: histories.into_iter().map(|(from, history)| History { from, history }).collect(),
        curves: curves.into_iter().collect(),
    };
    let json = serde_json::to_string(&report).map_err(|error| error.to_string())?;
    let json = json.replace('<', "\\u003c");
    match json.len() {
        0..=ALL => Ok(json),
        bytes => Err(format!(
            "the facts of the host and its probes alone take {} MiB of the report's {}: not a recording of a real host",
            bytes >> 20,
            ALL >> 20
        )),
    }
}

/// Those of a kill, then those that do not settle, then the newest.
fn order(containers: &mut [&ContainerView], kills: &[&KillView]) {
    let of_kills: BTreeSet<_> = kills
        .iter()
        .flat_map(|kill| [&kill.container, &kill.invoker].into_iter().flatten())
        .map(|of: &ContainerRef| of.id)
        .collect();
    let unsettled = [ContainerState::Drifting.name(), ContainerState::Oscillating.name()];
    let rank = |one: &ContainerView| match one {
        _ if of_kills.contains(&one.container.id) || one.oom_kills > 0 => 0,
        _ if unsettled.contains(&one.state) => 1,
        _ => 2,
    };
    let began = |one: &ContainerView| one.started.unwrap_or(f64::NEG_INFINITY);
    containers.sort_by(|a, b| rank(a).cmp(&rank(b)).then(began(b).total_cmp(&began(a))));
}

fn curves(state: &NodeState, one: &ContainerView) -> Option<(String, Curves)> {
    let detail = state.curves(one.container.id)?;
    let curves = Curves {
        curve: detail.curve,
        error_bytes: detail.error_bytes,
        band_bytes: detail.band_bytes,
        history: detail.history,
        earlier: detail.earlier.iter().map(|startup| startup.startup).collect(),
    };
    Some((one.container.id.to_string(), curves))
}

/// The first ones that fit in so many bytes, and how many do not.
fn fitting<T: Serialize>(items: impl IntoIterator<Item = T>, bytes: usize) -> (Vec<T>, usize) {
    let (mut left, mut kept, mut out) = (bytes, Vec::new(), 0);
    for item in items {
        let mut size = Size(0);
        match serde_json::to_writer(&mut size, &item) {
            Ok(()) if size.0 < left => {
                left -= size.0 + 1; // and its comma
                kept.push(item);
            }
            _ => out += 1,
        }
    }
    (kept, out)
}

/// Bytes as they are written at the end.
struct Size(usize);

impl Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() + 5 * bytes.iter().filter(|byte| **byte == b'<').count();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
