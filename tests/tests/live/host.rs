//! What an operator meets: preflight, bad input, missing prerequisites, signals.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use observer_ebpf::probe::Intent;
use observer_tests::{
    daemon::{Daemon, patience, sum},
    shell,
};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};

use crate::{
    Case,
    Needs::{Cgroups, Nothing, Probes},
    Stage,
};

pub const CASES: &[Case] = &[
    Case { name: "check_says_which_hook_each_probe_will_use", needs: Probes, run: check },
    Case { name: "check_without_btf_says_what_is_missing_and_exits_3", needs: Nothing, run: no_btf },
    Case {
        name: "without_psi_the_pressure_series_are_absent_and_the_rest_works",
        needs: Probes,
        run: no_psi,
    },
    Case { name: "a_taken_port_is_a_clear_error", needs: Nothing, run: port_taken },
    Case {
        name: "a_malformed_configuration_reports_every_problem_and_exits_2",
        needs: Nothing,
        run: bad_config,
    },
    Case {
        name: "settings_come_from_file_environment_and_flags_in_that_order",
        needs: Nothing,
        run: precedence,
    },
    Case { name: "a_broken_recording_exits_2_with_its_line", needs: Nothing, run: broken_recording },
    Case { name: "a_log_without_a_reader_ends_nothing", needs: Nothing, run: log_without_reader },
    Case { name: "a_full_disk_is_reported_and_a_closed_pipe_is_not", needs: Nothing, run: unwritable_output },
    Case {
        name: "without_privileges_it_measures_from_files_and_is_not_ready",
        needs: Probes,
        run: unprivileged,
    },
    Case {
        name: "with_probes_disabled_kills_and_faults_still_come_from_files",
        needs: Cgroups,
        run: disabled,
    },
    Case { name: "a_file_that_hangs_stops_neither_probes_nor_scrapes", needs: Nothing, run: hanging_file },
    Case { name: "a_directory_that_cannot_be_read_ends_nothing", needs: Nothing, run: unreadable },
    Case { name: "start_ups_have_no_more_room_than_all_pods_together", needs: Cgroups, run: room_for_pods },
    Case { name: "kill_9_leaves_nothing_attached", needs: Probes, run: kill_9 },
    Case { name: "ready_within_a_second", needs: Probes, run: ready_soon },
];

/// Why probes cannot run on this machine, if so.
pub fn cannot_probe(stage: &Stage) -> Option<String> {
    let output = Command::new(&stage.observer).arg("check").output().ok()?;
    if output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(
        text.lines()
            .find(|line| line.contains("cannot run"))
            .unwrap_or("observer check failed")
            .trim()
            .to_owned(),
    )
}

fn observer(stage: &Stage, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("timeout");
    let seconds = 10 * observer_tests::daemon::patience();
    command.arg(seconds.to_string()).arg(&stage.observer).args(args);
    command.output().context("cannot start the observer")
}

