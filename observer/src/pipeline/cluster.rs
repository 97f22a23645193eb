//! Containers of pods: their events wait until the API has told whose they are; then causes and scale events follow.
//!
//! A container starts some hundred milliseconds before its status tells its name. What the kernel says meanwhile is held
//! and worked off in order, with its own times, so that nothing is ever reported under a name that is not its own. Only
//! where the API stays silent are containers reported by uid and id, and renamed when it speaks again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Pipeline, unattributed};
use crate::{
    attribution::{Entry, Index},
    cause::{Cause, Decision},
    causes::Causes,
    event::{CgroupId, Event, What as Happened},
    finding::{Caused, Container, Finding, What},
    identity::{self, Kind, Labels},
    lifecycle::Life,
    objects::{ApiState, Owner, Pod, PodContainer, Record},
    pods::{Pods, Resolved},
    scale::ScaleEvents,
    time::Time,
};

/// A pod the API does not tell is reported by its uid from here on.
const NO_POD: Duration = Duration::from_secs(30);
/// What is none of the containers its pod's status tells is the pod's sandbox, or was over before a status told it: the kubelet
/// writes statuses within seconds.
const NO_CONTAINER: Duration = Duration::from_secs(15);
/// While the API is silent no status tells of a container; it is reported by its id before what is held for it is too old.
const SILENT: Duration = Duration::from_secs(20);
/// Looking up the owner takes a request and at most two seconds of jitter.
const NO_OWNER: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Cluster {
    watching: bool,
    pods: Pods,
    causes: Causes,
    scale: ScaleEvents,
    waiting: BTreeMap<CgroupId, Waiting>,
    /// Reported containers of pods.
    members: BTreeMap<CgroupId, Member>,
}

#[derive(Debug)]
struct Waiting {
    pod: String,
    id: String,
    since: Time,
    gone: Option<Gone>,
    /// The pod's sandbox, most likely: nothing is held for it any more.
    dormant: bool,
}

#[derive(Clone, Copy, Debug)]
struct Gone {
    at: Time,
    beside_older: bool,
}

#[derive(Debug)]
struct Member {
    /// Uid or config hash, as the path has it.
    pod: String,
    id: String,
    since: Time,
    /// Reported without the API's word.
    provisional: bool,
}

impl Cluster {
    /// The reported container with this id.
    pub fn member(&self, id: &str) -> Option<CgroupId> {
        self.members.iter().find(|(_, member)| member.id == id).map(|(cgroup, _)| *cgroup)
    }

    /// The pod a reported container is of, and what its spec and status tell of it.
    pub fn pod_of(&self, cgroup: CgroupId) -> Option<(&Pod, &PodContainer)> {
        let member = self.members.get(&cgroup)?;
        let pod = self.pods.get(&member.pod)?;
        Some((pod, pod.container(&member.id)?))
    }

    pub fn owner_of(&self, pod: &Pod) -> Option<&Owner> {
        self.pods.owner(pod)
    }

    pub fn record_of(&self, pod: &Pod) -> Option<&Record> {
        self.pods.record_of(pod)
    }

    /// Whether it cannot be its pod's sandbox, which is made before the containers and removed after them: it stands, or stood to its
    /// end, beside an older group of the pod, or it was gone before a younger one was made.
    fn is_no_sandbox(&self, cgroup: CgroupId, waiting: &Waiting, index: &Index) -> bool {
        let Some(gone) = waiting.gone else { return self.beside_older(cgroup, waiting, index) };
        gone.beside_older || self.groups().any(|(pod, _, since)| pod == waiting.pod && since >= gone.at)
    }

    fn beside_older(&self, cgroup: CgroupId, waiting: &Waiting, index: &Index) -> bool {
        let older = |other: CgroupId, pod: &str, since: Time| {
            pod == waiting.pod && (since, other) < (waiting.since, cgroup)
        };
        let waits =
            |(other, one): (&CgroupId, &Waiting)| one.gone.is_none() && older(*other, &one.pod, one.since);
        let there = |(other, one): (&CgroupId, &Member)| {
            index.get(*other).is_some() && older(*other, &one.pod, one.since)
        };
        self.waiting.iter().any(waits) || self.members.iter().any(there)
    }

    /// Whether no status will name it any more: the pod's only container is told to be one that came after it.
    fn is_replaced(&self, waiting: &Waiting) -> bool {
        let (Some(gone), Some(pod)) = (waiting.gone, self.pods.get(&waiting.pod)) else { return false };
        let [only] = pod.containers.as_slice() else { return false };
        self.groups().any(|(_, id, since)| only.id.as_deref() == Some(id) && since >= gone.at)
    }

    /// Pod, id, and since when, of all that wait or are reported.
    fn groups(&self) -> impl Iterator<Item = (&str, &str, Time)> {
        let waiting = self.waiting.values().map(|one| (&*one.pod, &*one.id, one.since));
        waiting.chain(self.members.values().map(|one| (&*one.pod, &*one.id, one.since)))
    }

    pub fn booted(&mut self, at: f64) {
        self.causes.booted(at);
    }
}

