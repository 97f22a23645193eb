//! Gathers what advice is made from, and reports what is advised when that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    advice::{Settings, concurrency, noted::Noted, pod_need},
    attribution::Attribution,
    container::{Containers, tracked::Running},
    history::{Histories, WORKLOADS},
    model::{
        advice::{Advice, Current, Facts, Kills, Node, Startups, Steady, Typical},
        cause::Cause,
        container::{Container, ContainerState, Workload},
        event::Limit,
        finding::{Advised, Finding, FindingKind, Measured, OomScope, Stable},
        kubernetes::{Pod, PodContainer, Role},
        past_startup::StartupOutcome,
        time::Time,
    },
    node::watch::{EVICTION_RESERVE, NodeWatch},
};

/// A container that is not looked at for longer was not seen at its level.
const LONGEST_LOOK: f64 = 60.0;
/// Advice changes slowly; a workload is judged again this often at the most. Seconds.
const AGAIN: f64 = 5.0;
/// Advice of a workload that has a verdict or a kill to show stays this long after its last container.
const KEPT: Duration = Duration::from_secs(3600);
/// Workloads judged at one tick: after a restart there may be a thousand.
const AT_ONCE: usize = 32;

#[derive(Debug, Default)]
pub struct AdviceWatch {
    workloads: BTreeMap<Workload, Noted>,
    /// Something about them changed since they were judged.
    dirty: BTreeSet<Workload>,
    /// To be judged in the next ticks, before those that changed meanwhile.
    due: BTreeSet<Workload>,
    judged: Option<Time>,
    /// No workload is over before.
    next_over: Time,
    /// Found no room, or was over; reported at the next tick.
    dropped: Vec<Workload>,
    shortages: u64,
}

/// What the other stages know.
pub struct Known<'a> {
    pub attribution: &'a Attribution,
    pub node: &'a NodeWatch,
    pub wall_ns: i64,
    pub retention: Duration,
}

impl AdviceWatch {
    /// Takes note of what was found, and adds what is advised.
    pub fn follow(
        &mut self,
        containers: &mut Containers,
        histories: &mut Histories,
        known: &Known,
        out: &mut Vec<Finding>,
    ) {
        let mut judge = None;
        for finding in out.iter() {
            self.note(finding, containers, histories, known.wall_ns);
            if let FindingKind::Node(_) = finding.what {
                judge = Some(finding.at); // once a tick
            }
        }
        let Some(at) = judge else { return };
        let again = self.judged.is_none_or(|judged| at.seconds_since(judged) >= AGAIN);
        if self.due.is_empty() && again {
            self.judged = Some(at);
            self.due = std::mem::take(&mut self.dirty);
            self.expire(at, known.retention, containers, histories);
        }
        for workload in self.dropped.drain(..) {
            out.push(Finding { at, what: FindingKind::AdviceDropped { workload } });
        }
        for _ in 0..AT_ONCE {
            let Some(workload) = self.due.pop_first() else { break };
            self.judge(at, workload, containers, histories, known, out);
        }
    }

    /// Nothing of it runs, and has not for long enough. Not before any can be: one that ends later is over later.
    fn expire(&mut self, now: Time, retention: Duration, containers: &Containers, histories: &Histories) {
        if now < self.next_over {
            return;
        }
        let mut next = now.after(retention);
        let alive: BTreeSet<&Workload> = containers.running().map(|running| &running.workload).collect();
        let gone = self.workloads.extract_if(.., |workload, noted| {
            if alive.contains(workload) {
                return false;
            }
            let verdict = histories
                .get(workload)
                .iter()
                .any(|past| !matches!(past.outcome, StartupOutcome::Ended | StartupOutcome::Failed));
            let worth = verdict || noted.kills != Kills::default();
            let patience = if worth { retention.max(KEPT) } else { retention };
            let over = now.since(noted.touched) > patience;
            if !over {
                next = next.min(noted.touched.after(patience));
            }
            over
        });
        self.dropped.extend(gone.map(|(workload, _)| workload));
        self.next_over = next;
    }

