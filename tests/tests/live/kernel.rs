//! One test per probe and per thing the probes say together.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use observer_tests::{
    daemon::{Daemon, patience},
    group::Group,
};
use rustix::process::Signal;

use crate::{
    Case,
    Needs::{Disposable, Pressure, Probes, Trampolines, V2},
    Stage,
};

pub const CASES: &[Case] = &[
    Case { name: "page_fault_counts_every_user_fault", needs: Probes, run: counts_faults },
    Case { name: "page_fault_pushes_a_spike_no_scrape_would_see", needs: Probes, run: pushes_a_spike },
    Case { name: "process_reports_start_and_exit_code", needs: Probes, run: start_and_exit },
    Case { name: "cgroup_life_reports_what_lives", needs: Probes, run: who_lives },
    Case { name: "oom_kill_names_the_victim_and_its_own_limit", needs: Probes, run: own_limit },
    Case { name: "oom_kill_by_the_parents_limit_says_so", needs: Probes, run: parents_limit },
    Case { name: "oom_kill_by_a_limit_further_up_says_so", needs: Probes, run: ancestors_limit },
    Case { name: "oom_kill_of_a_whole_group_names_each_victim", needs: V2, run: whole_group },
    Case { name: "oom_kill_for_want_of_node_memory_says_so", needs: Disposable, run: node_exhausted },
    Case {
        name: "oom_kill_of_a_child_is_seen_though_the_main_process_lives",
        needs: Probes,
        run: child_killed,
    },
    Case { name: "reclaim_counts_stalls_at_a_limit", needs: Probes, run: reclaim },
    Case { name: "page_cache_joins_the_curve_without_a_fault", needs: Probes, run: cache_curve },
    Case { name: "oom_scope_names_the_group_whose_limit_it_was", needs: Trampolines, run: scope },
    Case { name: "fault_latency_is_a_histogram_when_asked_for", needs: Trampolines, run: latency },
    Case { name: "memory_events_report_every_limit_met", needs: Probes, run: limit_met },
    Case { name: "oom_kill_while_memory_high_throttles_says_both", needs: V2, run: throttled },
    Case { name: "pressure_of_a_group_is_reported", needs: Pressure, run: pressure },
    Case { name: "a_group_inside_a_unit_is_counted_as_the_unit", needs: Probes, run: nested },
    Case { name: "what_ran_before_the_observer_is_measured_but_not_started", needs: Probes, run: seeded },
    Case {
        name: "a_workload_keeps_its_kills_after_its_container_is_forgotten",
        needs: Probes,
        run: forgotten,
    },
    Case { name: "a_restart_is_explained_by_how_the_previous_one_ended", needs: Probes, run: restarts },
    Case { name: "a_workloads_history_survives_the_daemon", needs: Probes, run: remembers },
    Case { name: "entries_leave_the_kernels_tables_with_their_cgroups", needs: Probes, run: tables },
    Case { name: "a_path_longer_than_a_record_is_found_by_its_id", needs: Probes, run: long_path },
    Case { name: "a_recording_replays_to_the_same_bytes", needs: Probes, run: replays },
];

const READY: Duration = Duration::from_secs(10);
pub const SOON: Duration = Duration::from_secs(5);
pub const MIB: u64 = 1 << 20;

/// Keys of the daemon's table of containers: of the maps of that name, the one made last.
fn marked() -> Result<BTreeSet<u64>> {
    let maps = aya::maps::loaded_maps().filter_map(Result::ok);
    let named = maps.filter(|map| map.name_as_str() == Some("CONTAINERS")).map(|map| map.id());
    let map = MapData::from_id(named.max().context("no map CONTAINERS")?)?;
    let table = HashMap::<_, u64, u32>::try_from(Map::HashMap(map))?;
    Ok(table.keys().filter_map(Result::ok).collect())
}

