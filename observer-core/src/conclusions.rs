//! Stage three: what follows? Histories, causes, scale events, the node as a whole, advice.

use crate::{
    advice::watch::{self, AdviceWatch, Known},
    attribution::Attribution,
    budget::Budget,
    cause::open_starts::Causes,
    container::Containers,
    foreseen::watch::{self as foreseen, LimitWatch},
    history::{Dropped, Histories},
    host::HostFacts,
    lent::LentWatch,
    model::{
        cause::Decision,
        container::{Container, ContainerState, Workload},
        event::{Event, EventKind, ObserverReading},
        finding::{Caused, Finding, FindingKind},
        kubernetes::ApiState,
        past_startup::StartupOutcome,
        time::Time,
    },
    node::watch::NodeWatch,
    scale_event::ScaleEvents,
};

#[derive(Debug, Default)]
pub struct Conclusions {
    histories: Histories,
    /// As last reported.
    dropped: Dropped,
    budget: Budget,
    causes: Causes,
    scale: ScaleEvents,
    node: NodeWatch,
    advice: AdviceWatch,
    limits: LimitWatch,
    lent: LentWatch,
}

impl Conclusions {
    pub fn histories(&self) -> &Histories {
        &self.histories
    }

    /// The API said late who a container is.
    pub fn renamed(&mut self, container: &Container) {
        self.causes.relabelled(container);
    }

    /// Adds what follows from the event, and from what was found because of it.
    pub fn follow(
        &mut self,
        event: &Event,
        host: &HostFacts,
        attribution: &mut Attribution,
        containers: &mut Containers,
        out: &mut Vec<Finding>,
    ) {
        self.take(event, host, attribution, containers, out);
        self.learn(host.wall_ns(), containers, out);
        let known = foreseen::Known { containers, attribution, histories: &self.histories, node: &self.node };
        self.limits.follow(&known, out);
        self.lent.follow(event, host.wall_ns(), containers, attribution, out);
        self.follow_findings(event.at, attribution, containers, out);
        let known =
            Known { attribution, node: &self.node, wall_ns: host.wall_ns(), retention: host.retention() };
        self.advice.follow(containers, &mut self.histories, &known, out);
        for finding in out.iter() {
            if let FindingKind::Forgotten { container } = &finding.what {
                attribution.forget(container.cgroup);
            }
        }
    }

    /// What the event itself says.
    fn take(
        &mut self,
        event: &Event,
        host: &HostFacts,
        attribution: &Attribution,
        containers: &Containers,
        out: &mut Vec<Finding>,
    ) {
        let at = event.at;
        match &event.what {
            EventKind::Host(_) => {
                if let Some(booted) = host.booted() {
                    self.causes.booted(booted);
                }
            }
            EventKind::Api(ApiState::Watching { ledger, .. }) => self.causes.asks_ledger(*ledger),
            EventKind::Api(ApiState::Away { .. }) => self.causes.api_away(at, true),
            // Forbidden may be for good.
            EventKind::Api(ApiState::Synced | ApiState::Forbidden { blind: true, .. }) => {
                self.causes.api_away(at, false);
            }
            EventKind::Pod(pod) => {
                self.causes.evidence_came();
                watch::ready(at, pod, containers, attribution, out);
            }
            EventKind::PodGone { .. } | EventKind::Owner(_) | EventKind::Record(_) => {
                self.causes.evidence_came()
            }
            EventKind::History { workload, startups, levels } => {
                self.histories.restore(workload, startups.clone(), levels.clone());
                self.report_history(at, workload, out);
            }
            EventKind::Node(reading) => self.node.read(reading),
            EventKind::Observer(ObserverReading { room: Some(room), .. }) => {
                self.budget.follow(at, *room, &mut self.histories);
                self.report_dropped(at, true, out);
            }
            EventKind::Tick => {
                for finding in out.iter() {
                    self.count_kills(finding);
                }
                self.report_dropped(at, false, out);
                self.scale.tick(at, out);
                self.causes.evidence_came(); // closes what is too old
                self.node.tick(at, containers, &self.histories, attribution.cgroups(), out);
                return;
            }
            _ => {}
        }
        for finding in out.iter() {
            self.count_kills(finding);
        }
    }

