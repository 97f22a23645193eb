//! Whose limit an OOM kill was about: one inside the container, the container's, its parent's, one further up, or the
//! node's. Pure.
//!
//! Where the kernel itself could be asked (probe `oom_scope`), its answer is taken, at any depth.
//!
//! Else: the group whose limit could not be kept has raised its own OOM count before a victim is chosen (kernel:
//! mm/memcontrol.c, mem_cgroup_oom; the count is `memory_events_local[MEMCG_OOM]`, shown on v2 as `oom` of
//! memory.events.local). So the lowest level on the victim's way to the root whose count rose since the last look is
//! the one; first of those that stand at their limit, for a count rises too when nobody had to be killed. Where a count
//! has no earlier value to compare with (a group older than the observer on v1) the lowest level that stands at its
//! limit is taken.
//!
//! It was the node if the invoker reclaimed for the node right before: the kernel calls the OOM killer for a limit only
//! after reclaim for a limit. Only where that is not known (probe `reclaim`) is the node what remains.

use std::{borrow::Cow, collections::HashMap, time::Duration};

use crate::{
    attribution::Attribution,
    container::oom_counts::{KillCounts, Mark},
    host::HostFacts,
    model::{
        container::CgroupId,
        event::{Blame, Event, EventKind, ExceededLimit, KillsKept, Loss, OomKill, StalledBy},
        finding::OomScope,
        time::Time,
    },
};

/// Usage lags its limit by the charges cached per CPU (64 pages each, kernel: mm/memcontrol.c MEMCG_CHARGE_BATCH), and
/// falls a little while a victim is chosen: 2 % or 2 MiB.
pub fn stands_at(usage: u64, limit: u64) -> bool {
    usage.saturating_add((limit / 50).max(2 << 20)) >= limit
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
/// its invoker waits.
const GROUP_KILL_WINDOW: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, Default)]
struct Baseline {
    count: u64,
    /// The last reading of the file: it may already count a kill whose record comes only after it, so it counts when
    /// the next one is made, or for a kill that is clearly later.
    pending: Option<(Time, u64)>,
}

