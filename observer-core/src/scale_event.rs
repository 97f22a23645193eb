//! Scale events, and what each did to this node. Pure: findings in, findings out.
//!
//! A scale event begins here with the first start it is the cause of, and is over when all its containers have a
//! verdict, or after the start-up horizon. An OOM kill is tied to the scale event that made its victim, and to those
//! whose start-ups were under way on the node at that moment: the victim is often not the culprit. Either may become
//! known only after the kill, so kills are remembered for a while.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{
    container::{Containers, lifecycle::Lifecycle, tracked::StartLevels},
    model::{
        cause::Scaled,
        container::{CgroupId, Container},
        finding::{Finding, FindingKind, OomLinked, OomRole, ScaleEvent, ScaleEventEnded},
        time::Time,
    },
};

/// Scale events of one workload within this are one: controllers act in steps, and times are whole seconds.
const SAME: f64 = 2.0;
/// No start-up is reported beyond the horizon, so no event waits longer.
const HORIZON: Duration = Duration::from_secs(crate::container::stability::HORIZON_SECONDS as u64);
/// Kills that may still be tied to an event.
const KILLS: usize = 256;

#[derive(Debug, Default)]
pub struct ScaleEvents {
    live: Vec<Live>,
    kills: VecDeque<Kill>,
}

#[derive(Debug)]
struct Live {
    event: ScaleEvent,
    began: Time,
    members: BTreeMap<CgroupId, Member>,
    oom_kills: u64,
    bystander_kills: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    started: Time,
    levels: StartLevels,
}

#[derive(Debug)]
struct Kill {
    at: Time,
    victim: Container,
    /// More than one where only the kernel's count reports them.
    kills: u64,
    starting: BTreeSet<CgroupId>,
    linked: Vec<(ScaleEvent, OomRole)>,
}

impl ScaleEvents {
    pub fn apply(&mut self, finding: &Finding, containers: &mut Containers, out: &mut Vec<Finding>) {
        let at = finding.at;
        match &finding.what {
            FindingKind::Caused(caused) => {
                if let Some(scaled) = &caused.decision.scaled {
                    self.join(at, &caused.container, caused.started, scaled, containers, out);
                }
            }
            FindingKind::State { container, to, .. } => {
                self.note(container.cgroup, containers, |levels| levels.reached(at, *to));
            }
            FindingKind::StartupPeak(peak) => {
                self.note(peak.container.cgroup, containers, |levels| levels.peak = peak.bytes);
            }
            FindingKind::Stable(stable) | FindingKind::LateStep { stable, .. } => {
                self.note(stable.container.cgroup, containers, |levels| levels.steady = stable.level);
            }
            FindingKind::Stalled { container, seconds, .. } => {
                let alive = containers.life(container.cgroup).is_some_and(Lifecycle::is_live);
                self.note(container.cgroup, containers, |levels| levels.stalled(*seconds, alive));
            }
            FindingKind::OomKilled(killed) => {
                if let Some(victim) = &killed.container {
                    self.killed(at, victim, killed.kills, containers, out);
                }
            }
            _ => {}
        }
    }

    /// Keeps a level with the container, whose event may become known later, and with the event.
    fn note(&mut self, cgroup: CgroupId, containers: &mut Containers, note: impl Fn(&mut StartLevels)) {
        if let Some(tracked) = containers.get_mut(cgroup) {
            note(&mut tracked.levels);
        }
        let member = self.live.iter_mut().find_map(|live| live.members.get_mut(&cgroup));
        if let Some(member) = member {
            note(&mut member.levels);
        }
    }

