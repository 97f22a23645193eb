//! A kill is one kill: what the kernel counted, beside what was reported. Pure.
//!
//! The OOM killer marks every dying thread that asks for memory, and processes that were ending anyway; it counts only
//! what it kills, one per process, before the mark (kernel: mm/oom_kill.c, __oom_kill_process, under one lock). So a
//! mark is a kill exactly if the count of the victim's group has risen since the one before, and a rise by more than
//! one, or a file that says more than was reported, are kills that no probe saw: those are reported as reconciled.
//! `memory.oom.group` makes one such itself: the kernel kills the chosen victim and then all of its group, and counts
//! the victim again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::model::{container::CgroupId, event::OomKill, time::Time};

/// A record is drained within a tenth of a second of its kill, and the file may be read in between.
const SETTLE: Duration = Duration::from_secs(2);
/// Victims remembered where the kernel's counts cannot be read.
const VICTIMS: usize = 64;

#[derive(Debug, Default)]
pub struct KillCounts {
    groups: HashMap<CgroupId, Counted>,
    /// Pid and start of the last victims.
    victims: VecDeque<(u32, Option<Time>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// The kernel's count up to which all kills are reported, or were before the observer.
    reported: u64,
    /// A file said more, since then.
    ahead: Option<(Time, u64)>,
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
    /// A new group has had no kill.
    pub fn made(&mut self, cgroup: CgroupId) {
        self.groups.entry(cgroup).or_default();
    }

    pub fn removed(&mut self, cgroup: CgroupId) {
        self.groups.remove(&cgroup);
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
        let reported = self.groups.get(&cgroup).map_or(count.saturating_sub(1), |known| known.reported);
        for level in &kill.levels {
            if let Some(count) = level.oom_kills {
                self.groups.entry(level.cgroup).or_default().reach(count);
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
            if let Some(known) = self.groups.get_mut(&level.cgroup) {
                known.reach(known.reported + 1);
            }
        }
        Mark::Kill { unseen: 0 }
    }

    /// The file's count while no probe sees kills: how many more it has become.
    pub fn grew(&mut self, cgroup: CgroupId, count: u64) -> u64 {
        let Some(known) = self.groups.get_mut(&cgroup) else {
            self.groups.insert(cgroup, Counted { reported: count, ahead: None });
            return 0;
        };
        let grew = count.saturating_sub(known.reported);
        known.reach(count);
        grew
    }

    /// The file's count beside a probe's records, which may still be on their way.
    pub fn read(&mut self, at: Time, cgroup: CgroupId, count: u64) {
        let Some(known) = self.groups.get_mut(&cgroup) else {
            self.groups.insert(cgroup, Counted { reported: count, ahead: None });
            return;
        };
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
        // Two more whose records were lost; the file tells.
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
        fn the_sum_is_the_kernels_count(steps in proptest::collection::vec(0u8..5, 0..200)) {
            let (mut counts, mut kernel, mut told, mut now) = (known(), 0, 0, 0);
            for step in steps {
                now += 1;
                match step {
                    0 | 1 => {
                        kernel += 1;
                        if let Mark::Kill { unseen } = counts.marked(&mark(now as u32, kernel, kernel), Some(10), true) {
                            told += 1 + unseen;
                        }
                    }
                    2 => {
                        let repeated = counts.marked(&mark(now as u32, kernel, kernel), Some(10), true);
                        if let Mark::Kill { unseen } = repeated {
                            told += 1 + unseen; // the mark of a kill whose record was lost
                        }
                    }
                    3 => kernel += 1,
                    _ => counts.read(at(now), 10, kernel),
                }
                told += counts.settle(at(now)).iter().map(|(_, unseen)| unseen).sum::<u64>();
                proptest::prop_assert!(told <= kernel);
            }
            counts.read(at(now + 1), 10, kernel);
            told += counts.settle(at(now + 10)).iter().map(|(_, unseen)| unseen).sum::<u64>();
            counts.read(at(now + 11), 10, kernel);
            told += counts.settle(at(now + 20)).iter().map(|(_, unseen)| unseen).sum::<u64>();
            proptest::prop_assert_eq!(told, kernel);
        }
    }
}