fn wait_marked(accept: impl Fn(&BTreeSet<u64>) -> bool) -> Result<()> {
    let (began, within) = (Instant::now(), Duration::from_secs(20) * patience());
    while !accept(&marked()?) {
        ensure!(began.elapsed() < within, "{} containers marked after {within:?}", marked()?.len());
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn tables(stage: &Stage) -> Result<()> {
    let daemon = daemon(stage, &[])?;
    let parent = format!("observer-test-x{}/tables", std::process::id());
    let group = stage.tree()?.group(&parent)?;
    let parent_id = fs::metadata(group.directory())?.ino();
    wait_marked(|marked| marked.contains(&parent_id))?;
    let churn = |groups: u32| -> Result<BTreeSet<u64>> {
        let made = (0..groups).map(|n| {
            let group = stage.tree()?.group(&format!("{parent}/{n}"))?;
            Ok(fs::metadata(group.directory())?.ino())
        });
        made.collect()
    };
    let swept = ["reason=\"entry_swept\""];
    let made = churn(500)?;
    wait_marked(|marked| marked.is_disjoint(&made))?;
    let by_walks = daemon.metric("observer_lost_records_total", &swept)?.unwrap_or(0.0);
    ensure!(by_walks == 0.0, "{by_walks} freed by a walk only");

    // Stopped, so that the ring runs over and removals are lost.
    daemon.signal(Signal::STOP)?;
    let made = churn(2500)?;
    ensure!(!marked()?.is_disjoint(&made), "nothing to free");
    daemon.signal(Signal::CONT)?;
    daemon.wait_metric("observer_lost_records_total", &["reason=\"life_ring_full\""], SOON, |v| v > 0.0)?;
    wait_marked(|marked| marked.is_disjoint(&made))?;
    daemon.wait_metric("observer_lost_records_total", &swept, SOON, |v| v > 0.0)?;
    ensure!(marked()?.contains(&parent_id), "one that lives was freed");
    Ok(())
}

fn long_path(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let level = |n: u32| format!("{n}-{}", "x".repeat(90));
    let parent =
        format!("observer-test-x{}/{}", std::process::id(), (0..5).map(level).collect::<Vec<_>>().join("/"));
    for leaf in ["one", "two"] {
        let group = stage.tree()?.group(&format!("{parent}/{leaf}"))?;
        let mut main =
            group.spawn(&stage.workload, &["spike", "--peak", "20", "--steady", "20", "--seconds", "30"])?;
        let own = format!("container=\"{}\"", group.path());
        daemon.wait_metric("observer_container_state", &[&own, "state=\"starting\""], SOON, |v| v == 1.0)?;
        daemon.wait_metric("observer_container_memory_anonymous_bytes", &[&own], SOON, |v| v > 10e6)?;
        drop(group);
        main.wait()?;
    }
    Ok(())
}

pub fn daemon(stage: &Stage, args: &[&str]) -> Result<Daemon> {
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, args)?;
    daemon.ready(READY)?;
    Ok(daemon)
}

pub fn group(stage: &Stage, name: &str) -> Result<Group> {
    stage.tree()?.group(&format!("observer-test-x{}/{name}", std::process::id()))
}

/// The label that selects a group's own series.
pub fn own(group: &Group) -> String {
    format!("container=\"{}\"", group.path())
}

pub fn run(stage: &Stage, group: &Group, args: &str) -> Result<Child> {
    group.spawn(&stage.workload, &args.split(' ').collect::<Vec<_>>())
}

pub fn wait(mut child: Child) -> Result<std::process::Output> {
    let began = Instant::now();
    let within = Duration::from_secs(60) * patience();
    while began.elapsed() < within {
        if child.try_wait()?.is_some() {
            return Ok(child.wait_with_output()?);
        }
        sleep(Duration::from_millis(20));
    }
    child.kill()?;
    anyhow::bail!("the workload did not end within {within:?}")
}

fn counts_faults(stage: &Stage) -> Result<()> {
    counts_faults_of(stage, &*stage.daemon()?, "faults")
}

pub fn counts_faults_of(stage: &Stage, daemon: &Daemon, name: &str) -> Result<()> {
    let group = group(stage, name)?;
    let output = wait(run(stage, &group, "fault --size 64 --rounds 16")?)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let counted: f64 = text.split(' ').next().context("no output")?.parse()?;
    // The warm-up round, and what loading two programs takes: at most 2 % here.
    let warm_up = counted / 16.0;
    let (least, most) = (counted + warm_up, (counted + warm_up) * 1.02);
    let name = "observer_container_page_faults_total";
    daemon.wait_metric(name, &[&own(&group)], SOON, |faults| faults >= least)?;
    sleep(Duration::from_secs(2)); // two more reads of the totals: nothing may be counted twice
    let faults = daemon.metric(name, &[&own(&group)])?.unwrap_or(0.0);
    ensure!(faults <= most, "{faults} faults reported, {counted} made");
    Ok(())
}

fn pushes_a_spike(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "spike")?;
    let began = Instant::now();
    let child = run(stage, &group, "spike --peak 200 --steady 20 --ramp 0.1 --hold 0.05 --seconds 0.4")?;
    wait(child)?;
    let lasted = began.elapsed().as_secs_f64(); // in an emulated machine the ramp alone can take seconds
    let peak = group.peak().unwrap_or(200 * MIB) as f64;
    let reported =
        daemon.wait_metric("observer_container_startup_peak_bytes", &[&own(&group)], SOON, |v| v > 0.0)?;
    ensure!(
        (reported / peak - 1.0).abs() < 0.02,
        "start-up peak reported as {reported}, the kernel's watermark is {peak}"
    );
    let at =
        daemon.metric("observer_container_startup_time_to_peak_seconds", &[&own(&group)])?.unwrap_or(9.0);
    ensure!((0.05..lasted).contains(&at), "the peak of a 0.1 s ramp is said to be at {at} s of {lasted:.3}");
    Ok(())
}

