//! Gathers what advice is made from, and says what is advised when that changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    advice::{
        Advice, Facts, Settings, concurrency,
        facts::{Changes, Current, Kills, Node, Startups, Steady},
        typical_curve::Typical,
    },
    cause::Cause,
    model::{
        event::{CgroupId, Limit},
        finding::{Advised, Container, ContainerState, Finding, FindingKind, OomScope},
        kubernetes::{Pod, PodContainer},
        time::Time,
    },
    pipeline::{Pipeline, node::EVICTION_RESERVE},
    workload::history::{WORKLOADS, Workload},
};

/// A container that is not looked at for longer was not seen at its level.
const LONGEST_LOOK: f64 = 60.0;
/// Advice changes slowly; a workload is judged again this often at the most. Seconds.
const AGAIN: f64 = 5.0;

#[derive(Debug, Default)]
pub(super) struct Advise {
    workloads: BTreeMap<Workload, Noted>,
    members: BTreeMap<CgroupId, Member>,
    /// Something about them changed since they were judged.
    dirty: BTreeSet<Workload>,
    judged: Option<Time>,
    shortages: u64,
}

/// Of a workload, since the observer started.
#[derive(Debug, Default)]
struct Noted {
    kills: Kills,
    changes: Changes,
    ready_early: (u64, u64),
    /// What is set today, as last seen.
    current: Current,
    told: Option<Advice>,
}

/// A container alive.
#[derive(Debug)]
struct Member {
    workload: Workload,
    started: Option<Time>,
    starting: bool,
    looked: Option<Time>,
    limit: Option<Limit>,
    ready: Option<f64>,
    stable: Option<f64>,
}

impl Pipeline {
    /// Takes note of what was found, and adds what is advised.
    pub(super) fn note(&mut self, out: &mut Vec<Finding>) {
        let mut judge = None;
        for finding in out.iter() {
            self.note_one(finding);
            if let FindingKind::Node(_) = finding.what {
                judge = Some(finding.at); // once a tick
            }
        }
        let due = |at: &Time| self.advise.judged.is_none_or(|judged| at.seconds_since(judged) >= AGAIN);
        if let Some(at) = judge.filter(due) {
            self.advise.judged = Some(at);
            for workload in std::mem::take(&mut self.advise.dirty) {
                self.judge(at, workload, out);
            }
        }
    }

