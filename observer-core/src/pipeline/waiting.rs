//! Containers of pods: their events wait until the API has told whose they are.
//!
//! A container starts some hundred milliseconds before its status tells its name. What the kernel says meanwhile is held
//! and worked off in order, with its own times, so that nothing is ever reported under a name that is not its own. Only
//! where the API stays silent are containers reported by uid and id, and renamed when it speaks again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    attribution::{
        cgroup_index::{Entry, Index},
        cgroup_path::{self, Kind, Labels},
        pod_index::{Pods, Resolved},
    },
    cause::Cause,
    container::lifecycle::Lifecycle,
    model::{
        event::{CgroupId, Event, EventKind},
        finding::{Container, Finding, FindingKind},
        time::Time,
    },
    pipeline::{Pipeline, unattributed},
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

/// The groups of this node's pods.
#[derive(Debug, Default)]
pub(super) struct Groups {
    waiting: BTreeMap<CgroupId, Waiting>,
    /// Reported ones.
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
pub(super) struct Member {
    /// Uid or config hash, as the path has it.
    pub pod: String,
    pub id: String,
    since: Time,
    /// Reported without the API's word.
    provisional: bool,
}

impl Groups {
    /// The reported container with this id.
    pub fn with_id(&self, id: &str) -> Option<CgroupId> {
        self.members.iter().find(|(_, member)| member.id == id).map(|(cgroup, _)| *cgroup)
    }

    pub fn member(&self, cgroup: CgroupId) -> Option<&Member> {
        self.members.get(&cgroup)
    }

    pub fn forget(&mut self, cgroup: CgroupId) {
        self.members.remove(&cgroup);
    }

    /// Whether it cannot be its pod's sandbox, which is made before the containers and removed after them: it stands, or stood to its
    /// end, beside an older group of the pod, or it was gone before a younger one was made.
    fn is_no_sandbox(&self, cgroup: CgroupId, waiting: &Waiting, index: &Index) -> bool {
        let Some(gone) = waiting.gone else { return self.beside_older(cgroup, waiting, index) };
        gone.beside_older || self.all().any(|(pod, _, since)| pod == waiting.pod && since >= gone.at)
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
    fn is_replaced(&self, waiting: &Waiting, pods: &Pods) -> bool {
        let (Some(gone), Some(pod)) = (waiting.gone, pods.get(&waiting.pod)) else { return false };
        let [only] = pod.containers.as_slice() else { return false };
        self.all().any(|(_, id, since)| only.id.as_deref() == Some(id) && since >= gone.at)
    }

    /// Pod, id, and since when, of all that wait or are reported.
    fn all(&self) -> impl Iterator<Item = (&str, &str, Time)> {
        let waiting = self.waiting.values().map(|one| (&*one.pod, &*one.id, one.since));
        waiting.chain(self.members.values().map(|one| (&*one.pod, &*one.id, one.since)))
    }
}

/// What the path alone tells.
fn by_path(entry: Option<&Entry>) -> Labels {
    entry
        .and_then(|entry| cgroup_path::owner(&entry.path))
        .map(|owner| cgroup_path::labels(&owner))
        .unwrap_or_default()
}

impl Pipeline {
    /// A new cgroup that is a container's own: reported at once, unless the API has to be heard first.
    pub(super) fn open_or_wait(&mut self, at: Time, cgroup: CgroupId, path: &str, out: &mut Vec<Finding>) {
        let Some(owner) = cgroup_path::owner(path) else { return };
        let (true, Kind::Pod { uid, container_id, .. }) = (self.cluster.watching, &owner.kind) else {
            let container = Container { cgroup, labels: Arc::new(cgroup_path::labels(&owner)) };
            let cause = self.ends.cause(&container);
            self.lives.insert(cgroup, Lifecycle::new(container, cause));
            return;
        };
        let waiting = Waiting {
            pod: uid.clone(),
            id: (*container_id).to_owned(),
            since: at,
            gone: None,
            dormant: false,
        };
        self.cluster.groups.waiting.insert(cgroup, waiting);
        self.identify(at, cgroup, SILENT, out);
    }

