//! An OOM kill as it is reported: the victim's container, whose limit it was, who asked for the memory.

use crate::{
    attribution::Attribution,
    container::{Containers, lifecycle, oom},
    host::HostFacts,
    model::{
        container::CgroupId,
        event::OomKill,
        finding::{Finding, FindingKind, OomKilled, OomScope},
        time::Time,
    },
};

impl Containers {
    pub(super) fn oom_killed(
        &mut self,
        at: Time,
        kill: &OomKill,
        owner: Option<CgroupId>,
        attribution: &Attribution,
        host: &HostFacts,
        out: &mut Vec<Finding>,
    ) {
        if kill.reconciled > 0 {
            return self.reconciled(at, kill.reconciled, owner, host, out);
        }
        let verdict = oom::judge(kill, owner, |cgroup| attribution.container(cgroup));
        let invoker = attribution
            .container(kill.invoker_cgroup)
            .filter(|invoker| Some(*invoker) != owner)
            .and_then(|invoker| self.life(invoker))
            .map(|life| life.container().clone());
        let level = kill.levels.iter().find(|level| Some(level.cgroup) == owner);
        let own_limit = level.and_then(|level| level.limit.bytes());
        // The limit of a pod with one container is the container's too, and is hit first.
        let stood =
            level.is_some_and(|level| own_limit.is_some_and(|limit| oom::stands_at(level.usage, limit)));
        let at_own_limit = match verdict.scope {
            OomScope::Container => true,
            OomScope::Parent | OomScope::Ancestor | OomScope::Unknown => stood,
            OomScope::Inside | OomScope::Node => false,
        };
        let level = level.or(kill.levels.first());
        let (usage, peak) = level.map_or((0, 0), |level| (level.usage, level.watermark));
        let mut life = owner.and_then(|owner| self.tracked.get_mut(&owner)).map(|tracked| &mut tracked.life);
        let before_exec = life.as_ref().is_some_and(|life| life.awaits_exec());
        if let Some(life) = &mut life {
            let held = Some((usage, peak));
            life.oom_killed(at, Some(kill.victim_pid), at_own_limit, held, host.wall_ns(), out);
            if let Some(owner) = kill.memory_owner {
                life.killed_too(at, owner, at_own_limit);
            }
            life.gives_back(at, kill.victim_memory.map(|memory| memory.anon));
        }
        let killed = OomKilled {
            starting: life.as_ref().is_some_and(|life| life.is_starting()),
            age_seconds: life.as_ref().and_then(|life| life.age(at)),
            container: life.as_ref().map(|life| life.container().clone()),
            scope: verdict.scope,
            limit: verdict.limit,
            own_limit: own_limit.filter(|_| verdict.scope != OomScope::Container),
            victim_memory: kill.victim_memory,
            at_own_limit,
            before_exec: before_exec && lifecycle::is_runtime_init(&kill.victim_comm),
            victim_pid: kill.victim_pid,
            victim_command: kill.victim_comm.clone(),
            usage,
            peak,
            invoker_pid: kill.invoker_pid,
            invoker_command: kill.invoker_comm.clone(),
            invoker,
            kills: 1,
            reconciled: false,
        };
        out.push(Finding { at, what: FindingKind::OomKilled(killed) });
    }

