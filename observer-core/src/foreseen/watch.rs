//! Follows every container alive: what it holds that the kernel cannot take back, and what its limits leave it.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use crate::{
    attribution::Attribution,
    container::{Containers, lifecycle::Lifecycle},
    foreseen::{
        approach::{Approach, News, Room},
        remaining::UnderWay,
    },
    history::Histories,
    model::{
        container::{CgroupId, Container, Workload},
        finding::{Finding, FindingKind, LimitAhead, LimitKind, Measured},
        past_startup::PastStartup,
        time::Time,
    },
    node::watch::NodeWatch,
};

/// A container that grows is looked at this often. Seconds.
const LOOK_SECONDS: f64 = 0.2;
/// Of what usage grew by between two readings, more than this share was file cache: points between readings, which show
/// usage alone, say nothing of what the kernel cannot take back. Percent.
const CACHE_PERCENT: u64 = 20;

/// What did not change for so long is on its way to nothing until it does. Seconds.
const RESTS: f64 = 60.0;

#[derive(Debug, Default)]
pub struct LimitWatch {
    /// Of containers alive: no more than there are.
    approaches: BTreeMap<CgroupId, Box<Followed>>,
    /// Of them, those that changed a moment ago, or of which something was reported. A tick touches no other.
    moving: BTreeSet<CgroupId>,
}

#[derive(Debug, Default)]
struct Followed {
    approach: Approach,
    /// What was pushed last, and since when it is so.
    level: u64,
    changed: f64,
    looked: f64,
    reported: f64,
    /// As last read.
    usage: u64,
    unreclaimable: u64,
    reads_files: bool,
}

/// What the other stages know.
pub struct Known<'a> {
    pub containers: &'a Containers,
    pub attribution: &'a Attribution,
    pub histories: &'a Histories,
    pub node: &'a NodeWatch,
}

impl LimitWatch {
    pub fn follow(&mut self, known: &Known, out: &mut Vec<Finding>) {
        let mut more = Vec::new();
        let mut moved = None;
        for finding in out.iter() {
            let at = finding.at;
            match &finding.what {
                FindingKind::Point { container, usage } => {
                    self.used(at, container.cgroup, *usage);
                    moved = Some((at, container.cgroup));
                }
                FindingKind::Measured(measured) => self.measured(at, measured),
                FindingKind::Started(started) => self.over(at, &started.container, &mut more),
                FindingKind::Ended(ended) => self.over(at, &ended.container, &mut more),
                FindingKind::Node(_) => self.tick(at, known, &mut more),
                _ => {}
            }
        }
        // Events of a container that was held are followed at once: what is known of it is as of the last of them.
        if let Some((at, cgroup)) = moved
            && let Some(followed) = self.approaches.get_mut(&cgroup)
        {
            followed.look(at, cgroup, known, &mut more);
        }
        out.append(&mut more);
    }

    /// A point between two readings of the kinds of memory.
    fn used(&mut self, at: Time, cgroup: CgroupId, usage: u64) {
        let followed = match self.approaches.entry(cgroup) {
            // Its process may leave before anything starts, so that nothing ends: it is followed once it takes a page.
            Entry::Vacant(_) if usage == 0 => return,
            entry => entry.or_default(),
        };
        if !followed.reads_files {
            let cache = followed.usage.saturating_sub(followed.unreclaimable);
            if followed.push(at, usage.saturating_sub(cache)) {
                self.moving.insert(cgroup);
            }
        }
    }

    fn measured(&mut self, at: Time, measured: &Measured) {
        let Some(followed) = self.approaches.get_mut(&measured.container.cgroup) else { return };
        let (usage, unreclaimable) = (measured.levels.usage, measured.levels.unreclaimable());
        let grown = usage.saturating_sub(followed.usage);
        let cache = (usage - unreclaimable.min(usage))
            .saturating_sub(followed.usage.saturating_sub(followed.unreclaimable));
        let reads_files = cache > grown / 100 * CACHE_PERCENT && cache > usage / 100;
        if reads_files && !followed.reads_files {
            followed.approach.forget(); // the points since the last reading were of cache
        }
        (followed.usage, followed.unreclaimable, followed.reads_files) = (usage, unreclaimable, reads_files);
        if followed.push(at, unreclaimable) {
            self.moving.insert(measured.container.cgroup);
        }
    }