fn start_and_exit(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "exits")?;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    // `env` is the entry point: it executes sh again, which is then not a second start.
    wait(group.spawn("/usr/bin/env".as_ref(), &["sh", "-c", "sleep 0.2; exit 3"])?)?;
    let started =
        daemon.wait_metric("observer_container_start_time_seconds", &[&own(&group)], SOON, |v| v > 0.0)?;
    ensure!((started - before).abs() < 1.0, "start reported as {started}, it was after {before}");
    daemon.wait_metric("observer_container_state", &[&own(&group), "state=\"ended\""], SOON, |v| v == 1.0)?;
    let workload = format!("workload=\"{}\"", group.path());
    let starts = daemon.metric("observer_workload_starts_total", &[&workload, "cause=\"first\""])?;
    ensure!(starts == Some(1.0), "starts: {starts:?}");
    ensure!(daemon.log_text().contains("(exit code 3), it was starting"), "{}", daemon.log_text());
    Ok(())
}

fn who_lives(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "lives")?;
    let workload = format!("workload=\"{}\"", group.path());
    let child = run(stage, &group, "spike --peak 8 --steady 8 --seconds 1.5")?;
    let alive = "observer_workload_containers";
    daemon.wait_metric(alive, &[&workload], SOON, |containers| containers == 1.0)?;
    wait(child)?;
    daemon.wait_metric(alive, &[&workload], SOON, |containers| containers == 0.0)?;
    Ok(())
}

fn oom(stage: &Stage, daemon: &Daemon, group: &Group, args: &str, scope: &str) -> Result<()> {
    let child = run(stage, group, args)?;
    let scope = format!("scope=\"{scope}\"");
    let kills = "observer_container_oom_kills_total";
    daemon.wait_metric(kills, &[&own(group), &scope], Duration::from_secs(10), |kills| kills == 1.0)?;
    let all = daemon.metric(kills, &[&own(group)])?;
    ensure!(all == Some(1.0), "one process was killed, all scopes together say {all:?}");
    let _ = wait(child); // killed, or its main process is still alive: the group's removal ends it
    Ok(())
}

fn own_limit(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "greedy")?;
    group.limit(32 * MIB)?;
    oom(stage, &daemon, &group, "spike --peak 100 --steady 10 --ramp 0.5", "container")?;
    let log = daemon.log_text();
    let line = log
        .lines()
        .find(|line| line.contains("OOM kill of") && line.contains(group.path()))
        .unwrap_or_default();
    for part in [group.path(), "OOM kill of workload", "into its start-up", "its own limit 32 MiB was hit"] {
        ensure!(line.contains(part), "{part:?} not in: {line}");
    }
    let during = daemon.metric("observer_workload_oom_kills_by_phase_total", &["/greedy\"", "startup"])?;
    ensure!(during == Some(1.0), "the kill was during start-up: {during:?}");
    Ok(())
}

fn parents_limit(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let parent = group(stage, "shared")?;
    parent.limit(48 * MIB)?;
    let child = group(stage, "shared/one")?;
    oom(stage, &daemon, &child, "spike --peak 100 --steady 10 --ramp 0.5", "parent")
}

