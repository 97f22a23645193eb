//! When to read which cgroup's files. Fed with the kernel's own events, so that reading follows what moves.
//!
//! Pushed points show all growth that faults. What they miss is read from files: memory given back, page cache filled
//! by read(2), kernel memory, and the split into anonymous and cache. A young group that has just moved is read every
//! 20 ms (usage) and 100 ms (all), an old one that moved every 100 ms; at rest a young one every second, an old one
//! every 15 seconds. Where the kernel can run the pass (`by_pass.rs`), files are read only when something ended, and
//! now and then for what they alone count.

mod by_pass;
mod part;
pub mod table;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    sync::Arc,
    time::Duration,
};

use crate::sources::{
    cgroup::{Hierarchy, is_gone, memory, tree},
    kernel::pass::{Below, Pass},
    unread::Unread,
};
use observer_core::{
    attribution::cgroup_path,
    model::{
        container::CgroupId,
        event::{Event, EventKind, Limit, MemoryLevels, MemoryReading, Totals},
        time::Time,
    },
};

/// How often [`Sampler::sample`] wants to be called while something young moves or has just ended, and while anything
/// else moves, something starts, or may have been missed: [`Sampler::pace`]. Else it is called when the next pass is
/// due: [`Sampler::rests_until`].
pub const FAST: Duration = Duration::from_millis(20);
pub const SLOW: Duration = Duration::from_millis(100);
/// What is due within this time is done now, so that one wake-up serves all.
pub const SLACK: Duration = Duration::from_millis(20);

/// A group is moving for this long after its last point.
const MOVING: Duration = Duration::from_millis(500);
/// What started a minute ago at the most is looked at for so long after its last point: the end of a spike makes no
/// event, and what was lent for it is given back when it is seen.
const EARLY: Duration = Duration::from_secs(60);
const MAY_FALL: Duration = Duration::from_secs(5);
/// Full readings (memory.stat costs a flush of the per-CPU counters).
const EVERY_MOVING: Duration = Duration::from_millis(100);
const EVERY_YOUNG: Duration = Duration::from_secs(1);
const EVERY_OLD: Duration = Duration::from_secs(15);
/// The start-up horizon: see [`observer_core::container::stability::HORIZON_SECONDS`].
const YOUNG: Duration = Duration::from_secs(600);
/// At most one walk of the whole tree in this time, however many unknown ids turn up.
const EVERY_WALK: Duration = Duration::from_secs(1);
/// After records were lost, a walk finds what they reported. Seldom: whoever floods the ring would have it walked
/// all the time.
const EVERY_REPAIR: Duration = Duration::from_secs(5);
/// Growth is followed this long after a container's group was made, unless it is over before: until its first process
/// came and, of a pod, until the API said whose it is.
const AFTER_BIRTH: Duration = Duration::from_secs(30);
/// The tree is walked this often anyway: it takes some 50 us a group.
const EVERY_CHECK: Duration = Duration::from_secs(60);
/// The same while each pass finds every group there is, and so asks for a walk itself where it disagrees.
const EVERY_CHECK_OF_PASS: Duration = Duration::from_secs(3600);

/// What a walk of the tree brought beside events.
pub struct Walked {
    /// As [`Sampler::learn`] returns them.
    pub marks: Vec<(CgroupId, u32)>,
    /// All groups of the host were looked at: what was not found is not there.
    pub complete: bool,
}

pub struct Sampler {
    hierarchy: Hierarchy,
    /// Where only a part of the tree is seen.
    part: Option<part::Part>,
    groups: HashMap<CgroupId, Group>,
    /// Groups that no path can name ([`tree::Walk::deep`]): there, but not measured.
    deep: HashSet<CgroupId>,
    /// Containers among the groups, by path.
    containers: HashMap<Arc<str>, CgroupId>,
    walked: Option<Time>,
    walk_wanted: bool,
    missed_records: bool,
    unread: Unread,
    paths_not_found: u64,
    pods_available: Option<u64>,
    /// Without the cgroup probe the walk is the only news of the tree.
    only_walks: bool,
    by_pass: by_pass::State,
    /// When the group of a container that has not ended since was made or populated.
    births: HashMap<CgroupId, Time>,
}

