//! A kill is one kill, and an end is the first process's: what the observer says beside what the kernel itself counted.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    daemon::{Daemon, patience},
    group::Group,
};
use rustix::process::Signal;

use super::kernel::{MIB, SOON, daemon, group, own, run, wait};
use crate::{
    Case,
    Needs::{Freezer, Probes, V2},
    Stage,
};

pub const CASES: &[Case] = &[
    Case { name: "oom_kills_are_as_many_as_the_kernel_counts", needs: Probes, run: as_many },
    Case { name: "oom_kills_in_groups_removed_at_once_are_all_counted", needs: Probes, run: removed_at_once },
    Case {
        name: "oom_kills_are_counted_once_across_a_kill_of_the_observer",
        needs: Probes,
        run: killed_between,
    },
    Case { name: "oom_kills_of_whole_groups_are_as_many_as_the_kernel_counts", needs: V2, run: whole_groups },
    Case { name: "a_process_that_was_dying_anyway_is_not_oom_killed", needs: Freezer, run: only_marked },
    Case { name: "oom_kill_names_the_process_and_what_it_held", needs: Probes, run: facts },
    Case { name: "oom_kill_by_a_limit_far_above_is_not_the_nodes", needs: Probes, run: far_above },
    Case { name: "oom_kill_by_a_limit_inside_the_container_says_so", needs: Probes, run: inside },
    Case { name: "an_end_is_the_first_processes_not_a_workers", needs: Probes, run: workers_kill },
    Case { name: "an_end_beside_the_victim_that_shares_its_memory_is_its_kill", needs: Probes, run: shared },
    Case {
        name: "an_end_is_the_last_threads_with_the_status_of_the_process",
        needs: Probes,
        run: leaves_first,
    },
];

const KILLS: &str = "observer_container_oom_kills_total";

/// How many kills the storms make together: `TEST_KILLS`, or as many as take about three minutes.
fn kills() -> u32 {
    let asked = std::env::var("TEST_KILLS").ok().and_then(|kills| kills.parse().ok());
    asked.unwrap_or(10_000 / patience().pow(2))
}

#[derive(Clone, Copy)]
struct Storm {
    /// See the workload's `--birth`.
    birth: &'static str,
    at_a_time: u32,
    threads: u32,
}

impl Storm {
    fn begin(&self, stage: &Stage, group: &Group, kills: u32) -> Result<Child> {
        let number = |number: u32| number.to_string();
        Command::new(&stage.workload)
            .args(["storm", "--birth", self.birth, "--kills", &number(kills)])
            .args(["--at-a-time", &number(self.at_a_time), "--threads", &number(self.threads), "--group"])
            .arg(group.directory())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the storm")
    }
}

const fn storm(birth: &'static str, at_a_time: u32, threads: u32) -> Storm {
    Storm { birth, at_a_time, threads }
}

/// What it is, its part of all kills in percent, and in how many groups it blows at once.
const STORMS: [(&str, u32, u32, Storm); 9] = [
    ("one thread, one at a time", 19, 1, storm("exec", 1, 1)),
    ("one thread, four at a time", 10, 1, storm("exec", 4, 1)),
    ("two threads", 10, 1, storm("exec", 1, 2)),
    ("eight threads", 10, 1, storm("exec", 1, 8)),
    ("32 threads, one at a time", 5, 1, storm("exec", 1, 32)),
    ("32 threads, four at a time", 5, 1, storm("exec", 4, 32)),
    ("forked, eight at a time", 20, 1, storm("fork", 8, 1)),
    ("forked, in eight groups side by side", 16, 8, storm("fork", 1, 1)),
    ("all under one pid number", 5, 1, storm("same-pid", 1, 1)),
];

/// How many got SIGKILL.
fn over(storm: Child) -> Result<u64> {
    let text = String::from_utf8_lossy(&storm.wait_with_output()?.stdout).into_owned();
    text.trim().parse().with_context(|| format!("the storm says {text:?}"))
}

/// Waits until the observer reports as many as the kernel, of each, and again later: not one more.
fn compare(daemon: &Daemon, what: &str, counted: &[(String, u64)]) -> Result<()> {
    for (with, kernel) in counted {
        ensure!(*kernel > 0, "{what}: nothing was killed");
        daemon.wait_metric(KILLS, &[with], 2 * SOON, |reported| reported >= *kernel as f64)?;
    }
    sleep(Duration::from_secs(3)); // what is reconciled waits for two
    for (with, kernel) in counted {
        let reported = daemon.metric(KILLS, &[with])?;
        ensure!(
            reported == Some(*kernel as f64),
            "{what}: the kernel counts {kernel} OOM kills, the observer {reported:?}"
        );
        println!("{what}: kernel {kernel}, observer {kernel}");
    }
    Ok(())
}