    /// Whether the event is about a container that waits; then it is held. A sandbox's is dropped, but for its OOM kill: that is told,
    /// of nobody's container.
    pub(super) fn waits(&mut self, cgroup: CgroupId, event: &Event, out: &mut Vec<Finding>) -> bool {
        let Some(owner) = self.index.container(cgroup) else { return false };
        let Some(waiting) = self.cluster.groups.waiting.get(&owner) else { return false };
        if waiting.dormant {
            return !matches!(event.what, EventKind::OomKill(_));
        }
        if event.what == (EventKind::CgroupRemoved { cgroup: owner }) {
            let beside_older = self.cluster.groups.beside_older(owner, waiting, &self.index);
            let gone = Gone { at: event.at, beside_older };
            self.cluster.groups.waiting.entry(owner).and_modify(|waiting| waiting.gone = Some(gone));
        }
        if let Some(crowded_out) = self.index.hold(event.clone()) {
            unattributed(event.at, &crowded_out, out);
        }
        true
    }

    /// The group is gone; `true` if it was one nobody waits for any more.
    pub(super) fn dormant_removed(&mut self, cgroup: CgroupId) -> bool {
        let dormant = self.cluster.groups.waiting.get(&cgroup).is_some_and(|waiting| waiting.dormant);
        if dormant {
            self.cluster.groups.waiting.remove(&cgroup);
        }
        dormant
    }

    /// `patience`: for how long it may wait for a status that does not come.
    fn identify(&mut self, at: Time, cgroup: CgroupId, patience: Duration, out: &mut Vec<Finding>) {
        let wall = self.wall_ns();
        let Some(waiting) = self.cluster.groups.waiting.get(&cgroup) else { return };
        let age = at.since(waiting.since);
        let all_told = self.cluster.pods.tells_all_since(&waiting.pod, waiting.since.unix_seconds(wall));
        let patience = match self.cluster.groups.is_replaced(waiting, &self.cluster.pods) {
            true => Duration::ZERO,
            false if all_told => NO_CONTAINER,
            false => patience,
        };
        let mut resolved = self.cluster.pods.resolve(&waiting.pod, &waiting.id);
        let presumed = resolved == Resolved::NoContainer
            && age >= patience
            && self.cluster.groups.is_no_sandbox(cgroup, waiting, &self.index);
        if presumed {
            resolved = self.cluster.pods.presume(&waiting.pod, by_path(self.index.get(cgroup)).container);
        }
        let (labels, provisional) = match resolved {
            Resolved::Container(labels) => (labels, presumed),
            Resolved::OwnerPending(labels) if age >= NO_OWNER => (labels, true),
            Resolved::UnknownPod if age >= NO_POD => (by_path(self.index.get(cgroup)), true),
            Resolved::NoContainer if age >= NO_CONTAINER && all_told && !waiting.dormant => {
                let gone = waiting.gone.is_some();
                self.cluster.groups.waiting.entry(cgroup).and_modify(|waiting| waiting.dormant = true);
                for event in self.held_for(cgroup) {
                    if let EventKind::OomKill(_) = event.what {
                        self.take(&event, out);
                    }
                }
                if gone {
                    self.cluster.groups.waiting.remove(&cgroup);
                    self.removed(at, cgroup, out);
                }
                return;
            }
            _ => return,
        };
        let Some(Waiting { pod, id, since, .. }) = self.cluster.groups.waiting.remove(&cgroup) else {
            return;
        };
        self.cluster.groups.members.insert(cgroup, Member { pod, id, since, provisional });
        let container = Container { cgroup, labels: Arc::new(labels) };
        self.lives.insert(cgroup, Lifecycle::new(container, Cause::Unknown));
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
    pub(super) fn identify_of(&mut self, at: Time, is_of: impl Fn(&str) -> bool, out: &mut Vec<Finding>) {
        let waiting = self.cluster.groups.waiting.iter().filter(|(_, waiting)| is_of(&waiting.pod));
        for cgroup in waiting.map(|(cgroup, _)| *cgroup).collect::<Vec<_>>() {
            self.identify(at, cgroup, SILENT, out);
        }
        for (cgroup, member) in &mut self.cluster.groups.members {
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
                out.push(Finding { at, what: FindingKind::Identified { container, before } });
            }
        }
    }

    /// Those whose patience is at its end.
    pub(super) fn tick_waiting(&mut self, now: Time, out: &mut Vec<Finding>) {
        let mut awake: Vec<(Time, CgroupId)> = self
            .cluster
            .groups
            .waiting
            .iter()
            .filter(|(_, waiting)| !waiting.dormant)
            .map(|(cgroup, waiting)| (waiting.since, *cgroup))
            .collect();
        awake.sort_unstable();
        // Those of one scale-up are told together: once one has waited in vain, the others need not.
        let mut patience = SILENT;
        for (_, cgroup) in awake {
            let waited = self.cluster.groups.waiting.len();
            self.identify(now, cgroup, patience, out);
            if self.cluster.groups.waiting.len() < waited {
                patience = SILENT / 2;
            }
        }
    }
}
