//! A kill is one kill: what the kernel counted, beside what was reported. Pure.
//!
//! The OOM killer marks every dying thread that asks for memory, and processes that were ending anyway; it counts only
//! what it kills, one per process, before the mark (kernel: mm/oom_kill.c, __oom_kill_process, under one lock). So a
//! mark is a kill exactly if the count of the victim's group has risen since the one before, and a rise by more than
//! one, or a file that says more than was reported, are kills that no probe saw: those are reported as reconciled.
//! `memory.oom.group` makes one such itself: the kernel kills the chosen victim and then all of its group, and counts
//! the victim again.
//!
//! What was reported is kept outside of the process, group by group, so that an observer that was killed goes on from
//! there: kills while none ran are reconciled like those that no probe saw.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    mem,
    time::Duration,
};

use crate::model::{
    container::CgroupId,
    event::{KillsKept, OomKill},
    time::Time,
};

/// A record is drained within a tenth of a second of its kill, and the file may be read in between.
const SETTLE: Duration = Duration::from_secs(2);
/// Victims remembered where the kernel's counts cannot be read.
const VICTIMS: usize = 64;

#[derive(Debug, Default)]
pub struct KillCounts {
    groups: HashMap<CgroupId, Counted>,
    /// Of groups that were not counted yet in this run.
    earlier: BTreeMap<CgroupId, u64>,
    /// The newest group that an earlier run saw. Ids of groups only grow (kernel: fs/kernfs/dir.c, kernfs_new_node):
    /// whatever is above it had no kill that was reported.
    earlier_newest: Option<CgroupId>,
    /// Some of the tree could not be read: what was not seen may be there.
    keeps_unseen: bool,
    newest: Option<CgroupId>,
    /// Groups of which there is something new to be kept.
    unkept: BTreeSet<CgroupId>,
    /// Those of containers whose kills are held until it is known who they are: not reported yet.
    held: BTreeSet<CgroupId>,
    /// Pid and start of the last victims.
    victims: VecDeque<(u32, Option<Time>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// The kernel's count up to which all kills are reported, or were before the observer.
    reported: u64,
    /// A file said more, since then.
    ahead: Option<(Time, u64)>,
    /// What of it is kept for the next run.
    kept: Option<u64>,
}

impl Counted {
    fn reach(&mut self, count: u64) {
        self.reported = self.reported.max(count);
        if self.ahead.is_some_and(|(_, ahead)| ahead <= self.reported) {
            self.ahead = None;
        }
    }
}

/// What a record of the OOM killer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// No kill: a thread, or a process, that was dying anyway.
    Dying,
    /// A kill, and so many before it in the same container that were not seen.
    Kill { unseen: u64 },
}

impl KillCounts {
    /// What an earlier run since the boot reported.
    pub fn continue_from(&mut self, kept: &KillsKept) {
        self.earlier = kept.reported.iter().copied().collect();
        (self.earlier_newest, self.newest) = (kept.newest, kept.newest);
    }

    /// What is new to be kept after an event: the count of a group up to which its kills are reported, or that a group
    /// was seen. `holds`: kills of the group are held. `again`: what was held before may be reported now.
    pub fn to_keep(&mut self, again: bool, holds: impl Fn(CgroupId) -> bool) -> Vec<(CgroupId, Option<u64>)> {
        if again {
            self.unkept.append(&mut self.held);
        }
        let mut new = Vec::new();
        for cgroup in mem::take(&mut self.unkept) {
            match self.groups.get_mut(&cgroup) {
                Some(known) if known.kept.is_some() && holds(cgroup) => {
                    self.held.insert(cgroup);
                }
                Some(known) => {
                    known.kept = Some(known.reported);
                    new.push((cgroup, known.kept));
                }
                None => new.push((cgroup, None)),
            }
        }
        new
    }

    /// All that is kept.
    pub fn kept(&self) -> KillsKept {
        let kept = self.groups.iter().filter_map(|(cgroup, known)| Some((*cgroup, known.kept?)));
        let earlier = self.earlier.iter().map(|(cgroup, count)| (*cgroup, *count));
        let mut reported: Vec<_> = kept.chain(earlier).collect();
        reported.sort_unstable();
        KillsKept { newest: self.newest, reported }
    }

    /// It is there.
    pub fn seen(&mut self, cgroup: CgroupId) {
        if self.newest.is_none_or(|newest| newest < cgroup) {
            self.newest = Some(cgroup);
            self.unkept.insert(cgroup);
        }
    }

