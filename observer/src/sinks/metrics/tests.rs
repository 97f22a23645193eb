use observer_core::model::{
    cause::Cause,
    container::{Container, ContainerState},
    event::{CgroupVersion, Host},
    finding::{ForeseenBy, LimitAhead, LimitKind, NodeMeasured, OomKilled, OomScope, Started},
};

use super::*;
use crate::{commands::docs, sinks::metrics::family::gauge};

fn container(cgroup: u64, pod: &str, workload: &str) -> Container {
    let labels = Labels {
        namespace: "shop".into(),
        pod: pod.into(),
        container: "app".into(),
        workload: workload.into(),
        workload_type: "deployment".into(),
    };
    Container { cgroup, labels: Arc::new(labels) }
}

fn host(retention_seconds: u64) -> FindingKind {
    FindingKind::Host(Host {
        observer_version: "1".into(),
        kernel: "6".into(),
        cgroup: CgroupVersion::V2,
        wall_offset_ns: 1_000_000_000_000,
        page_size: 4096,
        cpus: 2,
        memory_total: 1 << 30,
        booted: None,
        retention_ns: retention_seconds * 1_000_000_000,
    })
}

fn started(container: &Container) -> FindingKind {
    FindingKind::Started(Started {
        container: container.clone(),
        unix_seconds: 7.0,
        command: Some("app".into()),
        cause: Cause::First,
    })
}

fn used(container: &Container, usage: u64) -> FindingKind {
    FindingKind::Point { container: container.clone(), usage }
}

fn state(container: &Container, from: ContainerState, to: ContainerState) -> FindingKind {
    FindingKind::State { container: container.clone(), from, to }
}

fn node() -> FindingKind {
    FindingKind::Node(NodeMeasured {
        reading: None,
        cgroups: 1,
        containers: 1,
        starting: 0,
        starting_usage: 0,
        forecast: Default::default(),
        stampede: false,
    })
}

fn killed(container: &Container) -> FindingKind {
    FindingKind::OomKilled(OomKilled {
        container: Some(container.clone()),
        scope: OomScope::Container,
        victim_pid: 1,
        victim_command: "app".into(),
        usage: 9,
        peak: 9,
        limit: Some(9),
        own_limit: None,
        victim_memory: None,
        at_own_limit: true,
        before_exec: false,
        reconciled: false,
        invoker_pid: 1,
        invoker_command: "app".into(),
        invoker: None,
        starting: true,
        age_seconds: None,
        kills: 1,
    })
}

struct Run {
    metrics: Metrics,
    seconds: u64,
}

impl Run {
    fn new(tables: Tables) -> Self {
        let run = Self { metrics: Metrics::of(tables), seconds: 0 };
        run.say(host(5));
        run
    }

    fn say(&self, what: FindingKind) {
        self.metrics.apply(&Finding { at: Time::from_nanos(self.seconds * 1_000_000_000), what });
    }

    fn series(&self, start: &str) -> Vec<String> {
        self.metrics.everything().lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }
}

/// The recipe for a metric is one declaration: whatever else there is follows from it.
#[test]
fn a_metric_is_one_declaration() {
    static THROW_AWAY: Metric<container::Container> =
        gauge("observer_container_throw_away_bytes", "A test's.", |container| container.holder.map(|_| 7.0));
    let mut tables = Tables::default();
    tables.container.push(&THROW_AWAY);
    let run = Run::new(tables.clone());
    let web = container(1, "web-1", "web");
    run.say(started(&web));
    let text = run.metrics.everything();
    assert!(text.contains("# TYPE observer_container_throw_away_bytes gauge"), "{text}");
    let series = r#"observer_container_throw_away_bytes{container="app",namespace="shop",pod="web-1",workload="web",workload_type="deployment"} 7"#;
    assert!(text.contains(series), "{text}");
    run.say(FindingKind::Forgotten { container: web });
    assert!(!run.metrics.everything().contains("throw_away"));
    assert!(
        docs::metrics_of(tables.declarations()).contains("| `observer_container_throw_away_bytes` | gauge |")
    );
}