fn expect(output: &Output, code: i32, parts: &[&str]) -> Result<()> {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "exit {:?}, expected {code}:\n{text}", output.status.code());
    for part in parts {
        ensure!(text.contains(part), "{part:?} not in:\n{text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

fn check(stage: &Stage) -> Result<()> {
    let output = observer(stage, &["check"])?;
    expect(
        &output,
        0,
        &["page_fault", "oom_kill", "cgroup_life", "process", "reclaim", "Every required probe can run"],
    )?;
    let output = observer(stage, &["check", "--cgroup-root", "/nonexistent"])?;
    expect(&output, 3, &["/nonexistent is no cgroup directory", "No container can be measured here"])
}

fn no_btf(stage: &Stage) -> Result<()> {
    let output = observer(stage, &["check", "--sys-root", "/nonexistent"])?;
    expect(
        &output,
        3,
        &["cannot read kernel types from /nonexistent/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF", "lost:"],
    )
}

/// A proc with everything but pressure.
fn no_psi(stage: &Stage) -> Result<()> {
    let proc = stage.directory.join("proc");
    fs::create_dir_all(proc.join("self"))?;
    for name in ["meminfo", "vmstat", "cgroups", "self/mountinfo", "self/status"] {
        fs::write(proc.join(name), fs::read(format!("/proc/{name}"))?)?;
    }
    let proc = proc.display().to_string();
    let output = observer(stage, &["check", "--proc-root", &proc])?;
    expect(&output, 0, &["PSI", "absent", "psi=1"])?;
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, &["--proc-root", &proc])?;
    daemon.ready(Duration::from_secs(10))?;
    daemon.wait_metric("observer_node_memory_available_bytes", &[], Duration::from_secs(5), |v| v > 0.0)?;
    let pressure = daemon.metric("observer_node_pressure_memory_waiting_seconds_total", &[])?;
    ensure!(pressure.is_none(), "pressure is reported as {pressure:?} without PSI");
    Ok(())
}

fn port_taken(stage: &Stage) -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let output = observer(stage, &["run", "--listen", &address])?;
    expect(
        &output,
        1,
        &[&format!("cannot listen on {address}"), "metrics would not be reachable", "--listen"],
    )
}

fn bad_config(stage: &Stage) -> Result<()> {
    let file = stage.directory.join("bad.toml");
    fs::write(&file, "listen = 'nowhere'\nretention = 'soon'\nlimits = 3\n")?;
    let file = file.display().to_string();
    let output = observer(stage, &["run", "--config", &file])?;
    expect(&output, 2, &["3 problems", "nowhere", "soon", "limits", "no such setting", "not started"])
}

fn precedence(stage: &Stage) -> Result<()> {
    let file = stage.directory.join("order.toml");
    fs::write(&file, "listen = 'from-file'\nretention = 'from-file'\nlog_level = '=from-file='\n")?;
    let mut command = Command::new("timeout");
    command.arg("10").arg(&stage.observer).args(["run", "--retention", "from-flag"]);
    command
        .env("OBSERVER_CONFIG", &file)
        .env("OBSERVER_LISTEN", "from-env")
        .env("OBSERVER_RETENTION", "from-env");
    expect(
        &command.output()?,
        2,
        &["\"from-env\" is not an address", "\"from-flag\" is not a span", "from-file"],
    )
}

fn broken_recording(stage: &Stage) -> Result<()> {
    let file = stage.directory.join("broken.jsonl");
    fs::write(&file, "{\"at\":1,\"what\":\"tick\"}\nnot json\n")?;
    let path = file.display().to_string();
    expect(&observer(stage, &["replay", &path])?, 2, &["line 1", "host"])?;
    expect(&observer(stage, &["replay", "/nonexistent"])?, 2, &["/nonexistent", "No such file"])
}

/// Whoever stops reading (`| head`) has what they wanted; on a full disk the output is not whole.
fn unwritable_output(stage: &Stage) -> Result<()> {
    let path = shell::root().join("tests/cases/a_child_is_killed/events.jsonl").display().to_string();
    for args in [vec!["replay", &path], vec!["docs", "metrics"]] {
        let run = |stdout: Stdio| Command::new(&stage.observer).args(&args).stdout(stdout).output();
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        for (stdout, said) in [
            (fs::OpenOptions::new().write(true).open("/dev/full")?.into(), "No space left on device"),
            (Stdio::from(writer), ""),
        ] {
            let output = run(stdout)?;
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(1), "{args:?}: {}: {errors}", output.status);
            ensure!(errors.contains(said) && errors.is_empty() == said.is_empty(), "{args:?}: {errors}");
        }
    }
    Ok(())
}

