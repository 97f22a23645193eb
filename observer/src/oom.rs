//! Whose limit an OOM kill was about: the container's, its parent's, one further up, or the node's. Pure.
//!
//! The group whose limit could not be kept has raised its own OOM count before a victim is chosen (kernel:
//! mm/memcontrol.c, mem_cgroup_oom; the count is `memory_events_local[MEMCG_OOM]`, shown on v2 as `oom` of
//! memory.events.local). So the lowest level on the victim's way to the root whose count rose since the last look is
//! the one; if none rose, the node ran out. Where a count has no earlier value to compare with (a group older than the
//! observer on v1) the lowest level that stands at its limit is taken.
//!
//! *Known wrong answer:* such an old group that happens to stand at its limit, full of page cache, while the node runs
//! out.

use std::{collections::HashMap, time::Duration};

use crate::{
    event::{CgroupId, OomKill},
    finding::OomScope,
    time::Time,
};

/// Usage lags its limit by the charges cached per CPU (64 pages each, kernel: mm/memcontrol.c MEMCG_CHARGE_BATCH), and
/// falls a little while a victim is chosen: 2 % or 2 MiB.
fn stands_at(usage: u64, limit: u64) -> bool {
    usage + (limit / 50).max(2 << 20) >= limit
}

#[derive(Debug, Default)]
pub struct Baselines {
    oom_events: HashMap<CgroupId, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub scope: OomScope,
    pub limit: Option<u64>,
}

impl Baselines {
    /// A new group has had no OOM.
    pub fn made(&mut self, cgroup: CgroupId) {
        self.oom_events.insert(cgroup, 0);
    }

    pub fn removed(&mut self, cgroup: CgroupId) {
        self.oom_events.remove(&cgroup);
    }

    /// The file's value, on cgroup v2.
    pub fn read(&mut self, cgroup: CgroupId, oom_events: u64) {
        let known = self.oom_events.entry(cgroup).or_default();
        *known = oom_events.max(*known);
    }

    /// Tells the scope, and remembers the counts for the next kill.
    pub fn judge(
        &mut self,
        kill: &OomKill,
        owner: Option<CgroupId>,
        container: impl Fn(CgroupId) -> Option<CgroupId>,
    ) -> Judged {
        let mut rose = None;
        let mut guess = None;
        for (height, level) in kill.levels.iter().enumerate() {
            let at_limit = level.limit.bytes().is_some_and(|limit| stands_at(level.usage, limit));
            match (level.oom_events, self.oom_events.get(&level.cgroup)) {
                (Some(now), Some(before)) if now > *before && rose.is_none() => rose = Some(height),
                (Some(_), Some(_)) => {}
                _ if at_limit && guess.is_none() => guess = Some(height),
                _ => {}
            }
            if let Some(now) = level.oom_events {
                self.oom_events.insert(level.cgroup, now);
            }
        }
        let Some(height) = rose.or(guess) else {
            return Judged { scope: OomScope::Node, limit: None };
        };
        let level = &kill.levels[height];
        // Levels inside the container are the container: count heights from its own cgroup.
        let own = owner
            .and_then(|owner| kill.levels.iter().position(|level| level.cgroup == owner))
            .or_else(|| {
                kill.levels.iter().rposition(|level| container(level.cgroup) == owner && owner.is_some())
            })
            .unwrap_or(0);
        let scope = match height.saturating_sub(own) {
            0 => OomScope::Container,
            1 => OomScope::Parent,
            _ => OomScope::Ancestor,
        };
        Judged { scope, limit: level.limit.bytes() }
    }
}

/// Kills whose victim the kernel named by pid only (before 6.8): its exit says which cgroup it was in.
#[derive(Debug, Default)]
pub struct Unnamed {
    waiting: Vec<(Time, OomKill)>,
}

/// A victim with nothing to write back exits within milliseconds; one stuck on a lock may take the reaper's time.
const EXIT_WAIT: Duration = Duration::from_secs(5);

impl Unnamed {
    /// Returns a complete kill at once; keeps an incomplete one.
    pub fn complete_or_keep(&mut self, at: Time, kill: &OomKill) -> Option<OomKill> {
        if kill.victim_cgroup.is_some() {
            return Some(kill.clone());
        }
        self.waiting.push((at, kill.clone()));
        None
    }

    pub fn resolve(&mut self, pid: u32, cgroup: CgroupId, comm: &str) -> Option<OomKill> {
        let at = self.waiting.iter().position(|(_, kill)| kill.victim_pid == pid)?;
        let (_, mut kill) = self.waiting.swap_remove(at);
        kill.victim_cgroup = Some(cgroup);
        kill.victim_comm = comm.to_owned();
        Some(kill)
    }

    /// Kills whose victim never showed: reported without its name.
    pub fn expire(&mut self, now: Time) -> Vec<OomKill> {
        let (over, waiting) = self.waiting.drain(..).partition(|(since, _)| now.since(*since) >= EXIT_WAIT);
        self.waiting = waiting;
        let over: Vec<(Time, OomKill)> = over;
        over.into_iter().map(|(_, kill)| kill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Limit, OomLevel};

    const MIB: u64 = 1 << 20;

    fn kill(levels: &[(CgroupId, u64, Option<u64>, Option<u64>)]) -> OomKill {
        OomKill {
            victim_pid: 7,
            victim_comm: "spike".into(),
            victim_cgroup: Some(levels[0].0),
            asker_pid: 7,
            asker_comm: "spike".into(),
            asker_cgroup: levels[0].0,
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

    #[test]
    fn the_level_whose_own_count_rose_is_the_scope() {
        let own = |cgroup| (cgroup == 10).then_some(10);
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
            assert_eq!(baselines.judge(&kill(&levels), Some(10), own).scope, expected, "{name}");
        }
    }

    #[test]
    fn without_an_earlier_count_the_lowest_full_level_is_taken() {
        let own = |cgroup| (cgroup == 10).then_some(10);
        let mut baselines = Baselines::default();
        let levels = [(10, 63, Some(64), Some(9)), (5, 80, None, Some(9)), (1, 0, None, Some(9))];
        let judged = baselines.judge(&kill(&levels), Some(10), own);
        assert_eq!(judged, Judged { scope: OomScope::Container, limit: Some(64 * MIB) });
        // The second kill has a count to compare with: this time the node ran out.
        assert_eq!(baselines.judge(&kill(&levels), Some(10), own).scope, OomScope::Node);
    }

    #[test]
    fn a_limit_inside_the_container_is_the_containers() {
        let own = |cgroup| (cgroup == 11 || cgroup == 10).then_some(10);
        let mut baselines = Baselines::default();
        let levels = [(11, 32, Some(32), Some(1)), (10, 40, Some(64), Some(0)), (1, 0, None, Some(0))];
        levels.iter().for_each(|level| baselines.made(level.0));
        assert_eq!(baselines.judge(&kill(&levels), Some(10), own).scope, OomScope::Container);
    }
}