    fn count_kills(&mut self, finding: &Finding) {
        if let FindingKind::OomKilled(killed) = &finding.what {
            self.node.oom_killed(killed.kills);
        }
    }

    /// Adds start-ups that got a verdict, or ended without one, to their workload's history.
    fn learn(&mut self, wall_ns: i64, containers: &mut Containers, out: &mut Vec<Finding>) {
        let mut learned = Vec::new();
        for finding in out.iter() {
            let (container, outcome) = match &finding.what {
                FindingKind::State { container, to, .. } if *to != ContainerState::Ended => {
                    (container, StartupOutcome::reached(*to))
                }
                FindingKind::LateStep { container, .. } => (container, Some(StartupOutcome::Stable)),
                FindingKind::Ended(ended) => {
                    containers.remember_exit(ended);
                    if ended.was != ContainerState::Starting {
                        continue;
                    }
                    let killed =
                        containers.running_mut(ended.container.cgroup).is_some_and(|of| of.cut_short);
                    let outcome = StartupOutcome::ended(ended.status, ended.by_own_limit);
                    // Asked to stop after a kill by its own limit: that is evidence.
                    (&ended.container, outcome.or(killed.then_some(StartupOutcome::Failed)))
                }
                _ => continue,
            };
            let life = containers.life(container.cgroup);
            if let Some(mut past) = outcome.and_then(|outcome| life?.past(wall_ns, outcome)) {
                let killed = containers.running_mut(container.cgroup).is_some_and(|of| of.cut_short);
                past.cut_short = killed && past.outcome != StartupOutcome::OomKilled;
                learned.push((finding.at, Workload::of(&container.labels), past));
            }
        }
        for (at, workload, past) in learned {
            self.histories.remember(&workload, past);
            self.report_history(at, &workload, out);
        }
    }

    fn report_dropped(&mut self, at: Time, short: bool, out: &mut Vec<Finding>) {
        if self.histories.dropped() != self.dropped {
            self.dropped = self.histories.dropped();
            let Dropped { workloads, startups } = self.dropped;
            out.push(Finding { at, what: FindingKind::HistoryDropped { workloads, startups, short } });
        }
    }

    fn report_history(&self, at: Time, workload: &Workload, out: &mut Vec<Finding>) {
        if let Some(summary) = self.histories.summary(workload) {
            out.push(Finding { at, what: FindingKind::Learned { workload: workload.clone(), summary } });
        }
    }

    /// Causes and scale events follow from what was found, and more from those: until nothing new does.
    fn follow_findings(
        &mut self,
        at: Time,
        attribution: &Attribution,
        containers: &mut Containers,
        out: &mut Vec<Finding>,
    ) {
        let mut followed = 0;
        loop {
            while followed < out.len() {
                let mut more = Vec::new();
                for finding in &out[followed..] {
                    self.follow_finding(finding, containers, &mut more);
                    self.scale.apply(finding, containers, &mut more);
                }
                followed = out.len();
                out.append(&mut more);
            }
            let caused = self.causes.review(at, attribution.pods());
            if caused.is_empty() {
                return;
            }
            out.extend(caused.into_iter().map(|caused| Finding { at, what: FindingKind::Caused(caused) }));
        }
    }

    fn follow_finding(&mut self, finding: &Finding, containers: &mut Containers, out: &mut Vec<Finding>) {
        match &finding.what {
            FindingKind::Started(started) => {
                let container = started.container.clone();
                match containers.get(container.cgroup).and_then(|tracked| tracked.pod.as_ref()) {
                    Some(key) => self.causes.started(finding.at, &container, &key.pod, &key.id),
                    // What the node knows is all there is to know.
                    None => {
                        let decision =
                            Decision { cause: started.cause, confidence: 1.0, ..Decision::default() };
                        let caused = Caused { container, started: finding.at, decision, before: None };
                        out.push(Finding { at: finding.at, what: FindingKind::Caused(caused) });
                    }
                }
            }
            FindingKind::Caused(caused) => {
                containers.caused(caused.container.cgroup, caused.decision.cause);
            }
            FindingKind::Ended(ended) => {
                let tracked = containers.get(ended.container.cgroup);
                if let Some(key) = tracked.and_then(|tracked| tracked.pod.as_ref()) {
                    self.causes.ended(finding.at, ended, &key.pod);
                }
            }
            _ => {}
        }
    }
}
