//! The starts without a final cause. Pure.
//!
//! A decision is reported when its confidence is high enough, or when no better evidence arrived in time. Later
//! evidence may replace it by a more certain one, which names the previous one; the confidence never falls.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    attribution::{
        owner_lookups::{OwnerLookups, Sibling},
        pod_index::Pods,
    },
    cause::decide::{Evidence, decide},
    model::{
        cause::{Cause, Decision},
        container::{CgroupId, Container},
        finding::{Caused, Ended},
        kubernetes::{ObjectKind, Owner, Pod, PodContainer, Reference, Uid},
        time::Time,
    },
};

/// A decision of this confidence is reported at once.
const SURE: f64 = 0.9;
/// Nothing can better it.
const FINAL: f64 = 0.95;
/// Longer than a status takes to arrive, and an owner to be looked up, on a busy cluster.
const SETTLES: Duration = Duration::from_secs(10);
/// Later evidence is about something else.
const CLOSES: Duration = Duration::from_secs(600);
/// Unless there is none yet: the API may be away for long, and what is then said of the pod is of its making.
const GIVEN_UP: Duration = Duration::from_secs(3600);
/// Open starts; beyond that the oldest stays as it was decided. A node runs a few hundred pods.
const OPEN: usize = 4096;
/// Pods of which ends are kept.
const ENDS: usize = 4096;

/// The ledger has answered and the owners have been looked up: no better evidence will arrive.
fn answered(facts: &Evidence, decision: &Decision) -> bool {
    facts.record.is_some() && facts.owner.is_some() && decision.cause != Cause::Unknown
}

/// Whether the ledger has anything to say of it.
fn scales(controller: &Reference) -> bool {
    !matches!(controller.kind, ObjectKind::DaemonSet | ObjectKind::Job | ObjectKind::Node)
}

/// When a container ended, and what a restart of it is because of.
type End = (Time, Cause);

#[derive(Debug, Default)]
pub struct Causes {
    open: BTreeMap<CgroupId, Start>,
    /// When and how the last container of a name in a pod ended. A container that no status names is reported after its
    /// successors.
    ends: HashMap<(Uid, String), End>,
    /// Unix time of the host's boot.
    booted: Option<f64>,
    /// A ledger is asked: its answer is waited for.
    ledger: bool,
    /// The API does not answer.
    away: bool,
    /// When it did again: what happened meanwhile comes after that word.
    back: Option<Time>,
    /// Something was learned since the last review.
    stale: bool,
}

#[derive(Debug)]
struct Start {
    container: Container,
    pod: Uid,
    id: String,
    at: Time,
    /// How the one before it ended.
    before: Option<End>,
    /// From the last status that named the container.
    status: Option<PodContainer>,
    /// The pod's owners at the first look-up after its creation: later look-ups show later changes.
    owners: Option<Owners>,
    /// As they were when the pod was first known.
    siblings: Option<Vec<Sibling>>,
    reported: Option<Decision>,
}

impl Start {
    /// Whether it replaces the container of this name that ended then.
    fn follows(&self, ended: Time, (pod, name): &(Uid, String)) -> bool {
        self.at >= ended && self.pod == *pod && self.container.labels.container == *name
    }
}

#[derive(Debug)]
struct Owners {
    owner: Owner,
    top: Option<Owner>,
    looks: OwnerLookups,
}

impl Owners {
    /// `None`: not all of them have been looked up yet.
    fn at_first_look(pods: &Pods, pod: &Pod) -> Option<Self> {
        let owner = pods.owner(pod)?.clone();
        let top = pods.top(pod).cloned();
        let looked_up = owner.controller.as_ref().is_none_or(|above| !above.has_metadata());
        (top.is_some() || looked_up).then(|| Self {
            owner,
            top,
            looks: pods.looks(pod).cloned().unwrap_or_default(),
        })
    }
}

impl Causes {
    pub fn booted(&mut self, at: f64) {
        self.booted = Some(at);
    }

    pub fn asks_ledger(&mut self, ledger: bool) {
        self.ledger = ledger;
    }

    /// The API does not answer, or does again.
    pub fn api_away(&mut self, at: Time, away: bool) {
        if std::mem::replace(&mut self.away, away) && !away {
            self.back = Some(at);
        }
        self.stale = true;
    }