    fn note_one(&mut self, finding: &Finding) {
        let at = finding.at;
        match &finding.what {
            FindingKind::Seen { container } => self.enter(container, None),
            FindingKind::Started(started) => {
                self.enter(&started.container, Some(at));
                let workload = Workload::of(&started.container.labels);
                let starting =
                    self.advise.members.values().filter(|m| m.workload == workload && m.starting).count();
                let changes = &mut self.noted(&workload).changes;
                changes.starting_max = changes.starting_max.max(starting as u64);
            }
            FindingKind::Identified { container, .. } => {
                let workload = Workload::of(&container.labels);
                if let Some(member) = self.advise.members.get_mut(&container.cgroup) {
                    member.workload = workload;
                }
            }
            FindingKind::Caused(caused) => {
                let changes = &mut self.noted(&Workload::of(&caused.container.labels)).changes;
                match caused.decision.cause {
                    Cause::RestartAfterResize => changes.restarts_after_resize += 1,
                    Cause::Reschedule => changes.rescheduled += 1,
                    _ => {}
                }
            }
            FindingKind::State { container, to, .. } => {
                if let Some(member) = self.advise.members.get_mut(&container.cgroup) {
                    member.starting = *to == ContainerState::Starting;
                    member.looked = None; // the time until now was of the state before
                }
            }
            FindingKind::Ready { container, seconds } => {
                self.settle(container, |member| member.ready = member.ready.or(Some(*seconds)));
            }
            FindingKind::Stable(stable) => {
                self.settle(&stable.container, |member| {
                    member.stable = member.stable.or(Some(stable.seconds))
                });
            }
            FindingKind::Measured(measured) => {
                let now = at.unix_seconds(self.wall_ns());
                let Some(member) = self.advise.members.get_mut(&measured.container.cgroup) else { return };
                let seconds = member.looked.map_or(0.0, |looked| at.seconds_since(looked)).min(LONGEST_LOOK);
                member.looked = Some(at);
                let resized =
                    measured.limit.is_some() && member.limit.is_some() && member.limit != measured.limit;
                let first = member.limit.is_none() && measured.limit.is_some();
                member.limit = measured.limit.or(member.limit);
                if !member.starting {
                    self.histories.was_at(&member.workload, measured.working_set, seconds, now);
                }
                if resized || first {
                    let workload = member.workload.clone();
                    let noted = self.noted(&workload);
                    noted.changes.resizes += u64::from(resized);
                    noted.current.limit = measured.limit.map(Limit::bytes);
                }
            }
            FindingKind::OomKilled(killed) => {
                if let Some(container) = &killed.container {
                    let noted = self.noted(&Workload::of(&container.labels));
                    // It may be over before anybody read its files.
                    if let (OomScope::Container, Some(limit)) = (killed.scope, killed.limit) {
                        noted.current.limit = Some(Some(limit));
                    }
                    let kills = &mut noted.kills;
                    *(if killed.starting { &mut kills.startup } else { &mut kills.steady }) += killed.kills;
                    if killed.scope == OomScope::Node {
                        kills.by_node += killed.kills;
                    }
                }
            }
            FindingKind::Learned { workload, .. } => {
                self.noted(workload);
            }
            FindingKind::Ended(ended) => {
                self.advise.members.remove(&ended.container.cgroup);
            }
            FindingKind::StampedeBegan(_) | FindingKind::ShortageForecast(_) => self.advise.shortages += 1,
            _ => {}
        }
    }

    fn enter(&mut self, container: &Container, started: Option<Time>) {
        let member = Member {
            workload: Workload::of(&container.labels),
            started,
            starting: started.is_some(),
            looked: None,
            limit: None,
            ready: None,
            stable: None,
        };
        self.advise.members.insert(container.cgroup, member);
    }

    /// Its workload is judged again.
    fn noted(&mut self, workload: &Workload) -> &mut Noted {
        self.advise.dirty.insert(workload.clone());
        if self.advise.workloads.len() >= WORKLOADS && !self.advise.workloads.contains_key(workload) {
            let gone =
                self.advise.workloads.keys().find(|known| self.histories.get(known).is_empty()).cloned();
            if let Some(gone) = gone.or_else(|| self.advise.workloads.keys().next().cloned()) {
                self.advise.workloads.remove(&gone);
            }
        }
        self.advise.workloads.entry(workload.clone()).or_default()
    }

    fn settle(&mut self, container: &Container, told: impl Fn(&mut Member)) {
        let Some(member) = self.advise.members.get_mut(&container.cgroup) else { return };
        let counted = member.ready.is_some() && member.stable.is_some();
        told(member);
        let (Some(ready), Some(stable), false) = (member.ready, member.stable, counted) else { return };
        let workload = member.workload.clone();
        let (early, seen) = &mut self.noted(&workload).ready_early;
        *seen += 1;
        *early += u64::from(ready < stable);
    }

    /// Containers of this pod that became ready: told once each, from the exec on.
    pub(super) fn ready(&mut self, at: Time, pod: &Pod, out: &mut Vec<Finding>) {
        let readies = pod.containers.iter().filter(|container| container.ready);
        for id in readies.filter_map(|container| container.id.as_deref()) {
            let Some(cgroup) = self.cluster.member(id) else { continue };
            let (Some(member), Some(life)) = (self.advise.members.get(&cgroup), self.lives.get(&cgroup))
            else {
                continue;
            };
            if let (Some(started), None) = (member.started, member.ready) {
                let (container, seconds) = (life.container().clone(), at.seconds_since(started));
                out.push(Finding { at, what: FindingKind::Ready { container, seconds } });
            }
        }
    }

