//! Findings -> Prometheus series. The only place that names the prometheus crate.
//!
//! A metric is one declaration in the table of its subject; what is exported is read from the subject's own, bounded
//! state at the scrape, so it goes with it. Nothing here reads a clock or a file, so a replay renders the same bytes
//! as the run it was recorded from.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use observer_core::{
    history::WORKLOADS,
    model::{
        container::{Container, Labels, Workload},
        finding::{Finding, FindingKind, ScaleEvent},
        time::Time,
    },
};

mod container;
mod exposition;
pub mod family;
mod node;
mod observer;
mod workload;

use exposition::{Exposition, OpenMetrics, Text, expose};
pub use family::{Declaration, Kind, Metric};
pub use workload::grade_number;

/// What is kept of a workload that has a verdict or a kill to show stays at least this long after its last container.
const KEPT: Duration = Duration::from_secs(3600);

/// Every family by its subject.
#[derive(Clone)]
pub struct Tables {
    pub container: Vec<&'static Metric<container::Container>>,
    pub workload: Vec<&'static Metric<workload::Workload>>,
    /// What is remembered of workloads: [`Page::History`].
    pub history: Vec<&'static Metric<workload::Workload>>,
    pub node: Vec<&'static Metric<node::Node>>,
    pub observer: Vec<&'static Metric<observer::Observer>>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            container: container::METRICS.iter().collect(),
            workload: workload::METRICS.iter().collect(),
            history: workload::HISTORY.iter().collect(),
            node: node::METRICS.iter().collect(),
            observer: observer::METRICS.iter().collect(),
        }
    }
}

impl Tables {
    /// For docs/metrics.md and the tests.
    pub fn declarations(&self) -> Vec<&'static Declaration> {
        let container = self.container.iter().map(|metric| &metric.declaration);
        let workload = self.workload.iter().map(|metric| &metric.declaration);
        let node = self.node.iter().map(|metric| &metric.declaration);
        let observer = self.observer.iter().map(|metric| &metric.declaration);
        // A family may have some of its series on either page.
        let history = self.history.iter().map(|metric| &metric.declaration);
        let history = history
            .filter(|family| !self.workload.iter().any(|metric| metric.declaration.name == family.name));
        container.chain(workload).chain(history).chain(node).chain(observer).collect()
    }
}

/// Every family.
pub fn declarations() -> Vec<&'static Declaration> {
    Tables::default().declarations()
}

/// What is scraped together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Page {
    /// /metrics
    Current,
    /// /metrics/history: what changes seldom and few ask for.
    History,
}

#[derive(Clone)]
pub struct Metrics {
    tables: Arc<Tables>,
    state: Arc<Mutex<State>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::of(Tables::default())
    }
}

impl Metrics {
    pub fn of(tables: Tables) -> Self {
        Self { tables: Arc::new(tables), state: Arc::default() }
    }

    pub fn apply(&self, finding: &Finding) {
        self.state().apply(finding);
    }

    /// The text exposition format, version 0.0.4. Family by family, so that no other copy of all of them is made.
    pub fn render(&self, page: Page) -> String {
        let mut text = Text::default();
        self.state().expose(&self.tables, page, &mut text);
        text.finish()
    }

    /// OpenMetrics 1.0, for a scraper that asks for it.
    pub fn open_metrics(&self, page: Page) -> String {
        let mut text = OpenMetrics::default();
        self.state().expose(&self.tables, page, &mut text);
        text.finish()
    }

    /// Both pages, as a replay and a run that stops write them.
    pub fn everything(&self) -> String {
        self.render(Page::Current) + &self.render(Page::History)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // every change is whole
    }
}

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Of [`Metrics::open_metrics`].
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is exported, by subject.
#[derive(Debug, Default)]
struct State {
    containers: BTreeMap<Arc<Labels>, Kept<container::Container>>,
    workloads: BTreeMap<Workload, Kept<workload::Workload>>,
    node: node::Node,
    observer: observer::Observer,
    began: f64,
    wall_ns: i64,
    retention: Duration,
    /// Nothing has an end before.
    next_end: Time,
}

