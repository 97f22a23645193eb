//! Whose limit an OOM kill was about: the container's, its parent's, one further up, or the node's. Pure.
//!
//! The group whose limit could not be kept has raised its own OOM count before a victim is chosen (kernel:
//! mm/memcontrol.c, mem_cgroup_oom; the count is `memory_events_local[MEMCG_OOM]`, shown on v2 as `oom` of
//! memory.events.local). So the lowest level on the victim's way to the root whose count rose since the last look is
//! the one; if none rose, the node ran out. Where a count has no earlier value to compare with (a group older than the
//! observer on v1) the lowest level that stands at its limit is taken.
//!
//! Where the kernel itself could be asked (probe `oom_scope`), its answer is taken.
//!
//! *Known wrong answer:* such an old group that happens to stand at its limit, full of page cache, while the node runs
//! out.

use std::{collections::HashMap, time::Duration};

use crate::model::{
    event::{CgroupId, ExceededLimit, OomKill},
    finding::OomScope,
    time::Time,
};

/// Usage lags its limit by the charges cached per CPU (64 pages each, kernel: mm/memcontrol.c MEMCG_CHARGE_BATCH), and
/// falls a little while a victim is chosen: 2 % or 2 MiB.
fn stands_at(usage: u64, limit: u64) -> bool {
    usage + (limit / 50).max(2 << 20) >= limit
}

/// A file is read this long after its event's time at most; what it says may be younger than a kill by as much.
const READ_TIME: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub struct Baselines {
    oom_events: HashMap<CgroupId, Baseline>,
    /// When, for whom, and at which group the last kill struck.
    last: Option<(Time, u32, CgroupId)>,
}

/// With memory.oom.group (the kubelet sets it) one want of memory kills a whole group, a record each; all come while
/// its asker waits.
const ONE_WANT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
struct Baseline {
    count: u64,
    /// The last reading of the file: it may already count a kill whose record comes only after it, so it counts when the
    /// next one is made, or for a kill that is clearly later.
    pending: Option<(Time, u64)>,
}

impl Baseline {
    fn settle(&mut self) {
        if let Some((_, count)) = self.pending.take() {
            self.count = self.count.max(count);
        }
    }
}

/// Height of the level whose limit could not be kept, above the lowest level of the kill; `None`: the node's.
pub type LevelIndex = Option<usize>;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub scope: OomScope,
    pub limit: Option<u64>,
}

impl Baselines {
    /// A new group has had no OOM.
    pub fn made(&mut self, cgroup: CgroupId) {
        self.oom_events.insert(cgroup, Baseline::default());
    }

    pub fn removed(&mut self, cgroup: CgroupId) {
        self.oom_events.remove(&cgroup);
    }

    /// The file's value, on cgroup v2.
    pub fn read(&mut self, at: Time, cgroup: CgroupId, oom_events: u64) {
        match self.oom_events.get_mut(&cgroup) {
            Some(known) => {
                known.settle();
                known.pending = Some((at, oom_events));
            }
            None => {
                self.oom_events.insert(cgroup, Baseline { count: oom_events, pending: None });
            }
        }
    }

    /// Which level it was, and remembers the counts for the next kill. To be asked when the kill comes, not later.
    pub fn level_index(&mut self, at: Time, kill: &OomKill) -> LevelIndex {
        let mut rose = None;
        let mut guess = None;
        for (level_index, level) in kill.levels.iter().enumerate() {
            let at_limit = level.limit.bytes().is_some_and(|limit| stands_at(level.usage, limit));
            let before = self.oom_events.get_mut(&level.cgroup).map(|known| {
                if known.pending.is_some_and(|(read, _)| read.after(READ_TIME) < at) {
                    known.settle();
                }
                known.count
            });
            match (level.oom_events, before) {
                (Some(now), Some(before)) if now > before && rose.is_none() => rose = Some(level_index),
                (Some(_), Some(_)) => {}
                _ if at_limit && guess.is_none() => guess = Some(level_index),
                _ => {}
            }
            if let Some(count) = level.oom_events {
                self.oom_events.insert(level.cgroup, Baseline { count, pending: None });
            }
        }
        let more_of_the_last = || {
            let (before, asker, cgroup) = self.last?;
            let same = asker == kill.invoker_pid && at.since(before) < ONE_WANT;
            kill.levels.iter().position(|level| same && level.cgroup == cgroup)
        };
        let level_index = match kill.exceeded {
            Some(ExceededLimit::Node) => None,
            Some(ExceededLimit::Group(cgroup)) => kill.levels.iter().position(|level| level.cgroup == cgroup),
            None => rose.or_else(more_of_the_last).or(guess),
        };
        self.last = level_index.map(|level_index| (at, kill.invoker_pid, kill.levels[level_index].cgroup));
        level_index
    }
}