    fn judge(&mut self, at: Time, workload: Workload, out: &mut Vec<Finding>) {
        let facts = self.facts(&workload);
        let advice = Advice::of(&facts, &Settings::default());
        let Some(noted) = self.advise.workloads.get_mut(&workload) else { return };
        if noted.told.as_ref() == Some(&advice) {
            return;
        }
        let said = |advice: &Advice| {
            let failed: Vec<_> = advice.complaints().into_iter().map(|v| (v.check, v.grade)).collect();
            (failed, advice.numbers.request, advice.numbers.limit)
        };
        let news = noted.told.as_ref().is_none_or(|told| said(told) != said(&advice));
        noted.told = Some(advice.clone());
        noted.current = facts.current.clone();
        out.push(Finding { at, what: FindingKind::Advised(Box::new(Advised { facts, advice, news })) });
    }

    fn facts(&self, workload: &Workload) -> Facts {
        let past = self.histories.get(workload);
        let startups = Startups::of(past);
        let noted = self.advise.workloads.get(workload);
        let node = self.node.available.map(|available| Node {
            headroom: available.saturating_sub(EVICTION_RESERVE),
            shortages: self.advise.shortages,
        });
        let members = || self.advise.members.iter().filter(|(_, member)| member.workload == *workload);
        let pod = members().next_back().and_then(|(cgroup, _)| self.cluster.pod_of(*cgroup));
        let record = pod.and_then(|(pod, _)| self.cluster.record_of(pod));
        Facts {
            steady: Steady::of(self.histories.levels(workload), &startups),
            current: self.current(workload, pod, noted.map(|noted| &noted.current)),
            kills: noted.map(|noted| noted.kills).unwrap_or_default(),
            autoscalers: record.map(|record| record.autoscalers.clone()),
            surge: pod.and_then(|(pod, _)| self.cluster.owner_of(pod)?.surge),
            ready_early: noted.map(|noted| noted.ready_early),
            together: node.and_then(|node| concurrency::together(past, node.headroom)),
            node,
            changes: noted.map(|noted| noted.changes).unwrap_or_default(),
            typical: Typical::of(past),
            startups,
            workload: workload.clone(),
        }
    }

    /// As it is set today, or was when the last of them lived.
    fn current(
        &self,
        workload: &Workload,
        pod: Option<(&Pod, &PodContainer)>,
        before: Option<&Current>,
    ) -> Current {
        let of = |member: &&Member| member.workload == *workload;
        let limit = self.advise.members.values().filter(of).filter_map(|member| member.limit).next_back();
        let before = before.cloned().unwrap_or_default();
        let siblings = pod.and_then(|(pod, container)| {
            let others = pod.containers.iter().filter(|other| {
                other.name != container.name && other.role == crate::model::kubernetes::Role::Main
            });
            let need = |other: &PodContainer| {
                let sibling = Workload { container: other.name.clone(), ..workload.clone() };
                self.histories.get(&sibling).iter().map(|past| past.need()).max()
            };
            others.map(need).sum::<Option<u64>>()
        });
        Current {
            containers: self.advise.members.values().filter(of).count() as u64,
            request: pod.map(|(_, container)| container.request).or(before.request),
            limit: limit.map(Limit::bytes).or(before.limit),
            pod_limit: pod.map(|(pod, _)| pod.memory_limit).or(before.pod_limit),
            siblings_need: siblings.or(before.siblings_need),
            startup_probe: pod.map(|(_, container)| container.startup_probe).or(before.startup_probe),
            readiness_probe: pod.map(|(_, container)| container.readiness_probe).or(before.readiness_probe),
        }
    }
}