struct Group {
    path: Arc<str>,
    /// Its container's cgroup is itself.
    is_container: bool,
    /// Has or had processes of its own or below.
    lives: bool,
    /// Something ended here: what its files count is read once more, while they are there.
    final_read: bool,
    born: Option<Time>,
    moved: Option<Time>,
    read: Option<Time>,
    usage: u64,
    holds_all_pods: bool,
    /// What runs in groups below it is its own: a directory of jobs is no job.
    lives_below: bool,
    /// The last walk did not find it.
    absent: bool,
    pass: by_pass::Known,
}

impl Group {
    fn is_young(&self, now: Time) -> bool {
        self.born.is_some_and(|born| now.since(born) < YOUNG)
    }

    fn is_moving(&self, now: Time) -> bool {
        self.moved.is_some_and(|moved| now.since(moved) < MOVING)
    }

    fn is_watched(&self, now: Time) -> bool {
        let is_early = self.born.is_some_and(|born| now.since(born) < EARLY);
        self.is_moving(now) || (is_early && self.moved.is_some_and(|moved| now.since(moved) < MAY_FALL))
    }
}

impl Sampler {
    pub fn new(hierarchy: Hierarchy, only_walks: bool) -> Self {
        Self {
            part: hierarchy.is_part().then(part::Part::default),
            hierarchy,
            groups: HashMap::new(),
            deep: HashSet::new(),
            containers: HashMap::new(),
            walked: None,
            walk_wanted: true,
            missed_records: false,
            unread: Unread::new("the cgroup tree"),
            paths_not_found: 0,
            pods_available: None,
            only_walks,
            by_pass: by_pass::State::default(),
            births: HashMap::new(),
        }
    }

    /// Finds the path of an event whose record had no room for it ([`crate::sources::kernel::ring`]): it is in the
    /// tree, under its id. `false`: it is not there any more, or could not be looked for; what is known of it comes
    /// with the next walk. Or it is outside of the part of the tree that is seen.
    pub fn complete(&mut self, event: &mut Event) -> bool {
        let (EventKind::CgroupMade { cgroup, path }
        | EventKind::CgroupPopulated { cgroup, path }
        | EventKind::CgroupAttached { cgroup, path, .. }) = &mut event.what
        else {
            return true;
        };
        if self.deep.contains(cgroup) {
            return false;
        }
        if let Some(part) = &mut self.part
            && !part.translate(&self.hierarchy, *cgroup, path)
        {
            return false;
        }
        let cut = path.is_empty() || path.len() > 1 && path.ends_with('/');
        if !cut {
            return true;
        }
        if let Some(group) = self.groups.get(cgroup) {
            *path = group.path.to_string();
            return true;
        }
        match tree::find(&self.hierarchy, path, *cgroup) {
            Ok(Some(found)) => {
                *path = found;
                return true;
            }
            Ok(None) => {}
            Err(error) => self.unread.count_at(path, &error),
        }
        self.paths_not_found += 1;
        self.walk_wanted = true;
        false
    }

    /// The kernel's ring was full: groups may have come and gone unseen.
    pub fn missed_records(&mut self) {
        self.missed_records = true;
        self.by_pass.look_at_all();
    }

    /// Whether the cgroup is there, as far as is known.
    pub fn knows(&self, cgroup: CgroupId) -> bool {
        self.groups.contains_key(&cgroup) || self.deep.contains(&cgroup)
    }

    /// Reads of the tree that failed, since the start.
    pub fn unread(&self) -> u64 {
        self.unread.total()
    }

    pub fn paths_not_found(&self) -> u64 {
        self.paths_not_found
    }

    /// Whether a container's group was made or populated a moment ago: then memory grows.
    pub fn has_births(&mut self, now: Time) -> bool {
        self.births.retain(|_, born| now.since(*born) < AFTER_BIRTH);
        !self.births.is_empty()
    }

