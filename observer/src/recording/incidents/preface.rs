//! What a recording that begins in the middle needs first: the state of the host as an observer that starts then would
//! find it. Kept up to date with each event, in a bounded size.

use std::collections::BTreeMap;

use observer_core::model::{
    container::CgroupId,
    event::{Event, EventKind, Host, Loss, MemoryReading, ProbeStatus},
    kubernetes::{ApiState, ChangeRecord, Owner, Pod, Uid},
    time::Time,
};

/// Objects of each kind.
const GROUPS: usize = 8192;
const OBJECTS: usize = 2048;

#[derive(Debug, Default)]
pub struct Preface {
    host: Option<Host>,
    probes: BTreeMap<String, ProbeStatus>,
    watching: Option<ApiState>,
    api: Option<ApiState>,
    groups: BTreeMap<CgroupId, Group>,
    pods: BTreeMap<Uid, Pod>,
    owners: BTreeMap<Uid, Owner>,
    records: BTreeMap<Uid, ChangeRecord>,
    lost: BTreeMap<Loss, u64>,
}

#[derive(Debug)]
struct Group {
    path: String,
    populated: bool,
    memory: Option<MemoryReading>,
    usage: Option<(u64, u64)>,
}

impl Preface {
    pub fn take(&mut self, what: &EventKind) {
        match what {
            EventKind::Host(host) => self.host = Some(host.clone()),
            EventKind::ClockSet { wall_offset_ns } => {
                if let Some(host) = &mut self.host {
                    host.wall_offset_ns = *wall_offset_ns;
                }
            }
            EventKind::Probe(status) => {
                put(&mut self.probes, status.probe.to_string(), status.clone(), OBJECTS)
            }
            EventKind::ProbeAttached { probe, attached } => {
                if let Some(status) = self.probes.get_mut(&probe.to_string()) {
                    status.attached = Some(*attached);
                }
            }
            EventKind::CgroupSeeded { cgroup, path, populated } => self.group(*cgroup, path, *populated),
            EventKind::CgroupMade { cgroup, path } => self.group(*cgroup, path, false),
            EventKind::CgroupAttached { cgroup, path, .. } | EventKind::CgroupPopulated { cgroup, path } => {
                self.group(*cgroup, path, true);
            }
            EventKind::CgroupEmptied { cgroup, .. } => {
                if let Some(group) = self.groups.get_mut(cgroup) {
                    group.populated = false;
                }
            }
            EventKind::CgroupRemoved { cgroup } => {
                self.groups.remove(cgroup);
            }
            EventKind::Usage { cgroup, usage, watermark } => {
                if let Some(group) = self.groups.get_mut(cgroup) {
                    group.usage = Some((*usage, *watermark));
                }
            }
            EventKind::Memory { cgroup, reading } => {
                if let Some(group) = self.groups.get_mut(cgroup) {
                    group.memory = Some(reading.clone());
                }
            }
            EventKind::Api(state @ ApiState::Watching { .. }) => self.watching = Some(state.clone()),
            EventKind::Api(ApiState::Clock { .. }) => {}
            EventKind::Api(state) => self.api = Some(state.clone()),
            EventKind::Pod(pod) => put(&mut self.pods, pod.uid.clone(), (**pod).clone(), OBJECTS),
            EventKind::PodGone { uid } => {
                self.pods.remove(uid);
            }
            EventKind::Owner(owner) => put(&mut self.owners, owner.uid.clone(), (**owner).clone(), OBJECTS),
            EventKind::Record(record) => {
                put(&mut self.records, record.workload.uid.clone(), (**record).clone(), OBJECTS);
            }
            EventKind::Lost { at, count } => {
                self.lost.insert(*at, *count);
            }
            // Of the past, or read again each second.
            EventKind::History { .. }
            | EventKind::KillsKept(_)
            | EventKind::Totals { .. }
            | EventKind::FaultLatency { .. }
            | EventKind::Exec { .. }
            | EventKind::Exit { .. }
            | EventKind::OomKill(_)
            | EventKind::Node(_)
            | EventKind::Observer(_)
            | EventKind::Programs(_)
            | EventKind::Tick => {}
        }
    }

    /// A group that is there; a process was there before, or came.
    fn group(&mut self, cgroup: CgroupId, path: &str, populated: bool) {
        if let Some(group) = self.groups.get_mut(&cgroup) {
            group.populated |= populated;
            return;
        }
        let group = Group { path: path.to_owned(), populated, memory: None, usage: None };
        put(&mut self.groups, cgroup, group, GROUPS);
    }

    /// The same as events of this moment. Without a host nothing can begin.
    pub fn events(&self, at: Time, mut each: impl FnMut(&Event)) {
        let Some(host) = &self.host else { return };
        let mut say = |what| each(&Event { at, what });
        say(EventKind::Host(host.clone()));
        for status in self.probes.values() {
            say(EventKind::Probe(status.clone()));
        }
        if let Some(watching) = &self.watching {
            say(EventKind::Api(watching.clone()));
        }
        let mut groups: Vec<(&CgroupId, &Group)> = self.groups.iter().collect();
        groups.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path)); // a group after the one it is in
        for (cgroup, Group { path, populated, .. }) in &groups {
            say(EventKind::CgroupSeeded { cgroup: **cgroup, path: path.clone(), populated: *populated });
        }
        for pod in self.pods.values() {
            say(EventKind::Pod(Box::new(pod.clone())));
        }
        if let Some(api) = &self.api {
            say(EventKind::Api(api.clone()));
        }
        for owner in self.owners.values() {
            say(EventKind::Owner(Box::new(owner.clone())));
        }
        for record in self.records.values() {
            say(EventKind::Record(Box::new(record.clone())));
        }
        for (cgroup, group) in groups {
            let cgroup = *cgroup;
            if let Some(reading) = &group.memory {
                say(EventKind::Memory { cgroup, reading: reading.clone() });
            }
            if let Some((usage, watermark)) = group.usage {
                say(EventKind::Usage { cgroup, usage, watermark });
            }
        }
        for (at, count) in &self.lost {
            say(EventKind::Lost { at: *at, count: *count });
        }
    }
}

/// Of what is full, the smallest key leaves: the oldest group, any object.
fn put<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, key: K, value: V, most: usize) {
    if map.len() >= most && !map.contains_key(&key) {
        map.pop_first();
    }
    map.insert(key, value);
}