fn ancestors_limit(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let top = group(stage, "class")?;
    top.limit(48 * MIB)?;
    let _pod = group(stage, "class/pod")?;
    let child = group(stage, "class/pod/one")?;
    oom(stage, &daemon, &child, "spike --peak 100 --steady 10 --ramp 0.5", "ancestor")
}

fn whole_group(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "as-one")?;
    group.limit(48 * MIB)?;
    group.kill_as_one()?;
    let main = run(stage, &group, "child --size 200 --seconds 30")?;
    // The child that asked too much, and the main process that did nothing. The kernel counts the first victim once
    // more when it kills the rest of the group; that one is reconciled, with no scope.
    let with = [&own(&group), "scope=\"container\""];
    daemon.wait_metric("observer_container_oom_kills_total", &with, 2 * SOON, |kills| kills == 2.0)?;
    daemon.wait_metric("observer_container_state", &[&own(&group), "state=\"ended\""], SOON, |v| v == 1.0)?;
    wait(main)?;
    Ok(())
}

fn node_exhausted(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let total = daemon.metric("observer_node_memory_total_bytes", &[])?.context("no node metrics")?;
    let group = group(stage, "boundless")?;
    let size = (total / MIB as f64 * 1.5) as u64;
    oom(stage, &daemon, &group, &format!("spike --peak {size} --steady 10 --ramp 5"), "node")
}

fn child_killed(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let mut group = group(stage, "worker")?;
    group.limit(48 * MIB)?;
    let main = run(stage, &group, "child --size 200 --seconds 30")?;
    let killed = "observer_container_oom_kills_total";
    daemon.wait_metric(killed, &[&own(&group)], Duration::from_secs(10), |kills| kills == 1.0)?;
    let ended = daemon.metric("observer_container_state", &[&own(&group), "state=\"ended\""])?;
    ensure!(ended.unwrap_or(0.0) == 0.0, "the main process lives, but the container is said to have ended");
    group.remove();
    wait(main)?;
    Ok(())
}

fn reclaim(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "cache")?;
    group.limit(32 * MIB)?;
    let file = stage.directory.join("cache.bin");
    let output = format!("of={}", file.display());
    // Twice its limit through the page cache, then read back: reclaim at the group's own limit.
    wait(group.spawn("/bin/dd".as_ref(), &["if=/dev/zero", &output, "bs=1M", "count=128"])?)?;
    let input = format!("if={}", file.display());
    wait(group.spawn("/bin/dd".as_ref(), &[&input, "of=/dev/null", "bs=1M"])?)?;
    fs::remove_file(&file)?;
    let with = [format!("workload=\"{}\"", group.path()), "reason=\"limit\"".to_owned()];
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    let name = "observer_workload_reclaim_stall_seconds_total";
    daemon.wait_metric(name, &with, SOON, |seconds| seconds > 0.0 && seconds < 60.0)?;
    Ok(())
}

/// A file twice as large as a step, read: usage moves and nothing faults.
fn cache_curve(stage: &Stage) -> Result<()> {
    let recording = stage.directory.join("cache.jsonl");
    let daemon = daemon(stage, &["--record", &recording.display().to_string()])?;
    let group = group(stage, "reads")?;
    // Not on tmpfs, whose pages no tracepoint reports.
    let files = std::env::var_os("TEST_FILES").map_or_else(|| stage.directory.clone(), Into::into);
    let file = files.join("read.bin");
    let output = format!("of={}", file.display());
    wait(group.spawn("/bin/dd".as_ref(), &["if=/dev/zero", &output, "bs=1M", "count=64"])?)?;
    ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
    fs::remove_file(&file)?;
    let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(group.directory())?);
    let points = fs::read_to_string(&recording)?
        .lines()
        .filter(|line| line.contains("\"usage\":{") && line.contains(&format!("\"cgroup\":{id},")))
        .count();
    // A step is 1 MiB here; half of them, in case what writes back is charged late.
    ensure!(points >= 32, "{points} points were pushed for 64 MiB of page cache");
    Ok(())
}

/// The kernel itself names the group, not only its counts.
fn scope(stage: &Stage) -> Result<()> {
    let recording = stage.directory.join("scope.jsonl");
    let daemon = daemon(stage, &["--record", &recording.display().to_string()])?;
    let parent = group(stage, "asked")?;
    parent.limit(48 * MIB)?;
    let child = group(stage, "asked/one")?;
    oom(stage, &daemon, &child, "spike --peak 100 --steady 10 --ramp 0.5", "parent")?;
    ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
    let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(parent.directory())?);
    let expected = format!("\"exceeded\":{{\"group\":{id}}}");
    let text = fs::read_to_string(&recording)?;
    let kill = text.lines().find(|line| line.contains("\"oom_kill\":{\"victim_pid\"")).unwrap_or_default();
    ensure!(kill.contains(&expected), "{expected} not in: {kill}");
    Ok(())
}