    /// Learns from an event of the kernel's. Returns the mark of a cgroup seen for the first time: how many levels it
    /// is below its container.
    pub fn learn(&mut self, event: &Event) -> Option<(CgroupId, u32)> {
        let at = event.at;
        match &event.what {
            EventKind::CgroupMade { cgroup, path } | EventKind::CgroupPopulated { cgroup, path } => {
                self.insert(*cgroup, path, Some(at), false)
            }
            EventKind::CgroupAttached { cgroup, path, .. } => {
                let mark = self.insert(*cgroup, path, Some(at), false);
                // A restart in the group it had before.
                if self.groups.get(cgroup).is_some_and(|group| group.is_container && !group.lives) {
                    self.births.insert(*cgroup, at);
                }
                self.lives(*cgroup);
                self.by_pass.again.insert(*cgroup);
                mark
            }
            EventKind::CgroupRemoved { cgroup } => {
                self.remove(*cgroup);
                self.births.remove(cgroup);
                None
            }
            EventKind::CgroupEmptied { cgroup, .. } => {
                self.births.remove(cgroup);
                if let Some(group) = self.groups.get_mut(cgroup) {
                    (group.lives, group.final_read) = (false, true);
                    self.by_pass.attention.insert(*cgroup);
                }
                None
            }
            EventKind::OomKill(kill) => {
                for level in &kill.levels {
                    if let Some(group) = self.groups.get_mut(&level.cgroup) {
                        group.final_read = true;
                        self.by_pass.attention.insert(level.cgroup);
                    }
                }
                None
            }
            EventKind::Usage { cgroup, usage, .. } => {
                if let Some(group) = self.groups.get_mut(cgroup) {
                    (group.moved, group.usage) = (Some(at), *usage);
                    self.by_pass.attention.insert(*cgroup);
                }
                self.lives(*cgroup);
                None
            }
            EventKind::Exec { cgroup, .. } => {
                self.lives(*cgroup);
                None
            }
            _ => None,
        }
    }

    fn insert(
        &mut self,
        cgroup: CgroupId,
        path: &str,
        born: Option<Time>,
        lives: bool,
    ) -> Option<(CgroupId, u32)> {
        if self.groups.contains_key(&cgroup) {
            return None;
        }
        let owner = cgroup_path::owner(path);
        let is_container = owner.as_ref().is_some_and(|owner| owner.below == 0);
        let path: Arc<str> = path.into();
        if is_container {
            self.containers.insert(Arc::clone(&path), cgroup);
        }
        let group = Group {
            is_container,
            lives,
            final_read: false,
            born,
            moved: None,
            read: None,
            usage: 0,
            holds_all_pods: cgroup_path::holds_all_pods(&path),
            path,
            lives_below: owner.as_ref().is_some_and(|owner| owner.kind != cgroup_path::Kind::Plain),
            absent: false,
            pass: by_pass::Known::default(),
        };
        if let Some(born) = born.filter(|_| is_container) {
            self.births.insert(cgroup, born);
        }
        self.groups.insert(cgroup, group);
        owner.map(|owner| (cgroup, owner.below))
    }

    /// See [`observer_core::model::event::NodeReading::pods_available`]. Inactive file cache is given up before anybody
    /// is killed.
    pub fn pods_available(&mut self) -> Option<u64> {
        // One, or more where nodes are containers of this host.
        if self.by_pass.works() {
            return self.by_pass.pods_available();
        }
        let of_all_pods = self.groups.values().filter(|group| group.holds_all_pods);
        let mut least: Option<u64> = None;
        for group in of_all_pods {
            let directory = self.hierarchy.directory(&group.path);
            match memory::reading(&directory, self.hierarchy.version) {
                Ok(reading) => {
                    let limit = reading.levels.limit.and_then(Limit::bytes);
                    let available = limit.map(|limit| limit.saturating_sub(reading.levels.working_set()));
                    least = least.into_iter().chain(available).min();
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    self.unread.count_at(&group.path, &error);
                    return self.pods_available;
                }
            }
        }
        self.pods_available = least;
        least
    }

    /// Something runs in this group: so its container lives.
    fn lives(&mut self, cgroup: CgroupId) {
        let Some(group) = self.groups.get_mut(&cgroup) else {
            // What is outside of the part that is seen no walk finds, and what no path names it does not report.
            self.walk_wanted |= self.part.is_none() && !self.deep.contains(&cgroup);
            return;
        };
        if group.is_container {
            group.lives = true;
            return;
        }
        let owner = cgroup_path::owner(&group.path).and_then(|owner| self.containers.get(owner.path));
        if let Some(owner) = owner.copied().and_then(|owner| self.groups.get_mut(&owner)) {
            owner.lives = true;
        }
    }

    fn remove(&mut self, cgroup: CgroupId) {
        self.deep.remove(&cgroup);
        if let Some(group) = self.groups.remove(&cgroup) {
            unindex(&mut self.containers, cgroup, &group);
        }
    }

    /// At start, when an unknown id turned up, and now and then.
    pub fn walk_is_due(&self, now: Time) -> bool {
        let every =
            match (self.walk_wanted || (self.only_walks && !self.by_pass.works()), self.missed_records) {
                (true, _) => EVERY_WALK,
                (false, true) => EVERY_REPAIR,
                (false, false) if self.by_pass.finds_all() => EVERY_CHECK_OF_PASS,
                (false, false) => EVERY_CHECK,
            };
        self.walked.is_none_or(|walked| now.since(walked) >= every)
    }

