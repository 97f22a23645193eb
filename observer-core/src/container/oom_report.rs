//! An OOM kill as it is reported: the victim's container, whose limit it was, who asked for the memory.

use crate::{
    attribution::Attribution,
    container::{Containers, lifecycle::Lifecycle, oom},
    model::{
        event::{CgroupId, OomKill},
        finding::{Finding, FindingKind, OomKilled, OomScope},
        time::Time,
    },
    pipeline::HostFacts,
};

impl Containers {
    pub(super) fn oom_killed(
        &mut self,
        at: Time,
        kill: &OomKill,
        owner: Option<CgroupId>,
        attribution: &Attribution,
        _host: &HostFacts,
        out: &mut Vec<Finding>,
    ) {
        let verdict = oom::judge(kill, owner, |cgroup| attribution.container(cgroup));
        let invoker = attribution
            .container(kill.invoker_cgroup)
            .filter(|invoker| Some(*invoker) != owner)
            .and_then(|invoker| self.life(invoker))
            .map(|life| life.container().clone());
        let level = kill.levels.iter().find(|level| Some(level.cgroup) == owner).or(kill.levels.first());
        let (usage, peak) = level.map_or((0, 0), |level| (level.usage, level.watermark));
        let life = owner.and_then(|owner| self.tracked.get_mut(&owner)).map(|tracked| &mut tracked.life);
        let killed = OomKilled {
            starting: life.as_ref().is_some_and(|life| life.is_starting()),
            age_seconds: life.as_ref().and_then(|life| life.age(at)),
            container: life.as_ref().map(|life| life.container().clone()),
            scope: verdict.scope,
            limit: verdict.limit,
            victim_pid: kill.victim_pid,
            victim_command: kill.victim_comm.clone(),
            usage,
            peak,
            invoker_pid: kill.invoker_pid,
            invoker_command: kill.invoker_comm.clone(),
            asker: invoker,
            kills: 1,
        };
        if let Some(life) = life {
            life.oom_killed(Some(peak));
        }
        out.push(Finding { at, what: FindingKind::OomKilled(killed) });
    }
}

/// While no probe sees kills: that there were so many is all that is known.
pub(super) fn by_count(at: Time, life: &mut Lifecycle, kills: u64) -> OomKilled {
    life.oom_killed(None);
    OomKilled {
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
    }
}