    /// A container of a pod started. `pod`: uid or config hash, as its cgroup has it.
    pub fn started(&mut self, at: Time, container: &Container, pod: &str, id: &str) {
        let name = container.labels.container.clone();
        let before = self.ends.get(&(pod.to_owned(), name)).copied().filter(|end| end.0 <= at);
        let (pod, id) = (pod.to_owned(), id.to_owned());
        let container = container.clone();
        let start = Start {
            container,
            pod,
            id,
            at,
            before,
            status: None,
            owners: None,
            siblings: None,
            reported: None,
        };
        if self.open.len() >= OPEN {
            self.open.pop_first(); // cgroup ids rise
        }
        self.open.insert(start.container.cgroup, start);
        self.stale = true;
    }

    /// Pods, owners or records are not what they were at the last review.
    pub fn evidence_came(&mut self) {
        self.stale = true;
    }

    /// A container of a pod ended. `pod`: as for [`Causes::started`].
    pub fn ended(&mut self, at: Time, ended: &Ended, pod: &str) {
        let key = (pod.to_owned(), ended.container.labels.container.clone());
        if self.ends.len() >= ENDS {
            self.ends.clear();
        }
        let end = (at, Cause::after(ended.status, ended.oom_killed));
        let later = |before: Option<End>| before.filter(|before| before.0 > at).unwrap_or(end);
        for start in self.open.values_mut().filter(|start| start.follows(at, &key)) {
            start.before = Some(later(start.before));
        }
        let last = later(self.ends.get(&key).copied());
        self.ends.insert(key, last);
        self.stale = true;
    }

    /// Its labels changed.
    pub fn relabelled(&mut self, container: &Container) {
        if let Some(start) = self.open.get_mut(&container.cgroup) {
            start.container = container.clone();
        }
    }