    /// Walks the tree. `free` is called with each group that is gone, and returns its last totals.
    pub fn walk(
        &mut self,
        now: Time,
        events: &mut Vec<Event>,
        mut free: impl FnMut(CgroupId) -> Option<Totals>,
    ) -> Walked {
        let first = self.walked.is_none();
        self.walked = Some(now);
        (self.walk_wanted, self.missed_records) = (false, false);
        let walk = tree::walk(&self.hierarchy);
        for tree::Unread { path, error } in &walk.unread {
            self.unread.count_at(path, error);
        }
        let deep: HashSet<CgroupId> = walk.deep.iter().copied().collect();
        for _ in deep.difference(&self.deep) {
            self.unread.count(&io::Error::new(
                io::ErrorKind::InvalidFilename,
                "groups are nested too deeply to be named by a path, and are not measured",
            ));
        }
        self.deep = deep;
        let there: HashSet<CgroupId> = walk.found.iter().map(|found| found.cgroup).collect();
        let (only_walks, mut unconfirmed) = (self.only_walks, false);
        let gone = self.groups.extract_if(|cgroup, group| {
            let was_absent = group.absent;
            group.absent = !there.contains(cgroup) && walk.covers(&group.path);
            // What happened to it before it went may still be in the ring: the next walk confirms.
            unconfirmed |= group.absent && !was_absent && !only_walks;
            group.absent && (was_absent || only_walks)
        });
        for (cgroup, group) in gone {
            unindex(&mut self.containers, cgroup, &group);
            let totals = free(cgroup).map(|totals| EventKind::Totals { cgroup, totals });
            let removed = EventKind::CgroupRemoved { cgroup };
            events.extend(totals.into_iter().chain([removed]).map(|what| Event { at: now, what }));
        }
        // Where the pass finds all, it says which of them stay away.
        self.walk_wanted = unconfirmed && !self.by_pass.finds_all();
        // Of a cgroup namespace only a part is seen.
        let whole = walk.found.first().is_some_and(|root| root.cgroup == tree::ROOT);
        let mut walked = Walked { marks: Vec::new(), complete: whole && walk.unread.is_empty() };
        for tree::Found { cgroup, path, populated } in walk.found {
            if self.groups.contains_key(&cgroup) {
                self.emptied_or_populated(now, cgroup, populated, events);
                continue;
            }
            let born = (!first).then_some(now);
            walked.marks.extend(self.insert(cgroup, &path, born, populated));
            let what = match first {
                true => EventKind::CgroupSeeded { cgroup, path, populated },
                false => EventKind::CgroupMade { cgroup, path: path.clone() },
            };
            events.push(Event { at: now, what });
            if !first && populated {
                self.populated(now, cgroup, events);
            }
        }
        walked
    }

    /// Without the probe, the walk reports who came and went.
    fn emptied_or_populated(
        &mut self,
        now: Time,
        cgroup: CgroupId,
        populated: bool,
        events: &mut Vec<Event>,
    ) {
        let Some(group) = self.groups.get_mut(&cgroup).filter(|_| self.only_walks) else { return };
        if group.lives == populated {
            return;
        }
        group.lives = populated;
        if populated {
            self.populated(now, cgroup, events);
        } else {
            // 0 is below every peak that is known.
            let watermark =
                match memory::reading(&self.hierarchy.directory(&group.path), self.hierarchy.version) {
                    Ok(reading) => reading.levels.watermark.unwrap_or(0),
                    Err(error) => {
                        if !is_gone(&error) {
                            self.unread.count_at(&group.path, &error);
                        }
                        0
                    }
                };
            let emptied = EventKind::CgroupEmptied { cgroup, usage: 0, watermark, oom_kills: None };
            events.push(Event { at: now, what: emptied });
        }
    }

    fn populated(&mut self, now: Time, cgroup: CgroupId, events: &mut Vec<Event>) {
        if let Some(group) = self.groups.get_mut(&cgroup) {
            group.lives = true;
            let path = group.path.to_string();
            events.push(Event { at: now, what: EventKind::CgroupAttached { cgroup, path, pid: 0 } });
        }
    }

