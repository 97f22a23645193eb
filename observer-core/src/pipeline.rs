//! One event in, findings out. No clock, no IO, cannot fail.
//!
//! ```text
//! event -> kills: which limit?          (an OOM kill is judged once, on arrival)
//!       -> attribution: which container? (holds the events of unidentified containers)
//!       -> containers: what happened there?
//!       -> conclusions: what follows?   -> findings
//! ```
//!
//! Replay and the live daemon run exactly this code; everything that is reported is derived here from events alone.

use crate::{
    attribution::{Admitted, Attribution},
    conclusions::Conclusions,
    container::{Containers, oom::Kills},
    history::Histories,
    host::HostFacts,
    model::{
        container::{CgroupId, ContainerState},
        event::{Event, EventKind, KillsKept},
        finding::{Finding, FindingKind},
        time::Time,
    },
};

#[derive(Debug, Default)]
pub struct Pipeline {
    host: HostFacts,
    kills: Kills,
    attribution: Attribution,
    containers: Containers,
    conclusions: Conclusions,
}

impl Pipeline {
    /// Folds one event into the state and returns what follows from it.
    pub fn step(&mut self, event: &Event) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.host.observe(event, &mut findings);
        if let EventKind::ClockSet { wall_offset_ns } = event.what {
            findings.extend(
                self.containers.lives().filter_map(|life| life.start_dated(event.at, wall_offset_ns)),
            );
        }
        for event in self.kills.judge(event, &self.host, &self.attribution) {
            for admitted in self.attribution.admit(&event, self.host.wall_ns()) {
                self.observe(admitted, event.at, &mut findings);
            }
        }
        let Self { host, attribution, containers, conclusions, .. } = self;
        conclusions.follow(event, host, attribution, containers, &mut findings);
        findings
    }

    fn observe(&mut self, admitted: Admitted, at: Time, findings: &mut Vec<Finding>) {
        match admitted {
            Admitted::Identified { container, presumed } => {
                if self.containers.rename(&container, presumed, at, findings) {
                    self.conclusions.renamed(&container);
                }
            }
            Admitted::Dropped { at, cgroup } => {
                findings.push(Finding { at, what: FindingKind::Unattributed { cgroup } });
            }
            admitted => self.containers.observe(admitted, &self.attribution, &self.host, findings),
        }
    }

    /// Containers in their start-up now.
    pub fn starting(&self) -> usize {
        self.containers.awake().filter(|life| life.state() == Some(ContainerState::Starting)).count()
    }

    /// What the event that was folded last added to what is kept of OOM kills: of a group, the kernel's count up to
    /// which they are reported, or that it was seen.
    pub fn kills_to_keep(&mut self, event: &Event) -> Vec<(CgroupId, Option<u64>)> {
        self.kills.to_keep(event, &self.attribution)
    }

    /// All that is kept of OOM kills.
    pub fn kills_kept(&self) -> KillsKept {
        self.kills.kept()
    }

    /// What is known of every workload's start-ups, to be kept for the next run.
    pub fn histories(&self) -> &Histories {
        self.conclusions.histories()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{
        container::Workload,
        event::{CgroupVersion, Host, OomKill},
        kubernetes::{ApiState, Pod, PodContainer},
        past_startup::{PastStartup, StartupOutcome},
        usage_histogram::Levels,
    };

    const SECOND: u64 = 1_000_000_000;

    fn event(seconds: f64, what: EventKind) -> Event {
        Event { at: Time::from_nanos((seconds * SECOND as f64) as u64), what }
    }

    fn uid(n: u64) -> String {
        format!("{n:08x}-2222-3333-4444-555555555555")
    }

    fn id(n: u64) -> String {
        format!("{n:064x}")
    }

    fn path(n: u64) -> String {
        format!("/kubepods/burstable/pod{}/{}", uid(n), id(n))
    }

    fn pod(n: u64) -> Pod {
        let app = PodContainer { name: "app".into(), id: Some(id(n)), ..PodContainer::default() };
        let name = format!("web-{n}");
        Pod { uid: uid(n), namespace: "shop".into(), name, containers: vec![app], ..Pod::default() }
    }

    /// Containers 1 to 5 run already, 6 to 10 start at once; each is busy. The API says who they are after so many
    /// seconds.
    fn api_silent_for(silence: u64) -> (Pipeline, Vec<Finding>) {
        let (mut pipeline, mut findings) = (Pipeline::default(), Vec::new());
        let mut step = |seconds: f64, what: EventKind| findings.extend(pipeline.step(&event(seconds, what)));
        step(0.0, EventKind::Api(ApiState::Watching { node: "n".into(), ledger: false }));
        for cgroup in 1..=5 {
            step(0.0, EventKind::CgroupSeeded { cgroup, path: path(cgroup), populated: true });
        }
        for cgroup in 6..=10 {
            step(0.1, EventKind::CgroupMade { cgroup, path: path(cgroup) });
            step(0.1, EventKind::CgroupAttached { cgroup, path: path(cgroup), pid: 1 });
            step(0.2, EventKind::Exec { cgroup, pid: 1, comm: "app".into(), watermark: 0, init: false });
        }
        for second in 0..silence {
            for part in 0..50 {
                for cgroup in 1..=10 {
                    let usage = (second * 50 + part) << 16;
                    let at = second as f64 + 0.3 + f64::from(part as u32) / 100.0;
                    step(at, EventKind::Usage { cgroup, usage, watermark: usage });
                }
            }
            step(second as f64 + 1.0, EventKind::Tick);
        }
        for n in 1..=10 {
            step(silence as f64, EventKind::Pod(Box::new(pod(n))));
        }
        for second in 1..=10 {
            step((silence + second) as f64, EventKind::Tick);
        }
        (pipeline, findings)
    }

    #[test]
    fn no_container_is_lost_however_long_the_api_is_silent() {
        for silence in [1, 15, 19, 20, 29, 30, 31, 60, 600] {
            let (pipeline, findings) = api_silent_for(silence);
            let (mut seen, mut started) = (BTreeSet::new(), BTreeSet::new());
            for finding in &findings {
                match &finding.what {
                    FindingKind::Seen { container } => assert!(seen.insert(container.cgroup), "{silence} s"),
                    FindingKind::Started(start) => {
                        assert!(started.insert(start.container.cgroup), "{silence} s");
                        assert_eq!(
                            finding.at,
                            Time::from_nanos(SECOND / 10),
                            "reported late, with its own time"
                        );
                    }
                    FindingKind::Ended(ended) => panic!("{silence} s: {ended:?}"),
                    _ => {}
                }
            }
            assert_eq!(seen, BTreeSet::from_iter(1..=5), "{silence} s");
            assert_eq!(started, BTreeSet::from_iter(6..=10), "{silence} s");
            let named =
                |cgroup: CgroupId| pipeline.containers.life(cgroup).unwrap().container().labels.pod.clone();
            assert!((1..=10).all(|cgroup| named(cgroup) == format!("web-{cgroup}")), "{silence} s");
            // What was learned and advised under uids meanwhile is the pods'.
            let known = |finding: &&Finding| matches!(finding.what, FindingKind::Identified { .. });
            let after = findings.iter().rposition(|finding| known(&finding)).map_or(0, |last| last + 1);
            let mut advised = findings[after..].iter().filter_map(|finding| match &finding.what {
                FindingKind::Advised(advised) => Some(&advised.facts.workload),
                _ => None,
            });
            let mut all = pipeline.histories().iter().map(|(workload, _)| workload).chain(advised.by_ref());
            assert!(all.all(|workload| workload.workload.starts_with("web-")), "{silence} s");
        }
    }

    #[test]
    fn a_name_that_was_another_containers_takes_nothing_of_it() {
        let debugger = PodContainer { name: "debugger".into(), id: Some(id(2)), ..PodContainer::default() };
        let mut known = pod(1);
        let app = Workload {
            namespace: "shop".into(),
            workload: "web-1".into(),
            workload_type: "pod".into(),
            container: "app".into(),
        };
        let path = |n: u64| format!("/kubepods/burstable/pod{}/{}", uid(1), id(n));
        let past = PastStartup { started: 1.0, peak: 7, span: 1.0, curve: vec![7.0], ..past_startup() };
        // Of an earlier run of the app, which is not there now; and beside the app, which is.
        for app_runs in [false, true] {
            let (mut pipeline, mut findings) = (Pipeline::default(), Vec::new());
            let mut step = |seconds: f64, what| findings.extend(pipeline.step(&event(seconds, what)));
            step(0.0, EventKind::Host(host()));
            step(0.0, EventKind::Api(ApiState::Watching { node: "n".into(), ledger: false }));
            step(
                0.0,
                EventKind::History {
                    workload: app.clone(),
                    startups: vec![past.clone()],
                    levels: Levels::default(),
                },
            );
            known.containers.truncate(1);
            known.containers[0].id = app_runs.then(|| id(1));
            step(0.1, EventKind::Pod(Box::new(known.clone())));
            step(0.2, EventKind::CgroupMade { cgroup: 9, path: path(9) }); // the sandbox
            let started = [1, 2].into_iter().filter(|cgroup| app_runs || *cgroup == 2);
            for cgroup in started.clone() {
                step(0.3, EventKind::CgroupMade { cgroup, path: path(cgroup) });
                step(0.3, EventKind::CgroupAttached { cgroup, path: path(cgroup), pid: cgroup as u32 });
                let comm = "sh".to_owned();
                step(0.4, EventKind::Exec { cgroup, pid: cgroup as u32, comm, watermark: 0, init: false });
            }
            for tick in 0..400 {
                let at = 1.0 + f64::from(tick) / 5.0;
                for cgroup in started.clone() {
                    step(at, EventKind::Usage { cgroup, usage: 1 << 24, watermark: 1 << 24 });
                }
                step(at, EventKind::Tick);
            }
            let mut names = known.clone();
            names.containers.push(debugger.clone());
            step(90.0, EventKind::Pod(Box::new(names)));
            step(91.0, EventKind::Tick);
            let remembered = |container: &str| {
                let workload = Workload { container: container.to_owned(), ..app.clone() };
                pipeline.histories().get(&workload).iter().map(|past| past.peak).collect::<Vec<_>>()
            };
            let own = if app_runs { vec![7, 1 << 24] } else { vec![7] };
            assert_eq!(remembered("app"), own, "{app_runs}");
            assert_eq!(remembered("debugger"), [1 << 24], "{app_runs}");
            let before = findings.iter().find_map(|finding| match &finding.what {
                FindingKind::Identified { before, whole, .. } => Some((before.container.as_str(), *whole)),
                _ => None,
            });
            // Where the app runs, the other is certainly not it.
            let stand_in = if app_runs { (&id(2)[..12], true) } else { ("app", false) };
            assert_eq!(before, Some(stand_in), "{app_runs}");
        }
    }

    fn past_startup() -> PastStartup {
        PastStartup {
            started: 0.0,
            pod: String::new(),
            outcome: StartupOutcome::Stable,
            cut_short: false,
            peak: 0,
            peak_seconds: 0.0,
            unreclaimable_peak: 0,
            growth: 0.0,
            time_to_stable: Some(1.0),
            steady: None,
            overshoot: None,
            span: 0.0,
            curve: Vec::new(),
        }
    }

    #[test]
    fn an_api_that_knows_none_of_them_leaves_them_reported_by_uid() {
        let (mut pipeline, mut findings) = (Pipeline::default(), Vec::new());
        let mut step = |seconds: f64, what: EventKind| findings.extend(pipeline.step(&event(seconds, what)));
        step(0.0, EventKind::Api(ApiState::Watching { node: "n".into(), ledger: false }));
        step(0.0, EventKind::CgroupSeeded { cgroup: 1, path: path(1), populated: true });
        for second in 1..60 {
            step(f64::from(second), EventKind::Tick);
        }
        let seen = |finding: &Finding| matches!(&finding.what, FindingKind::Seen { container } if container.cgroup == 1);
        assert!(findings.iter().any(seen));
    }

    fn host() -> Host {
        Host {
            observer_version: String::new(),
            kernel: String::new(),
            cgroup: CgroupVersion::V2,
            wall_offset_ns: 0,
            page_size: 4096,
            cpus: 2,
            memory_total: 1 << 34,
            booted: None,
            retention_ns: 5 * SECOND,
        }
    }

    #[test]
    fn a_group_that_gets_processes_again_after_its_container_was_forgotten_is_one_again() {
        let (mut pipeline, path) = (Pipeline::default(), "/job".to_owned());
        let mut findings = Vec::new();
        let mut step = |seconds: f64, what: EventKind| findings.extend(pipeline.step(&event(seconds, what)));
        let again = |step: &mut dyn FnMut(f64, EventKind), at: f64| {
            step(at, EventKind::CgroupAttached { cgroup: 1, path: path.clone(), pid: 1 });
            step(at, EventKind::Exec { cgroup: 1, pid: 1, comm: "job".into(), watermark: 0, init: false });
            let kill = OomKill { victim_cgroup: Some(1), victim_pid: 1, ..OomKill::default() };
            step(at, EventKind::OomKill(kill));
            step(at, EventKind::CgroupEmptied { cgroup: 1, usage: 0, watermark: 0, oom_kills: None });
            step(at + 60.0, EventKind::Tick);
        };
        step(0.0, EventKind::Host(host()));
        step(0.0, EventKind::CgroupMade { cgroup: 1, path: path.clone() });
        for round in 1..=3 {
            again(&mut step, f64::from(round) * 100.0);
        }
        step(900.0, EventKind::CgroupRemoved { cgroup: 1 });
        step(960.0, EventKind::Tick);
        let count =
            |of: fn(&FindingKind) -> bool| findings.iter().filter(|finding| of(&finding.what)).count();
        assert_eq!(count(|what| matches!(what, FindingKind::Started(_))), 3);
        assert_eq!(count(|what| matches!(what, FindingKind::Forgotten { .. })), 3);
        let of_it =
            |what: &FindingKind| matches!(what, FindingKind::OomKilled(kill) if kill.container.is_some());
        assert_eq!(count(of_it), 3);
        assert_eq!((pipeline.containers.iter().count(), pipeline.attribution.cgroups()), (0, 0));
    }

    #[test]
    fn the_end_of_a_container_leaves_nothing_behind() {
        let mut pipeline = Pipeline::default();
        pipeline.step(&event(0.0, EventKind::Host(host())));
        for cgroup in 1..=500 {
            let (at, path) = (cgroup as f64 / 10.0, format!("/job-{cgroup}"));
            pipeline.step(&event(at, EventKind::CgroupMade { cgroup, path: path.clone() }));
            pipeline.step(&event(at, EventKind::CgroupAttached { cgroup, path, pid: 1 }));
            pipeline.step(&event(
                at,
                EventKind::Exec { cgroup, pid: 1, comm: "job".into(), watermark: 0, init: false },
            ));
            pipeline.step(&event(
                at,
                EventKind::CgroupEmptied { cgroup, usage: 0, watermark: 0, oom_kills: None },
            ));
            pipeline.step(&event(at, EventKind::CgroupRemoved { cgroup }));
            pipeline.step(&event(at, EventKind::Tick));
        }
        pipeline.step(&event(60.0, EventKind::Tick));
        assert_eq!((pipeline.containers.iter().count(), pipeline.attribution.cgroups()), (0, 0));
    }
}
