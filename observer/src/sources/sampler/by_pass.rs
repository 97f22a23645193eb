//! Sampling by the pass: all groups once a second from one run of a program, those that move by runs over them alone.
//!
//! No file is opened for a group at rest. memory.stat, whose fault counters no table holds, is read when something
//! ends, and at most once a minute of a group that changed.

use std::{collections::BTreeMap, mem, time::Duration};

use super::{BTreeSet, Below, FAST, Pass, SLACK, Sampler, step};
use observer_core::model::{
    container::CgroupId,
    event::{Event, EventKind, Loss},
    time::Time,
};
use observer_ebpf::probes::cgroup_pass::CgroupRecord;

use crate::sources::{
    cgroup::{is_gone, memory},
    kernel::pass::Found,
    sampler::table::{self, Rows, Whole},
};

/// Every group is looked at this often, changed or not, so that what holds is seen to hold.
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
    rows: Rows,
    /// Rows to look at, kept for its memory.
    touched: Vec<u32>,
    /// When every group was looked at last, unless something there is still to be settled.
    all_seen: Option<Time>,
    /// Groups to be looked at though their records did not change.
    pub(super) again: BTreeSet<CgroupId>,
    /// Of groups that hold all pods: what is left to them.
    rooms: BTreeMap<CgroupId, u64>,
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

    pub(super) fn pods_available(&self) -> Option<u64> {
        self.rooms.values().min().copied()
    }

    /// What the next pass finds unchanged may not be what is known here.
    pub(super) fn look_at_all(&mut self) {
        self.all_seen = None;
    }

    /// `None`: it does not run.
    pub(super) fn due(&self) -> Option<Time> {
        self.pass.as_ref()?;
        Some(self.ran.map_or(Time::default(), |ran| ran.after(self.every)))
    }
}

/// What the passes know of one group.
#[derive(Default)]
pub(super) struct Known {
    serial: Option<u64>,
    /// Its place in the table.
    row: u32,
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

/// What one pass left open.
#[derive(Default)]
struct Open {
    unknown: bool,
    doubt: bool,
    reused: Vec<CgroupId>,
    stats_read: usize,
}

impl Sampler {
    /// From now on the pass is what reports groups at rest.
    pub fn use_pass(&mut self, pass: Pass, every: Duration) {
        self.by_pass.pass = Some(pass);
        self.by_pass.every = every;
    }