    /// It was there before the observer, which goes on from what an earlier run reported of it.
    pub fn seeded(&mut self, cgroup: CgroupId) {
        self.seen(cgroup);
        if self.earlier.contains_key(&cgroup) {
            self.known_or(cgroup, 0);
        }
    }

    pub fn keep_unseen(&mut self) {
        self.keeps_unseen = true;
    }

    /// After the first walk of the tree: groups that an earlier run saw and this one does not.
    pub fn forget_gone(&mut self) {
        if !self.keeps_unseen {
            self.earlier.clear();
        }
    }

    /// A new group has had no kill.
    pub fn made(&mut self, cgroup: CgroupId) {
        self.seen(cgroup);
        self.known_or(cgroup, 0);
    }

    pub fn removed(&mut self, cgroup: CgroupId) {
        self.groups.remove(&cgroup);
        self.earlier.remove(&cgroup);
        self.unkept.remove(&cgroup);
        self.held.remove(&cgroup);
    }

    /// The count up to which an earlier run reported its kills.
    fn earlier(&self, cgroup: CgroupId) -> Option<u64> {
        let made_since = || self.earlier_newest.is_some_and(|newest| newest < cgroup).then_some(0);
        self.earlier.get(&cgroup).copied().or_else(made_since)
    }

    /// Its state, which begins with what an earlier run reported, or else with this count.
    fn known_or(&mut self, cgroup: CgroupId, count: u64) -> &mut Counted {
        let reported = self.earlier(cgroup).unwrap_or(count);
        self.earlier.remove(&cgroup);
        let unkept = &mut self.unkept;
        self.groups.entry(cgroup).or_insert_with(|| {
            unkept.insert(cgroup);
            Counted { reported, ..Counted::default() }
        })
    }

    fn reach(&mut self, cgroup: CgroupId, count: u64) {
        let known = self.known_or(cgroup, count);
        let more = known.reported < count;
        known.reach(count);
        if more {
            self.unkept.insert(cgroup);
        }
    }

    /// A mark, in the order of marks. `owner`: the group of the victim's container; on v2 its count includes those of
    /// the groups inside (`hierarchical`), on v1 each group counts for itself.
    pub fn marked(&mut self, kill: &OomKill, owner: Option<CgroupId>, hierarchical: bool) -> Mark {
        let own = kill.levels.first();
        let of_owner = kill.levels.iter().find(|level| hierarchical && Some(level.cgroup) == owner);
        let Some((cgroup, count)) = of_owner.or(own).and_then(|level| Some((level.cgroup, level.oom_kills?)))
        else {
            return self.marked_uncounted(kill);
        };
        // Without an earlier count, all but this one were before the observer.
        let reported = self.known_or(cgroup, count.saturating_sub(1)).reported;
        for level in &kill.levels {
            if let Some(count) = level.oom_kills {
                self.reach(level.cgroup, count);
            }
        }
        match count.checked_sub(reported + 1) {
            Some(unseen) => Mark::Kill { unseen },
            None => Mark::Dying,
        }
    }

    /// Where the counts cannot be read (and in old recordings) each process is believed once.
    fn marked_uncounted(&mut self, kill: &OomKill) -> Mark {
        let victim = (kill.victim_pid, kill.victim_started);
        if kill.victim_started.is_some() && self.victims.contains(&victim) {
            return Mark::Dying;
        }
        if self.victims.len() >= VICTIMS {
            self.victims.pop_front();
        }
        self.victims.push_back(victim);
        for level in &kill.levels {
            if let Some(reported) = self.groups.get(&level.cgroup).map(|known| known.reported) {
                self.reach(level.cgroup, reported + 1);
            }
        }
        Mark::Kill { unseen: 0 }
    }

    /// The file's count while no probe sees kills: how many more it has become.
    pub fn grew(&mut self, cgroup: CgroupId, count: u64) -> u64 {
        let grew = count.saturating_sub(self.known_or(cgroup, count).reported);
        self.reach(cgroup, count);
        grew
    }

    /// The file's count beside a probe's records, which may still be on their way.
    pub fn read(&mut self, at: Time, cgroup: CgroupId, count: u64) {
        let known = self.known_or(cgroup, count);
        if count > known.reported && known.ahead.is_none() {
            known.ahead = Some((at, count));
        }
    }

