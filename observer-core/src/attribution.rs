//! Stage one finds the container of each event. Events enter as sources send them and leave with their container.
//!
//! This is the only stage that holds events. A container of a pod starts some hundred milliseconds before a status
//! gives its name; the kernel's events of that time are held per container and released in order, with their own times,
//! so that no event is reported under a wrong name. Only while the API is unavailable is a container reported under the
//! pod's uid and the container's id; it is renamed when the API returns.

use std::{borrow::Cow, sync::Arc, time::Duration};

use crate::model::{
    container::{CgroupId, Container, Labels},
    event::{Event, EventKind},
    kubernetes::{ApiState, Pod, PodContainer},
    time::Time,
};

pub mod cgroup_index;
pub mod cgroup_path;
pub mod owner_lookups;
pub mod pending;
pub mod pod_index;
pub mod workload_name;

use cgroup_index::{CgroupIndex, Owner};
use cgroup_path::Kind;
use pending::{HELD, Name, PodGroup, Removed, Stage, UnknownCgroups, Waiting};
use pod_index::{Pods, Resolved};

/// A pod that the API does not know is reported by its uid from here on.
const NO_POD: Duration = Duration::from_secs(30);
/// A cgroup that its pod's status does not name by then is the pod's sandbox, or a container that ended before a status
/// named it: the kubelet writes statuses within seconds.
const NO_CONTAINER: Duration = Duration::from_secs(15);
/// While the API is unavailable no status names a container; after this time it is reported under its id.
const SILENT: Duration = Duration::from_secs(20);
/// Looking up the owner takes a request and at most two seconds of jitter.
const NO_OWNER: Duration = Duration::from_secs(10);
/// Events of a cgroup with an unknown path are held until every walk of the tree must have found it, and then lost.
const UNKNOWN_CGROUP: Duration = Duration::from_secs(90);

/// What goes on to the next stage.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are events")]
pub enum Admitted<'a> {
    /// A container is reported from here on. `pod`: its pod's key and its id.
    Opened { container: Container, pod: Option<PodKey> },
    /// The API said late who it is. `presumed`: it had the name of another container of its pod, if it was not its own.
    Identified { container: Container, presumed: bool },
    /// An event, with the container that it is about, if it is about one.
    Event { owner: Option<CgroupId>, event: Cow<'a, Event> },
    /// An event was dropped: its cgroup was not identified, or there was no room to hold it.
    Dropped { at: Time, cgroup: CgroupId },
}

/// Pod and container of a cgroup, taken from its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodKey {
    /// Uid or config hash of the pod.
    pub pod: String,
    /// The container's id.
    pub id: String,
}

#[derive(Debug, Default)]
pub struct Attribution {
    index: CgroupIndex,
    pods: Pods,
    unknown: UnknownCgroups,
    /// Events held for containers that wait.
    held: usize,
    /// The Kubernetes API is asked who containers are.
    watching: bool,
}

impl Attribution {
    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    /// Cgroups that exist.
    pub fn cgroups(&self) -> usize {
        self.index.count()
    }

    /// The container that a cgroup belongs to.
    pub fn container(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.index.container(cgroup)
    }

    /// Whether what happens to it is held until it is known who it is.
    pub fn holds(&self, cgroup: CgroupId) -> bool {
        let group = self.container(cgroup).and_then(|owner| self.index.get(owner)?.pod.as_ref());
        group.and_then(PodGroup::waiting).is_some_and(|waiting| !waiting.dormant)
    }

    /// The pod of a reported container, and the container's spec and status.
    pub fn pod_of(&self, cgroup: CgroupId) -> Option<(&Pod, &PodContainer)> {
        let group = self.index.get(cgroup)?.pod.as_ref().filter(|group| group.waiting().is_none())?;
        let pod = self.pods.get(&group.pod)?;
        Some((pod, pod.container(&group.id)?))
    }

    /// The reported container with this id.
    pub fn with_id(&self, id: &str) -> Option<CgroupId> {
        self.pod_groups()
            .find(|(_, group)| group.waiting().is_none() && group.id == id)
            .map(|(cgroup, _)| cgroup)
    }