    /// Judges every open start again. Returns the causes to report.
    pub fn review(&mut self, now: Time, pods: &Pods) -> Vec<Caused> {
        let mut reported = Vec::new();
        // This is asked after every event, a thousand a second; only evidence and patience change an answer.
        let waited = |start: &Start| start.reported.is_none() && now.since(start.at) >= SETTLES;
        if !std::mem::take(&mut self.stale) && !self.open.values().any(waited) {
            return reported;
        }
        self.open.retain(|_, start| {
            let pod = pods.get(&start.pod);
            if start.owners.is_none() {
                start.owners = pod.and_then(|pod| Owners::at_first_look(pods, pod));
            }
            if start.siblings.is_none() {
                start.siblings = pod.map(|pod| pods.siblings(pod));
            }
            if let Some(reported) = pod.and_then(|pod| pod.container(&start.id))
                && start.status.as_ref() != Some(reported)
            {
                start.status = Some(reported.clone());
            }
            let owners = start.owners.as_ref();
            let facts = Evidence {
                pod,
                container: start.status.as_ref(),
                id: &start.id,
                before: start.before.map(|(_, cause)| cause),
                owner: owners.map(|owners| &owners.owner),
                top: owners.and_then(|owners| owners.top.as_ref()),
                looks: owners.map(|owners| &owners.looks).or_else(|| pods.looks(pod?)),
                siblings: start.siblings.as_deref().unwrap_or_default(),
                record: pod.and_then(|pod| pods.record_of(pod)),
                booted: self.booted,
            };
            let Some(decision) = decide(&facts) else { return false };
            let age = now.since(start.at);
            // No source knows the cause now, and the API will when it returns.
            let unheard = self.away || self.back.is_some_and(|back| now.since(back) < SETTLES);
            let unheard = unheard && pod.is_none() && age < GIVEN_UP;
            // A conclusion from one look-up is not reported while the ledger's answer is outstanding.
            let waits = self.ledger
                && facts.record.is_none()
                && age < SETTLES
                && pod.and_then(|pod| pod.controller.as_ref()).is_some_and(scales)
                && decision.origin.is_none();
            let better = match &start.reported {
                _ if waits || unheard => false,
                None => decision.confidence >= SURE || answered(&facts, &decision) || age >= SETTLES,
                // Of two that are as sure the later is taken: it knows what the first did, and more.
                Some(before) => {
                    let other = decision.cause != before.cause || decision.scaled != before.scaled;
                    decision.confidence > before.confidence
                        || (decision.confidence == before.confidence && other)
                }
            };
            if better {
                let container = start.container.clone();
                let before = start.reported.replace(decision.clone());
                reported.push(Caused { container, started: start.at, decision, before });
            }
            let last = start.reported.as_ref();
            let closes = match last {
                Some(decision) if decision.cause != Cause::Unknown => CLOSES,
                _ => GIVEN_UP,
            };
            last.map_or(0.0, |decision| decision.confidence) < FINAL && age < closes
        });
        reported
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{
        container::{ContainerState, Labels},
        kubernetes::Terminated,
    };

    fn reported(id: &str, restarts: u32, last: &str) -> Pod {
        let last =
            Terminated { id: Some(last.into()), code: 137, reason: "OOMKilled".into(), finished: None };
        let container = PodContainer {
            name: "app".into(),
            id: Some(id.into()),
            restarts,
            last: Some(last),
            ..PodContainer::default()
        };
        Pod { uid: "u1".into(), containers: vec![container], ..Pod::default() }
    }

    fn ended(container: &Container) -> Ended {
        let container = container.clone();
        Ended {
            container,
            status: None,
            oom_killed: true,
            by_own_limit: true,
            was: ContainerState::Starting,
            age_seconds: None,
        }
    }

    /// Ten minutes later it is known of each start why it was, and none was counted as unknown meanwhile.
    #[test]
    fn while_the_api_is_away_a_start_waits_for_its_cause() {
        let container = Container { cgroup: 1, labels: Arc::default() };
        let at = |seconds: u64| Time::from_nanos(seconds * 1_000_000_000);
        for (silent_seconds, pod_after, expected) in [
            (600, Some(1), vec![Cause::Standalone]),
            (600, Some(9), vec![Cause::Standalone]),
            (600, None, vec![Cause::Unknown]),
            (0, None, vec![Cause::Unknown]),
            (4000, Some(1), vec![Cause::Unknown]), // not for ever
        ] {
            let (mut causes, mut pods) = (Causes::default(), Pods::default());
            causes.api_away(at(1), silent_seconds > 0);
            causes.started(at(2), &container, "u1", "c1");
            let mut said = Vec::new();
            for second in 2..silent_seconds + 60 {
                if second == silent_seconds {
                    causes.api_away(at(second), false);
                }
                if pod_after.is_some_and(|after| second == silent_seconds + after) {
                    pods.apply(Pod { uid: "u1".into(), ..Pod::default() }, second as f64);
                }
                causes.evidence_came();
                said.extend(causes.review(at(second), &pods).into_iter().map(|caused| caused.decision.cause));
            }
            assert_eq!(said, expected, "silent for {silent_seconds} s, the pod {pod_after:?} s later");
        }
    }

    /// A container that no status names is reported at the end of the wait; its successor may be reported before it.
    #[test]
    fn the_previous_one_may_be_reported_late() {
        let labels = Arc::new(Labels { container: "app".into(), ..Labels::default() });
        let [first, second] = [1, 2].map(|cgroup| Container { cgroup, labels: labels.clone() });
        let (mut causes, mut pods) = (Causes::default(), Pods::default());
        pods.apply(reported("second", 1, "second"), 0.0);
        let mut said = Vec::new();
        for (container, id, [from, to]) in [(&second, "second", [30, 40]), (&first, "first", [10, 20])] {
            let [from, to] = [from, to].map(|seconds| Time::from_nanos(seconds * 1_000_000_000));
            causes.started(from, container, "u1", id);
            causes.ended(to, &ended(container), "u1");
            let reported = causes.review(Time::from_nanos(50_000_000_000), &pods);
            said.extend(reported.into_iter().map(|caused| (caused.container.cgroup, caused.decision.cause)));
        }
        let restart = Cause::RestartAfterOomKill;
        assert_eq!(said, [(2, Cause::RestartUnknown), (1, Cause::Standalone), (2, restart)]);
    }

    /// Killed before its first status, it is named once, as the one before; then the next has taken its place.
    #[test]
    fn a_restart_stays_one_when_statuses_no_longer_name_it() {
        let labels = Arc::new(Labels { container: "app".into(), ..Labels::default() });
        let second = Container { cgroup: 2, labels };
        let (mut causes, mut pods) = (Causes::default(), Pods::default());
        let mut said = Vec::new();
        causes.started(Time::from_nanos(1), &second, "u1", "second");
        for (seconds, pod) in [(1, reported("second", 1, "second")), (20, reported("third", 2, "third"))] {
            pods.apply(pod, seconds as f64);
            causes.evidence_came();
            let now = Time::from_nanos(seconds * 1_000_000_000);
            said.extend(causes.review(now, &pods).into_iter().map(|caused| caused.decision.cause));
        }
        assert_eq!(said, [Cause::RestartUnknown]);
    }
}