    /// Kills that a file has counted for longer than a record takes.
    pub fn settle(&mut self, now: Time) -> Vec<(CgroupId, u64)> {
        let mut unseen = Vec::new();
        for (cgroup, known) in &mut self.groups {
            if let Some((_, count)) = known.ahead.filter(|(since, _)| now.since(*since) >= SETTLE) {
                unseen.push((*cgroup, count.saturating_sub(known.reported)));
                known.reach(count);
                self.unkept.insert(*cgroup);
            }
        }
        unseen.sort_unstable();
        unseen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Limit, OomLevel};

    /// A process `pid` marked in group 11 of container 10, with both counts.
    fn mark(pid: u32, inner: u64, outer: u64) -> OomKill {
        let level = |cgroup, count| OomLevel {
            cgroup,
            usage: 0,
            watermark: 0,
            limit: Limit::Unlimited,
            oom_events: None,
            oom_kills: Some(count),
            kills_as_one: false,
        };
        OomKill { victim_pid: pid, levels: vec![level(11, inner), level(10, outer)], ..OomKill::default() }
    }

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    const KILL: Mark = Mark::Kill { unseen: 0 };

    fn known() -> KillCounts {
        let mut counts = KillCounts::default();
        counts.made(10);
        counts.made(11);
        counts
    }

    #[test]
    fn threads_of_one_victim_are_one_kill() {
        let mut counts = known();
        assert_eq!(counts.marked(&mark(7, 1, 1), Some(10), true), KILL);
        for _ in 0..16 {
            assert_eq!(counts.marked(&mark(7, 1, 1), Some(10), true), Mark::Dying);
        }
        // The next one has the same pid number: still another kill.
        assert_eq!(counts.marked(&mark(7, 2, 2), Some(10), true), KILL);
    }

    #[test]
    fn a_mark_without_a_count_is_no_kill() {
        assert_eq!(known().marked(&mark(7, 0, 0), Some(10), true), Mark::Dying);
    }

    #[test]
    fn what_was_not_seen_is_counted_once() {
        let mut counts = known();
        assert_eq!(counts.marked(&mark(7, 3, 3), Some(10), true), Mark::Kill { unseen: 2 });
        counts.read(at(1), 10, 3);
        assert_eq!(counts.settle(at(9)), []);
        // Two more whose records were lost; the file reports.
        counts.read(at(10), 10, 5);
        assert_eq!(counts.settle(at(11)), [], "their records may be on their way");
        assert_eq!(counts.settle(at(12)), [(10, 2)]);
        assert_eq!(counts.settle(at(20)), []);
    }

    #[test]
    fn a_file_ahead_of_the_records_is_no_loss_while_they_come() {
        let mut counts = known();
        for n in 1..100 {
            counts.read(at(n), 10, n);
            assert_eq!(counts.marked(&mark(n as u32, n, n), Some(10), true), KILL);
            assert_eq!(counts.settle(at(n + 1)), []);
        }
    }

    #[test]
    fn what_happened_before_the_observer_is_not_its_to_report() {
        let mut counts = KillCounts::default();
        counts.read(at(0), 10, 40);
        counts.read(at(0), 11, 4);
        assert_eq!(counts.marked(&mark(7, 5, 41), Some(10), true), KILL);
        let mut unread = KillCounts::default();
        assert_eq!(unread.marked(&mark(7, 5, 41), Some(10), true), KILL);
        assert_eq!(unread.marked(&mark(7, 5, 41), Some(10), true), Mark::Dying);
    }

    #[test]
    fn what_happened_while_no_observer_ran_is_counted_once() {
        let mut killed = known();
        assert_eq!(killed.marked(&mark(7, 3, 3), Some(10), true), Mark::Kill { unseen: 2 });
        killed.seen(15); // not read before the end
        killed.to_keep(false, |_| false);
        let kept = killed.kept();
        assert_eq!(kept, KillsKept { newest: Some(15), reported: vec![(10, 3), (11, 3)] });

        let mut counts = KillCounts::default();
        counts.continue_from(&kept);
        for cgroup in [10, 15, 20] {
            counts.seen(cgroup);
            counts.read(at(1), cgroup, 8);
        }
        // 15 was there before; 20 was made since.
        assert_eq!(counts.settle(at(9)), [(10, 5), (20, 8)]);
        // And if a mark comes before the file is read.
        let mut counts = KillCounts::default();
        counts.continue_from(&kept);
        assert_eq!(counts.marked(&mark(7, 6, 6), Some(10), true), Mark::Kill { unseen: 2 });
        counts.read(at(1), 10, 6);
        assert_eq!(counts.settle(at(9)), []);
        // Or no probe sees kills.
        let mut counts = KillCounts::default();
        counts.continue_from(&kept);
        assert_eq!((counts.grew(10, 5), counts.grew(10, 5), counts.grew(15, 5)), (2, 0, 0));
    }