    /// Whether its removal has not been reported.
    pub fn exists(&self, cgroup: CgroupId) -> bool {
        self.index.get(cgroup).is_some_and(|group| !group.removed)
    }

    /// Its container is no longer reported.
    pub fn forget(&mut self, cgroup: CgroupId) {
        self.index.forget(cgroup);
    }

    /// Everything that can go on because of this event, in order.
    pub fn admit<'a>(&mut self, event: &'a Event, wall_ns: i64) -> Vec<Admitted<'a>> {
        let mut out = Vec::new();
        let at = event.at;
        let unix = at.unix_seconds(wall_ns);
        if let Some((cgroup, path)) = place(event) {
            self.add(at, cgroup, path, wall_ns, &mut out);
        }
        match &event.what {
            EventKind::Api(ApiState::Watching { .. }) => self.watching = true,
            EventKind::Pod(pod) => {
                self.pods.apply(pod.as_ref().clone(), unix);
                let hash = pod.config_hash.as_deref();
                self.identify_all(at, |key| key == pod.uid || Some(key) == hash, wall_ns, &mut out);
            }
            EventKind::PodGone { uid } => self.pods.gone(uid, unix),
            EventKind::Owner(owner) => {
                self.pods.own(owner.as_ref().clone());
                self.identify_all(at, |_| true, wall_ns, &mut out);
            }
            EventKind::Record(record) => self.pods.record(record.as_ref().clone(), unix),
            EventKind::Tick => {
                self.identify_overdue(at, wall_ns, &mut out);
                let late = |seen: Time| at.since(seen) >= UNKNOWN_CGROUP;
                let expired = self.unknown.expire(late);
                out.extend(expired.iter().map(|event| dropped(at, event)));
            }
            _ => {}
        }
        self.route(Cow::Borrowed(event), &mut out);
        out
    }

    /// Passes an event on, holds it or drops it.
    fn route<'a>(&mut self, event: Cow<'a, Event>, out: &mut Vec<Admitted<'a>>) {
        let Some(cgroup) = subject(&event) else { return out.push(Admitted::Event { owner: None, event }) };
        match self.index.owner(cgroup) {
            Owner::Container(owner) => self.route_to(owner, event, out),
            Owner::Unknown | Owner::Pending if waits_for_its_cgroup(&event) => {
                let crowded_out = self.unknown.hold(cgroup, event.into_owned());
                out.extend(crowded_out.map(|event| dropped(event.at, &event)));
            }
            _ => {
                let removed = removed(&event);
                out.push(Admitted::Event { owner: None, event });
                if let Some(cgroup) = removed {
                    self.index.remove(cgroup);
                }
            }
        }
    }

    fn route_to<'a>(&mut self, owner: CgroupId, event: Cow<'a, Event>, out: &mut Vec<Admitted<'a>>) {
        let beside_older = || self.beside_older(owner);
        let removed = removed(&event);
        let gone = removed
            .filter(|cgroup| *cgroup == owner)
            .map(|_| Removed { at: event.at, beside_older: beside_older() });
        let group = self.index.get_mut(owner).and_then(|group| group.pod.as_mut());
        let Some(Stage::Waiting(waiting)) = group.map(|group| &mut group.stage) else {
            out.push(Admitted::Event { owner: Some(owner), event });
            if let Some(cgroup) = removed {
                self.index.remove(cgroup);
            }
            return;
        };
        if waiting.dormant {
            // Of a sandbox only an OOM kill is reported, and of no container.
            if matches!(event.what, EventKind::OomKill(_)) {
                out.push(Admitted::Event { owner: None, event });
            } else if gone.is_some() {
                self.index.remove(owner);
                self.index.forget(owner);
            }
            return;
        }
        waiting.removed = gone.or(waiting.removed);
        let at = event.at;
        let mut crowded_out = waiting.held.push(event.into_owned());
        self.held += 1;
        if self.held > HELD {
            crowded_out.extend(self.thin_largest());
        }
        self.held -= crowded_out.len().min(self.held);
        out.extend(crowded_out.iter().map(|event| dropped(at, event)));
    }

    /// The container that holds most gives way.
    fn thin_largest(&mut self) -> Vec<Event> {
        let held = |group: &PodGroup| group.waiting().map_or(0, |waiting| waiting.held.len());
        let largest = self.pod_groups().max_by_key(|(_, group)| held(group)).map(|(cgroup, _)| cgroup);
        let group = largest.and_then(|cgroup| self.index.get_mut(cgroup)?.pod.as_mut());
        match group.map(|group| &mut group.stage) {
            Some(Stage::Waiting(waiting)) => waiting.held.thin(),
            _ => Vec::new(),
        }
    }

    /// Learns a cgroup, and works off what was held for it.
    fn add(&mut self, at: Time, cgroup: CgroupId, path: &str, wall_ns: i64, out: &mut Vec<Admitted>) {
        let known = self.index.add(cgroup, path);
        if known.is_empty() {
            return;
        }
        if self.index.container(cgroup) == Some(cgroup) {
            self.open_or_wait(at, cgroup, path, wall_ns, out);
        }
        for event in self.unknown.release(&known) {
            self.route(Cow::Owned(event), out);
        }
    }

    /// A new cgroup that is a container's own: reported at once, unless the API has to be heard first.
    fn open_or_wait(
        &mut self,
        at: Time,
        cgroup: CgroupId,
        path: &str,
        wall_ns: i64,
        out: &mut Vec<Admitted>,
    ) {
        let Some(owner) = cgroup_path::owner(path) else { return };
        let (true, Kind::Pod { uid, container_id, .. }) = (self.watching, &owner.kind) else {
            let labels = Arc::new(cgroup_path::labels(&owner));
            return out.push(Admitted::Opened { container: Container { cgroup, labels }, pod: None });
        };
        let (pod, id) = (uid.clone(), (*container_id).to_owned());
        if let Some(group) = self.index.get_mut(cgroup) {
            group.pod = Some(PodGroup { pod, id, since: at, stage: Stage::Waiting(Waiting::default()) });
        }
        self.identify(at, cgroup, SILENT, wall_ns, out);
    }

    /// Reports the container if it is known who it is, or has waited long enough. `patience`: for how long it may wait
    /// for a status that does not come.
    fn identify(
        &mut self,
        at: Time,
        cgroup: CgroupId,
        patience: Duration,
        wall_ns: i64,
        out: &mut Vec<Admitted>,
    ) {
        let Some(entry) = self.index.get(cgroup) else { return };
        let Some((group, waiting)) = entry.pod.as_ref().and_then(|group| Some((group, group.waiting()?)))
        else {
            return;
        };
        let age = at.since(group.since);
        let reported_total = self.pods.reports_all_since(&group.pod, group.since.unix_seconds(wall_ns));
        let patience = match self.is_replaced(group, waiting) {
            true => Duration::ZERO,
            false if reported_total => NO_CONTAINER,
            false => patience,
        };
        let mut resolved = self.pods.resolve(&group.pod, &group.id);
        let presumed = resolved == Resolved::NoContainer
            && age >= patience
            && self.is_no_sandbox(cgroup, group, waiting);
        let mut stand_in = Name::StandIn;
        if presumed {
            let only = self.only_container(group);
            stand_in = if only.is_some() { Name::Presumed } else { Name::StandIn };
            let by_id = || by_path(&entry.path).container;
            resolved = self.pods.presume(&group.pod, &only.map_or_else(by_id, str::to_owned));
        }
        let (labels, name) = match resolved {
            Resolved::Container(labels) => (labels, if presumed { stand_in } else { Name::Final }),
            Resolved::OwnerPending(labels) if age >= NO_OWNER => (labels, stand_in),
            Resolved::UnknownPod if age >= NO_POD => (by_path(&entry.path), Name::StandIn),
            Resolved::NoContainer if age >= NO_CONTAINER && reported_total && !waiting.dormant => {
                return self.set_dormant(cgroup, out);
            }
            _ => return,
        };
        self.open(cgroup, labels, name, out);
    }

    fn open(&mut self, cgroup: CgroupId, labels: Labels, name: Name, out: &mut Vec<Admitted>) {
        let Some(group) = self.index.get_mut(cgroup).and_then(|entry| entry.pod.as_mut()) else { return };
        let before = std::mem::replace(&mut group.stage, Stage::Reported(name));
        let pod = PodKey { pod: group.pod.clone(), id: group.id.clone() };
        out.push(Admitted::Opened {
            container: Container { cgroup, labels: Arc::new(labels) },
            pod: Some(pod),
        });
        if let Stage::Waiting(mut waiting) = before {
            self.held -= waiting.held.len().min(self.held);
            for event in waiting.held.take() {
                self.route(Cow::Owned(event), out);
            }
        }
    }

    /// It is the pod's sandbox: nothing of it is reported but its OOM kills.
    fn set_dormant(&mut self, cgroup: CgroupId, out: &mut Vec<Admitted>) {
        let Some(group) = self.index.get_mut(cgroup).and_then(|entry| entry.pod.as_mut()) else { return };
        let Stage::Waiting(waiting) = &mut group.stage else { return };
        waiting.dormant = true;
        let (removed, held) = (waiting.removed.is_some(), waiting.held.take());
        self.held -= held.len().min(self.held);
        let kills = held.into_iter().filter(|event| matches!(event.what, EventKind::OomKill(_)));
        out.extend(kills.map(|event| Admitted::Event { owner: None, event: Cow::Owned(event) }));
        if removed {
            self.index.remove(cgroup);
            self.index.forget(cgroup);
        }
    }

    /// Everybody who waits for this pod, or was reported without its word.
    fn identify_all(
        &mut self,
        at: Time,
        is_of: impl Fn(&str) -> bool,
        wall_ns: i64,
        out: &mut Vec<Admitted>,
    ) {
        let of_pod = self.pod_groups().filter(|(_, group)| is_of(&group.pod));
        let waiting = of_pod.filter(|(_, group)| group.waiting().is_some());
        for cgroup in waiting.map(|(cgroup, _)| cgroup).collect::<Vec<_>>() {
            self.identify(at, cgroup, SILENT, wall_ns, out);
        }
        let late = self.pod_groups().filter(|(_, group)| is_of(&group.pod));
        let late = late.filter_map(|(cgroup, group)| {
            let Stage::Reported(name @ (Name::StandIn | Name::Presumed)) = group.stage else { return None };
            match self.pods.resolve(&group.pod, &group.id) {
                Resolved::Container(labels) => Some((cgroup, labels, name == Name::Presumed)),
                _ => None,
            }
        });
        for (cgroup, labels, presumed) in late.collect::<Vec<_>>() {
            let Some(group) = self.index.get_mut(cgroup).and_then(|entry| entry.pod.as_mut()) else {
                continue;
            };
            group.stage = Stage::Reported(Name::Final);
            let container = Container { cgroup, labels: Arc::new(labels) };
            out.push(Admitted::Identified { container, presumed });
        }
    }

    /// Identifies the containers that were held for the longest time allowed.
    fn identify_overdue(&mut self, now: Time, wall_ns: i64, out: &mut Vec<Admitted>) {
        let awake = |group: &PodGroup| group.waiting().is_some_and(|waiting| !waiting.dormant);
        let mut awake: Vec<(Time, CgroupId)> = self
            .pod_groups()
            .filter(|(_, group)| awake(group))
            .map(|(cgroup, group)| (group.since, cgroup))
            .collect();
        awake.sort_unstable();
        // Those of one scale-up become known together: once one has waited in vain, the others need not.
        let mut patience = SILENT;
        for (_, cgroup) in awake {
            self.identify(now, cgroup, patience, wall_ns, out);
            let waits = self.index.get(cgroup).and_then(|entry| entry.pod.as_ref()?.waiting()).is_some();
            if !waits {
                patience = SILENT / 2;
            }
        }
    }

    /// Whether the cgroup cannot be its pod's sandbox, which is created before the containers and removed after them:
    /// an older group of the pod exists, or existed at its end, or it was removed before a younger group was created.
    fn is_no_sandbox(&self, cgroup: CgroupId, group: &PodGroup, waiting: &Waiting) -> bool {
        let Some(removed) = waiting.removed else { return self.beside_older(cgroup) };
        let younger = |other: &PodGroup| other.pod == group.pod && other.since >= removed.at;
        removed.beside_older || self.pod_groups().any(|(_, other)| younger(other))
    }

    fn beside_older(&self, cgroup: CgroupId) -> bool {
        let Some(group) = self.index.get(cgroup).and_then(|entry| entry.pod.as_ref()) else { return false };
        self.pod_groups().any(|(other, one)| {
            one.pod == group.pod && (one.since, other) < (group.since, cgroup) && self.is_there(other, one)
        })
    }

    /// Name of the pod's only container, unless a status says that another group is it, which is still there.
    fn only_container(&self, group: &PodGroup) -> Option<&str> {
        let [only] = self.pods.get(&group.pod)?.containers.as_slice() else { return None };
        let is_only = |other: &PodGroup| other.pod == group.pod && only.id.as_deref() == Some(&*other.id);
        let there = self.pod_groups().any(|(cgroup, other)| is_only(other) && self.is_there(cgroup, other));
        (!there).then_some(&only.name)
    }

    fn is_there(&self, cgroup: CgroupId, group: &PodGroup) -> bool {
        match group.waiting() {
            Some(waiting) => waiting.removed.is_none(),
            None => self.exists(cgroup),
        }
    }

    /// Whether no status will name it any more: the pod's only container is said to be one that came after it.
    fn is_replaced(&self, group: &PodGroup, waiting: &Waiting) -> bool {
        let (Some(removed), Some(pod)) = (waiting.removed, self.pods.get(&group.pod)) else { return false };
        let [only] = pod.containers.as_slice() else { return false };
        let is_only = |other: &PodGroup| only.id.as_deref() == Some(&*other.id) && other.since >= removed.at;
        self.pod_groups().any(|(_, other)| is_only(other))
    }

    fn pod_groups(&self) -> impl DoubleEndedIterator<Item = (CgroupId, &PodGroup)> {
        self.index.iter().filter_map(|(cgroup, entry)| Some((cgroup, entry.pod.as_ref()?)))
    }
}