/// The scope, once the victim's container is known.
pub fn judge(
    kill: &OomKill,
    level_index: LevelIndex,
    owner: Option<CgroupId>,
    container: impl Fn(CgroupId) -> Option<CgroupId>,
) -> Judged {
    let Some((level_index, level)) =
        level_index.and_then(|level_index| Some((level_index, kill.levels.get(level_index)?)))
    else {
        return Judged { scope: OomScope::Node, limit: None };
    };
    // Levels inside the container are the container: count heights from its own cgroup.
    let own = owner
        .and_then(|owner| kill.levels.iter().position(|level| level.cgroup == owner))
        .or_else(|| kill.levels.iter().rposition(|level| container(level.cgroup) == owner && owner.is_some()))
        .unwrap_or(0);
    let scope = match level_index.saturating_sub(own) {
        0 => OomScope::Container,
        1 => OomScope::Parent,
        _ => OomScope::Ancestor,
    };
    Judged { scope, limit: level.limit.bytes() }
}

/// Kills whose victim the kernel named by pid only (before 6.8): its exit says which cgroup it was in.
#[derive(Debug, Default)]
pub struct Unnamed {
    waiting: Vec<(Time, OomKill, LevelIndex)>,
}

/// A victim with nothing to write back exits within milliseconds; one stuck on a lock may take the reaper's time.
const EXIT_WAIT: Duration = Duration::from_secs(5);

impl Unnamed {
    /// Returns a complete kill at once; keeps an incomplete one.
    pub fn complete_or_keep(&mut self, at: Time, kill: &OomKill, level_index: LevelIndex) -> Option<OomKill> {
        if kill.victim_cgroup.is_some() {
            return Some(kill.clone());
        }
        self.waiting.push((at, kill.clone(), level_index));
        None
    }

    pub fn resolve(&mut self, pid: u32, cgroup: CgroupId, comm: &str) -> Option<(OomKill, LevelIndex)> {
        let at = self.waiting.iter().position(|(_, kill, _)| kill.victim_pid == pid)?;
        let (_, mut kill, level_index) = self.waiting.swap_remove(at);
        kill.victim_cgroup = Some(cgroup);
        kill.victim_comm = comm.to_owned();
        Some((kill, level_index))
    }