    fn note(
        &mut self,
        finding: &Finding,
        containers: &mut Containers,
        histories: &mut Histories,
        wall_ns: i64,
    ) {
        let at = finding.at;
        match &finding.what {
            FindingKind::Seen { container } => enter(containers, container, None),
            FindingKind::Started(started) => {
                enter(containers, &started.container, Some(at));
                let workload = Workload::of(&started.container.labels);
                let of_it = |running: &&Running| running.workload == workload && running.was_starting(at);
                let starting = containers.running().filter(of_it).count() as u64;
                let most = &mut self.noted(at, &workload, histories).changes.starting_max;
                *most = starting.max(*most);
            }
            FindingKind::Identified { container, before, whole } => {
                let (old, new) = (Workload::of(before), Workload::of(&container.labels));
                if *whole {
                    self.rename(at, &old, &new, histories);
                } else if old != new {
                    let started = containers.life(container.cgroup).and_then(|life| life.started(wall_ns));
                    histories.move_startup(&old, &new, started);
                    self.noted(at, &new, histories);
                }
            }
            FindingKind::Caused(caused) => {
                let workload = Workload::of(&caused.container.labels);
                let changes = &mut self.noted(at, &workload, histories).changes;
                match caused.decision.cause {
                    Cause::RestartAfterResize => changes.restarts_after_resize += 1,
                    Cause::Reschedule => changes.rescheduled += 1,
                    _ => {}
                }
            }
            FindingKind::State { container, to, .. } => {
                if let Some(running) = containers.running_mut(container.cgroup) {
                    running.starting = *to == ContainerState::Starting;
                    running.settled = running.settled.or((!running.starting).then_some(at));
                    running.looked = None; // the time until now was of the state before
                }
            }
            FindingKind::Ready { container, seconds } => {
                self.settle(at, container, containers, histories, |of| {
                    of.ready = of.ready.or(Some(*seconds))
                });
            }
            FindingKind::Stable(Stable { container, seconds, .. }) => {
                self.settle(at, container, containers, histories, |of| {
                    of.stable = of.stable.or(Some(*seconds))
                });
            }
            FindingKind::Measured(Measured { container, levels }) => {
                let now = at.unix_seconds(wall_ns);
                let Some(running) = containers.running_mut(container.cgroup) else { return };
                let seconds = running.looked.map_or(0.0, |looked| at.seconds_since(looked)).min(LONGEST_LOOK);
                running.looked = Some(at);
                let resized =
                    levels.limit.is_some() && running.limit.is_some() && running.limit != levels.limit;
                let first = running.limit.is_none() && levels.limit.is_some();
                running.limit = levels.limit.or(running.limit);
                if !running.starting {
                    histories.was_at(&running.workload, levels.unreclaimable(), seconds, now);
                }
                if resized || first {
                    let workload = running.workload.clone();
                    let noted = self.noted(at, &workload, histories);
                    noted.changes.resizes += u64::from(resized);
                    noted.current.limit = levels.limit.map(Limit::bytes);
                }
            }
            FindingKind::OomKilled(killed) => {
                if let Some(container) = &killed.container {
                    if let Some(running) = containers.running_mut(container.cgroup) {
                        running.cut_short |= killed.starting && killed.at_own_limit && !killed.reconciled;
                    }
                    let noted = self.noted(at, &Workload::of(&container.labels), histories);
                    // It may be over before its files were read.
                    if let (OomScope::Container, Some(limit)) = (killed.scope, killed.limit) {
                        noted.current.limit = Some(Some(limit));
                    }
                    let kills = &mut noted.kills;
                    let more = killed.kills;
                    let of_phase = if killed.starting { &mut kills.startup } else { &mut kills.steady };
                    *of_phase = of_phase.saturating_add(more);
                    match killed.scope {
                        OomScope::Node => kills.by_node = kills.by_node.saturating_add(more),
                        OomScope::Inside => kills.by_inside = kills.by_inside.saturating_add(more),
                        OomScope::Parent | OomScope::Ancestor if !killed.at_own_limit => {
                            kills.by_group_above = kills.by_group_above.saturating_add(more);
                        }
                        _ if killed.before_exec => kills.before_exec = kills.before_exec.saturating_add(more),
                        _ => {}
                    }
                }
            }
            FindingKind::Learned { workload, .. } => {
                self.noted(at, workload, histories);
            }
            FindingKind::Ended(ended) => {
                containers.set_running(ended.container.cgroup, None);
                if let Some(noted) = self.workloads.get_mut(&Workload::of(&ended.container.labels)) {
                    noted.touched = at;
                }
            }
            FindingKind::StampedeBegan(_) | FindingKind::ShortageForecast(_) => self.shortages += 1,
            _ => {}
        }
    }