/// Labels known from the path alone.
fn by_path(path: &str) -> Labels {
    cgroup_path::owner(path).map(|owner| cgroup_path::labels(&owner)).unwrap_or_default()
}

fn dropped<'a>(at: Time, event: &Event) -> Admitted<'a> {
    Admitted::Dropped { at, cgroup: subject(event).unwrap_or_default() }
}

/// Cgroup and path of an event that carries a path.
fn place(event: &Event) -> Option<(CgroupId, &str)> {
    match &event.what {
        EventKind::CgroupSeeded { cgroup, path, .. }
        | EventKind::CgroupMade { cgroup, path }
        | EventKind::CgroupAttached { cgroup, path, .. }
        | EventKind::CgroupPopulated { cgroup, path } => Some((*cgroup, path)),
        _ => None,
    }
}

fn removed(event: &Event) -> Option<CgroupId> {
    match event.what {
        EventKind::CgroupRemoved { cgroup } => Some(cgroup),
        _ => None,
    }
}

/// The cgroup that an event is about.
pub fn subject(event: &Event) -> Option<CgroupId> {
    match &event.what {
        EventKind::CgroupSeeded { cgroup, .. }
        | EventKind::CgroupMade { cgroup, .. }
        | EventKind::CgroupAttached { cgroup, .. }
        | EventKind::CgroupEmptied { cgroup, .. }
        | EventKind::CgroupRemoved { cgroup }
        | EventKind::Usage { cgroup, .. }
        | EventKind::Memory { cgroup, .. }
        | EventKind::Totals { cgroup, .. }
        | EventKind::FaultLatency { cgroup, .. }
        | EventKind::Exec { cgroup, .. }
        | EventKind::Exit { cgroup, .. } => Some(*cgroup),
        // Of a plain group, what runs in the groups below it is its own.
        EventKind::CgroupPopulated { cgroup, path } => {
            cgroup_path::owner(path).filter(|owner| owner.kind != Kind::Plain).map(|_| *cgroup)
        }
        EventKind::OomKill(kill) => kill.victim_cgroup,
        _ => None,
    }
}

/// What is measured of a cgroup may come before its path does. A kill is reported, of whomever; the rest has a path.
fn waits_for_its_cgroup(event: &Event) -> bool {
    use EventKind::{Exec, Exit, FaultLatency, Totals, Usage};
    matches!(event.what, Usage { .. } | Totals { .. } | FaultLatency { .. } | Exec { .. } | Exit { .. })
}