fn latency(stage: &Stage) -> Result<()> {
    let daemon = daemon(stage, &["--enable-probe", "fault_latency"])?;
    let group = group(stage, "timed")?;
    wait(run(stage, &group, "fault --size 64 --rounds 8")?)?;
    let name = "observer_container_page_fault_seconds_count";
    // 131,072 faults, one in 64 timed: 2,048, give or take chance.
    let timed = daemon.wait_metric(name, &[&own(&group)], SOON, |count| count > 1000.0)?;
    ensure!(timed < 4000.0, "{timed} faults were timed");
    Ok(())
}

fn limit_met(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "met")?;
    group.limit(32 * MIB)?;
    let mut main = run(stage, &group, "child --size 100 --seconds 30")?;
    let name = "observer_workload_memory_events_total";
    let within = 4 * SOON; // an old group's files are read every 15 s
    let workload = format!("workload=\"{}\"", group.path());
    daemon.wait_metric(name, &[&workload, "event=\"max\""], within, |times| times >= 1.0)?;
    let kills = "observer_container_oom_kills_total";
    daemon.wait_metric(kills, &[&own(&group)], within, |times| times == 1.0)?;
    drop(group);
    main.wait()?;
    Ok(())
}

fn throttled(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "slow")?;
    // The sleep at each return to user space grows with the square of what is above memory.high (kernel:
    // mm/memcontrol.c, calculate_high_delay): a short way from one to the other is gone in a moment, a long one never.
    group.throttle(39 * MIB)?;
    group.limit(40 * MIB)?;
    oom(stage, &daemon, &group, "spike --peak 64 --steady 10 --ramp 0.1", "container")?;
    let workload = format!("workload=\"{}\"", group.path());
    let name = "observer_workload_memory_events_total";
    daemon.wait_metric(name, &[&workload, "event=\"high\""], 4 * SOON, |times| times >= 1.0)?;
    Ok(())
}

fn pressure(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "pressed")?;
    group.throttle(16 * MIB)?;
    let mut main = run(stage, &group, "spike --peak 24 --steady 20 --ramp 0.5 --seconds 30")?;
    let name = "observer_container_pressure_memory_waiting_seconds_total";
    daemon.wait_metric(name, &[&own(&group)], 4 * SOON, |seconds| seconds > 0.0)?;
    drop(group);
    main.wait()?;
    Ok(())
}

fn nested(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let unit = format!("nested-{}.service", std::process::id());
    let outer = stage.tree()?.group(&unit)?;
    sleep(Duration::from_millis(300)); // as a service manager does: the unit is known before it delegates
    let inner = stage.tree()?.group(&format!("{unit}/worker"))?;
    wait(run(stage, &inner, "spike --peak 100 --steady 10 --ramp 0.3 --hold 0.1 --seconds 1")?)?;
    let with = format!("container=\"{unit}\"");
    let peak = daemon.wait_metric("observer_container_memory_peak_bytes", &[&with], SOON, |v| v > 90e6)?;
    let expected = outer.peak().unwrap_or(100 * MIB) as f64;
    ensure!((peak / expected - 1.0).abs() < 0.02, "peak {peak}, the unit's is {expected}");
    daemon.wait_metric("observer_container_page_faults_total", &[&with], SOON, |faults| faults > 25_600.0)?;
    let inner = daemon.metric("observer_container_page_faults_total", &[&own(&inner)])?;
    ensure!(inner.is_none(), "the inner group has series of its own: {inner:?}");
    Ok(())
}

fn seeded(stage: &Stage) -> Result<()> {
    let group = group(stage, "early")?;
    let child = run(stage, &group, "spike --peak 30 --steady 30 --ramp 0.1 --seconds 60")?;
    sleep(Duration::from_millis(500));
    let daemon = daemon(stage, &[])?;
    let own = own(&group);
    daemon.wait_metric("observer_container_state", &[&own, "state=\"running\""], SOON, |v| v == 1.0)?;
    daemon.wait_metric("observer_container_memory_usage_bytes", &[&own], SOON, |v| v > 30e6)?;
    let workload = format!("workload=\"{}\"", group.path());
    let starts = daemon.metric("observer_workload_starts_total", &[&workload, "cause=\"first\""])?;
    ensure!(starts.unwrap_or(0.0) == 0.0, "no start was seen, but {starts:?} are reported");
    drop(group); // ends it
    wait(child)?;
    Ok(())
}