    /// What was noted under another name, for want of the right one.
    fn rename(&mut self, at: Time, old: &Workload, new: &Workload, histories: &mut Histories) {
        histories.rename(old, new);
        let Some(before) = self.workloads.remove(old) else { return };
        self.noted(at, new, histories).merge(before);
    }

    /// Its workload is judged again.
    fn noted(&mut self, at: Time, workload: &Workload, histories: &Histories) -> &mut Noted {
        self.dirty.insert(workload.clone());
        if self.workloads.len() >= WORKLOADS && !self.workloads.contains_key(workload) {
            let gone = self.workloads.keys().find(|known| histories.get(known).is_empty()).cloned();
            if let Some(gone) = gone.or_else(|| self.workloads.keys().next().cloned()) {
                self.workloads.remove(&gone);
                self.dropped.push(gone);
            }
        }
        let noted = self.workloads.entry(workload.clone()).or_default();
        noted.touched = at;
        noted
    }

    fn settle(
        &mut self,
        at: Time,
        container: &Container,
        containers: &mut Containers,
        histories: &Histories,
        note: impl Fn(&mut Running),
    ) {
        let Some(running) = containers.running_mut(container.cgroup) else { return };
        let counted = running.ready.is_some() && running.stable.is_some();
        note(running);
        let (Some(ready), Some(stable), false) = (running.ready, running.stable, counted) else { return };
        let workload = running.workload.clone();
        let (early, seen) = &mut self.noted(at, &workload, histories).ready_early;
        *seen += 1;
        *early += u64::from(ready < stable);
    }

    fn judge(
        &mut self,
        at: Time,
        workload: Workload,
        containers: &Containers,
        histories: &Histories,
        known: &Known,
        out: &mut Vec<Finding>,
    ) {
        let facts = self.facts(&workload, containers, histories, known);
        let advice = Advice::of(&facts, &Settings::default());
        let Some(noted) = self.workloads.get_mut(&workload) else { return };
        if noted.reported.as_ref() == Some(&advice) {
            return;
        }
        let outcome = |advice: &Advice| {
            let failed: Vec<_> = advice.complaints().into_iter().map(|v| (v.check, v.grade)).collect();
            (failed, advice.numbers.request, advice.numbers.limit)
        };
        let news = noted.reported.as_ref().is_none_or(|before| outcome(before) != outcome(&advice));
        noted.reported = Some(advice.clone());
        noted.current = facts.current.clone();
        out.push(Finding { at, what: FindingKind::Advised(Box::new(Advised { facts, advice, news })) });
    }

