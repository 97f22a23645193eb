//! Sampling by the pass: all groups once a second from one run of a program, those that move by runs over them alone.
//!
//! No file is opened for a group at rest. memory.stat, whose fault counters no table holds, is read when something
//! ends, and at most once a minute of a group that changed.

use std::{mem, time::Duration};

use super::{BTreeSet, Below, FAST, MOVING, Pass, Sampler, YOUNG, step};
use observer_core::{
    attribution::cgroup_path::{self, Kind},
    model::{
        container::CgroupId,
        event::{Event, EventKind, Loss},
        time::Time,
    },
};

use crate::sources::{
    cgroup::{is_gone, memory},
    kernel::pass::Found,
    sampler::table,
};

/// Whether the container has processes. Those in groups below it are its own, but for a plain group, whose groups are
/// containers of their own: a directory of jobs is no job.
fn lives(own: bool, below: bool, path: &str) -> bool {
    own || (below && cgroup_path::owner(path).is_some_and(|owner| owner.kind != Kind::Plain))
}

/// A group that did not change is reported this often, so that what holds is seen to hold.
const EVERY_SAME: Duration = Duration::from_secs(60);
/// memory.stat of a group that changed since.
const EVERY_STAT: Duration = Duration::from_secs(60);
/// The same of a young group, whose faults are of interest while it starts.
const EVERY_STAT_YOUNG: Duration = Duration::from_secs(5);
/// Files read for that in one pass, so that a node's groups do not fall due together.
const STATS_AT_ONCE: usize = 16;
/// Groups that move and are looked at by runs of their own; further ones are seen by the pass alone.
const LOOKED_AT: usize = 256;
/// Passes in a row that disagree with what the events said before they are believed: events may be on their way.
const DOUBTS: u8 = 2;
/// Failed runs in a row after which the files take over.
const FAILURES: u8 = 3;

#[derive(Default)]
pub(super) struct State {
    pass: Option<Pass>,
    every: Duration,
    ran: Option<Time>,
    looked: Option<Time>,
    run: u64,
    failures: u8,
    dropped: u64,
    /// The last pass worked, and found room for every group.
    complete: bool,
    /// Passes in a row that found a group no event reported.
    unknown: u8,
    whole: Vec<table::Whole>,
    pub(super) pods_available: Option<u64>,
    /// Groups that move, or whose files are to be read once more.
    pub(super) attention: BTreeSet<CgroupId>,
}

impl State {
    pub(super) fn works(&self) -> bool {
        self.pass.is_some()
    }

    pub(super) fn finds_all(&self) -> bool {
        self.complete
    }
}

/// What the passes know of one group.
#[derive(Default)]
pub(super) struct Known {
    serial: Option<u64>,
    run: u64,
    missing: u8,
    doubt: u8,
    fingerprint: u64,
    reported: Option<Time>,
    stat_read: Option<Time>,
    /// Changed since memory.stat was read.
    stat_stale: bool,
    /// For runs over this group alone, while it moves.
    below: Option<Below>,
}

impl Sampler {
    /// From now on the pass is what reports groups at rest.
    pub fn use_pass(&mut self, pass: Pass, every: Duration) {
        self.by_pass.pass = Some(pass);
        self.by_pass.every = every;
    }

    pub(super) fn sample_by_pass(&mut self, now: Time, events: &mut Vec<Event>) {
        let Some(mut pass) = self.by_pass.pass.take() else { return };
        if self.by_pass.ran.is_none_or(|ran| now.since(ran) >= self.by_pass.every) {
            self.by_pass.ran = Some(now);
            match pass.run() {
                Ok(found) => {
                    self.by_pass.failures = 0;
                    self.fold(now, &found, events);
                }
                Err(error) => {
                    self.by_pass.failures += 1;
                    self.by_pass.complete = false;
                    tracing::debug!(%error, "the pass over all cgroups failed");
                    if self.by_pass.failures >= FAILURES {
                        tracing::warn!("the pass over all cgroups fails ({error}); files are read instead");
                        return; // without the pass
                    }
                }
            }
        }
        if self.by_pass.looked.is_none_or(|looked| now.since(looked) >= FAST) {
            self.by_pass.looked = Some(now);
            self.look_closely(now, &mut pass, events);
        }
        self.by_pass.pass = Some(pass);
    }