/// As where a node's log collector dies: what is served goes on, and the end is clean.
fn log_without_reader(stage: &Stage) -> Result<()> {
    let path = shell::root().join("tests/cases/a_child_is_killed/events.jsonl").display().to_string();
    let address = format!("127.0.0.1:{}", observer_tests::daemon::free_port()?);
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut child =
        Command::new(&stage.observer).args(["replay", &path, "--serve", &address]).stderr(writer).spawn()?;
    let (began, url) = (Instant::now(), format!("http://{address}/healthz"));
    while observer_tests::daemon::get(&url).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("it ended with {status}");
        }
        ensure!(began.elapsed() < Duration::from_secs(10) * patience(), "it does not answer");
        sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT)?;
    let status = child.wait()?;
    ensure!(status.success(), "SIGINT ended it with {status}");
    Ok(())
}

const NOBODY: u32 = 65534;

fn unprivileged(stage: &Stage) -> Result<()> {
    let address = format!("127.0.0.1:{}", observer_tests::daemon::free_port()?);
    // A copy where nobody may read it.
    let copy = std::env::temp_dir().join(format!("observer-nobody-{}", std::process::id()));
    fs::copy(&stage.observer, &copy)?;
    let child = Command::new("timeout")
        .arg((30 * patience()).to_string())
        .arg(&copy)
        .args(["run", "--listen", &address])
        .uid(NOBODY)
        .gid(NOBODY)
        .stderr(Stdio::piped())
        .spawn()?;
    // Until it measures: the server answers before.
    let began = Instant::now();
    let metrics = loop {
        let metrics = observer_tests::daemon::get(&format!("http://{address}/metrics"));
        let measures =
            metrics.as_ref().is_ok_and(|text| text.contains("observer_node_memory_available_bytes "));
        if measures || began.elapsed() > Duration::from_secs(10) * patience() {
            break metrics;
        }
        sleep(Duration::from_millis(100));
    };
    let ready = observer_tests::daemon::get(&format!("http://{address}/readyz"));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("pid")?,
        Signal::TERM,
    )?;
    let output = child.wait_with_output()?;
    fs::remove_file(copy)?;
    let metrics = metrics?;
    ensure!(ready.is_err(), "it says it is ready");
    let unsupported = sum(&metrics, "observer_probe_status", &["status=\"unsupported\""]);
    let asked = observer_ebpf::probes::ALL.iter().filter(|probe| probe.intent != Intent::OnRequest).count();
    ensure!(unsupported == Some(asked as f64), "{unsupported:?} probes are unsupported");
    let available = sum(&metrics, "observer_node_memory_available_bytes", &[]);
    ensure!(available.is_some_and(|bytes| bytes > 0.0), "the node is not measured");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(log.contains("CAP_BPF and CAP_PERFMON") && log.contains("not ready"), "{log}");
    Ok(())
}

/// The kubelet's group of all pods, by its name alone, with a limit as node allocatable makes one.
fn room_for_pods(stage: &Stage) -> Result<()> {
    const LIMIT: u64 = 256 << 20;
    let path = format!("observer-test-x{}/kubepods", std::process::id());
    let pods = stage.tree()?.group(&path)?;
    pods.limit(LIMIT)?;
    let daemon = Daemon::start(&stage.observer, &stage.directory, &[])?;
    measures(stage, &daemon)?; // it need not be ready
    let headroom = |is_so: &dyn Fn(f64) -> bool| {
        daemon.wait_metric("observer_node_memory_headroom_bytes", &[], Duration::from_secs(5), is_so)
    };
    headroom(&|bytes| (0.9..=1.0).contains(&(bytes / LIMIT as f64)))?;
    let pod = stage.tree()?.group(&format!("{path}/pod"))?;
    let mut main = pod.spawn(
        &stage.workload,
        &["spike", "--peak", "100", "--steady", "90", "--ramp", "0.1", "--hold", "20", "--seconds", "30"],
    )?;
    headroom(&|bytes| bytes < (LIMIT - (100 << 20)) as f64)?;
    main.kill()?;
    main.wait()?;
    drop((pod, pods));
    headroom(&|bytes| bytes > LIMIT as f64)?;
    Ok(())
}