    /// That there were so many is all that is known.
    fn reconciled(
        &mut self,
        at: Time,
        kills: u64,
        owner: Option<CgroupId>,
        host: &HostFacts,
        out: &mut Vec<Finding>,
    ) {
        let Some(tracked) = owner.and_then(|owner| self.tracked.get_mut(&owner)) else { return };
        let life = &mut tracked.life;
        let limit = life.limit().and_then(|limit| limit.bytes());
        let at_own_limit = limit.is_some_and(|limit| oom::stands_at(life.peak(), limit));
        life.oom_killed(at, None, at_own_limit, None, host.wall_ns(), out);
        life.gives_back(at, None);
        let killed = OomKilled {
            usage: life.usage(),
            peak: life.peak(),
            limit,
            own_limit: None,
            victim_memory: None,
            at_own_limit,
            before_exec: false,
            starting: life.is_starting(),
            age_seconds: life.age(at),
            container: Some(life.container().clone()),
            scope: OomScope::Unknown,
            victim_pid: 0,
            victim_command: String::new(),
            invoker_pid: 0,
            invoker_command: String::new(),
            invoker: None,
            kills,
            reconciled: true,
        };
        out.push(Finding { at, what: FindingKind::OomKilled(killed) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            container::ExitStatus,
            event::{AttachOutcome, Event, EventKind, Limit, OomLevel, ProbeStatus},
            kubernetes::{ApiState, Pod, PodContainer},
            probe_id::ProbeId,
        },
        pipeline::Pipeline,
    };

    const POD: CgroupId = 5;
    const HELD: CgroupId = 10;
    const KNOWN: CgroupId = 20;
    const UID: &str = "8a7b6c5d-1234-4abc-9def-0123456789ab";

    fn step(pipeline: &mut Pipeline, seconds: f64, what: EventKind) -> Vec<OomKilled> {
        let at = Time::from_nanos((seconds * 1e9) as u64);
        let findings = pipeline.step(&Event { at, what });
        let kills = findings.into_iter().filter_map(|finding| match finding.what {
            FindingKind::OomKilled(killed) => Some(killed),
            _ => None,
        });
        kills.collect()
    }

    /// The killed group below `POD`; each with the kernel's counts of its OOMs.
    fn kill(of: CgroupId, own: u64, above: u64) -> EventKind {
        let level = |cgroup, oom_events| OomLevel {
            cgroup,
            usage: 0,
            watermark: 0,
            limit: Limit::Unlimited,
            oom_events: Some(oom_events),
            oom_kills: None,
            kills_as_one: false,
        };
        EventKind::OomKill(OomKill {
            victim_cgroup: Some(of),
            victim_pid: 7,
            victim_comm: "runc:[2:INIT]".into(),
            levels: vec![level(of, own), level(POD, above)],
            ..OomKill::default()
        })
    }

    fn made(cgroup: CgroupId, path: &str) -> EventKind {
        EventKind::CgroupMade { cgroup, path: path.to_owned() }
    }

    #[test]
    fn a_kill_that_is_held_is_judged_by_the_counts_of_its_own_time_and_once() {
        let mut pipeline = Pipeline::default();
        let probe = |probe| {
            let outcome = AttachOutcome::Attached { hook: "test".into() };
            EventKind::Probe(ProbeStatus { probe, required: true, outcome, attached: None })
        };
        let watching = EventKind::Api(ApiState::Watching { node: "n".into(), ledger: false });
        let pod_path = format!("/kubepods/burstable/pod{UID}");
        let (id, other) = ("ab".repeat(32), "cd".repeat(32));
        let mut kills = Vec::new();
        for what in [
            probe(ProbeId::OomKill),
            probe(ProbeId::Process),
            watching,
            EventKind::Api(ApiState::Synced),
            made(POD, &pod_path),
            made(HELD, &format!("{pod_path}/{id}")),
            made(KNOWN, &format!("/system.slice/docker-{other}.scope")),
        ] {
            kills.extend(step(&mut pipeline, 1.0, what));
        }
        // The parent's limit, twice: once for a container without a name, once for one with a name.
        kills.extend(step(&mut pipeline, 2.0, kill(HELD, 0, 1)));
        assert!(kills.is_empty(), "it is held: {kills:?}");
        let known = step(&mut pipeline, 4.0, kill(KNOWN, 0, 2));
        assert_eq!(known.iter().map(|kill| kill.scope).collect::<Vec<_>>(), [OomScope::Parent]);
        let pod = Pod {
            uid: UID.into(),
            namespace: "shop".into(),
            name: "web".into(),
            containers: vec![PodContainer { name: "main".into(), id: Some(id), ..PodContainer::default() }],
            ..Pod::default()
        };
        let held = step(&mut pipeline, 5.0, EventKind::Pod(Box::new(pod)));
        assert_eq!(held.iter().map(|kill| kill.scope).collect::<Vec<_>>(), [OomScope::Parent]);
        assert_eq!(held[0].container.as_ref().map(|container| container.labels.pod.as_str()), Some("web"));
        // Now the node runs out: no count has risen since.
        let last = step(&mut pipeline, 9.0, kill(KNOWN, 0, 2));
        assert_eq!(last.iter().map(|kill| kill.scope).collect::<Vec<_>>(), [OomScope::Node]);
    }

    #[test]
    fn a_container_killed_before_its_exec_was_starting() {
        let path = format!("/system.slice/docker-{}.scope", "ab".repeat(32));
        // Moved into its group, and made in it.
        let attached = EventKind::CgroupAttached { cgroup: HELD, path: path.clone(), pid: 7 };
        let populated = EventKind::CgroupPopulated { cgroup: HELD, path: path.clone() };
        for came in [attached, populated] {
            let mut pipeline = Pipeline::default();
            let outcome = AttachOutcome::Attached { hook: "test".into() };
            let process = ProbeStatus { probe: ProbeId::Process, required: false, outcome, attached: None };
            step(&mut pipeline, 1.0, EventKind::Probe(process));
            step(&mut pipeline, 1.0, made(HELD, &path));
            step(&mut pipeline, 1.1, came);
            let killed = step(&mut pipeline, 1.2, kill(HELD, 1, 0));
            assert_eq!(killed.len(), 1);
            assert!(killed[0].starting && killed[0].before_exec, "{killed:?}");
            assert!(killed[0].age_seconds.is_some_and(|age| (age - 0.1).abs() < 1e-6), "{killed:?}");
            let at = Time::from_nanos(1_300_000_000);
            let what = EventKind::CgroupEmptied { cgroup: HELD, usage: 0, watermark: 0, oom_kills: None };
            let findings = pipeline.step(&Event { at, what });
            let ended = findings.iter().find_map(|finding| match &finding.what {
                FindingKind::Ended(ended) => Some(ended),
                _ => None,
            });
            assert!(ended.is_some_and(|ended| ended.oom_killed && ended.by_own_limit), "{ended:?}");
        }
    }

    #[test]
    fn a_first_process_that_shares_its_memory_with_the_victim_is_killed_with_it() {
        for (owner, oom_killed) in [(Some(7), true), (Some(9), false), (None, false)] {
            let mut pipeline = Pipeline::default();
            let path = "/job".to_owned();
            let exec =
                EventKind::Exec { cgroup: HELD, pid: 7, comm: "job".into(), watermark: 0, init: false };
            let EventKind::OomKill(victim) = kill(HELD, 1, 0) else { unreachable!() };
            let victim = OomKill { victim_pid: 8, memory_owner: owner, ..victim };
            let exit = |pid| EventKind::Exit {
                cgroup: HELD,
                pid,
                comm: "job".into(),
                status: ExitStatus::Signal(9),
                watermark: 0,
                init: false,
                depth: 0,
            };
            let emptied = EventKind::CgroupEmptied { cgroup: HELD, usage: 0, watermark: 0, oom_kills: None };
            let attached = EventKind::CgroupAttached { cgroup: HELD, path: path.clone(), pid: 7 };
            let steps =
                [made(HELD, &path), attached, exec, EventKind::OomKill(victim), exit(7), exit(8), emptied];
            let mut findings = Vec::new();
            for (n, what) in (1..).zip(steps) {
                findings.extend(pipeline.step(&Event { at: Time::from_nanos(n * 100_000_000), what }));
            }
            let ended = findings.iter().find_map(|finding| match &finding.what {
                FindingKind::Ended(ended) => Some(ended.oom_killed),
                _ => None,
            });
            assert_eq!(ended, Some(oom_killed), "{owner:?}");
        }
    }
}