    /// One table of all groups into what is known of each.
    fn fold(&mut self, now: Time, found: &Found, events: &mut Vec<Event>) {
        let mut whole = mem::take(&mut self.by_pass.whole);
        table::whole(found.records, &mut whole);
        self.by_pass.run += 1;
        let run = self.by_pass.run;
        let version = self.hierarchy.version;
        let page_size = rustix::param::page_size() as u64;
        let (mut unknown, mut reused, mut stats) = (false, Vec::new(), 0);
        let mut pods_available: Option<u64> = None;
        for (record, whole) in found.records.iter().zip(&whole) {
            let Some(group) = self.groups.get_mut(&record.cgroup) else {
                unknown = true;
                continue;
            };
            if group.pass.serial.is_some_and(|serial| serial != record.serial) {
                reused.push(record.cgroup);
                continue;
            }
            group.pass.serial = Some(record.serial);
            (group.pass.run, group.pass.missing) = (run, 0);
            if group.holds_all_pods {
                let reading = table::reading(record, whole, version, page_size);
                let room = reading.levels.limit.and_then(|limit| limit.bytes());
                let room = room.map(|limit| limit.saturating_sub(reading.levels.working_set()));
                pods_available = room.into_iter().chain(pods_available).min();
            }
            if !group.is_container {
                continue;
            }
            // Without the probe the pass reports who came and went; with it, only what its events lost.
            let lives = lives(record.populated > 0, whole.populated, &group.path);
            let doubt = lives != group.lives;
            group.pass.doubt = if doubt { group.pass.doubt + 1 } else { 0 };
            if doubt && (self.only_walks || group.pass.doubt > DOUBTS) {
                (group.lives, group.pass.doubt) = (lives, 0);
                let (cgroup, path) = (record.cgroup, group.path.clone());
                let what = if group.lives && group.born.is_none() && !self.only_walks {
                    // It ran before the observer did, with all of its processes in groups below it.
                    EventKind::CgroupSeeded { cgroup, path, populated: true }
                } else if group.lives {
                    self.births.insert(cgroup, now);
                    EventKind::CgroupAttached { cgroup, path, pid: 0 }
                } else {
                    group.final_read = true;
                    self.births.remove(&cgroup);
                    self.by_pass.attention.insert(cgroup);
                    let watermark = record.watermark.saturating_mul(page_size);
                    EventKind::CgroupEmptied { cgroup, usage: 0, watermark, oom_kills: None }
                };
                events.push(Event { at: now, what });
            }
            if !group.lives {
                continue;
            }
            let usage = record.usage.saturating_mul(page_size);
            if group.pass.reported.is_some() && usage.abs_diff(group.usage) > step(group.usage) {
                group.moved = Some(now);
                self.by_pass.attention.insert(record.cgroup);
            }
            group.usage = usage;
            let fingerprint = table::fingerprint(record, whole);
            let changed = mem::replace(&mut group.pass.fingerprint, fingerprint) != fingerprint;
            group.pass.stat_stale |= changed;
            let young = group.born.is_some_and(|born| now.since(born) < YOUNG);
            let every_stat = if young { EVERY_STAT_YOUNG } else { EVERY_STAT };
            let stat_due = group.pass.stat_stale
                && group.pass.stat_read.is_none_or(|read| now.since(read) >= every_stat)
                && stats < STATS_AT_ONCE;
            let due = changed
                || young
                || stat_due
                || group.pass.reported.is_none_or(|reported| now.since(reported) >= EVERY_SAME);
            if !due {
                continue;
            }
            group.pass.reported = Some(now);
            let mut reading = table::reading(record, whole, version, page_size);
            if stat_due {
                stats += 1;
                (group.pass.stat_read, group.pass.stat_stale) = (Some(now), false);
                let stat = memory::stat_of(&self.hierarchy.directory(&group.path), version);
                if let (Some(reading), Some(file)) = (&mut reading.levels.stat, stat) {
                    (reading.faults, reading.major_faults) = (file.faults, file.major_faults);
                    (reading.shmem, reading.slab_reclaimable) = (file.shmem, file.slab_reclaimable);
                }
            }
            events.push(Event { at: now, what: EventKind::Memory { cgroup: record.cgroup, reading } });
        }
        self.by_pass.whole = whole;
        self.by_pass.pods_available = pods_available;
        // An event that reports it may still be in the ring; the walk finds what none will report.
        self.by_pass.unknown = if unknown { self.by_pass.unknown.saturating_add(1) } else { 0 };
        if self.by_pass.unknown >= DOUBTS {
            self.by_pass.unknown = 0;
            self.walk_wanted = true;
        }
        self.walk_wanted |= !reused.is_empty();
        for cgroup in reused {
            self.forget(now, cgroup, events);
        }
        self.lost(now, found.dropped, events);
        self.by_pass.complete = found.dropped == 0;
        if self.by_pass.complete {
            self.look_for_missing(run);
        }
    }

