//! Each probe taken away alone: what it feeds is still right from what stands in, and the status says what was lost.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    daemon::{Daemon, patience, until},
    group::Group,
};

use super::kernel::{counts_faults_of, group, own, run};
use crate::{
    Case,
    Needs::{Pressure, Probes, Trampolines},
    Stage,
};

pub const CASES: &[Case] = &[
    Case { name: "without_page_fault_faults_and_peak_come_from_files", needs: Probes, run: page_fault },
    Case { name: "without_growth_the_peak_is_still_right", needs: Probes, run: no_growth },
    Case { name: "without_oom_kill_kills_are_counted_from_files", needs: Probes, run: oom_kill },
    Case { name: "without_oom_scope_the_counts_say_whose_limit_it_was", needs: Probes, run: oom_scope },
    Case { name: "without_cgroup_life_a_walk_finds_who_lives", needs: Probes, run: cgroup_life },
    Case { name: "without_process_a_start_counts_from_the_first_process", needs: Probes, run: process },
    Case { name: "without_reclaim_pressure_stands_in", needs: Pressure, run: reclaim },
    Case {
        name: "a_kernel_without_the_tracepoint_counts_where_faults_are_handled",
        needs: Trampolines,
        run: no_tracepoint,
    },
    Case { name: "a_kernel_without_either_falls_back_and_names_it", needs: Probes, run: no_hook },
    Case { name: "a_kernel_without_the_field_falls_back_and_names_it", needs: Probes, run: no_field },
];

const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// Why trampolines cannot be attached on this host, if so: tried, since lockdown may be on without any file saying so.
pub fn trampolines_refused(stage: &Stage) -> Option<String> {
    let daemon = stage.daemon().ok()?;
    let attached = daemon.metric("observer_probe_status", &["probe=\"oom_scope\"", "status=\"attached\""]);
    let refused = attached.ok().flatten() != Some(1.0);
    refused.then(|| "this kernel refuses hooks on functions (lockdown)".to_owned())
}

/// A daemon without one probe, whose status says so and what is lost.
fn without(stage: &Stage, probe: &str) -> Result<Daemon> {
    let daemon = Daemon::start(&stage.observer, &stage.directory, &["--disable-probe", probe])?;
    degraded(&daemon, probe, "disabled", "lost")?;
    Ok(daemon)
}

fn degraded(daemon: &Daemon, probe: &str, status: &str, said: &str) -> Result<()> {
    let with = [format!("probe=\"{probe}\""), format!("status=\"{status}\"")];
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    let began = Instant::now();
    // The server answers before the probes are attached.
    while daemon.get("/api/v1/probes").map_or(true, |answer| answer == "[]") {
        ensure!(began.elapsed() < SOON * patience(), "no probes are reported: {}", daemon.log_text());
    }
    daemon.wait_metric("observer_probe_status", &with, SOON, |value| value == 1.0)?;
    let probes: serde_json::Value = serde_json::from_str(&daemon.get("/api/v1/probes")?)?;
    let reported = probes
        .as_array()
        .and_then(|all| all.iter().find(|reported| reported["probe"] == probe))
        .context("not in /api/v1/probes")?
        .to_string();
    ensure!(reported.contains(said), "{said:?} not in {reported}");
    Ok(())
}

fn ends(group: Group, mut child: std::process::Child) -> Result<()> {
    drop(group); // kills what is in it
    child.wait()?;
    Ok(())
}

fn faults_from_files(stage: &Stage, daemon: &Daemon) -> Result<()> {
    let group = group(stage, "by-files")?;
    let child = run(stage, &group, "spike --peak 100 --steady 20 --ramp 0.3 --hold 0.5 --seconds 60")?;
    daemon.wait_metric("observer_container_page_faults_total", &[&own(&group)], SOON, |v| v > 25_600.0)?;
    // Before memory.peak (v5.19) nobody but a probe knows the peak between two reads.
    let least = group.peak().map_or(0.0, |peak| peak as f64 * 0.98);
    daemon.wait_metric("observer_container_memory_peak_bytes", &[&own(&group)], SOON, |v| v >= least)?;
    ends(group, child)
}

fn page_fault(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "page_fault")?;
    ensure!(daemon.get("/readyz").is_err(), "ready without a required probe");
    faults_from_files(stage, &daemon)
}

fn no_growth(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "growth")?;
    let group = group(stage, "cached")?;
    let file = stage.directory.join("cached.bin");
    let script = format!("dd if=/dev/zero of={} bs=1M count=64 2>/dev/null; sleep 60", file.display());
    let child = group.spawn("/bin/sh".as_ref(), &["-c", &script])?;
    until("the file is written", SOON, Duration::from_millis(100), || {
        Ok(fs::metadata(&file).is_ok_and(|file| file.len() == 64 * MIB))
    })?;
    // On a machine that is short of memory the kernel takes some of it back while it is written.
    let peak = group.peak().unwrap_or(48 * MIB); // kernels before 5.19 say none on cgroup v2
    ensure!(peak > 32 * MIB, "the kernel counts {peak}");
    let is_peak = |v: f64| v >= peak as f64;
    daemon.wait_metric("observer_container_memory_peak_bytes", &[&own(&group)], SOON, is_peak)?;
    let is_usage = |v: f64| group.usage().is_ok_and(|usage| v >= usage as f64 * 0.9);
    daemon.wait_metric("observer_container_memory_usage_bytes", &[&own(&group)], SOON, is_usage)?;
    ends(group, child)?;
    fs::remove_file(file)?;
    Ok(())
}