    /// Reads what is due, by the pass where it runs, else from files.
    pub fn sample(&mut self, now: Time, events: &mut Vec<Event>) {
        if self.by_pass.works() {
            self.sample_by_pass(now, events);
        } else {
            self.sample_by_files(now, events);
        }
    }

    fn sample_by_files(&mut self, now: Time, events: &mut Vec<Event>) {
        for (&cgroup, group) in &mut self.groups {
            let final_read = std::mem::take(&mut group.final_read);
            if !group.is_container || !(group.lives || final_read) {
                continue;
            }
            let (moving, young) = (group.is_moving(now), group.is_young(now));
            let every = match (moving, young) {
                (true, _) => EVERY_MOVING,
                (_, true) => EVERY_YOUNG,
                _ => EVERY_OLD,
            };
            let due = final_read || group.read.is_none_or(|read| now.since(read) >= every);
            if !due && !moving {
                continue;
            }
            let directory = self.hierarchy.directory(&group.path);
            let reading = if due {
                group.read = Some(now);
                memory::reading(&directory, self.hierarchy.version)
            } else {
                memory::usage(&directory, self.hierarchy.version).map(|usage| MemoryReading {
                    levels: MemoryLevels { usage, ..MemoryLevels::default() },
                    ..MemoryReading::default()
                })
            };
            match reading {
                // The fast look reports nothing new while usage stands still.
                Ok(reading) if !due && reading.levels.usage == group.usage => {}
                Ok(reading) => {
                    if reading.levels.usage.abs_diff(group.usage) > step(group.usage) {
                        group.moved = Some(now);
                    }
                    group.usage = reading.levels.usage;
                    events.push(Event { at: now, what: EventKind::Memory { cgroup, reading } });
                }
                // Its removal is on the way.
                Err(error) if is_gone(&error) => group.lives = false,
                Err(error) => self.unread.count_at(&group.path, &error),
            }
        }
    }

    /// The time to the next look while something moves or has ended. The curve of a start-up is drawn by each look; of
    /// what started long ago nothing is asked that a tenth of a second would miss.
    pub fn pace(&self, now: Time) -> Option<Duration> {
        let draws = |group: &Group| group.is_young(now) && group.is_moving(now);
        let of = |group: &Group| if group.final_read || draws(group) { FAST } else { SLOW };
        if self.by_pass.works() {
            return self.by_pass.attention.iter().filter_map(|cgroup| self.groups.get(cgroup)).map(of).min();
        }
        self.groups.values().filter(|group| group.lives && group.is_moving(now)).map(of).min()
    }

    /// When the next pass is due, if nothing is to be looked at before, unless the kernel's events say so.
    pub fn rests_until(&self) -> Option<Time> {
        let settled = !(self.walk_wanted || self.missed_records || self.only_walks);
        self.by_pass.due().filter(|_| settled)
    }
}

/// Another may have been made at its path meanwhile.
fn unindex(containers: &mut HashMap<Arc<str>, CgroupId>, cgroup: CgroupId, group: &Group) {
    if containers.get(&group.path) == Some(&cgroup) {
        containers.remove(&group.path);
    }
}

