//! Cgroup id -> container. Pure.
//!
//! Ids come from the kernel and are never used again while the observer lives (kernfs counts generations in the upper
//! half), so an id that is known is known for good until its removal.

use std::collections::{BTreeMap, HashMap};

use crate::{
    attribution::{cgroup_path, pending::PodGroup},
    model::container::CgroupId,
};

/// All cgroups there are; those of pods stay after their removal until their container is forgotten.
#[derive(Debug, Default)]
pub struct CgroupIndex {
    groups: BTreeMap<CgroupId, Group>,
    by_path: HashMap<String, CgroupId>,
    /// Of them, those that were removed.
    removed: usize,
}

#[derive(Debug)]
pub struct Group {
    pub path: String,
    pub owner: Owner,
    /// The container of a pod that this group is.
    pub pod: Option<PodGroup>,
    pub removed: bool,
}

/// The container that a cgroup belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Itself, or an ancestor.
    Container(CgroupId),
    /// Root, slices, pods: a group of containers.
    None,
    /// It lies inside a container whose own cgroup is not known yet.
    Pending,
    /// The cgroup itself is not known.
    Unknown,
}

impl CgroupIndex {
    /// Cgroups that exist.
    pub fn count(&self) -> usize {
        self.groups.len() - self.removed
    }

    /// Adds a cgroup. Returns the cgroups that now have a known owner: this one, and groups inside it that were seen
    /// before it.
    pub fn add(&mut self, cgroup: CgroupId, path: &str) -> Vec<CgroupId> {
        if self.groups.contains_key(&cgroup) {
            return Vec::new();
        }
        let place = cgroup_path::owner(path);
        let owner = match &place {
            None => Owner::None,
            Some(owner) if owner.below == 0 => Owner::Container(cgroup),
            Some(owner) => match self.by_path.get(owner.path) {
                Some(container) => Owner::Container(*container),
                None => Owner::Pending,
            },
        };
        // A path made again is a new cgroup; the old id stays known until its removal is reported.
        self.by_path.insert(path.to_owned(), cgroup);
        self.groups.insert(cgroup, Group { path: path.to_owned(), owner, pod: None, removed: false });
        let mut known = match owner {
            Owner::Pending => Vec::new(),
            _ => vec![cgroup],
        };
        if owner == Owner::Container(cgroup) {
            let inside = |group: &Group| {
                group.owner == Owner::Pending
                    && group.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
            };
            for (id, group) in self.groups.iter_mut().filter(|(_, group)| inside(group)) {
                group.owner = owner;
                known.push(*id);
            }
        }
        known
    }

    /// The cgroup is gone. What it was to a pod is kept until [`CgroupIndex::forget`].
    pub fn remove(&mut self, cgroup: CgroupId) {
        let Some(group) = self.groups.get_mut(&cgroup) else { return };
        if self.by_path.get(&group.path) == Some(&cgroup) {
            self.by_path.remove(&group.path);
        }
        if group.pod.is_none() {
            self.removed -= usize::from(group.removed);
            self.groups.remove(&cgroup);
        } else if !std::mem::replace(&mut group.removed, true) {
            self.removed += 1;
        }
    }

    /// Its container is no longer reported.
    pub fn forget(&mut self, cgroup: CgroupId) {
        if let Some(group) = self.groups.get_mut(&cgroup) {
            group.pod = None;
            if group.removed {
                self.removed -= 1;
                self.groups.remove(&cgroup);
            }
        }
    }

    pub fn get(&self, cgroup: CgroupId) -> Option<&Group> {
        self.groups.get(&cgroup)
    }

    pub fn get_mut(&mut self, cgroup: CgroupId) -> Option<&mut Group> {
        self.groups.get_mut(&cgroup)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (CgroupId, &Group)> {
        self.groups.iter().map(|(cgroup, group)| (*cgroup, group))
    }

    pub fn owner(&self, cgroup: CgroupId) -> Owner {
        self.groups.get(&cgroup).map_or(Owner::Unknown, |group| group.owner)
    }

    /// The container, where it is known.
    pub fn container(&self, cgroup: CgroupId) -> Option<CgroupId> {
        match self.owner(cgroup) {
            Owner::Container(container) => Some(container),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555";

    #[test]
    fn a_group_inside_a_container_waits_for_the_containers_own_group() {
        let mut index = CgroupIndex::default();
        let container = format!("{POD}/{}", "a".repeat(64));
        assert!(index.add(3, &format!("{container}/init.scope")).is_empty());
        assert_eq!(index.owner(3), Owner::Pending);
        assert_eq!(index.add(2, &container), [2, 3], "both are the container's now");
        assert_eq!(index.container(3), Some(2));
        assert_eq!(index.owner(9), Owner::Unknown);
    }

    #[test]
    fn a_path_made_again_is_another_cgroup() {
        let mut index = CgroupIndex::default();
        index.add(1, "/job");
        index.add(2, "/job");
        index.remove(1);
        assert_eq!((index.owner(1), index.container(2)), (Owner::Unknown, Some(2)));
        assert_eq!(index.count(), 1);
    }
}