    /// What no event comes of, comes to rest, too.
    fn tick(&mut self, at: Time, known: &Known, out: &mut Vec<Finding>) {
        self.moving.retain(|cgroup| {
            let life = known.containers.life(*cgroup).filter(|life| life.is_live());
            let (Some(life), Some(followed)) = (life, self.approaches.get_mut(cgroup)) else {
                self.approaches.remove(cgroup);
                return false;
            };
            followed.push(at, life.unreclaimable());
            followed.look(at, *cgroup, known, out);
            followed.reported > 0.0 || at.seconds() - followed.changed < RESTS
        });
    }

    fn over(&mut self, at: Time, container: &Container, out: &mut Vec<Finding>) {
        if self.approaches.remove(&container.cgroup).is_some_and(|followed| followed.reported > 0.0) {
            out.push(over(at, container));
        }
    }
}

impl Followed {
    /// Whether it is another level than the one before.
    fn push(&mut self, at: Time, level: u64) -> bool {
        let changed = self.level != level;
        if changed {
            (self.level, self.changed) = (level, at.seconds());
        }
        self.approach.push(at.seconds(), level);
        changed
    }

    fn look(&mut self, at: Time, cgroup: CgroupId, known: &Known, out: &mut Vec<Finding>) {
        let now = at.seconds();
        if now - self.looked < LOOK_SECONDS {
            return;
        }
        self.looked = now;
        let Some(life) = known.containers.life(cgroup) else { return };
        let container = life.container();
        let start = under_way(life, at);
        let past: &[PastStartup] = match start {
            Some(_) => known.histories.get(&Workload::of(&container.labels)),
            None => &[],
        };
        let news = self.approach.look(now, &rooms(life, known), start.as_ref(), past);
        let (ahead, news) = match news {
            News::None => return,
            News::Over => {
                self.reported = 0.0;
                return out.push(over(at, container));
            }
            News::Began(ahead) => (ahead, true),
            News::GoesOn(ahead) if now - self.reported >= 1.0 => (ahead, false),
            News::GoesOn(_) => return,
        };
        self.reported = now;
        let ahead = LimitAhead {
            container: container.clone(),
            limit: ahead.limit,
            bytes: ahead.bytes,
            in_seconds: ahead.in_seconds,
            confidence: ahead.confidence,
            by: ahead.by,
            news,
        };
        out.push(Finding { at, what: FindingKind::LimitAhead(ahead) });
    }
}

fn under_way(life: &Lifecycle, at: Time) -> Option<UnderWay<'_>> {
    let curve = life.curve().filter(|_| life.is_starting())?;
    Some(UnderWay {
        age: life.age(at)?,
        usage: life.unreclaimable(),
        span: curve.width(),
        curve: curve.highest(),
    })
}

fn over(at: Time, container: &Container) -> Finding {
    Finding { at, what: FindingKind::LimitAheadOver { container: container.clone() } }
}