fn as_many(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let all = kills();
    let mut sum = 0;
    for (n, (what, percent, at_once, storm)) in STORMS.into_iter().enumerate() {
        let each = (all * percent / 100 / at_once).max(5);
        let mut under_way = Vec::new();
        for i in 0..at_once {
            let group = group(stage, &format!("storm-{n}-{i}"))?;
            group.limit(8 * MIB)?;
            under_way.push((storm.begin(stage, &group, each)?, group));
        }
        let mut groups = Vec::new(); // which stay until they are compared
        for (storm, group) in under_way {
            over(storm)?;
            groups.push(group);
        }
        let count = |group: &Group| Ok((own(group), group.oom_kills()?));
        let counted = groups.iter().map(count).collect::<Result<Vec<_>>>()?;
        compare(&daemon, what, &counted)?;
        sum += counted.iter().map(|(_, kernel)| kernel).sum::<u64>();
    }
    println!("together: {sum}");
    let lost = daemon.metric("observer_lost_records_total", &["life_ring_full"])?;
    ensure!(lost.unwrap_or(0.0) == 0.0, "{lost:?} records of kills and lives were lost");
    Ok(())
}

/// What one run reported before SIGKILL and what the next reports are together what the kernel counts; what was killed
/// while none ran is reconciled, also in a group that had no kill before and in one that was made meanwhile.
fn killed_between(stage: &Stage) -> Result<()> {
    let state = stage.directory.join("killed-between.json").display().to_string();
    let with_state = ["--state", state.as_str()];
    let unknown = "scope=\"unknown\"";
    let make = |name: &str| -> Result<(Group, Child)> {
        let group = group(stage, name)?;
        group.limit(8 * MIB)?;
        let lives_on = group.spawn("/bin/sleep".as_ref(), &["600"])?;
        Ok((group, lives_on))
    };
    let (busy, calm) = (make("between-busy")?, make("between-calm")?);
    over(storm("exec", 1, 1).begin(stage, &busy.0, 3)?)?; // before any observer: not its to report
    let before = busy.0.oom_kills()?;

    let first = daemon(stage, &with_state)?;
    let mut reported = 0.0;
    for at_a_time in [1, 4] {
        over(storm("exec", at_a_time, 2).begin(stage, &busy.0, 10)?)?;
        reported = (busy.0.oom_kills()? - before) as f64;
        first.wait_metric(KILLS, &[&own(&busy.0)], 2 * SOON, |seen| seen == reported)?;
    }
    first.signal(Signal::KILL)?;
    drop(first);
    let since = busy.0.oom_kills()?;
    let young = make("between-young")?;
    for (group, kills) in [(&busy.0, 7), (&calm.0, 5), (&young.0, 4)] {
        over(storm("exec", 1, 1).begin(stage, group, kills)?)?;
    }

    let second = daemon(stage, &with_state)?;
    let missed = [
        (&busy.0, busy.0.oom_kills()? - since),
        (&calm.0, calm.0.oom_kills()?),
        (&young.0, young.0.oom_kills()?),
    ];
    for (group, missed) in missed {
        ensure!(missed > 0, "nothing was killed in {}", group.path());
        compare(&second, group.path(), &[(own(group), missed)])?;
        let reconciled = second.metric(KILLS, &[&own(group), unknown])?;
        ensure!(reconciled == Some(missed as f64), "{missed} kills, {reconciled:?} reconciled");
    }
    // It goes on: what it sees itself is named, and a third run has nothing to add.
    over(storm("exec", 1, 1).begin(stage, &busy.0, 5)?)?;
    compare(&second, "and after", &[(own(&busy.0), busy.0.oom_kills()? - since)])?;
    let all = before as f64 + reported + second.metric(KILLS, &[&own(&busy.0)])?.unwrap_or(0.0);
    ensure!(all == busy.0.oom_kills()? as f64, "the kernel counts {}, all runs {all}", busy.0.oom_kills()?);
    second.signal(Signal::KILL)?;
    drop(second);
    let third = daemon(stage, &with_state)?;
    sleep(Duration::from_secs(5));
    for (group, _) in [&busy, &calm, &young] {
        let reported = third.metric(KILLS, &[&own(group)])?.unwrap_or(0.0);
        ensure!(reported == 0.0, "{reported} kills in {} are reported again", group.path());
    }
    for (group, mut lives_on) in [busy, calm, young] {
        ensure!(lives_on.try_wait()?.is_none(), "the first process of {} is gone", group.path());
        lives_on.kill()?;
        lives_on.wait()?;
    }
    Ok(())
}