    fn join(
        &mut self,
        at: Time,
        container: &Container,
        started: Time,
        scaled: &Scaled,
        containers: &Containers,
        out: &mut Vec<Finding>,
    ) {
        // Better evidence may move it to another event.
        for live in &mut self.live {
            live.members.remove(&container.cgroup);
        }
        let labels = &container.labels;
        let same = |live: &Live| {
            let event = &live.event;
            (event.namespace == labels.namespace && event.workload == labels.workload)
                && (event.unix_seconds - scaled.at).abs() <= SAME
        };
        let index = match self.live.iter().position(same) {
            Some(index) => index,
            None => {
                let event = ScaleEvent {
                    namespace: labels.namespace.clone(),
                    workload: labels.workload.clone(),
                    workload_type: labels.workload_type.clone(),
                    unix_seconds: scaled.at,
                    from: scaled.from,
                    to: scaled.to,
                    by: scaled.by.clone(),
                };
                out.push(Finding { at, what: FindingKind::ScaleEventBegan(event.clone()) });
                self.live.push(Live {
                    event,
                    began: started,
                    members: BTreeMap::new(),
                    oom_kills: 0,
                    bystander_kills: 0,
                });
                self.live.len() - 1
            }
        };
        let mut levels = containers.get(container.cgroup).map(|tracked| tracked.levels).unwrap_or_default();
        if !levels.starting {
            levels.settled = levels.settled.or(Some(at)); // it is over, and since when is not known
        }
        let live = &mut self.live[index];
        live.event.to = live.event.to.max(scaled.to);
        live.event.from = match (live.event.from, scaled.from) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        live.members.insert(container.cgroup, Member { started, levels });
        self.link(at, container.cgroup, out);
    }

    /// Kills that this container's event had a part in.
    fn link(&mut self, at: Time, cgroup: CgroupId, out: &mut Vec<Finding>) {
        let Some(live) = self.live.iter_mut().find(|live| live.members.contains_key(&cgroup)) else { return };
        for kill in &mut self.kills {
            let role = match kill.victim.cgroup == cgroup {
                true => OomRole::Victim,
                false if kill.starting.contains(&cgroup) => OomRole::UnderWay,
                false => continue,
            };
            let event = &live.event;
            let known = kill.linked.iter().any(|(linked, as_what)| {
                *as_what == role
                    && linked.unix_seconds == event.unix_seconds
                    && linked.workload == event.workload
                    && linked.namespace == event.namespace
            });
            if known {
                continue;
            }
            kill.linked.push((event.clone(), role));
            match role {
                OomRole::Victim => live.oom_kills += kill.kills,
                OomRole::UnderWay => live.bystander_kills += kill.kills,
            }
            let linked = OomLinked {
                container: kill.victim.clone(),
                killed: kill.at,
                kills: kill.kills,
                role,
                scale_event: event.clone(),
            };
            out.push(Finding { at, what: FindingKind::OomLinked(linked) });
        }
    }

    fn killed(
        &mut self,
        at: Time,
        victim: &Container,
        kills: u64,
        containers: &Containers,
        out: &mut Vec<Finding>,
    ) {
        if self.kills.len() == KILLS {
            self.kills.pop_front();
        }
        let starting = containers.iter().filter(|(_, tracked)| tracked.levels.starting);
        let starting = starting.map(|(cgroup, _)| cgroup).collect();
        let kill = Kill { at, victim: victim.clone(), kills, starting, linked: Vec::new() };
        let concerned: Vec<CgroupId> = kill.starting.iter().copied().chain([victim.cgroup]).collect();
        self.kills.push_back(kill);
        for cgroup in concerned {
            self.link(at, cgroup, out);
        }
    }

    /// Reports the events that are over.
    pub fn tick(&mut self, now: Time, out: &mut Vec<Finding>) {
        while self.kills.front().is_some_and(|kill| now.since(kill.at) > HORIZON) {
            self.kills.pop_front();
        }
        let mut index = 0;
        while let Some(live) = self.live.get(index) {
            let settled = live.members.values().all(|member| member.levels.settled.is_some());
            // More of its pods may be on their way: none has come for a while.
            let last = live.members.values().map(|member| member.started).max().unwrap_or(live.began);
            let quiet = now.since(last) > Duration::from_secs(15);
            if (settled && quiet) || now.since(live.began) > HORIZON {
                let live = self.live.remove(index);
                if !live.members.is_empty() {
                    out.push(Finding { at: now, what: FindingKind::ScaleEventEnded(live.ended()) });
                }
            } else {
                index += 1;
            }
        }
    }
}

