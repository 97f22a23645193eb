//! Growth of memory while a container starts: each way the kernel charges it is seen, and a node at rest has no program
//! on it.

use std::{
    collections::BTreeMap, fs, os::unix::fs::MetadataExt, path::PathBuf, sync::OnceLock, time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use observer_tests::daemon::Daemon;

use super::kernel::{counts_faults_of, group, own, run};
use crate::{
    Case,
    Needs::{Disk, Probes},
    Stage,
};

pub const CASES: &[Case] = &[
    Case { name: "growth_of_anonymous_memory_is_seen_as_it_comes", needs: Probes, run: |s| seen(s, "anon") },
    Case { name: "growth_of_huge_pages_is_seen_as_it_comes", needs: Probes, run: |s| seen(s, "thp") },
    Case {
        name: "growth_of_memory_the_kernel_faults_in_is_seen_as_it_comes",
        needs: Probes,
        run: |s| seen(s, "read"),
    },
    Case { name: "growth_of_page_cache_is_seen_as_it_comes", needs: Disk, run: |s| seen(s, "cache") },
    Case { name: "growth_of_tmpfs_is_seen_as_it_comes", needs: Probes, run: |s| seen(s, "tmpfs") },
    Case { name: "growth_of_a_mapped_file_is_seen_as_it_comes", needs: Probes, run: |s| seen(s, "mapped") },
    Case {
        name: "programs_on_growth_are_attached_only_while_a_container_starts",
        needs: Probes,
        run: at_rest,
    },
];

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64;
const SOON: Duration = Duration::from_secs(5);
/// The programs are detached ten seconds after the last start-up; another one may come between.
const REST: Duration = Duration::from_secs(30);

const WAYS: [&str; 6] = ["anon", "thp", "read", "cache", "tmpfs", "mapped"];

/// By the way in which memory grew.
type Verdicts = BTreeMap<&'static str, Result<(), String>>;

/// What a process did to its group's memory, by its own clock.
struct Growth {
    cgroup: u64,
    began: u64,
    ended: u64,
    peak: u64,
}

/// Points pushed by the programs alone, without what was read meanwhile, follow all of the growth. One daemon sees all
/// ways, one after the other, when the first of them is asked for.
fn seen(stage: &Stage, by: &str) -> Result<()> {
    static ALL: OnceLock<Result<Verdicts, String>> = OnceLock::new();
    let all = ALL.get_or_init(|| all_ways(stage).map_err(|error| format!("{error:#}")));
    let all = all.as_ref().map_err(|error| anyhow!("{error}"))?;
    all.get(by).context("it was not tried")?.clone().map_err(|error| anyhow!("{error}"))
}

fn all_ways(stage: &Stage) -> Result<Verdicts> {
    let recording = stage.directory.join("growth.jsonl");
    let mut daemon =
        Daemon::start(&stage.observer, &stage.directory, &["--record", &recording.display().to_string()])?;
    daemon.ready(Duration::from_secs(10))?;
    let grown: Vec<(&str, Result<Growth>)> = WAYS.map(|by| (by, grow(stage, &daemon, by))).into();
    ensure!(daemon.stop()?.success(), "the observer did not stop cleanly");
    let events: Vec<serde_json::Value> =
        fs::read_to_string(&recording)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let judged = |growth: Result<Growth>| growth.and_then(|growth| followed(&growth, &events));
    Ok(grown
        .into_iter()
        .map(|(by, growth)| (by, judged(growth).map_err(|error| format!("{error:#}"))))
        .collect())
}

fn grow(stage: &Stage, daemon: &Daemon, by: &str) -> Result<Growth> {
    let files = std::env::var_os("TEST_FILES").map_or_else(|| stage.directory.clone(), PathBuf::from);
    let file = match by {
        "tmpfs" => PathBuf::from(format!("/dev/shm/observer-growth-{}", std::process::id())),
        _ => files.join(format!("growth-{by}.bin")),
    };
    if by == "cache" {
        // Written outside the group and dropped from the cache, so that reading charges the reader.
        let mut out = fs::File::create(&file)?;
        std::io::Write::write_all(&mut out, &vec![1u8; (SIZE * MIB) as usize])?;
        out.sync_all()?;
        rustix::fs::fadvise(&out, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let group = group(stage, &format!("grows-{by}"))?;
    // The programs were detached if the last way took long, and attaching them may take a grace period of RCU tasks:
    // seconds on an emulated machine. A new group has them attached, and is what is waited for.
    daemon.wait_metric("observer_probe_attached", &["probe=\"page_fault\""], SOON, |v| v == 1.0)?;
    let growth = "probe=\"growth\"";
    if daemon.metric("observer_probe_status", &[growth, "status=\"attached\""])? == Some(1.0) {
        daemon.wait_metric("observer_probe_attached", &[growth], SOON, |v| v == 1.0)?;
    }
    let args = format!("grow --by {by} --size {SIZE} --after 0.3 --file {} --seconds 1", file.display());
    let output = run(stage, &group, &args)?.wait_with_output()?;
    let _ = fs::remove_file(&file); // not every way makes one
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(began)), Some(Ok(ended))) = (words.next(), words.next()) else {
        bail!("the workload said {text:?}")
    };
    let peak = group.peak().unwrap_or(SIZE * MIB);
    Ok(Growth { cgroup: fs::metadata(group.directory())?.ino(), began, ended, peak })
}

fn followed(growth: &Growth, events: &[serde_json::Value]) -> Result<()> {
    let Growth { cgroup, began, ended, peak } = *growth;
    ensure!(peak >= SIZE * MIB, "the group's peak is {peak}: it did not grow in this way here");
    // The batches of 31 folios a CPU holds back reach the lists a little late.
    let late = 50_000_000;
    let mut points: Vec<u64> = Vec::new();
    let mut later: Vec<(u64, u64)> = Vec::new();
    for event in events {
        let (at, point) = (event["at"].as_u64().context("no time")?, &event["what"]["usage"]);
        if point["cgroup"] == cgroup && (began..=ended + late).contains(&at) {
            points.extend(point["usage"].as_u64());
        } else if point["cgroup"] == cgroup && at > ended {
            later.extend(point["usage"].as_u64().map(|usage| ((at - ended) / 1_000_000, usage / MIB)));
        }
    }
    let (first, last) = (points.first().copied().unwrap_or(0), points.last().copied().unwrap_or(0));
    let followed = last.saturating_sub(first) as f64 / (SIZE * MIB) as f64;
    ensure!(
        followed > 0.9,
        "{} points, from {} to {} MiB, follow {:.0} % of the growth of {} ms; after it (ms, MiB): {:?}; lost: {}",
        points.len(),
        first / MIB,
        last / MIB,
        followed * 100.0,
        (ended - began) / 1_000_000,
        &later[..later.len().min(20)],
        events.iter().filter(|event| event["what"]["lost"].is_object()).count()
    );
    // No gap larger than the bound: 1 MiB or 1/128, what the stocks hold back, and one huge page.
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let bound = 2 * MIB + 2 * MIB + 64 * 4096 * cpus;
    let gap = points.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or(0);
    ensure!(gap <= bound, "a gap of {gap} bytes, the bound is {bound}");
    Ok(())
}

fn at_rest(stage: &Stage) -> Result<()> {
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, &[])?;
    daemon.ready(Duration::from_secs(10))?;
    let attached = |daemon: &Daemon, value: f64, within: Duration| {
        daemon.wait_metric("observer_probe_attached", &["probe=\"page_fault\""], within, |v| v == value)
    };
    // Ten seconds after the last start-up is over; other tests' groups end with them.
    attached(&daemon, 0.0, REST)?;
    // Its first pages come before and while the programs are attached.
    let group = group(stage, "wakes")?;
    let child = run(stage, &group, "spike --peak 200 --steady 20 --ramp 0.1 --hold 0.05 --seconds 0.4")?;
    attached(&daemon, 1.0, SOON)?;
    child.wait_with_output()?;
    let peak = group.peak().unwrap_or(200 * MIB) as f64;
    let reported =
        daemon.wait_metric("observer_container_startup_peak_bytes", &[&own(&group)], SOON, |v| v > 0.0)?;
    ensure!((reported / peak - 1.0).abs() < 0.02, "start-up peak {reported}, the kernel's is {peak}");
    // Counted right although the programs come and go.
    attached(&daemon, 0.0, REST)?;
    counts_faults_of(stage, &daemon, "wakes-again")?;
    let probes = daemon.get("/api/v1/probes")?;
    ensure!(probes.contains("\"attached\":true"), "{probes}");
    Ok(())
}
