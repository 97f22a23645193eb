//! Which container an event belongs to: (cgroup id, time) -> container. Pure.
//!
//! Ids come from the kernel and are never used again while the observer lives (kernfs counts generations in the upper
//! half), so an id that is known is known for good until its removal. An id nobody has told us about yet is held, with
//! its events, until the tree does tell, and counted as unattributed if it never does.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use crate::{
    attribution::cgroup_path,
    model::{
        event::{CgroupId, Event},
        time::Time,
    },
};

/// Events held for cgroups not yet known, or whose pod is not, in all. A mkdir record overtaken by others is a few records
/// late; a whole batch lost with a full ring is found again by the next walk of the tree; a pod's status is a second late,
/// in which thirty starting containers that are read every 20 ms make some 1,500 events.
const HELD: usize = 8192;
/// Longer than any walk of the tree takes to come round.
const HOLD: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Index {
    cgroups: HashMap<CgroupId, Entry>,
    by_path: BTreeMap<String, CgroupId>,
    held: VecDeque<Event>,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub path: String,
    /// The cgroup of its container; itself, or an ancestor. `None`: a group of containers.
    pub owner: Option<CgroupId>,
}

/// What is known of a cgroup id.
pub enum Known {
    Container(CgroupId),
    /// Root, slices, pods: no container.
    Group,
    No,
}

impl Index {
    pub fn count(&self) -> usize {
        self.cgroups.len()
    }

    /// Learns a cgroup. Returns whether it was new.
    pub fn learn(&mut self, cgroup: CgroupId, path: &str) -> bool {
        if self.cgroups.contains_key(&cgroup) {
            return false;
        }
        let owner = cgroup_path::owner(path).map(|owner| {
            if owner.below == 0 { cgroup } else { self.by_path.get(owner.path).copied().unwrap_or(cgroup) }
        });
        // A path made again is a new cgroup; the old id stays known until its removal is told.
        self.by_path.insert(path.to_owned(), cgroup);
        self.cgroups.insert(cgroup, Entry { path: path.to_owned(), owner });
        true
    }

    pub fn forget(&mut self, cgroup: CgroupId) {
        if let Some(entry) = self.cgroups.remove(&cgroup)
            && self.by_path.get(&entry.path) == Some(&cgroup)
        {
            self.by_path.remove(&entry.path);
        }
    }

    pub fn get(&self, cgroup: CgroupId) -> Option<&Entry> {
        self.cgroups.get(&cgroup)
    }

    pub fn known(&self, cgroup: CgroupId) -> Known {
        match self.cgroups.get(&cgroup) {
            Some(Entry { owner: Some(owner), .. }) => Known::Container(*owner),
            Some(_) => Known::Group,
            None => Known::No,
        }
    }

    /// A container's own group and all inside it.
    pub fn members(&self, container: CgroupId) -> Vec<CgroupId> {
        let inside = self.cgroups.iter().filter(|(_, entry)| entry.owner == Some(container));
        inside.map(|(cgroup, _)| *cgroup).collect()
    }

    pub fn container(&self, cgroup: CgroupId) -> Option<CgroupId> {
        self.cgroups.get(&cgroup).and_then(|entry| entry.owner)
    }

    /// Keeps an event until its cgroup is known. Returns the event that had to make room.
    pub fn hold(&mut self, event: Event) -> Option<Event> {
        let oldest = if self.held.len() >= HELD { self.held.pop_front() } else { None };
        self.held.push_back(event);
        oldest
    }

    /// The held events of a cgroup that has become known, in order.
    pub fn release(&mut self, belongs: impl Fn(&Event) -> bool) -> Vec<Event> {
        let (released, held) = self.held.drain(..).partition::<VecDeque<_>, _>(belongs);
        self.held = held;
        released.into()
    }

    /// The held events that waited too long.
    pub fn expire(&mut self, now: Time) -> Vec<Event> {
        self.release(|event| now.since(event.at) >= HOLD)
    }
}