/// What the path alone tells.
fn by_path(entry: Option<&Entry>) -> Labels {
    entry
        .and_then(|entry| identity::owner(&entry.path))
        .map(|owner| identity::labels(&owner))
        .unwrap_or_default()
}

impl Pipeline {
    /// A new cgroup that is a container's own: reported at once, unless the API has to be heard first.
    pub(super) fn open_or_wait(&mut self, at: Time, cgroup: CgroupId, path: &str, out: &mut Vec<Finding>) {
        let Some(owner) = identity::owner(path) else { return };
        let (true, Kind::Pod { uid, container_id, .. }) = (self.cluster.watching, &owner.kind) else {
            let container = Container { cgroup, labels: Arc::new(identity::labels(&owner)) };
            let cause = self.ends.cause(&container);
            self.lives.insert(cgroup, Life::new(container, cause));
            return;
        };
        let waiting = Waiting {
            pod: uid.clone(),
            id: (*container_id).to_owned(),
            since: at,
            gone: None,
            dormant: false,
        };
        self.cluster.waiting.insert(cgroup, waiting);
        self.identify(at, cgroup, SILENT, out);
    }

    /// Whether the event is about a container that waits; then it is held. A sandbox's is dropped, but for its OOM kill: that is told,
    /// of nobody's container.
    pub(super) fn waits(&mut self, cgroup: CgroupId, event: &Event, out: &mut Vec<Finding>) -> bool {
        let Some(owner) = self.index.container(cgroup) else { return false };
        let Some(waiting) = self.cluster.waiting.get(&owner) else { return false };
        if waiting.dormant {
            return !matches!(event.what, Happened::OomKill(_));
        }
        if event.what == (Happened::CgroupRemoved { cgroup: owner }) {
            let beside_older = self.cluster.beside_older(owner, waiting, &self.index);
            let gone = Gone { at: event.at, beside_older };
            self.cluster.waiting.entry(owner).and_modify(|waiting| waiting.gone = Some(gone));
        }
        if let Some(crowded_out) = self.index.hold(event.clone()) {
            unattributed(event.at, &crowded_out, out);
        }
        true
    }

    /// The group is gone; `true` if it was one nobody waits for any more.
    pub(super) fn dormant_removed(&mut self, cgroup: CgroupId) -> bool {
        let dormant = self.cluster.waiting.get(&cgroup).is_some_and(|waiting| waiting.dormant);
        if dormant {
            self.cluster.waiting.remove(&cgroup);
        }
        dormant
    }

    /// `patience`: for how long it may wait for a status that does not come.
    fn identify(&mut self, at: Time, cgroup: CgroupId, patience: Duration, out: &mut Vec<Finding>) {
        let wall = self.wall_ns();
        let Some(waiting) = self.cluster.waiting.get(&cgroup) else { return };
        let age = at.since(waiting.since);
        let all_told = self.cluster.pods.tells_all_since(&waiting.pod, waiting.since.unix_seconds(wall));
        let patience = match self.cluster.is_replaced(waiting) {
            true => Duration::ZERO,
            false if all_told => NO_CONTAINER,
            false => patience,
        };
        let mut resolved = self.cluster.pods.resolve(&waiting.pod, &waiting.id);
        let presumed = resolved == Resolved::NoContainer
            && age >= patience
            && self.cluster.is_no_sandbox(cgroup, waiting, &self.index);
        if presumed {
            resolved = self.cluster.pods.presume(&waiting.pod, by_path(self.index.get(cgroup)).container);
        }
        let (labels, provisional) = match resolved {
            Resolved::Container(labels) => (labels, presumed),
            Resolved::OwnerPending(labels) if age >= NO_OWNER => (labels, true),
            Resolved::UnknownPod if age >= NO_POD => (by_path(self.index.get(cgroup)), true),
            Resolved::NoContainer if age >= NO_CONTAINER && all_told && !waiting.dormant => {
                let gone = waiting.gone.is_some();
                self.cluster.waiting.entry(cgroup).and_modify(|waiting| waiting.dormant = true);
                for event in self.held_for(cgroup) {
                    if let Happened::OomKill(_) = event.what {
                        self.take(&event, out);
                    }
                }
                if gone {
                    self.cluster.waiting.remove(&cgroup);
                    self.removed(at, cgroup, out);
                }
                return;
            }
            _ => return,
        };
        let Some(Waiting { pod, id, since, .. }) = self.cluster.waiting.remove(&cgroup) else { return };
        self.cluster.members.insert(cgroup, Member { pod, id, since, provisional });
        let container = Container { cgroup, labels: Arc::new(labels) };
        self.lives.insert(cgroup, Life::new(container, Cause::Unknown));
        for event in self.held_for(cgroup) {
            self.take(&event, out);
        }
    }

    /// What is held for it and the groups in it.
    fn held_for(&mut self, cgroup: CgroupId) -> Vec<Event> {
        let groups = self.index.members(cgroup);
        self.index.release(|held| super::subject(held).is_some_and(|subject| groups.contains(&subject)))
    }