impl Baseline {
    fn settle(&mut self) {
        if let Some((_, count)) = self.pending.take() {
            self.count = self.count.max(count);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub scope: OomScope,
    pub limit: Option<u64>,
}

impl Baselines {
    /// A new group has had no OOM.
    pub fn made(&mut self, cgroup: CgroupId) {
        self.oom_events.entry(cgroup).or_default();
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

    /// Which group it was, and remembers the counts for the next kill. To be asked when the kill comes, not later, and
    /// once.
    pub fn blame(&mut self, at: Time, kill: &OomKill) -> Blame {
        let (mut rose, mut rose_at_limit, mut guess) = (None, None, None);
        for level in &kill.levels {
            let at_limit = level.limit.bytes().is_some_and(|limit| stands_at(level.usage, limit));
            let before = self.oom_events.get_mut(&level.cgroup).map(|known| {
                if known.pending.is_some_and(|(read, _)| read.after(READ_TIME) < at) {
                    known.settle();
                }
                known.count
            });
            match (level.oom_events, before) {
                (Some(now), Some(before)) if now > before => {
                    rose = rose.or(Some(level.cgroup));
                    rose_at_limit = rose_at_limit.or(at_limit.then_some(level.cgroup));
                }
                (Some(_), Some(_)) => {}
                _ if at_limit && guess.is_none() => guess = Some(level.cgroup),
                _ => {}
            }
            if let Some(count) = level.oom_events {
                self.oom_events.insert(level.cgroup, Baseline { count, pending: None });
            }
        }
        let more_of_the_last = || {
            let (before, invoker, cgroup) = self.last?;
            let same = invoker == kill.invoker_pid && at.since(before) < GROUP_KILL_WINDOW;
            kill.levels.iter().map(|level| level.cgroup).find(|level| same && *level == cgroup)
        };
        let blame = match (kill.exceeded, kill.reclaim) {
            (Some(ExceededLimit::Node), _) | (None, Some(StalledBy::Node)) => Blame::Node,
            (Some(ExceededLimit::Group(cgroup)), _) => Blame::Group(cgroup),
            (None, reclaim) => match rose_at_limit.or(rose).or_else(more_of_the_last).or(guess) {
                Some(cgroup) => Blame::Group(cgroup),
                None if kill.cut => Blame::Above,
                None if reclaim.is_some() => Blame::Unknown,
                None => Blame::Node,
            },
        };
        self.last = match blame {
            Blame::Group(cgroup) => Some((at, kill.invoker_pid, cgroup)),
            _ => None,
        };
        blame
    }
}

/// The scope, once the victim's container is known.
pub fn judge(
    kill: &OomKill,
    owner: Option<CgroupId>,
    container: impl Fn(CgroupId) -> Option<CgroupId>,
) -> Judged {
    let reported = kill.exceeded_group.and_then(|group| group.limit.bytes());
    let cgroup = match kill.judged.unwrap_or(Blame::Unknown) {
        Blame::Node => return Judged { scope: OomScope::Node, limit: None },
        Blame::Unknown => return Judged { scope: OomScope::Unknown, limit: None },
        Blame::Above => return Judged { scope: OomScope::Ancestor, limit: reported },
        Blame::Group(cgroup) => cgroup,
    };
    let Some(height) = kill.levels.iter().position(|level| level.cgroup == cgroup) else {
        return Judged { scope: OomScope::Ancestor, limit: reported };
    };
    let own = owner
        .and_then(|owner| kill.levels.iter().position(|level| level.cgroup == owner))
        .or_else(|| kill.levels.iter().rposition(|level| container(level.cgroup) == owner && owner.is_some()))
        .unwrap_or(0);
    let scope = match height.checked_sub(own) {
        None => OomScope::Inside,
        Some(0) => OomScope::Container,
        Some(1) => OomScope::Parent,
        Some(_) => OomScope::Ancestor,
    };
    Judged { scope, limit: reported.or(kill.levels[height].limit.bytes()) }
}

/// OOM kills on their way in: each mark is held against the kernel's count and judged when it comes, by the counts of
/// that moment, and once.
#[derive(Debug, Default)]
pub struct Kills {
    baselines: Baselines,
    counts: KillCounts,
    unnamed: Unnamed,
}

impl Kills {
    /// See [`KillCounts::to_keep`]; after the event was followed.
    pub fn to_keep(&mut self, event: &Event, attribution: &Attribution) -> Vec<(CgroupId, Option<u64>)> {
        let again = matches!(event.what, EventKind::Tick | EventKind::Pod(_) | EventKind::Owner(_));
        self.counts.to_keep(again, |cgroup| attribution.holds(cgroup))
    }

    pub fn kept(&self) -> KillsKept {
        self.counts.kept()
    }

    /// The event itself unless it is a mark of no kill, kills that are complete because of it, and kills that only the
    /// kernel's count reports.
    pub fn judge<'a>(
        &mut self,
        event: &'a Event,
        host: &HostFacts,
        attribution: &Attribution,
    ) -> Vec<Cow<'a, Event>> {
        let at = event.at;
        let owned = |kill| Cow::Owned(Event { at, what: EventKind::OomKill(kill) });
        let unseen = |cgroup, unseen: u64| (unseen > 0).then(|| owned(OomKill::unseen(cgroup, unseen)));
        let itself = || [Cow::Borrowed(event)];
        match &event.what {
            EventKind::OomKill(kill) => {
                let judged = Some(self.baselines.blame(at, kill));
                let owner = kill.victim_cgroup.and_then(|cgroup| attribution.container(cgroup));
                let Mark::Kill { unseen: before } = self.counts.marked(kill, owner, !host.counts_apart())
                else {
                    return Vec::new();
                };
                let complete = self.unnamed.complete_or_keep(at, OomKill { judged, ..kill.clone() });
                let before = owner.and_then(|owner| unseen(owner, before));
                return before.into_iter().chain(complete.map(owned)).collect();
            }
            // Who died names a victim that the kernel named by pid only.
            EventKind::Exit { cgroup, pid, comm, .. } => {
                let resolved = self.unnamed.resolve(*pid, *cgroup, comm).map(owned);
                return resolved.into_iter().chain(itself()).collect();
            }
            EventKind::Tick => {
                let expired = self.unnamed.expire(at).into_iter().map(owned);
                let settled = self.counts.settle(at).into_iter().filter_map(|(cgroup, n)| unseen(cgroup, n));
                self.counts.forget_gone();
                return itself().into_iter().chain(expired).chain(settled).collect();
            }
            EventKind::KillsKept(kept) => self.counts.continue_from(kept),
            EventKind::CgroupSeeded { cgroup, .. } => self.counts.seeded(*cgroup),
            EventKind::Lost { at: Loss::CgroupUnreadable, .. } => self.counts.keep_unseen(),
            EventKind::CgroupMade { cgroup, .. } => {
                self.baselines.made(*cgroup);
                self.counts.made(*cgroup);
            }
            EventKind::CgroupRemoved { cgroup } => {
                self.baselines.removed(*cgroup);
                self.counts.removed(*cgroup);
            }
            // The whole count, reported in the order of the kills: what is missing now was not seen.
            EventKind::CgroupEmptied { cgroup, oom_kills: Some(count), .. } if host.oom_probe => {
                let more = self.counts.grew(*cgroup, *count);
                // On v2 the container's own count includes those of the groups inside.
                let owner = attribution.container(*cgroup);
                let owner = owner.filter(|owner| host.counts_apart() || owner == cgroup);
                return owner.and_then(|owner| unseen(owner, more)).into_iter().chain(itself()).collect();
            }
            EventKind::Memory { cgroup, reading } => {
                let Some(events) = reading.events else { return itself().into() };
                if let Some(local) = events.oom_local {
                    self.baselines.read(at, *cgroup, local);
                }
                if host.oom_probe {
                    self.counts.read(at, *cgroup, events.oom_kill);
                } else {
                    let more = self.counts.grew(*cgroup, events.oom_kill);
                    return unseen(*cgroup, more).into_iter().chain(itself()).collect();
                }
            }
            _ => {}
        }
        itself().into()
    }
}

/// Kills whose victim the kernel named by pid only (recordings of kernels before 6.8 by older observers): its exit says
/// which cgroup it was in.
#[derive(Debug, Default)]
struct Unnamed {
    waiting: Vec<(Time, OomKill)>,
}

/// A victim with nothing to write back exits within milliseconds; one stuck on a lock may take the reaper's time.
const EXIT_WAIT: Duration = Duration::from_secs(5);

impl Unnamed {
    /// Returns a complete kill at once; keeps an incomplete one.
    fn complete_or_keep(&mut self, at: Time, kill: OomKill) -> Option<OomKill> {
        if kill.victim_cgroup.is_some() {
            return Some(kill);
        }
        self.waiting.push((at, kill));
        None
    }