    fn facts(
        &self,
        workload: &Workload,
        containers: &Containers,
        histories: &Histories,
        known: &Known,
    ) -> Facts {
        let past = histories.get(workload);
        let startups = Startups::of(past);
        let noted = self.workloads.get(workload);
        let node = known.node.available().map(|available| Node {
            headroom: available.saturating_sub(EVICTION_RESERVE),
            shortages: self.shortages,
        });
        let of_it = |(_, running): &(u64, &Running)| running.workload == *workload;
        let last = containers.running_by_cgroup().filter(of_it).last();
        let pod = last.and_then(|(cgroup, _)| known.attribution.pod_of(cgroup));
        let pods = known.attribution.pods();
        let record = pod.and_then(|(pod, _)| pods.record_of(pod));
        Facts {
            steady: Steady::of(histories.levels(workload), &startups),
            current: current(workload, pod, noted.map(|noted| &noted.current), containers, histories),
            kills: noted.map(|noted| noted.kills).unwrap_or_default(),
            autoscalers: record.map(|record| record.autoscalers.clone()),
            surge: pod.and_then(|(pod, _)| pods.owner(pod)?.surge),
            ready_early: noted.map(|noted| noted.ready_early),
            together: node.and_then(|node| concurrency::together(past, node.headroom)),
            node,
            changes: noted.map(|noted| noted.changes).unwrap_or_default(),
            typical: Typical::of(past),
            startups,
            workload: workload.clone(),
        }
    }
}

fn enter(containers: &mut Containers, container: &Container, started: Option<Time>) {
    let running = Running {
        workload: Workload::of(&container.labels),
        started,
        starting: started.is_some(),
        settled: None,
        looked: None,
        limit: None,
        ready: None,
        stable: None,
        cut_short: false,
    };
    containers.set_running(container.cgroup, Some(running));
}

/// Containers of this pod that became ready: reported once each, from the exec on.
pub fn ready(
    at: Time,
    pod: &Pod,
    containers: &Containers,
    attribution: &Attribution,
    out: &mut Vec<Finding>,
) {
    let readies = pod.containers.iter().filter(|container| container.ready);
    for id in readies.filter_map(|container| container.id.as_deref()) {
        let Some(tracked) = attribution.with_id(id).and_then(|cgroup| containers.get(cgroup)) else {
            continue;
        };
        let Some(Running { started: Some(started), ready: None, .. }) = tracked.running else { continue };
        let (container, seconds) = (tracked.life.container().clone(), at.seconds_since(started));
        out.push(Finding { at, what: FindingKind::Ready { container, seconds } });
    }
}

/// As it is set today, or was when the last of them lived.
fn current(
    workload: &Workload,
    pod: Option<(&Pod, &PodContainer)>,
    before: Option<&Current>,
    containers: &Containers,
    histories: &Histories,
) -> Current {
    let of_it = || containers.running().filter(|running| running.workload == *workload);
    let limit = of_it().filter_map(|running| running.limit).last();
    let before = before.cloned().unwrap_or_default();
    let need = |other: &PodContainer| {
        let sibling = Workload { container: other.name.clone(), ..workload.clone() };
        histories.get(&sibling).iter().map(|past| past.need()).max()
    };
    let siblings = pod.and_then(|(pod, container)| pod_need::beside(pod, &container.name, need));
    let init = pod.and_then(|(pod, _)| pod_need::while_initializing(pod, need));
    Current {
        containers: of_it().count() as u64,
        role: pod
            .map_or(before.role, |(_, container)| Some(container.role).filter(|role| *role != Role::Main)),
        starting: of_it().filter(|running| running.starting).count() as u64,
        request: pod.map(|(_, container)| container.request).or(before.request),
        limit: limit.map(Limit::bytes).or(before.limit),
        pod_limit: pod.map(|(pod, _)| pod.memory_limit).or(before.pod_limit),
        siblings_need: siblings.or(before.siblings_need),
        init_need: init.or(before.init_need),
        startup_probe: pod.map(|(_, container)| container.startup_probe).or(before.startup_probe),
        readiness_probe: pod.map(|(_, container)| container.readiness_probe).or(before.readiness_probe),
    }
}