fn disabled(stage: &Stage) -> Result<()> {
    let args: Vec<&str> =
        observer_ebpf::probes::ALL.iter().flat_map(|probe| ["--disable-probe", probe.name]).collect();
    let daemon = Daemon::start(&stage.observer, &stage.directory, &args)?;
    measures(stage, &daemon)?;
    ensure!(daemon.get("/readyz").is_err(), "ready without its required probes");
    let group = stage.tree()?.group(&format!("observer-test-x{}/files", std::process::id()))?;
    group.limit(48 << 20)?;
    let own = format!("container=\"{}\"", group.path());
    let mut main = group.spawn(&stage.workload, &["child", "--size", "200", "--seconds", "30"])?;
    let within = Duration::from_secs(10);
    daemon.wait_metric("observer_container_oom_kills_total", &[&own, "scope=\"unknown\""], within, |v| {
        v == 1.0
    })?;
    daemon.wait_metric("observer_container_page_faults_total", &[&own], within, |v| v > 1000.0)?;
    // Before memory.peak (v5.19) nobody but a probe knows the peak between two reads.
    if group.peak().is_some() {
        daemon.wait_metric("observer_container_memory_peak_bytes", &[&own], within, |v| v > 40e6)?;
    }
    drop(group);
    main.wait()?;
    daemon.wait_metric("observer_container_state", &[&own, "state=\"ended\""], within, |v| v == 1.0)?;
    Ok(())
}