    #[test]
    fn a_group_that_is_gone_is_not_kept_for_ever() {
        let kept = KillsKept { newest: Some(15), reported: vec![(10, 3), (11, 3)] };
        for (unreadable, left) in [(false, vec![(10, 3)]), (true, vec![(10, 3), (11, 3)])] {
            let mut counts = KillCounts::default();
            counts.continue_from(&kept);
            counts.seeded(10);
            if unreadable {
                counts.keep_unseen();
            }
            counts.to_keep(false, |_| false);
            counts.forget_gone();
            assert_eq!(counts.kept().reported, left);
        }
    }

    #[test]
    fn kills_that_are_held_are_kept_once_they_are_reported() {
        let mut counts = known();
        let holds = |cgroup| cgroup == 10;
        assert_eq!(counts.to_keep(false, holds), [(10, Some(0)), (11, Some(0))]);
        assert_eq!(counts.marked(&mark(7, 1, 1), Some(10), true), KILL);
        assert_eq!(counts.to_keep(false, holds), [(11, Some(1))]);
        assert_eq!(counts.to_keep(true, holds), []);
        assert_eq!(counts.kept().reported, [(10, 0), (11, 1)]);
        assert_eq!(counts.to_keep(true, |_| false), [(10, Some(1))]);
        assert_eq!(counts.to_keep(true, |_| false), []);
    }

    #[test]
    fn on_v1_each_group_counts_for_itself() {
        let mut counts = known();
        assert_eq!(counts.marked(&mark(7, 1, 0), Some(10), false), KILL);
        assert_eq!(counts.marked(&mark(7, 1, 0), Some(10), false), Mark::Dying);
        assert_eq!(counts.marked(&mark(8, 4, 0), Some(10), false), Mark::Kill { unseen: 2 });
    }

    #[test]
    fn without_counts_a_process_is_believed_once() {
        let mut counts = known();
        let kill = |pid, started| OomKill {
            victim_pid: pid,
            victim_started: Some(at(started)),
            ..OomKill::default()
        };
        assert_eq!(counts.marked(&kill(7, 1), None, true), KILL);
        assert_eq!(counts.marked(&kill(7, 1), None, true), Mark::Dying);
        assert_eq!(counts.marked(&kill(7, 2), None, true), KILL, "the number was used again");
    }

    proptest::proptest! {
        /// However kills, repeated marks, lost records and readings are mixed: in the end the sum is the kernel's
        /// count.
        #[test]
        fn the_sum_is_the_kernels_count(steps in proptest::collection::vec(0u8..6, 0..200)) {
            let (mut counts, mut kernel, mut reported, mut now) = (known(), 0, 0, 0);
            for step in steps {
                now += 1;
                match step {
                    0 | 1 => {
                        kernel += 1;
                        if let Mark::Kill { unseen } = counts.marked(&mark(now as u32, kernel, kernel), Some(10), true) {
                            reported += 1 + unseen;
                        }
                    }
                    2 => {
                        let repeated = counts.marked(&mark(now as u32, kernel, kernel), Some(10), true);
                        if let Mark::Kill { unseen } = repeated {
                            reported += 1 + unseen; // the mark of a kill whose record was lost
                        }
                    }
                    3 => kernel += 1,
                    4 => {
                        counts.to_keep(true, |_| false);
                        let kept = counts.kept();
                        counts = KillCounts::default(); // killed, and started again
                        counts.continue_from(&kept);
                    }
                    _ => counts.read(at(now), 10, kernel),
                }
                reported += counts.settle(at(now)).iter().map(|(_, unseen)| unseen).sum::<u64>();
                proptest::prop_assert!(reported <= kernel);
            }
            counts.read(at(now + 1), 10, kernel);
            reported += counts.settle(at(now + 10)).iter().map(|(_, unseen)| unseen).sum::<u64>();
            counts.read(at(now + 11), 10, kernel);
            reported += counts.settle(at(now + 20)).iter().map(|(_, unseen)| unseen).sum::<u64>();
            proptest::prop_assert_eq!(reported, kernel);
        }
    }
}