#[test]
fn what_a_container_uses_goes_with_it_and_the_rest_after_the_retention() {
    let run = Run::new(Tables::default());
    let web = container(1, "web-1", "web");
    run.say(started(&web));
    run.say(used(&web, 100));
    assert_eq!(run.series("observer_container_memory_usage_bytes").len(), 1);
    run.say(state(&web, ContainerState::Starting, ContainerState::Ended));
    run.say(used(&web, 100)); // read before it was known to be gone
    assert!(run.series("observer_container_memory_usage_bytes").is_empty());
    let state = run.series("observer_container_state");
    assert!(state.len() == 1 && state[0].contains(r#"state="ended""#), "{state:?}");
    run.say(FindingKind::Forgotten { container: web });
    assert!(run.series("observer_container_").is_empty());
    assert_eq!(run.series("observer_workload_containers{").len(), 1);
}

#[test]
fn a_limit_ahead_is_shown_while_it_is_and_one_at_a_time() {
    let run = Run::new(Tables::default());
    let web = container(1, "web-1", "web");
    run.say(started(&web));
    let ahead = |limit, in_seconds| {
        FindingKind::LimitAhead(LimitAhead {
            container: web.clone(),
            limit,
            bytes: 100,
            in_seconds,
            confidence: 0.9,
            by: ForeseenBy::Trend,
            news: false,
        })
    };
    let series = || run.series("observer_container_limit_in_seconds");
    assert!(series().is_empty());
    run.say(ahead(LimitKind::Container, 9.0));
    run.say(ahead(LimitKind::Node, 5.0));
    assert!(series().len() == 1 && series()[0].contains(r#"limit="node""#), "{:?}", series());
    run.say(FindingKind::LimitAheadOver { container: web.clone() });
    assert!(series().is_empty());
    run.say(ahead(LimitKind::Container, 9.0));
    run.say(state(&web, ContainerState::Starting, ContainerState::Ended));
    assert!(series().is_empty());
}

#[test]
fn a_restart_takes_the_series_over_and_a_late_word_of_the_one_before_does_not_take_them_away() {
    let run = Run::new(Tables::default());
    let (old, new) = (container(1, "web-1", "web"), container(2, "web-1", "web"));
    run.say(started(&old));
    run.say(FindingKind::Faulted { container: old.clone(), faults: 3 });
    run.say(state(&old, ContainerState::Starting, ContainerState::Ended));
    run.say(started(&new));
    run.say(state(&new, ContainerState::Ended, ContainerState::Starting));
    run.say(used(&new, 200));
    run.say(FindingKind::Faulted { container: new, faults: 4 });
    run.say(used(&old, 100));
    run.say(FindingKind::Forgotten { container: old });
    let usage = run.series("observer_container_memory_usage_bytes");
    assert!(usage.len() == 1 && usage[0].ends_with(" 200"), "{usage:?}");
    assert!(run.series("observer_container_page_faults_total")[0].ends_with(" 7"));
    assert!(run.series("observer_workload_containers")[0].ends_with(" 1"));
}

#[test]
fn a_workload_leaves_when_nothing_of_it_runs_and_later_if_it_has_something_to_show() {
    let mut run = Run::new(Tables::default());
    let (job, web) = (container(1, "job-1", "job"), container(2, "web-1", "web"));
    for of in [&job, &web] {
        run.say(started(of));
    }
    run.say(killed(&web));
    run.seconds = 10;
    run.say(node());
    assert_eq!(run.series("observer_workload_containers").len(), 2, "both run");
    for of in [&job, &web] {
        run.say(state(of, ContainerState::Starting, ContainerState::Ended));
    }
    run.seconds = 20;
    run.say(node());
    let left = run.series("observer_workload_containers");
    assert!(left.len() == 1 && left[0].contains(r#"workload="web""#), "{left:?}");
    run.seconds = 10 + 3601;
    run.say(node());
    assert!(
        run.series("observer_workload_")
            .iter()
            .all(|line| line.starts_with("observer_workload_series_dropped"))
    );
}

#[test]
fn workloads_are_bounded_and_those_that_ran_last_stay() {
    let mut run = Run::new(Tables::default());
    for i in 0..WORKLOADS as u64 + 10 {
        run.seconds = i;
        let job = container(i, &format!("job-{i}"), &format!("job-{i}"));
        run.say(started(&job));
        run.say(killed(&job));
        run.say(state(&job, ContainerState::Starting, ContainerState::Ended));
    }
    let left = run.series("observer_workload_containers");
    assert_eq!(left.len(), WORKLOADS);
    assert!(!left.iter().any(|line| line.contains(r#"workload="job-9""#)));
    assert!(run.series("observer_workload_series_dropped_total")[0].ends_with(" 10"));
}

#[test]
fn what_was_counted_under_a_uid_is_the_workloads() {
    let run = Run::new(Tables::default());
    let (uid, web) = (container(1, "uid", "pod"), container(1, "web-1", "web"));
    run.say(started(&uid));
    run.say(killed(&uid));
    run.say(FindingKind::Identified { container: web, before: uid.labels, whole: true });
    let kills = run.series("observer_workload_oom_kills_total");
    let own = kills.iter().filter(|line| line.contains(r#"scope="container""#)).collect::<Vec<_>>();
    assert!(own.len() == 1 && own[0].contains(r#"workload="web""#) && own[0].ends_with(" 1"), "{kills:?}");
    assert!(!run.metrics.everything().contains(r#"workload="pod""#));
}

#[test]
fn what_was_counted_of_another_under_the_same_name_stays_with_it() {
    let run = Run::new(Tables::default());
    let (mut app, mut other) = (container(1, "web-1", "web"), container(2, "web-1", "web"));
    run.say(started(&app));
    run.say(killed(&app));
    run.say(started(&other));
    let before = Arc::clone(&other.labels);
    other.labels = Arc::new(Labels { container: "debugger".into(), ..(*before).clone() });
    run.say(FindingKind::Identified { container: other.clone(), before, whole: false });
    run.say(killed(&other));
    let of = |family: &str, part: &str| {
        let mut lines = run.series(family).into_iter().filter(|line| line.contains(part));
        lines.find(|line| !line.contains("scope=") || line.contains(r#"scope="container""#))
    };
    for name in ["app", "debugger"] {
        let name = format!(r#"container="{name}""#);
        for family in ["observer_workload_containers", "observer_workload_oom_kills_total"] {
            assert!(of(family, &name).is_some_and(|line| line.ends_with(" 1")), "{family} {name}");
        }
    }
    app.cgroup = 3;
    run.say(started(&app));
    let alive = of("observer_workload_containers", r#"container="app""#);
    assert!(alive.is_some_and(|line| line.ends_with(" 2")));
}

#[test]
fn open_metrics_has_the_time_each_counter_began_and_an_end() {
    let run = Run::new(Tables::default());
    let odd = container(1, "we\"b\n\\", "web");
    run.say(started(&odd));
    run.say(killed(&odd));
    let text = run.metrics.open_metrics(Page::Current);
    assert!(text.ends_with("\n# EOF\n"));
    assert!(text.contains("# TYPE observer_container_oom_kills counter\n"), "{text}");
    let labels = r#"{container="app",namespace="shop",pod="we\"b\n\\",scope="container",workload="web",workload_type="deployment"}"#;
    assert!(text.contains(&format!("observer_container_oom_kills_total{labels} 1\n")), "{text}");
    assert!(text.contains(&format!("observer_container_oom_kills_created{labels} 1000\n")), "{text}");
}