/// Truth here is the wait status: the counter goes with the group.
fn removed_at_once(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let mut killed = 0;
    for n in 0..40 {
        let mut group = group(stage, &format!("brief/{n}"))?;
        group.limit(8 * MIB)?;
        killed += over(storm("exec", 1, 1 + n % 4).begin(stage, &group, 1)?)?;
        group.remove();
    }
    compare(&daemon, "removed at once", &[("/brief/".into(), killed)])
}

fn whole_groups(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "as-one-often")?;
    group.limit(16 * MIB)?;
    group.kill_as_one()?;
    for threads in [1, 8] {
        over(storm("exec", 3, threads).begin(stage, &group, 12)?)?;
    }
    compare(&daemon, "memory.oom.group", &[(own(&group), group.oom_kills()?)])
}

/// A frozen process with SIGKILL pending cannot die until the OOM killer, called for by a neighbour, thaws it: it is
/// marked, and nothing is killed.
fn only_marked(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "dying")?;
    group.limit(100 * MIB)?;
    let freezer = Path::new("/sys/fs/cgroup/freezer").join(format!("observer-test-x{}", std::process::id()));
    fs::create_dir_all(&freezer)?;
    let result = mark_only(stage, &group, &freezer);
    let _ = fs::write(freezer.join("freezer.state"), "THAWED"); // so that nothing is left in it
    let _ = fs::remove_dir(&freezer);
    result?;
    let kernel = group.oom_kills()? as f64;
    sleep(Duration::from_secs(4));
    let reported = daemon.metric(KILLS, &[&own(&group)])?.unwrap_or(0.0);
    ensure!(
        reported == kernel,
        "the kernel counts {kernel} OOM kills, the observer {reported}:\n{}",
        daemon.log_text()
    );
    println!("only marked: kernel {kernel}, observer {reported}");
    Ok(())
}

fn mark_only(stage: &Stage, group: &Group, freezer: &Path) -> Result<()> {
    let mut big = run(stage, group, "spike --peak 80 --steady 80 --ramp 0 --seconds 60")?;
    while group.usage()? < 75 * MIB {
        sleep(Duration::from_millis(20));
    }
    fs::write(freezer.join("cgroup.procs"), big.id().to_string())?;
    fs::write(freezer.join("freezer.state"), "FROZEN")?;
    while !fs::read_to_string(freezer.join("freezer.state"))?.starts_with("FROZEN") {
        sleep(Duration::from_millis(10));
    }
    big.kill()?;
    let small = run(stage, group, "spike --peak 40 --steady 40 --ramp 0 --hold 0 --seconds 0.5")?;
    wait(small)?;
    fs::write(freezer.join("freezer.state"), "THAWED")?;
    big.wait()?;
    Ok(())
}

fn kill_line(daemon: &Daemon, group: &Group) -> Result<String> {
    daemon.wait_metric(KILLS, &[&own(group)], 2 * SOON, |kills| kills >= 1.0)?;
    let log = daemon.log_text();
    let line = log.lines().find(|line| line.contains("OOM kill of") && line.contains(group.path()));
    Ok(line.unwrap_or_default().to_owned())
}

/// A group of processes: the one that is killed is reported with its own pid and memory.
fn facts(stage: &Stage) -> Result<()> {
    let recording = stage.directory.join("facts.jsonl");
    let daemon = daemon(stage, &["--record", &recording.display().to_string()])?;
    let group = group(stage, "held")?;
    group.limit(96 * MIB)?;
    let mut calm = run(stage, &group, "spike --peak 24 --steady 24 --ramp 0 --seconds 30")?;
    while group.usage()? < 24 * MIB {
        sleep(Duration::from_millis(20));
    }
    let greedy = run(stage, &group, "spike --peak 200 --steady 1 --ramp 0.3")?;
    let pid = greedy.id();
    wait(greedy)?;
    let line = kill_line(&daemon, &group)?;
    ensure!(line.contains(&format!("(pid {pid})")), "pid {pid} not in: {line}");
    calm.kill()?;
    calm.wait()?;
    ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
    let text = fs::read_to_string(&recording)?;
    let of_it = format!("\"oom_kill\":{{\"victim_pid\":{pid},"); // others may be killed on this machine meanwhile
    let kill = text.lines().find(|line| line.contains(&of_it)).context("no kill")?;
    let kill: serde_json::Value = serde_json::from_str(kill)?;
    let held = kill["what"]["oom_kill"]["victim_memory"]["anon"].as_u64().context("no anonymous memory")?;
    // 96 MiB less what the calm one holds; the kernel's count lags by what each processor has not added.
    let (least, most) = (60 * MIB, 76 * MIB);
    ensure!((least..most).contains(&held), "the victim is said to have held {held} bytes");
    Ok(())
}