    fn resolve(&mut self, pid: u32, cgroup: CgroupId, comm: &str) -> Option<OomKill> {
        let at = self.waiting.iter().position(|(_, kill)| kill.victim_pid == pid)?;
        let (_, mut kill) = self.waiting.swap_remove(at);
        kill.victim_cgroup = Some(cgroup);
        kill.victim_comm = comm.to_owned();
        Some(kill)
    }

    /// Kills whose victim never showed: reported without its name.
    fn expire(&mut self, now: Time) -> Vec<OomKill> {
        let over = |(since, _): &mut (Time, OomKill)| now.since(*since) >= EXIT_WAIT;
        self.waiting.extract_if(.., over).map(|(_, kill)| kill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Limit, OomLevel};

    const MIB: u64 = 1 << 20;

    /// Found by fuzzing: usage comes from a record or a file, and may be anything.
    #[test]
    fn a_usage_near_the_end_of_numbers_is_compared() {
        assert!(stands_at(u64::MAX, u64::MAX));
        assert!(!stands_at(0, u64::MAX));
    }

    fn kill(levels: &[(CgroupId, u64, Option<u64>, Option<u64>)]) -> OomKill {
        OomKill {
            victim_pid: 7,
            victim_comm: "spike".into(),
            victim_cgroup: Some(levels[0].0),
            invoker_pid: 7,
            invoker_comm: "spike".into(),
            invoker_cgroup: levels[0].0,
            levels: levels
                .iter()
                .map(|&(cgroup, usage, limit, oom_events)| OomLevel {
                    cgroup,
                    usage: usage * MIB,
                    watermark: usage * MIB,
                    limit: limit.map_or(Limit::Unlimited, |limit| Limit::Bytes(limit * MIB)),
                    oom_events,
                    oom_kills: None,
                    kills_as_one: false,
                })
                .collect(),
            ..OomKill::default()
        }
    }

    /// Container 10, with 11 inside it.
    fn judged(
        baselines: &mut Baselines,
        seconds: u64,
        levels: &[(CgroupId, u64, Option<u64>, Option<u64>)],
    ) -> Judged {
        let kill = kill(levels);
        let judged = Some(baselines.blame(Time::from_nanos(seconds * 1_000_000_000), &kill));
        let kill = OomKill { judged, ..kill };
        judge(&kill, Some(10), |cgroup| (cgroup == 10 || cgroup == 11).then_some(10))
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
                "no limit reached, though full of cache",
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
            let kill = OomKill { judged: Some(baselines.blame(Time::default(), &kill)), ..kill };
            assert_eq!(judge(&kill, Some(10), |c| (c == 10).then_some(10)).scope, expected, "{exceeded:?}");
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
    fn a_limit_inside_the_container_has_a_name_of_its_own() {
        let mut baselines = Baselines::default();
        let levels = [(11, 32, Some(32), Some(1)), (10, 40, Some(64), Some(0)), (1, 0, None, Some(0))];
        levels.iter().for_each(|level| baselines.made(level.0));
        assert_eq!(judged(&mut baselines, 0, &levels).scope, OomScope::Inside);
    }

    #[test]
    fn the_node_is_not_blamed_for_a_limit_nor_a_full_group_for_the_node() {
        let table = [
            // The kernel's reclaim says which it was; the counts were never seen before.
            ("an old group full of cache, the node short", Some(StalledBy::Node), false, 63, OomScope::Node),
            ("an old group at its limit", Some(StalledBy::Limit), false, 63, OomScope::Container),
            ("a limit, no level stands at one", Some(StalledBy::Limit), false, 9, OomScope::Unknown),
            ("further up than was recorded", Some(StalledBy::Limit), true, 9, OomScope::Ancestor),
            ("further up, nothing known", None, true, 9, OomScope::Ancestor),
        ];
        for (name, reclaim, cut, usage, expected) in table {
            let levels = [(10, usage, Some(64), Some(1)), (5, 80, None, Some(3))];
            let kill = OomKill { reclaim, cut, ..kill(&levels) };
            let judged = Some(Baselines::default().blame(Time::default(), &kill));
            let kill = OomKill { judged, ..kill };
            assert_eq!(judge(&kill, Some(10), |_| None).scope, expected, "{name}");
        }
    }

    #[test]
    fn the_kernels_word_counts_beyond_the_levels_recorded() {
        use crate::model::event::GroupLimit;
        let levels = [(10, 40, None, Some(0)), (5, 40, None, Some(0))];
        let exceeded_group = Some(GroupLimit { limit: Limit::Bytes(64 * MIB), usage: 64 * MIB });
        let kill = OomKill { exceeded: Some(ExceededLimit::Group(77)), exceeded_group, ..kill(&levels) };
        let judged = Some(Baselines::default().blame(Time::default(), &kill));
        let kill = OomKill { judged, ..kill };
        let judged = judge(&kill, Some(10), |_| None);
        assert_eq!(judged, Judged { scope: OomScope::Ancestor, limit: Some(64 * MIB) });
    }
}