    /// Kills whose victim never showed: reported without its name.
    pub fn expire(&mut self, now: Time) -> Vec<(OomKill, LevelIndex)> {
        let mut over = Vec::new();
        self.waiting.retain(|(since, kill, level_index)| {
            let waits = now.since(*since) < EXIT_WAIT;
            if !waits {
                over.push((kill.clone(), *level_index));
            }
            waits
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Limit, OomLevel};

    const MIB: u64 = 1 << 20;

    fn kill(levels: &[(CgroupId, u64, Option<u64>, Option<u64>)]) -> OomKill {
        OomKill {
            victim_pid: 7,
            victim_comm: "spike".into(),
            victim_cgroup: Some(levels[0].0),
            invoker_pid: 7,
            invoker_comm: "spike".into(),
            invoker_cgroup: levels[0].0,
            exceeded: None,
            levels: levels
                .iter()
                .map(|&(cgroup, usage, limit, oom_events)| OomLevel {
                    cgroup,
                    usage: usage * MIB,
                    watermark: usage * MIB,
                    limit: limit.map_or(Limit::Unlimited, |limit| Limit::Bytes(limit * MIB)),
                    oom_events,
                })
                .collect(),
        }
    }

    /// Container 10, with 11 inside it.
    fn judged(
        baselines: &mut Baselines,
        seconds: u64,
        levels: &[(CgroupId, u64, Option<u64>, Option<u64>)],
    ) -> Judged {
        let kill = kill(levels);
        let level_index = baselines.level_index(Time::from_nanos(seconds * 1_000_000_000), &kill);
        judge(&kill, level_index, Some(10), |cgroup| (cgroup == 10 || cgroup == 11).then_some(10))
    }

    #[test]
    fn a_file_read_just_before_the_record_does_not_hide_the_kill() {
        let levels = [(10, 64, Some(64), Some(1)), (5, 80, None, Some(0))];
        let mut baselines = Baselines::default();
        levels.iter().for_each(|level| baselines.made(level.0));
        // The file already counts the kill whose record is still in the ring.
        baselines.read(Time::from_nanos(900_000_000), 10, 1);
        assert_eq!(judged(&mut baselines, 1, &levels).scope, OomScope::Container);
        // Long after, a node without memory is not blamed on the container.
        baselines.read(Time::from_nanos(2_000_000_000), 10, 1);
        assert_eq!(judged(&mut baselines, 9, &levels).scope, OomScope::Node);
    }

    #[test]
    fn the_rest_of_a_group_kill_has_the_scope_of_its_first() {
        let mut baselines = Baselines::default();
        let levels = [(10, 64, Some(64), Some(1)), (5, 80, None, Some(0))];
        levels.iter().for_each(|level| baselines.made(level.0));
        assert_eq!(judged(&mut baselines, 1, &levels).scope, OomScope::Container);
        assert_eq!(judged(&mut baselines, 1, &levels).scope, OomScope::Container);
        assert_eq!(judged(&mut baselines, 9, &levels).scope, OomScope::Node);
    }

    #[test]
    fn the_level_whose_own_count_rose_is_the_scope() {
        let table = [
            (
                "its own limit",
                [(10, 64, Some(64), Some(1)), (5, 80, None, Some(0)), (1, 0, None, Some(0))],
                OomScope::Container,
            ),
            (
                "the pod's limit",
                [(10, 40, Some(64), Some(0)), (5, 80, Some(80), Some(1)), (1, 0, None, Some(0))],
                OomScope::Parent,
            ),
            (
                "two levels up",
                [(10, 40, None, Some(0)), (5, 80, None, Some(0)), (1, 99, Some(99), Some(1))],
                OomScope::Ancestor,
            ),
            (
                "nobody's limit, though full of cache",
                [(10, 64, Some(64), Some(0)), (5, 80, None, Some(0)), (1, 0, None, Some(0))],
                OomScope::Node,
            ),
        ];
        for (name, levels, expected) in table {
            let mut baselines = Baselines::default();
            for level in levels {
                baselines.made(level.0);
            }
            assert_eq!(judged(&mut baselines, 0, &levels).scope, expected, "{name}");
        }
    }

    #[test]
    fn what_the_kernel_itself_says_goes_before_what_its_counts_suggest() {
        let levels = [(10, 64, Some(64), Some(1)), (5, 80, Some(80), Some(0)), (1, 0, None, Some(0))];
        let table = [
            (ExceededLimit::Node, OomScope::Node),
            (ExceededLimit::Group(5), OomScope::Parent),
            (ExceededLimit::Group(10), OomScope::Container),
        ];
        for (exceeded, expected) in table {
            let mut baselines = Baselines::default();
            levels.iter().for_each(|level| baselines.made(level.0));
            let kill = OomKill { exceeded: Some(exceeded), ..kill(&levels) };
            let level_index = baselines.level_index(Time::default(), &kill);
            assert_eq!(
                judge(&kill, level_index, Some(10), |c| (c == 10).then_some(10)).scope,
                expected,
                "{exceeded:?}"
            );
        }
    }

    #[test]
    fn without_an_earlier_count_the_lowest_full_level_is_taken() {
        let mut baselines = Baselines::default();
        let levels = [(10, 63, Some(64), Some(9)), (5, 80, None, Some(9)), (1, 0, None, Some(9))];
        let first = judged(&mut baselines, 0, &levels);
        assert_eq!(first, Judged { scope: OomScope::Container, limit: Some(64 * MIB) });
        // A later kill has a count to compare with: this time the node ran out.
        assert_eq!(judged(&mut baselines, 9, &levels).scope, OomScope::Node);
    }

    #[test]
    fn a_limit_inside_the_container_is_the_containers() {
        let mut baselines = Baselines::default();
        let levels = [(11, 32, Some(32), Some(1)), (10, 40, Some(64), Some(0)), (1, 0, None, Some(0))];
        levels.iter().for_each(|level| baselines.made(level.0));
        assert_eq!(judged(&mut baselines, 0, &levels).scope, OomScope::Container);
    }
}