fn oom_kill(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "oom_kill")?;
    let group = group(stage, "unnamed")?;
    group.limit(48 * MIB)?;
    let child = run(stage, &group, "child --size 200 --seconds 60")?;
    let with = [own(&group), "scope=\"unknown\"".to_owned()];
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    daemon.wait_metric("observer_container_oom_kills_total", &with, SOON, |v| v == 1.0)?;
    ends(group, child)
}

fn oom_scope(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "oom_scope")?;
    let parent = group(stage, "counted")?;
    parent.limit(48 * MIB)?;
    let group = group(stage, "counted/one")?;
    let child = run(stage, &group, "child --size 200 --seconds 60")?;
    let with = [own(&group), "scope=\"parent\"".to_owned()];
    let with: Vec<&str> = with.iter().map(String::as_str).collect();
    daemon.wait_metric("observer_container_oom_kills_total", &with, SOON, |v| v == 1.0)?;
    ends(group, child)
}

fn cgroup_life(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "cgroup_life")?;
    let group = group(stage, "walked")?;
    let mut child = run(stage, &group, "spike --peak 30 --steady 20 --ramp 0.2 --seconds 4")?;
    let workload = format!("workload=\"{}\"", group.path());
    daemon.wait_metric("observer_workload_containers", &[&workload], SOON, |v| v == 1.0)?;
    child.wait()?;
    daemon.wait_metric("observer_workload_containers", &[&workload], SOON, |v| v == 0.0)?;
    Ok(())
}

fn process(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "process")?;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let group = group(stage, "joined")?;
    let child = run(stage, &group, "spike --peak 30 --steady 20 --ramp 0.2 --seconds 60")?;
    let name = "observer_container_start_time_seconds";
    let started = daemon.wait_metric(name, &[&own(&group)], SOON, |v| v > 0.0)?;
    let late = f64::from(observer_tests::daemon::patience());
    ensure!((started - before).abs() < late, "started at {started}, it was after {before}");
    ends(group, child)
}

fn reclaim(stage: &Stage) -> Result<()> {
    let daemon = without(stage, "reclaim")?;
    let group = group(stage, "pressed-too")?;
    group.throttle(16 * MIB)?;
    let child = run(stage, &group, "spike --peak 24 --steady 20 --ramp 0.5 --seconds 60")?;
    let name = "observer_container_pressure_memory_waiting_seconds_total";
    daemon.wait_metric(name, &[&own(&group)], SOON, |v| v > 0.0)?;
    ends(group, child)
}

/// A daemon to which the kernel's types are shown with names changed, as on a kernel that does not have them.
fn without_names(stage: &Stage, names: &[&str]) -> Result<Daemon> {
    let mut types = fs::read("/sys/kernel/btf/vmlinux")?;
    for name in names {
        let whole = [b"\0", name.as_bytes(), b"\0"].concat();
        // Where it is not, this kernel is such a one.
        if let Some(at) = types.windows(whole.len()).position(|window| window == whole) {
            types[at + 1] = b'X'; // as long as it was: the types stay as they are
        }
    }
    let sys = stage.directory.join(format!("sys-without-{}", names.join("-")));
    fs::create_dir_all(sys.join("kernel/btf"))?;
    fs::write(sys.join("kernel/btf/vmlinux"), types)?;
    Daemon::start(&stage.observer, &stage.directory, &["--sys-root", &sys.display().to_string()])
}

const TRACEPOINT: &str = "btf_trace_page_fault_user";

fn no_tracepoint(stage: &Stage) -> Result<()> {
    let mut daemon = without_names(stage, &[TRACEPOINT])?;
    degraded(&daemon, "page_fault", "attached", "fentry handle_mm_fault (this kernel lacks tracepoint")?;
    daemon.ready(SOON)?;
    counts_faults_of(stage, &daemon, "handled")
}

fn no_hook(stage: &Stage) -> Result<()> {
    let daemon = without_names(stage, &[TRACEPOINT, "handle_mm_fault"])?;
    degraded(&daemon, "page_fault", "unsupported", "tracepoint page_fault_user")?;
    faults_from_files(stage, &daemon)
}

fn no_field(stage: &Stage) -> Result<()> {
    let daemon = without_names(stage, &["serial_nr"])?;
    degraded(&daemon, "page_fault", "unsupported", "cgroup_subsys_state.serial_nr")?;
    faults_from_files(stage, &daemon)
}