    pub(super) fn sample_by_pass(&mut self, now: Time, events: &mut Vec<Event>) {
        let due = self.by_pass.due().is_some_and(|due| due <= now.after(SLACK));
        let Some(mut pass) = self.by_pass.pass.take() else { return };
        if due {
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

    /// One table of all groups into what is known of each. At rest only what changed is looked at.
    fn fold(&mut self, now: Time, found: &Found, events: &mut Vec<Event>) {
        let mut rows = mem::take(&mut self.by_pass.rows);
        let mut touched = mem::take(&mut self.by_pass.touched);
        touched.clear();
        let followed = rows.follow(found.records, found.changed, &mut touched);
        let recent = self.by_pass.all_seen.is_some_and(|seen| now.since(seen) < EVERY_SAME);
        let all = !(followed && recent);
        if all {
            self.by_pass.run += 1;
            self.by_pass.rooms.clear();
            touched.clear();
            touched.extend(0..found.records.len() as u32);
        } else if !self.by_pass.again.is_empty() {
            let row = |cgroup| self.groups.get(cgroup).map(|group| group.pass.row);
            touched.extend(self.by_pass.again.iter().filter_map(row));
            touched.sort_unstable();
            touched.dedup();
        }
        self.by_pass.again.clear();
        let mut open = Open::default();
        for &row in &touched {
            // A group that is not in the table has no row of its own.
            let Some(record) = found.records.get(row as usize) else { continue };
            self.look(now, row, record, &rows.whole(row), &mut open, events);
        }
        (self.by_pass.rows, self.by_pass.touched) = (rows, touched);
        // An event that reports it may still be in the ring; the walk finds what none will report.
        self.by_pass.unknown = if open.unknown { self.by_pass.unknown.saturating_add(1) } else { 0 };
        if self.by_pass.unknown >= DOUBTS {
            self.by_pass.unknown = 0;
            self.walk_wanted = true;
        }
        self.walk_wanted |= !open.reused.is_empty();
        let mut settled = !(open.unknown || open.doubt) && open.reused.is_empty();
        for cgroup in open.reused {
            self.forget(now, cgroup, events);
        }
        self.lost(now, found.dropped, events);
        self.by_pass.complete = found.dropped == 0;
        if self.by_pass.complete && all {
            settled &= !self.look_for_missing();
        }
        match settled {
            true if all => self.by_pass.all_seen = Some(now),
            true => {}
            false => self.by_pass.look_at_all(),
        }
    }

    /// One record into what is known of its group.
    fn look(
        &mut self,
        now: Time,
        row: u32,
        record: &CgroupRecord,
        whole: &Whole,
        open: &mut Open,
        events: &mut Vec<Event>,
    ) {
        let cgroup = record.cgroup;
        let version = self.hierarchy.version;
        let page_size = rustix::param::page_size() as u64;
        let Some(group) = self.groups.get_mut(&cgroup) else {
            open.unknown |= !self.deep.contains(&cgroup);
            return;
        };
        if group.pass.serial.is_some_and(|serial| serial != record.serial) {
            open.reused.push(cgroup);
            return;
        }
        group.pass.serial = Some(record.serial);
        (group.pass.row, group.pass.run, group.pass.missing) = (row, self.by_pass.run, 0);
        if group.holds_all_pods {
            let reading = table::reading(record, whole, version, page_size);
            match reading.levels.limit.and_then(|limit| limit.bytes()) {
                Some(limit) => {
                    let room = limit.saturating_sub(reading.levels.working_set());
                    self.by_pass.rooms.insert(cgroup, room);
                }
                None => drop(self.by_pass.rooms.remove(&cgroup)),
            }
        }
        if !group.is_container {
            return;
        }
        // Without the probe the pass reports who came and went; with it, only what its events lost.
        let lives = record.populated > 0 || (whole.is_populated() && group.lives_below);
        let doubt = lives != group.lives;
        group.pass.doubt = if doubt { group.pass.doubt + 1 } else { 0 };
        if doubt && (self.only_walks || group.pass.doubt > DOUBTS) {
            (group.lives, group.pass.doubt) = (lives, 0);
            let path = group.path.to_string();
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
        open.doubt |= group.pass.doubt > 0;
        if !group.lives {
            return;
        }
        let usage = record.usage.saturating_mul(page_size);
        if group.pass.reported.is_some() && usage.abs_diff(group.usage) > step(group.usage) {
            group.moved = Some(now);
            self.by_pass.attention.insert(cgroup);
        }
        group.usage = usage;
        let fingerprint = table::fingerprint(record, whole);
        let changed = mem::replace(&mut group.pass.fingerprint, fingerprint) != fingerprint;
        group.pass.stat_stale |= changed;
        let every_stat = if group.is_young(now) { EVERY_STAT_YOUNG } else { EVERY_STAT };
        let stat_due = group.pass.stat_stale
            && group.pass.stat_read.is_none_or(|read| now.since(read) >= every_stat)
            && open.stats_read < STATS_AT_ONCE;
        if group.pass.stat_stale && !stat_due {
            self.by_pass.again.insert(cgroup);
        }
        let due = changed
            || stat_due
            || group.pass.reported.is_none_or(|reported| now.since(reported) >= EVERY_SAME);
        if !due {
            return;
        }
        group.pass.reported = Some(now);
        let mut reading = table::reading(record, whole, version, page_size);
        if stat_due {
            open.stats_read += 1;
            (group.pass.stat_read, group.pass.stat_stale) = (Some(now), false);
            let stat = memory::stat_of(&self.hierarchy.directory(&group.path), version);
            if let (Some(reading), Some(file)) = (&mut reading.levels.stat, stat) {
                (reading.faults, reading.major_faults) = (file.faults, file.major_faults);
                (reading.shmem, reading.slab_reclaimable) = (file.shmem, file.slab_reclaimable);
            }
        }
        events.push(Event { at: now, what: EventKind::Memory { cgroup, reading } });
    }

    /// Groups that no event said were removed, and that are no longer there: a walk that does not find them takes
    /// them out of all tables. Whether there are any.
    fn look_for_missing(&mut self) -> bool {
        let (run, mut any) = (self.by_pass.run, false);
        for group in self.groups.values_mut().filter(|group| group.pass.run != run) {
            any = true;
            group.pass.missing += 1;
            if group.pass.missing > DOUBTS {
                group.pass.missing = 0;
                group.absent = true;
                self.walk_wanted = true;
            }
        }
        any
    }

    fn forget(&mut self, now: Time, cgroup: CgroupId, events: &mut Vec<Event>) {
        self.remove(cgroup);
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
            if !(group.is_watched(now) && group.lives && group.is_container) || looked_at >= LOOKED_AT {
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
            if let Some(record) = found.records.first().filter(|record| record.cgroup == cgroup) {
                let sums = table::whole_of_first(found.records);
                let usage = record.usage.saturating_mul(page_size);
                let fingerprint = table::fingerprint(record, &sums);
                if usage.abs_diff(group.usage) > step(group.usage) {
                    group.moved = Some(now);
                }
                if mem::replace(&mut group.pass.fingerprint, fingerprint) != fingerprint {
                    (group.usage, group.pass.reported, group.pass.stat_stale) = (usage, Some(now), true);
                    let reading = table::reading(record, &sums, version, page_size);
                    events.push(Event { at: now, what: EventKind::Memory { cgroup, reading } });
                    self.by_pass.again.insert(cgroup);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use observer_ebpf::probes::cgroup_pass::CgroupRecord;

    use super::*;
    use crate::sources::cgroup::{Hierarchy, tree};
    use observer_core::model::event::CgroupVersion;

    const ID: CgroupId = 7;

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn at_rest_only_what_changed_is_looked_at_and_all_now_and_then() {
        const OTHER: CgroupId = 8;
        let mut sampler = sampler();
        for (cgroup, path) in [(ID, "/jobs/one"), (OTHER, "/jobs/other")] {
            let attached = EventKind::CgroupAttached { cgroup, path: path.into(), pid: 1 };
            sampler.learn(&Event { at: at(1), what: attached });
        }
        let mut records = [record(ID, 1), record(OTHER, 2)];
        let mut pass = |seconds, records: &[CgroupRecord], changed: Option<&[u64]>| {
            let mut events = Vec::new();
            sampler.fold(at(seconds), &Found { records, changed, dropped: 0 }, &mut events);
            let of = |event: &Event| match &event.what {
                EventKind::Memory { cgroup, reading } => Some((*cgroup, reading.levels.usage)),
                _ => None,
            };
            events.iter().filter_map(of).collect::<Vec<_>>()
        };
        let page = rustix::param::page_size() as u64;
        assert_eq!(pass(2, &records, None), [(ID, 100 * page), (OTHER, 100 * page)]);
        for seconds in 3..=60 {
            assert!(pass(seconds, &records, Some(&[])).is_empty());
        }
        records[1].usage = 101;
        assert_eq!(pass(61, &records, Some(&[1])), [(OTHER, 101 * page)]);
        assert_eq!(pass(62, &records, Some(&[])), [(ID, 100 * page)], "that it holds");
        assert!(pass(63, &records, Some(&[])).is_empty());
        assert_eq!(pass(121, &records, Some(&[])), [], "the whole was looked at a minute before");
        assert_eq!(pass(122, &records, Some(&[])), [(ID, 100 * page), (OTHER, 101 * page)]);
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
        sampler.fold(at(seconds), &Found { records, changed: None, dropped }, &mut events);
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
    fn a_group_deeper_than_a_path_is_counted_once_and_asks_for_no_walk() {
        let root = std::env::temp_dir().join(format!("observer-pass-deep-{}", std::process::id()));
        let deep = *tree::nest(&root, 20).last().unwrap();
        let hierarchy = Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 };
        let mut sampler = Sampler::new(hierarchy, false);
        let walk = |sampler: &mut Sampler, seconds| {
            sampler.walk(at(seconds), &mut Vec::new(), |_| None);
            sampler.unread()
        };
        let counted = walk(&mut sampler, 1);
        assert!(counted > 0 && sampler.knows(deep) && !sampler.groups.contains_key(&deep));
        assert_eq!(walk(&mut sampler, 2), counted);
        let there = sampler.groups.keys().chain([&deep]);
        let there: Vec<CgroupRecord> =
            there.map(|cgroup| CgroupRecord { populated: 0, ..record(*cgroup, 1) }).collect();
        for seconds in 3..9 {
            let path = format!("/{}/", "d".repeat(242)); // as a record cuts it
            let attached = EventKind::CgroupAttached { cgroup: deep, path, pid: 1 };
            assert!(!sampler.complete(&mut Event { at: at(seconds), what: attached }));
            let usage = EventKind::Usage { cgroup: deep, usage: 1, watermark: 1 };
            sampler.learn(&Event { at: at(seconds), what: usage });
            fold(&mut sampler, seconds, &there, 0);
            assert!(!sampler.walk_is_due(at(seconds + 1)) && sampler.by_pass.all_seen.is_some());
        }
        sampler.learn(&Event { at: at(9), what: EventKind::CgroupRemoved { cgroup: deep } });
        assert!(!sampler.knows(deep));
        std::fs::remove_dir_all(root).unwrap();
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