impl Member {
    fn was_starting(&self, at: Time) -> bool {
        self.started <= at && self.levels.settled.is_none_or(|settled| at < settled)
    }
}

impl Live {
    /// The most that were starting at one time, however late each was known to be of this event.
    fn starting_max(&self) -> u64 {
        let members = || self.members.values();
        let together = |at| members().filter(|member| member.was_starting(at)).count() as u64;
        members().map(|member| together(member.started)).max().unwrap_or(0)
    }

    fn ended(self) -> ScaleEventEnded {
        let settled: Option<Vec<Time>> = self.members.values().map(|member| member.levels.settled).collect();
        let last = settled.and_then(|all| all.into_iter().max());
        let levels = || self.members.values().map(|member| member.levels);
        let overshoot = |levels: StartLevels| match levels.steady {
            0 => 0,
            steady => levels.peak.saturating_sub(steady),
        };
        ScaleEventEnded {
            pods: self.members.len() as u64,
            starting_max: self.starting_max(),
            peak_sum: levels().map(|levels| levels.peak).sum(),
            overshoot_sum: levels().map(overshoot).sum(),
            oom_kills: self.oom_kills,
            bystander_kills: self.bystander_kills,
            stall_seconds: levels().map(|levels| levels.stall_seconds).sum(),
            settled_seconds: last.map(|last| last.seconds_since(self.began)),
            event: self.event,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::kubernetes::By;

    #[test]
    fn a_container_that_was_known_late_was_starting_all_the_same() {
        let at = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
        let member = |started, settled: Option<u64>| {
            let levels = StartLevels { settled: settled.map(at), ..StartLevels::default() };
            Member { started: at(started), levels }
        };
        type Seconds = (u64, Option<u64>);
        let table: [(&[Seconds], u64); 5] = [
            (&[], 0),
            (&[(1, Some(2))], 1),
            (&[(1, Some(2)), (2, Some(3))], 1),
            (&[(1, Some(9)), (2, Some(3)), (4, None), (5, Some(6))], 3),
            (&[(1, None), (1, None)], 2),
        ];
        for (members, expected) in table {
            let members = members.iter().map(|(started, settled)| member(*started, *settled));
            let live = Live {
                event: ScaleEvent::default(),
                began: at(1),
                members: members.enumerate().map(|(cgroup, member)| (cgroup as u64, member)).collect(),
                oom_kills: 0,
                bystander_kills: 0,
            };
            assert_eq!(live.starting_max(), expected, "{:?}", live.members);
        }
    }

    #[test]
    fn kills_that_were_reconciled_at_once_are_as_many() {
        let at = Time::from_nanos(1_000_000_000);
        let (mut events, containers, mut out) = (ScaleEvents::default(), Containers::default(), Vec::new());
        let container = Container { cgroup: 7, labels: Arc::default() };
        let scaled = Scaled { at: 1.0, from: Some(1), to: 3, by: By::default() };
        events.join(at, &container, at, &scaled, &containers, &mut out);
        events.killed(at, &container, 5, &containers, &mut out);
        events.killed(at, &container, 1, &containers, &mut out);
        let other = Container { cgroup: 8, labels: Arc::default() };
        events.killed(at, &other, 4, &containers, &mut out);
        let linked: Vec<_> = out
            .iter()
            .filter_map(|finding| match &finding.what {
                FindingKind::OomLinked(linked) => Some(linked.kills),
                _ => None,
            })
            .collect();
        assert_eq!(linked, [5, 1]);
        assert_eq!(events.live[0].oom_kills, 6);
    }
}