/// The levels of the container's own memory at which its limits are met, while the others stay as they are.
fn rooms(life: &Lifecycle, known: &Known) -> Vec<Room> {
    let held = life.unreclaimable();
    let cgroup = life.container().cgroup;
    let mut rooms = Vec::with_capacity(3);
    if let Some(bytes) = life.limit().and_then(|limit| limit.bytes()) {
        rooms.push(Room { limit: LimitKind::Container, bytes });
    }
    if let Some((pod, _)) = known.attribution.pod_of(cgroup)
        && let Some(limit) = pod.memory_limit
    {
        let ids = pod.containers.iter().filter_map(|container| container.id.as_deref());
        let lives = ids.filter_map(|id| known.containers.life(known.attribution.with_id(id)?));
        let all: u64 = lives.filter(|life| life.is_live()).map(Lifecycle::unreclaimable).sum();
        rooms.push(Room { limit: LimitKind::Pod, bytes: held.saturating_add(limit.saturating_sub(all)) });
    }
    if let Some(available) = known.node.room(life.container()) {
        rooms.push(Room { limit: LimitKind::Node, bytes: held.saturating_add(available) });
    }
    rooms
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        model::event::{Event, EventKind, Limit, MemoryLevels, MemoryReading, MemoryStat, NodeReading},
        node::watch::EVICTION_RESERVE,
        pipeline::Pipeline,
    };

    const MIB: u64 = 1 << 20;

    /// What is found of a job of 100 MiB that grows by 5 MiB a second for so many seconds, so many percent of it file
    /// cache, and then rests; on a node with so much room, in MiB. Where each began, and whether all ended.
    fn found(seconds: u64, cache_percent: u64, room: u64) -> (Vec<(LimitKind, f64)>, bool) {
        let mut pipeline = Pipeline::default();
        let (mut began, mut open) = (Vec::new(), 0);
        let mut step = |at: f64, what: EventKind| {
            let at = Time::from_nanos((at * 1e9) as u64);
            for finding in pipeline.step(&Event { at, what }) {
                match finding.what {
                    FindingKind::LimitAhead(ahead) if ahead.news => {
                        began.push((ahead.limit, at.seconds() - 10.0));
                        open += 1;
                    }
                    FindingKind::LimitAheadOver { .. } => open -= 1,
                    _ => {}
                }
            }
        };
        let path = "/job".to_owned();
        step(9.0, EventKind::CgroupMade { cgroup: 1, path: path.clone() });
        step(9.0, EventKind::CgroupAttached { cgroup: 1, path, pid: 1 });
        step(10.0, EventKind::Exec { cgroup: 1, pid: 1, comm: "job".into(), watermark: 0, init: false });
        for tenth in 0..(seconds + 30) * 10 {
            let at = 10.0 + tenth as f64 / 10.0;
            let usage = (tenth.min(seconds * 10) * 5 * MIB) / 10;
            step(at, EventKind::Usage { cgroup: 1, usage, watermark: usage });
            if tenth % 10 == 0 {
                let file = usage / 100 * cache_percent;
                let stat = MemoryStat { anon: usage - file, file: Some(file), ..MemoryStat::default() };
                let limit = Some(Limit::Bytes(100 * MIB));
                let levels = MemoryLevels { usage, limit, stat: Some(stat), ..MemoryLevels::default() };
                let reading = MemoryReading { levels, ..MemoryReading::default() };
                step(at, EventKind::Memory { cgroup: 1, reading });
                let free = room * MIB + EVICTION_RESERVE - (usage - file);
                step(at, EventKind::Node(NodeReading { available: free, ..NodeReading::default() }));
                step(at, EventKind::Tick);
            }
        }
        (began, open == 0)
    }

    #[test]
    fn one_approach_is_one_piece_of_news() {
        let (began, _) = found(20, 0, 4000);
        assert!(matches!(began[..], [(LimitKind::Container, at)] if (15.0..18.0).contains(&at)), "{began:?}");
        let (began, _) = found(20, 0, 60);
        assert!(matches!(began[0], (LimitKind::Node, at) if (7.0..10.0).contains(&at)), "{began:?}");
    }

    /// A process may come to a group and leave it before it takes a page or executes anything: nothing starts or ends.
    #[test]
    fn of_a_group_that_nothing_started_in_nothing_stays() {
        let mut watch = LimitWatch::default();
        let (containers, attribution) = (Containers::default(), Attribution::default());
        let (histories, node) = (Histories::default(), NodeWatch::default());
        let known =
            Known { containers: &containers, attribution: &attribution, histories: &histories, node: &node };
        for cgroup in 1..=100 {
            let container = Container { cgroup, labels: Arc::default() };
            let at = Time::from_nanos(cgroup * 1_000_000_000);
            let what = FindingKind::Point { container, usage: 0 };
            watch.follow(&known, &mut vec![Finding { at, what }]);
        }
        assert_eq!(watch.approaches.len(), 0);
    }

    #[test]
    fn what_rests_far_below_or_reads_files_is_no_approach() {
        assert_eq!(found(14, 0, 4000), (vec![], true));
        assert_eq!(found(20, 90, 4000), (vec![], true), "the kernel takes file cache back");
    }
}