    /// Everybody who waits for this pod, or was reported without its word.
    fn identify_of(&mut self, at: Time, is_of: impl Fn(&str) -> bool, out: &mut Vec<Finding>) {
        let waiting = self.cluster.waiting.iter().filter(|(_, waiting)| is_of(&waiting.pod));
        for cgroup in waiting.map(|(cgroup, _)| *cgroup).collect::<Vec<_>>() {
            self.identify(at, cgroup, SILENT, out);
        }
        for (cgroup, member) in &mut self.cluster.members {
            if !member.provisional || !is_of(&member.pod) {
                continue;
            }
            if let Resolved::Container(labels) = self.cluster.pods.resolve(&member.pod, &member.id) {
                member.provisional = false;
                let Some(life) = self.lives.get_mut(cgroup) else { continue };
                if *life.container().labels == labels {
                    continue; // as was presumed
                }
                let before = life.rename(Arc::new(labels));
                let container = life.container().clone();
                self.cluster.causes.relabelled(&container);
                out.push(Finding { at, what: What::Identified { container, before } });
            }
        }
    }

    pub(super) fn api(&mut self, at: Time, state: &ApiState, out: &mut Vec<Finding>) {
        if let ApiState::Watching { ledger, .. } = state {
            self.cluster.watching = true;
            self.cluster.causes.asks_ledger(*ledger);
        }
        out.push(Finding { at, what: What::Api(state.clone()) });
    }

    pub(super) fn pod(&mut self, at: Time, pod: &Pod, out: &mut Vec<Finding>) {
        let now = at.unix_seconds(self.wall_ns());
        self.cluster.pods.apply(pod.clone(), now);
        self.cluster.causes.evidence_came();
        let hash = pod.config_hash.as_deref();
        self.identify_of(at, |key| key == pod.uid || Some(key) == hash, out);
        self.ready(at, pod, out);
    }

    pub(super) fn pod_gone(&mut self, at: Time, uid: &str) {
        let now = at.unix_seconds(self.wall_ns());
        self.cluster.pods.gone(uid, now);
        self.cluster.causes.evidence_came();
    }

    pub(super) fn owner_told(&mut self, at: Time, owner: &Owner, out: &mut Vec<Finding>) {
        self.cluster.pods.own(owner.clone());
        self.cluster.causes.evidence_came();
        self.identify_of(at, |_| true, out);
    }

    pub(super) fn record(&mut self, at: Time, record: &Record) {
        let now = at.unix_seconds(self.wall_ns());
        self.cluster.pods.record(record.clone(), now);
        self.cluster.causes.evidence_came();
    }

    pub(super) fn tick_cluster(&mut self, now: Time, out: &mut Vec<Finding>) {
        let mut awake: Vec<(Time, CgroupId)> = self
            .cluster
            .waiting
            .iter()
            .filter(|(_, waiting)| !waiting.dormant)
            .map(|(cgroup, waiting)| (waiting.since, *cgroup))
            .collect();
        awake.sort_unstable();
        // Those of one scale-up are told together: once one has waited in vain, the others need not.
        let mut patience = SILENT;
        for (_, cgroup) in awake {
            let waited = self.cluster.waiting.len();
            self.identify(now, cgroup, patience, out);
            if self.cluster.waiting.len() < waited {
                patience = SILENT / 2;
            }
        }
        self.cluster.scale.tick(now, out);
        self.cluster.causes.evidence_came(); // closes what is too old
    }

    /// Causes and scale events follow from what was found.
    pub(super) fn follow(&mut self, at: Time, out: &mut Vec<Finding>) {
        let mut followed = 0;
        loop {
            while followed < out.len() {
                let mut more = Vec::new();
                for finding in &out[followed..] {
                    self.follow_one(finding, &mut more);
                    self.cluster.scale.apply(finding, &mut more);
                }
                followed = out.len();
                out.append(&mut more);
            }
            let caused = self.cluster.causes.review(at, &self.cluster.pods);
            if caused.is_empty() {
                return;
            }
            out.extend(caused.into_iter().map(|caused| Finding { at, what: What::Caused(caused) }));
        }
    }

    fn follow_one(&mut self, finding: &Finding, out: &mut Vec<Finding>) {
        match &finding.what {
            What::Started(started) => {
                let container = started.container.clone();
                match self.cluster.members.get(&container.cgroup) {
                    Some(member) => {
                        self.cluster.causes.started(finding.at, &container, &member.pod, &member.id);
                    }
                    // What the node knows is all there is to know.
                    None => {
                        let decision =
                            Decision { cause: started.cause, confidence: 1.0, ..Decision::default() };
                        let caused = Caused { container, started: finding.at, decision, before: None };
                        out.push(Finding { at: finding.at, what: What::Caused(caused) });
                    }
                }
            }
            What::Caused(caused) => {
                if let Some(life) = self.lives.get_mut(&caused.container.cgroup) {
                    life.caused(caused.decision.cause);
                }
            }
            What::Ended(ended) => self.cluster.causes.ended(finding.at, ended),
            What::Forgotten { container } => {
                self.cluster.members.remove(&container.cgroup);
            }
            _ => {}
        }
    }
}
