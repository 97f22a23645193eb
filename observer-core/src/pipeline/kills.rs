//! OOM kills: whose container, and whose limit it was.

use crate::{
    container::oom,
    model::{
        event::{CgroupId, Event, EventKind, ExceededLimit, OomKill},
        finding::{Finding, FindingKind, OomKilled, OomScope},
        time::Time,
    },
    pipeline::Pipeline,
};

impl Pipeline {
    pub(super) fn oom_kill(
        &mut self,
        at: Time,
        kill: OomKill,
        level_index: oom::LevelIndex,
        out: &mut Vec<Finding>,
    ) {
        if let Some(victim) = kill.victim_cgroup {
            // The counts are told from those before only now.
            let exceeded = level_index.and_then(|level_index| kill.levels.get(level_index));
            let exceeded = exceeded.map_or(ExceededLimit::Node, |level| ExceededLimit::Group(level.cgroup));
            let what = EventKind::OomKill(OomKill { exceeded: Some(exceeded), ..kill.clone() });
            if self.waits(victim, &Event { at, what }, out) {
                return;
            }
        }
        let owner = kill.victim_cgroup.and_then(|cgroup| self.index.container(cgroup));
        let verdict = oom::judge(&kill, level_index, owner, |cgroup| self.index.container(cgroup));
        let asker = self
            .index
            .container(kill.invoker_cgroup)
            .filter(|asker| Some(*asker) != owner)
            .and_then(|asker| self.lives.get(&asker))
            .map(|life| life.container().clone());
        let level = kill.levels.iter().find(|level| Some(level.cgroup) == owner).or(kill.levels.first());
        let (usage, peak) = level.map_or((0, 0), |level| (level.usage, level.watermark));
        let life = owner.and_then(|owner| self.lives.get_mut(&owner));
        let killed = OomKilled {
            starting: life.as_ref().is_some_and(|life| life.is_starting()),
            age_seconds: life.as_ref().and_then(|life| life.age(at)),
            container: life.as_ref().map(|life| life.container().clone()),
            scope: verdict.scope,
            limit: verdict.limit,
            victim_pid: kill.victim_pid,
            victim_command: kill.victim_comm,
            usage,
            peak,
            invoker_pid: kill.invoker_pid,
            invoker_command: kill.invoker_comm,
            asker,
            kills: 1,
        };
        if let Some(life) = life {
            life.oom_killed(Some(peak));
        }
        self.node.stampede.oom_killed(killed.kills);
        out.push(Finding { at, what: FindingKind::OomKilled(killed) });
    }

    /// While no probe sees them: that there were so many is all that is known.
    pub(super) fn kills_by_files(&mut self, at: Time, cgroup: CgroupId, kills: u64, out: &mut Vec<Finding>) {
        let Some(life) = self.lives.get_mut(&cgroup) else { return };
        life.oom_killed(None);
        let killed = OomKilled {
            usage: life.usage(),
            peak: life.peak(),
            limit: life.limit().and_then(|limit| limit.bytes()),
            starting: life.is_starting(),
            age_seconds: life.age(at),
            container: Some(life.container().clone()),
            scope: OomScope::Unknown,
            victim_pid: 0,
            victim_command: String::new(),
            invoker_pid: 0,
            invoker_command: String::new(),
            asker: None,
            kills,
        };
        self.node.stampede.oom_killed(kills);
        out.push(Finding { at, what: FindingKind::OomKilled(killed) });
    }
}