/// The same step as the kernel's points.
fn step(usage: u64) -> u64 {
    use observer_ebpf::abi::{MIN_STEP_BYTES, STEP_RATIO_SHIFT};
    MIN_STEP_BYTES.max(usage >> STEP_RATIO_SHIFT)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use observer_core::model::event::CgroupVersion;

    #[test]
    fn a_group_is_gone_when_a_second_walk_does_not_find_it() {
        let root = std::env::temp_dir().join(format!("observer-walk-{}", std::process::id()));
        fs::create_dir_all(root.join("jobs/one")).unwrap();
        let hierarchy = || Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 0 };
        let id = {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(root.join("jobs/one")).unwrap().ino()
        };
        let walk = |sampler: &mut Sampler, seconds: u64| {
            let (mut events, mut freed) = (Vec::new(), Vec::new());
            let now = Time::from_nanos(seconds * 1_000_000_000);
            sampler.walk(now, &mut events, |cgroup| {
                freed.push(cgroup);
                None
            });
            let removed =
                |event: &Event| matches!(event.what, EventKind::CgroupRemoved { cgroup } if cgroup == id);
            (events.iter().filter(|event| removed(event)).count(), freed)
        };
        let (mut sampler, mut alone) = (Sampler::new(hierarchy(), false), Sampler::new(hierarchy(), true));
        walk(&mut sampler, 1);
        walk(&mut alone, 1);
        assert!(sampler.knows(id) && alone.knows(id));
        fs::remove_dir(root.join("jobs/one")).unwrap();

        // What happened to it before may still be in the ring.
        assert_eq!(walk(&mut sampler, 2), (0, vec![]));
        assert!(sampler.knows(id) && sampler.walk_is_due(Time::from_nanos(3_000_000_000)));
        assert_eq!(walk(&mut sampler, 3), (1, vec![id]));
        assert!(!sampler.knows(id));
        assert_eq!(walk(&mut sampler, 4), (0, vec![]));
        // Where walks are the only news, nothing is on its way.
        assert_eq!(walk(&mut alone, 2), (1, vec![id]));

        // One that is found again in between was not gone.
        fs::create_dir(root.join("jobs/two")).unwrap();
        walk(&mut sampler, 5);
        let (jobs, away) = (root.join("jobs"), root.with_extension("away"));
        fs::rename(&jobs, &away).unwrap();
        let known = sampler.groups.len();
        walk(&mut sampler, 6);
        fs::rename(&away, &jobs).unwrap();
        walk(&mut sampler, 7);
        assert!(sampler.groups.len() >= known && sampler.groups.values().all(|group| !group.absent));
        fs::rename(&jobs, &away).unwrap();
        let before = sampler.groups.len();
        walk(&mut sampler, 8);
        assert_eq!(sampler.groups.len(), before, "absent once since it was found");
        fs::remove_dir_all(root).unwrap();
        fs::remove_dir_all(away).unwrap();
    }

    #[test]
    fn a_process_below_a_container_shows_that_it_lives() {
        let hierarchy = Hierarchy { version: CgroupVersion::V2, root: "/nowhere".into(), id: 0 };
        let mut sampler = Sampler::new(hierarchy, false);
        let mut learn = |what: EventKind| sampler.learn(&Event { at: Time::from_nanos(1), what });
        let made = |cgroup, path: &str| EventKind::CgroupMade { cgroup, path: path.into() };
        let container = format!("/docker/{}", "ab".repeat(32));
        let worker = format!("{container}/worker");
        let exec = |cgroup| EventKind::Exec { cgroup, pid: 1, comm: "w".into(), watermark: 0, init: false };
        // The worker's record overtakes its container's.
        for what in [made(2, &worker), made(1, &container), exec(2)] {
            learn(what);
        }
        // Made again at the same place, before the end of the first is known.
        for what in [made(4, &worker), made(3, &container), EventKind::CgroupRemoved { cgroup: 1 }, exec(4)] {
            learn(what);
        }
        let lives = |cgroup| sampler.groups.get(&cgroup).map(|group| group.lives);
        assert_eq!([1, 3].map(lives), [None, Some(true)]);
        sampler.learn(&Event { at: Time::from_nanos(2), what: EventKind::CgroupRemoved { cgroup: 3 } });
        assert!(sampler.containers.is_empty());
    }

    #[test]
    fn what_started_long_ago_is_looked_at_less_often() {
        let hierarchy = Hierarchy { version: CgroupVersion::V2, root: "/nowhere".into(), id: 0 };
        let mut sampler = Sampler::new(hierarchy, false);
        let born = Time::from_nanos(1);
        let made = EventKind::CgroupMade { cgroup: 1, path: "/jobs/one".into() };
        sampler.learn(&Event { at: born, what: made });
        assert_eq!(sampler.pace(born), None);
        for (age, expected) in [(Duration::from_secs(1), FAST), (YOUNG, SLOW)] {
            let at = born.after(age);
            sampler.learn(&Event { at, what: EventKind::Usage { cgroup: 1, usage: 1, watermark: 1 } });
            assert_eq!(sampler.pace(at), Some(expected), "{age:?}");
            assert_eq!(sampler.pace(at.after(MOVING)), None, "it moves no more");
            let watched = |after| sampler.groups[&1].is_watched(at.after(after));
            let is_early = expected == FAST;
            assert!(watched(Duration::ZERO) && watched(MOVING) == is_early && !watched(MAY_FALL));
        }
        // An old one beside it that moves does not slow down a young one.
        let at = born.after(YOUNG);
        sampler.learn(&Event { at, what: EventKind::CgroupMade { cgroup: 2, path: "/jobs/two".into() } });
        sampler.learn(&Event { at, what: EventKind::Usage { cgroup: 2, usage: 1, watermark: 1 } });
        assert_eq!(sampler.pace(at), Some(FAST));
    }
}