/// Waits until it serves.
fn answers(daemon: &Daemon) -> Result<()> {
    let within = Duration::from_secs(10) * patience();
    while daemon.get("/healthz").is_err() {
        ensure!(daemon.started.elapsed() < within, "does not serve:\n{}", daemon.log_text());
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits until it looks at the tree: what was there when it began is no news.
fn measures(stage: &Stage, daemon: &Daemon) -> Result<()> {
    let group = stage.tree()?.group(&format!("observer-test-x{}/seen", std::process::id()))?;
    let mut child =
        group.spawn(&stage.workload, &["spike", "--peak", "4", "--steady", "4", "--seconds", "60"])?;
    let own = format!("container=\"{}\"", group.path());
    let within = Duration::from_secs(10);
    let seen = daemon.wait_metric("observer_container_memory_usage_bytes", &[&own], within, |v| v > 0.0);
    drop(group);
    child.wait()?;
    seen.map(|_| ())
}

/// A tree of plain files, one of them a pipe: reading it hangs until somebody writes.
fn hanging_file(stage: &Stage) -> Result<()> {
    let root = stage.directory.join("hanging");
    let group = root.join("web.service");
    fs::create_dir_all(&group)?;
    fs::write(root.join("cgroup.controllers"), "memory\n")?;
    fs::write(root.join("memory.current"), "4096\n")?;
    fs::write(group.join("cgroup.procs"), "1\n")?;
    let (pipe, file) = (group.join("memory.current"), group.join("memory.new"));
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;

    let path = root.to_str().context("a path that is text")?;
    let daemon = Daemon::start(&stage.observer, &stage.directory, &["--cgroup-root", path])?;
    answers(&daemon)?;
    let within = Duration::from_secs(20);
    // Answered while the read hangs: nobody has written.
    daemon.wait_metric("observer_lost_records_total", &["reason=\"host_stalled\""], within, |v| v >= 5.0)?;
    ensure!(daemon.get("/healthz")? == "ok\n", "not alive while a read hangs");
    ensure!(daemon.get("/readyz").is_err(), "ready although nothing is measured");

    let mut writer = fs::OpenOptions::new().write(true).open(&pipe)?;
    fs::write(&file, "8192\n")?;
    fs::rename(&file, &pipe)?;
    writer.write_all(b"8192\n")?;
    drop(writer);
    let usage = ["container=\"web.service\""];
    daemon.wait_metric("observer_container_memory_usage_bytes", &usage, within, |v| v == 8192.0)?;

    // It hangs again, and ends all the same.
    fs::remove_file(&pipe)?;
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let stalled = daemon.metric("observer_lost_records_total", &["reason=\"host_stalled\""])?.unwrap_or(0.0);
    daemon
        .wait_metric("observer_lost_records_total", &["reason=\"host_stalled\""], within, |v| v > stalled)?;
    let status = daemon.stop()?;
    ensure!(status.success(), "ended with {status}");
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// The walk meets a directory it cannot read: what is below is not known, and so is neither ended nor started again.
fn unreadable(stage: &Stage) -> Result<()> {
    let root = stage.directory.join("unreadable");
    let group = root.join("system.slice/web.service");
    fs::create_dir_all(&group)?;
    fs::write(root.join("cgroup.controllers"), "memory\n")?;
    for directory in [&root, &root.join("system.slice"), &group] {
        fs::write(directory.join("memory.current"), "4096\n")?;
        fs::write(directory.join("cgroup.procs"), "1\n")?;
    }
    let path = root.to_str().context("a path that is text")?;
    // Without the probe the walk is once a second, and the only news of the tree.
    let args = ["--cgroup-root", path, "--disable-probe", "cgroup_life"];
    let daemon = Daemon::start(&stage.observer, &stage.directory, &args)?;
    answers(&daemon)?;
    let own = ["container=\"web.service\""];
    let within = Duration::from_secs(10);
    daemon.wait_metric("observer_container_memory_usage_bytes", &own, within, |v| v == 4096.0)?;
    // Root may open all directories; a directory in place of a file cannot be read by anybody.
    let procs = root.join("system.slice/cgroup.procs");
    fs::remove_file(&procs)?;
    fs::create_dir(&procs)?;
    let lost = ["reason=\"cgroup_unreadable\""];
    daemon.wait_metric("observer_lost_records_total", &lost, within, |v| v >= 3.0)?;
    fs::remove_dir(&procs)?;
    fs::write(&procs, "1\n")?;
    let seen = daemon.metric("observer_lost_records_total", &lost)?.unwrap_or(0.0);
    ensure!(seen >= 3.0, "three walks met it");
    let log = daemon.log_text();
    ensure!(log.matches("cannot read the cgroup tree").count() == 1, "not logged once:\n{log}");
    ensure!(!log.contains("web.service: ended") && !log.contains("web.service: started"), "{log}");
    drop(daemon);
    fs::remove_dir_all(&root)?;
    Ok(())
}

/// Ids of the observers' programs: the kernel frees them a while after their daemon has ended.
fn programs() -> BTreeSet<u32> {
    let named = |name: &str| {
        // The kernel keeps fifteen characters.
        ["page_fault", "page_fault_hand", "oom_kill_task", "oom_kill_pid", "cgroup_made", "process_exec"]
            .contains(&name)
    };
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str().is_some_and(named))
        .map(|program| program.id())
        .collect()
}

fn kill_9(stage: &Stage) -> Result<()> {
    let before = programs();
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, &[])?;
    daemon.ready(Duration::from_secs(10))?;
    let own = &programs() - &before;
    ensure!(own.len() == 4, "{} programs were loaded", own.len());
    daemon.signal(Signal::KILL)?;
    daemon.wait(Duration::from_secs(5))?;
    let began = Instant::now();
    while !programs().is_disjoint(&own) {
        ensure!(began.elapsed() < Duration::from_secs(5), "its programs are still loaded");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The bound itself is measured by `cargo xtask bench faults`; a debug build on a busy machine gets ten times that.
fn ready_soon(stage: &Stage) -> Result<()> {
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, &[])?;
    daemon.ready(Duration::from_secs(10))?;
    ensure!(daemon.log_text().contains("ready after"), "{}", daemon.log_text());
    Ok(())
}