fn far_above(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let top = group(stage, "top")?;
    top.limit(48 * MIB)?;
    let path = (1..12).map(|n| format!("/{n}")).collect::<String>();
    let deep = group(stage, &format!("top{path}"))?;
    wait(run(stage, &deep, "spike --peak 100 --steady 10 --ramp 0.5")?)?;
    let line = kill_line(&daemon, &deep)?;
    ensure!(line.contains("the limit 48 MiB of a group above was hit"), "{line}");
    Ok(())
}

fn inside(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let id = "ab".repeat(32);
    let container = group(stage, &format!("docker-{id}.scope"))?;
    container.limit(256 * MIB)?;
    let own_group = group(stage, &format!("docker-{id}.scope/init.scope"))?;
    own_group.limit(32 * MIB)?;
    wait(run(stage, &own_group, "spike --peak 100 --steady 10 --ramp 0.5")?)?;
    let within = 2 * SOON;
    daemon
        .wait_metric("observer_node_oom_kills_by_scope_total", &["scope=\"inside\""], within, |n| n == 1.0)?;
    let log = daemon.log_text();
    let reported = "a limit inside the container, 32 MiB, was hit; the container's is 256 MiB";
    ensure!(log.contains(reported), "{reported:?} not in:\n{log}");
    Ok(())
}

/// A worker is killed, the main process lives on and exits by itself.
fn workers_kill(stage: &Stage) -> Result<()> {
    // It moves into the group itself, so that the worker is the first to execute there.
    main_outlives_worker(stage, "moved", "echo $$ >\"$0\"/cgroup.procs; ")?;
    let (daemon, group) = (stage.daemon()?, main_outlives_worker(stage, "master", "")?);
    wait(group.spawn("/bin/true".as_ref(), &[])?)?;
    let again = || daemon.log_text().contains("started again after a failure");
    let began = std::time::Instant::now();
    while !again() {
        ensure!(began.elapsed() < SOON * patience(), "no start after a failure:\n{}", daemon.log_text());
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn main_outlives_worker(stage: &Stage, name: &str, before: &str) -> Result<Group> {
    let (daemon, group) = (stage.daemon()?, group(stage, name)?);
    group.limit(48 * MIB)?;
    let workload = stage.workload.display();
    let script = format!("{before}{workload} spike --peak 100 --steady 1 --ramp 0.1; sleep 1; exit 3");
    let mut shell = match before {
        "" => group.command("/bin/sh".as_ref()),
        _ => Command::new("/bin/sh"),
    };
    let status = shell.args(["-c", &script]).arg(group.directory()).status()?;
    ensure!(status.code() == Some(3), "{name}: the main process ended with {status}");
    daemon.wait_metric("observer_container_state", &[&own(&group), "state=\"ended\""], SOON, |v| v == 1.0)?;
    let log = daemon.log_text();
    let of_it = |part: &str| log.lines().any(|line| line.contains(group.path()) && line.contains(part));
    ensure!(of_it("OOM kill of workload") && of_it("(exit code 3)"), "{log}");
    Ok(group)
}

/// The kernel kills all processes that share the memory, and marks and counts one.
fn shared(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "shared")?;
    group.limit(48 * MIB)?;
    let status = wait(run(stage, &group, "share --size 200")?)?.status;
    ensure!(status.signal() == Some(9), "the first process ended with {status}");
    daemon.wait_metric("observer_container_state", &[&own(&group), "state=\"ended\""], SOON, |v| v == 1.0)?;
    let log = daemon.log_text();
    let ended =
        log.lines().any(|line| line.contains(group.path()) && line.contains("(signal 9, OOM-killed)"));
    ensure!(ended, "{log}");
    compare(&daemon, "shares its memory", &[(own(&group), group.oom_kills()?)])
}

fn leaves_first(stage: &Stage) -> Result<()> {
    let daemon = stage.daemon()?;
    let group = group(stage, "threads")?;
    let status = wait(run(stage, &group, "leave-first --code 7")?)?.status;
    ensure!(status.code() == Some(7), "the process ended with {status}");
    daemon.wait_metric("observer_container_state", &[&own(&group), "state=\"ended\""], SOON, |v| v == 1.0)?;
    let log = daemon.log_text();
    let ended = log.lines().any(|line| line.contains(group.path()) && line.contains("(exit code 7)"));
    ensure!(ended, "{log}");
    Ok(())
}