    /// Groups that no event said were removed, and that are no longer there: a walk that does not find them takes
    /// them out of all tables.
    fn look_for_missing(&mut self, run: u64) {
        for group in self.groups.values_mut().filter(|group| group.pass.run != run) {
            group.pass.missing += 1;
            if group.pass.missing > DOUBTS {
                group.pass.missing = 0;
                group.absent = true;
                self.walk_wanted = true;
            }
        }
    }

    fn forget(&mut self, now: Time, cgroup: CgroupId, events: &mut Vec<Event>) {
        self.groups.remove(&cgroup);
        events.push(Event { at: now, what: EventKind::CgroupRemoved { cgroup } });
    }

    fn lost(&mut self, now: Time, dropped: u64, events: &mut Vec<Event>) {
        if dropped > 0 {
            self.by_pass.dropped += dropped;
            let count = self.by_pass.dropped;
            events.push(Event { at: now, what: EventKind::Lost { at: Loss::PassTableFull, count } });
        }
    }

    /// Groups that move, and those whose last counts are to be read while their files are there.
    fn look_closely(&mut self, now: Time, pass: &mut Pass, events: &mut Vec<Event>) {
        let version = self.hierarchy.version;
        let page_size = rustix::param::page_size() as u64;
        let attention = mem::take(&mut self.by_pass.attention);
        let mut looked_at = 0;
        for cgroup in attention {
            let Some(group) = self.groups.get_mut(&cgroup) else { continue };
            if mem::take(&mut group.final_read) && group.is_container {
                match memory::reading(&self.hierarchy.directory(&group.path), version) {
                    Ok(reading) => {
                        (group.pass.stat_read, group.pass.stat_stale) = (Some(now), false);
                        events.push(Event { at: now, what: EventKind::Memory { cgroup, reading } });
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => self.unread.count_at(&group.path, &error),
                }
            }
            let moving = group.moved.is_some_and(|moved| now.since(moved) < MOVING);
            if !(moving && group.lives && group.is_container) || looked_at >= LOOKED_AT {
                group.pass.below = None;
                continue;
            }
            looked_at += 1;
            self.by_pass.attention.insert(cgroup);
            if group.pass.below.is_none() {
                group.pass.below = pass.below(&self.hierarchy.directory(&group.path)).ok();
            }
            // Gone: its removal is on the way.
            let Some(found) = group.pass.below.as_ref().and_then(|below| pass.run_below(below).ok()) else {
                continue;
            };
            let mut whole = mem::take(&mut self.by_pass.whole);
            table::whole(found.records, &mut whole);
            if let (Some(record), Some(sums)) = (found.records.first(), whole.first())
                && record.cgroup == cgroup
            {
                let usage = record.usage.saturating_mul(page_size);
                let fingerprint = table::fingerprint(record, sums);
                if usage.abs_diff(group.usage) > step(group.usage) {
                    group.moved = Some(now);
                }
                if mem::replace(&mut group.pass.fingerprint, fingerprint) != fingerprint {
                    (group.usage, group.pass.reported, group.pass.stat_stale) = (usage, Some(now), true);
                    let reading = table::reading(record, sums, version, page_size);
                    events.push(Event { at: now, what: EventKind::Memory { cgroup, reading } });
                }
            }
            self.by_pass.whole = whole;
        }
    }
}

#[cfg(test)]
mod tests {
    use observer_ebpf::probes::cgroup_pass::CgroupRecord;

    use super::*;
    use crate::sources::cgroup::Hierarchy;
    use observer_core::model::event::CgroupVersion;

