//! Entries of the kernel's tables whose cgroup is not in the tree: when they are freed. Pure.

use std::collections::HashSet;

use observer_core::model::container::CgroupId;

/// A group that was made and removed has entries until the record of its removal is taken from the ring, and the walk
/// of the tree may overtake the ring. Only what two walks did not find has lost its record.
#[derive(Default)]
pub struct Sweep {
    unclaimed: HashSet<CgroupId>,
}

impl Sweep {
    /// Takes what is in the tables and not in the tree at this walk; returns what was so at the walk before, too.
    pub fn confirm(&mut self, unclaimed: HashSet<CgroupId>) -> Vec<CgroupId> {
        let lost = unclaimed.intersection(&self.unclaimed).copied().collect();
        self.unclaimed = unclaimed.difference(&self.unclaimed).copied().collect();
        lost
    }

    /// Whether another walk has to confirm.
    pub fn is_open(&self) -> bool {
        !self.unclaimed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_two_walks_did_not_find_is_swept() {
        let mut sweep = Sweep::default();
        assert!(sweep.confirm([1, 2].into()).is_empty());
        assert!(sweep.is_open());
        // The record of 1 came with the ring; 3 is new.
        assert_eq!(sweep.confirm([2, 3].into()), [2]);
        assert_eq!(sweep.confirm([3].into()), [3]);
        assert!(!sweep.is_open());
        // An id that comes again (inode numbers do) begins again.
        assert!(sweep.confirm([3].into()).is_empty());
    }
}
