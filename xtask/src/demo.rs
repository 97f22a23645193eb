//! A staged scale-up: real processes in memory cgroups of their own, one of every kind the observer distinguishes.

use std::{
    path::Path,
    process::{Child, Command},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use observer_tests::group::Tree;

use crate::stage::{Role, Shared, Stage, role};

const SPIKE: &str = "spike --peak 160 --steady 60 --ramp 2 --hold 1";
/// A scale-up from one to five at second 4 is the scene; the rest is one of each kind.
const CAST: &[Role] = &[
    role("web/1", 0, Some(256), SPIKE, "spikes to 160 MiB, settles at 60: overshoot 2.7"),
    role(
        "api/1",
        1,
        None,
        "spike --peak 48 --steady 48 --ramp 0.3 --hold 0",
        "stable within a second, no overshoot",
    ),
    role("cache/1", 1, Some(512), "stairs --step 40 --steps 4 --pause 3", "four plateaus, stable after 9 s"),
    role("gc/1", 2, Some(256), "swing --low 40 --high 120 --period 3", "oscillates between 40 and 120 MiB"),
    role("leak/1", 2, Some(1024), "leak --base 40 --rate 1.5", "drifts, 1.5 MiB a second"),
    role(
        "job/1",
        3,
        None,
        "spike --peak 30 --steady 30 --ramp 1 --hold 0 --seconds 4",
        "ends before it is stable",
    ),
    role("web/2", 4, Some(256), SPIKE, "the scale-up: four more, all spiking at once"),
    role("web/3", 4, Some(256), SPIKE, ""),
    role("web/4", 4, Some(256), SPIKE, ""),
    role("web/5", 4, Some(256), SPIKE, ""),
    role("greedy/1", 8, Some(64), SPIKE, "OOM-killed by its own limit while starting"),
    role("greedy/1", 14, Some(64), SPIKE, "and once more after a restart"),
    role("worker/1", 10, Some(96), "child --size 200", "a child is OOM-killed, the main process lives on"),
    role("pair/1", 12, None, "spike --peak 80 --steady 80 --ramp 1 --hold 0", "fits its group"),
    role(
        "pair/2",
        15,
        None,
        "spike --peak 120 --steady 80 --ramp 1 --hold 0",
        "exceeds the limit both share: scope parent",
    ),
];
const SHARED: &[Shared] = &[Shared { name: "pair", limit_mib: 180 }];
/// What web and the rest hold together, with room.
const NEEDS_MIB: u64 = 2048;
const ROOT: &str = "observer-demo";

pub fn demo(
    observer: &Path,
    workload: &Path,
    seconds: u64,
    args: &[String],
    interrupted: &AtomicBool,
) -> Result<()> {
    let tree = Tree::find().context("the demo needs memory cgroups: run as root")?;
    let available = available_mib()?;
    if available < NEEDS_MIB {
        bail!("the demo holds up to {NEEDS_MIB} MiB and only {available} MiB are available");
    }
    let mut daemon = Command::new(observer)
        .arg("run")
        .args(args)
        .spawn()
        .with_context(|| format!("cannot start {}", observer.display()))?;
    let base = format!("http://{}", listen(args));
    let play = |daemon: &mut Child| -> Result<()> {
        answers(&base, daemon)?;
        println!("\nThe page is up: {base}/   The demo takes {seconds} s; Ctrl-C ends it.\n");
        Stage::new(tree, ROOT, workload, CAST, SHARED)?.play(seconds, interrupted)?;
        // Interrupted, the observer has ended too.
        if interrupted.load(Ordering::Relaxed) { Ok(()) } else { show_metrics(&base) }
    };
    let done = play(&mut daemon);
    stop(&mut daemon)?;
    done
}

/// The address of the page, where it is given on the command line.
fn listen(args: &[String]) -> &str {
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg.strip_prefix("--listen") {
            Some("") => return args.next().unwrap_or_default(),
            Some(rest) => return rest.trim_start_matches('='),
            None => {}
        }
    }
    "127.0.0.1:9843"
}

fn answers(base: &str, daemon: &mut Child) -> Result<()> {
    let began = Instant::now();
    while observer_tests::daemon::get(&format!("{base}/healthz")).is_err() {
        if let Some(status) = daemon.try_wait()? {
            bail!("the observer ended with {status}");
        }
        if began.elapsed() > Duration::from_secs(30) {
            bail!("{base}/ does not answer after 30 s");
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// SIGTERM, and time to drain.
pub fn stop(daemon: &mut Child) -> Result<()> {
    // The daemon has Ctrl-C already if there was one; SIGTERM is for the end of time.
    let _ = Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        if daemon.try_wait()?.is_some() {
            return Ok(());
        }
        sleep(Duration::from_millis(50));
    }
    daemon.kill().context("the observer did not stop")
}

fn available_mib() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or("0");
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) / 1024)
}

fn show_metrics(base: &str) -> Result<()> {
    println!("\nWhat /metrics says now of the workloads:\n");
    let text = observer_tests::daemon::get(&format!("{base}/metrics"))?;
    let shown = of_the_demo(&text);
    if shown.is_empty() {
        bail!("nothing: {}", why_nothing(&text));
    }
    println!("{}", shown.join("\n"));
    Ok(())
}

fn of_the_demo(exposition: &str) -> Vec<&str> {
    let wanted = [
        "observer_workload_starts_total",
        "observer_workload_oom_kills_total",
        "observer_container_memory_peak_bytes",
        "observer_container_time_to_stable_seconds",
        "observer_container_startup_overshoot_ratio",
        "observer_container_drift_bytes_per_second",
    ];
    let of_the_demo = |line: &&str| {
        line.contains(ROOT) && wanted.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0")
    };
    exposition.lines().filter(of_the_demo).collect()
}

/// What the observer holds instead, and what it had to drop.
fn why_nothing(exposition: &str) -> String {
    let containers = observer_tests::daemon::sum(exposition, "observer_node_containers", &[]).unwrap_or(0.0);
    let lost: Vec<&str> = exposition
        .lines()
        .filter(|line| line.starts_with("observer_lost_records_total") && !line.ends_with(" 0"))
        .collect();
    format!(
        "the observer watches {containers} containers, none of them the demo's; what it lost: {}",
        if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") }
    )
}