    const ID: CgroupId = 7;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    /// Knows one container, made at second 1; the tree was walked then.
    fn sampler() -> Sampler {
        let root = std::env::temp_dir().join("observer-no-such-tree");
        let mut sampler = Sampler::new(Hierarchy { version: CgroupVersion::V2, root, id: 0 }, false);
        sampler.walked = Some(at(1));
        sampler.walk_wanted = false;
        let made = EventKind::CgroupMade { cgroup: ID, path: "/jobs/one".into() };
        sampler.learn(&Event { at: at(1), what: made });
        sampler
    }

    fn record(cgroup: CgroupId, serial: u64) -> CgroupRecord {
        CgroupRecord { cgroup, serial, level: 2, populated: 1, usage: 100, ..CgroupRecord::default() }
    }

    fn fold(sampler: &mut Sampler, seconds: u64, records: &[CgroupRecord], dropped: u64) -> Vec<EventKind> {
        let mut events = Vec::new();
        sampler.fold(at(seconds), &Found { records, dropped }, &mut events);
        events.into_iter().map(|event| event.what).collect()
    }

    /// The kernel's ids come round; serial numbers do not.
    #[test]
    fn an_id_used_again_is_another_group() {
        let mut sampler = sampler();
        assert!(fold(&mut sampler, 2, &[record(ID, 1)], 0).is_empty(), "nothing of it is known to live");
        let events = fold(&mut sampler, 3, &[record(ID, 2)], 0);
        assert_eq!(events, [EventKind::CgroupRemoved { cgroup: ID }]);
        assert!(!sampler.knows(ID));
        assert!(sampler.walk_is_due(at(3)), "who has the id now is found by the walk");
    }

    #[test]
    fn a_group_that_vanished_unseen_is_looked_for_and_not_ended() {
        let mut sampler = sampler();
        fold(&mut sampler, 2, &[record(ID, 1)], 0);
        for seconds in 3..=4 {
            assert!(fold(&mut sampler, seconds, &[], 0).is_empty());
            assert!(!sampler.walk_is_due(at(seconds)), "its removal may be on the way");
        }
        fold(&mut sampler, 5, &[], 0);
        assert!(sampler.walk_is_due(at(5)));
        assert!(sampler.groups[&ID].absent, "the walk that does not find it either is enough");
        assert!(sampler.knows(ID), "only the walk or the kernel says that it is gone");
    }

    #[test]
    fn the_tree_is_not_walked_while_the_pass_finds_all() {
        let mut sampler = sampler();
        assert!(sampler.walk_is_due(at(62)), "there is no pass");
        fold(&mut sampler, 2, &[record(ID, 1)], 0);
        assert!(!sampler.walk_is_due(at(62)));
        assert!(sampler.walk_is_due(at(3602)), "now and then anyway");
        fold(&mut sampler, 3, &[record(ID, 1)], 1);
        assert!(sampler.walk_is_due(at(62)), "one may have found no room");
    }

    #[test]
    fn what_found_no_room_is_counted_and_not_taken_for_gone() {
        let mut sampler = sampler();
        fold(&mut sampler, 2, &[record(ID, 1)], 0);
        for (seconds, count) in [(3, 5), (4, 10), (5, 15), (6, 20)] {
            let lost = EventKind::Lost { at: Loss::PassTableFull, count };
            assert_eq!(fold(&mut sampler, seconds, &[], 5), [lost]);
        }
        assert!(!sampler.walk_is_due(at(6)));
    }

    /// A container that lives shortly is followed as long as it lives, not for half a minute.
    #[test]
    fn a_birth_is_over_with_its_container() {
        let mut sampler = sampler();
        assert!(sampler.has_births(at(2)));
        let emptied = EventKind::CgroupEmptied { cgroup: ID, usage: 0, watermark: 0, oom_kills: None };
        sampler.learn(&Event { at: at(3), what: emptied });
        assert!(!sampler.has_births(at(3)));
        let attached = EventKind::CgroupAttached { cgroup: ID, path: "/jobs/one".into(), pid: 1 };
        sampler.learn(&Event { at: at(4), what: attached });
        assert!(sampler.has_births(at(5)), "a restart in the same group");
        assert!(!sampler.has_births(at(60)), "and no longer than until it is known");
    }
}