#[derive(Debug, Default)]
struct Kept<S> {
    subject: S,
    /// Unix seconds.
    created: f64,
    touched: Time,
}

impl State {
    fn apply(&mut self, finding: &Finding) {
        let at = finding.at;
        if let FindingKind::Host(host) = &finding.what {
            self.wall_ns = host.wall_offset_ns;
            self.retention = Duration::from_nanos(host.retention_ns);
            self.began = at.unix_seconds(self.wall_ns);
        }
        if let FindingKind::ClockSet { moved_seconds } = &finding.what {
            self.wall_ns += (moved_seconds * 1e9) as i64;
        }
        self.observer.apply(at.unix_seconds(self.wall_ns), &finding.what);
        self.node.apply(&finding.what);
        match &finding.what {
            FindingKind::Identified { container, before, whole } => {
                self.rename(at, container, before, *whole);
            }
            FindingKind::Forgotten { container } => {
                let held = |kept: &Kept<container::Container>| kept.subject.holder == Some(container.cgroup);
                if self.containers.get(&container.labels).is_some_and(held) {
                    self.containers.remove(&container.labels);
                }
            }
            FindingKind::Advised(advised) => {
                let workload = &advised.facts.workload;
                self.with_workload(at, workload, |workload| workload.advise(advised));
            }
            FindingKind::ScaleEventBegan(event) => {
                self.with_workload(at, &scaled(event), |workload| workload.scaled_up(event));
            }
            FindingKind::OomLinked(linked) => {
                self.with_workload(at, &scaled(&linked.scale_event), |workload| workload.linked(linked));
            }
            FindingKind::ScaleEventEnded(ended) => {
                self.with_workload(at, &scaled(&ended.event), |workload| workload.scale_ended(ended));
            }
            FindingKind::Node(_) => self.expire(at),
            kind => {
                if let Some(container) = of_container(kind) {
                    self.container(at, container, kind);
                }
            }
        }
    }

    fn container(&mut self, at: Time, of: &Container, kind: &FindingKind) {
        let created = at.unix_seconds(self.wall_ns);
        let kept = self.containers.entry(Arc::clone(&of.labels)).or_insert_with(|| Kept {
            subject: Default::default(),
            created,
            touched: at,
        });
        kept.touched = at;
        if let FindingKind::Seen { .. } | FindingKind::Started(_) = kind {
            kept.subject.take_over(of.cgroup);
        }
        kept.subject.apply(of.cgroup, kind);
        let workload = Workload::of(&of.labels);
        self.with_workload(at, &workload, |workload| workload.apply(of.cgroup, kind));
    }

    /// It has another name now: what is kept of it moves along. What was counted of several together stays.
    fn rename(&mut self, at: Time, of: &Container, before: &Arc<Labels>, whole: bool) {
        let held = |kept: &Kept<container::Container>| kept.subject.holder == Some(of.cgroup);
        if self.containers.get(before).is_some_and(held)
            && let Some(old) = self.containers.remove(before)
        {
            let kept = self.containers.entry(Arc::clone(&of.labels)).or_default();
            kept.created = if kept.created > 0.0 { kept.created } else { old.created };
            kept.touched = at;
            kept.subject.merge(old.subject);
        }
        let (old, new) = (Workload::of(before), Workload::of(&of.labels));
        if whole {
            if let Some(kept) = self.workloads.remove(&old) {
                self.with_workload(at, &new, |workload| workload.merge(kept.subject));
            }
        } else if old != new
            && self.workloads.get_mut(&old).is_some_and(|kept| kept.subject.alive.remove(&of.cgroup))
        {
            self.with_workload(at, &new, |workload| workload.joined(of.cgroup));
        }
    }