fn forgotten(stage: &Stage) -> Result<()> {
    let daemon = daemon(stage, &["--retention", "1s"])?;
    let mut group = group(stage, "gone/1")?;
    group.limit(32 * MIB)?;
    oom(stage, &daemon, &group, "spike --peak 100 --steady 10 --ramp 0.2", "container")?;
    let own = own(&group);
    group.remove();
    let began = Instant::now();
    while daemon.metric("observer_container_memory_usage_bytes", &[&own])?.is_some() {
        ensure!(began.elapsed() < SOON, "series of an ended container are still there");
        sleep(Duration::from_millis(100));
    }
    let workload = format!("workload=\"{}\"", group.path().trim_end_matches("/1"));
    let kills = daemon.metric("observer_workload_oom_kills_total", &[&workload])?;
    ensure!(kills == Some(1.0), "the workload's kills: {kills:?}");
    Ok(())
}

fn replays(stage: &Stage) -> Result<()> {
    let recording = stage.directory.join("recording.jsonl");
    let at_exit = stage.directory.join("at-exit.prom");
    let (record, metrics) = (recording.display().to_string(), at_exit.display().to_string());
    let daemon = daemon(stage, &["--record", &record, "--metrics-at-exit", &metrics])?;
    let group = group(stage, "recorded")?;
    group.limit(64 * MIB)?;
    wait(run(stage, &group, "spike --peak 40 --steady 20 --ramp 0.3 --seconds 2")?)?;
    oom(stage, &daemon, &group, "spike --peak 100 --steady 10 --ramp 0.3", "container")?;
    let status = daemon.stop()?;
    ensure!(status.success(), "SIGTERM ended it with {status}");
    let replayed = std::process::Command::new(&stage.observer).arg("replay").arg(&recording).output()?;
    ensure!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let live = fs::read(&at_exit)?;
    ensure!(live == replayed.stdout, "the replayed metrics differ from the live ones");
    ensure!(String::from_utf8_lossy(&live).contains("oom_kills_total"), "there was nothing to compare");
    Ok(())
}

fn restarts(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let workload = format!("workload=\"/observer-test-x{}/again\"", std::process::id());
    for (limit, cause) in
        [(32, "first"), (1024, "restart_after_oom_kill"), (1024, "restart_after_completion")]
    {
        let group = group(stage, "again")?;
        group.limit(limit * MIB)?;
        wait(run(stage, &group, "spike --peak 64 --steady 64 --ramp 0.2 --hold 0 --seconds 0.5")?)?;
        let with = [workload.as_str(), &format!("cause=\"{cause}\"")];
        daemon.wait_metric("observer_workload_starts_total", &with, SOON, |starts| starts == 1.0)?;
    }
    Ok(())
}

fn remembers(stage: &Stage) -> Result<()> {
    let state = stage.directory.join("state.json").display().to_string();
    let workload = format!("workload=\"/observer-test-x{}/kept\"", std::process::id());
    let mut first = daemon(stage, &["--state", &state])?;
    let group = group(stage, "kept")?;
    wait(run(stage, &group, "spike --peak 64 --steady 64 --ramp 0.2 --hold 0 --seconds 0.5")?)?;
    // Advice is judged every five seconds, and what is remembered is shown with it.
    let judged = 3 * SOON;
    let startups = "observer_workload_history_startups";
    first.wait_metric(startups, &[&workload], judged, |startups| startups == 1.0)?;
    first.signal(rustix::process::Signal::TERM)?;
    first.wait(SOON)?;
    let second = daemon(stage, &["--state", &state])?;
    let with = [workload.as_str(), "statistic=\"max\""];
    let peak = second
        .wait_metric("observer_workload_history_startup_need_bytes", &with, judged, |peak| peak > 0.0)?;
    ensure!((peak / (64 * MIB) as f64 - 1.0).abs() < 0.05, "peak {peak} after the restart");
    Ok(())
}