    fn with_workload(&mut self, at: Time, workload: &Workload, change: impl FnOnce(&mut workload::Workload)) {
        if !self.workloads.contains_key(workload) {
            if self.workloads.len() >= WORKLOADS && !self.make_room() {
                return;
            }
            let kept = Kept { created: at.unix_seconds(self.wall_ns), ..Kept::default() };
            self.workloads.insert(workload.clone(), kept);
        }
        if let Some(kept) = self.workloads.get_mut(workload) {
            kept.touched = at;
            change(&mut kept.subject);
        }
    }

    /// Removes the workload without containers for the longest time, one without results first; `false` if all run.
    fn make_room(&mut self) -> bool {
        self.observer.dropped_workloads += 1.0;
        let gone = self.workloads.iter().filter(|(_, kept)| kept.subject.alive.is_empty());
        let least = gone.min_by_key(|(_, kept)| (kept.subject.is_worth_keeping(), kept.touched));
        let least = least.map(|(workload, _)| workload.clone());
        least.is_some_and(|workload| self.workloads.remove(&workload).is_some())
    }

    /// Whatever has an end has reached it. All of it is looked at no sooner than anything can: what is touched ends
    /// later, and what begins to wait for its end waits for the retention at least.
    fn expire(&mut self, now: Time) {
        if now < self.next_end {
            return;
        }
        let retention = self.retention;
        let mut next = now.after(retention);
        let mut is_over = |touched: Time, patience: Duration| {
            let over = now.since(touched) > patience;
            if !over {
                next = next.min(touched.after(patience));
            }
            over
        };
        self.workloads.retain(|_, kept| {
            let patience = if kept.subject.is_worth_keeping() { retention.max(KEPT) } else { retention };
            !kept.subject.alive.is_empty() || !is_over(kept.touched, patience)
        });
        // Of containers that never began to live nothing is heard again.
        self.containers.retain(|_, kept| !kept.subject.is_unseen() || !is_over(kept.touched, retention));
        self.next_end = next;
    }

    fn expose(&self, tables: &Tables, page: Page, to: &mut dyn Exposition) {
        let workloads = self.workloads.iter().map(|(labels, kept)| (labels, kept.created, &kept.subject));
        if page == Page::History {
            return expose(&tables.history, workloads, to);
        }
        let containers = self.containers.iter();
        let containers = containers.map(|(labels, kept)| (&**labels, kept.created, &kept.subject));
        expose(&tables.container, containers, to);
        expose(&tables.workload, workloads, to);
        expose(&tables.node, std::iter::once((&(), self.began, &self.node)), to);
        expose(&tables.observer, std::iter::once((&(), self.began, &self.observer)), to);
    }
}

/// All its containers together.
fn scaled(event: &ScaleEvent) -> Workload {
    let ScaleEvent { namespace, workload, workload_type, .. } = event.clone();
    Workload { namespace, workload, workload_type, container: String::new() }
}

/// Of the findings that are exported by container.
fn of_container(kind: &FindingKind) -> Option<&Container> {
    match kind {
        FindingKind::Seen { container }
        | FindingKind::Point { container, .. }
        | FindingKind::Faulted { container, .. }
        | FindingKind::FaultsTimed { container, .. }
        | FindingKind::LimitMet { container, .. }
        | FindingKind::Pressed { container, .. }
        | FindingKind::Stalled { container, .. }
        | FindingKind::State { container, .. }
        | FindingKind::LateStep { container, .. }
        | FindingKind::StartDated { container, .. }
        | FindingKind::Drifting { container, .. }
        | FindingKind::LimitAheadOver { container } => Some(container),
        FindingKind::LimitAhead(ahead) => Some(&ahead.container),
        FindingKind::Started(started) => Some(&started.container),
        FindingKind::Caused(caused) => Some(&caused.container),
        FindingKind::Measured(measured) => Some(&measured.container),
        FindingKind::StartupPeak(peak) => Some(&peak.container),
        FindingKind::Stable(stable) => Some(&stable.container),
        FindingKind::OomKilled(killed) => killed.container.as_ref(),
        FindingKind::Ended(ended) => Some(&ended.container),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
