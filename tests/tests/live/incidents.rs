//! The recording that the observer keeps of the minutes before an OOM kill.

use std::{fs, process::Command, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use observer_tests::daemon::patience;

use super::kernel::{MIB, SOON, daemon, group, run, wait};
use crate::{Case, Needs::Probes, Stage};

pub const CASES: &[Case] =
    &[Case { name: "the_minutes_before_an_oom_kill_are_a_recording_of_it", needs: Probes, run: incident }];

/// Nothing was recorded on request; what was kept shows the same kill.
fn incident(stage: &Stage) -> Result<()> {
    let folder = stage.directory.join("incidents");
    let path = folder.display().to_string();
    let daemon = daemon(stage, &["--incidents", &path, "--incident-window", "10s"])?;
    // Longer than the window: the recording begins in the middle.
    let neighbour = group(stage, "neighbour")?;
    let mut beside = run(stage, &neighbour, "spike --peak 40 --steady 20 --ramp 0.5 --hold 60")?;
    sleep(Duration::from_secs(15));
    let victim = group(stage, "victim")?;
    victim.limit(48 * MIB)?;
    let child = run(stage, &victim, "spike --peak 100 --steady 10 --ramp 0.5")?;
    let pid = child.id();
    wait(child)?;
    let list = || -> Result<String> {
        let listed = Command::new(&stage.observer).args(["incident", "--incidents", &path]).output()?;
        ensure!(listed.status.success(), "observer incident: {listed:?}");
        Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
    };
    let began = std::time::Instant::now();
    while !list()?.contains(victim.path()) {
        ensure!(began.elapsed() < 3 * SOON * patience(), "no recording:\n{}\n{}", list()?, daemon.log_text());
        sleep(Duration::from_millis(200));
    }
    beside.kill()?;
    beside.wait()?;
    let copy = stage.directory.join("incident.jsonl");
    let copied = Command::new(&stage.observer)
        .args(["incident", "newest", "--incidents", &path, "-o"])
        .arg(&copy)
        .output()?;
    ensure!(copied.status.success(), "{copied:?}");
    let story = Command::new(&stage.observer).args(["replay", "--story"]).arg(&copy).output()?;
    let story = String::from_utf8_lossy(&story.stdout).into_owned();
    let kill = |text: &str| -> Option<String> {
        let line = text.lines().find(|line| line.contains("OOM kill") && line.contains(victim.path()))?;
        Some(line[line.find("OOM kill")?..].to_owned())
    };
    let (live, replayed) = (kill(&daemon.log_text()), kill(&story));
    ensure!(live.is_some(), "the log names no kill:\n{}", daemon.log_text());
    let replayed = replayed.with_context(|| format!("no kill in:\n{story}"))?;
    ensure!(
        replayed.contains(&pid.to_string()) && replayed.contains("48 MiB"),
        "pid {pid}, 48 MiB: {replayed}"
    );
    let report = stage.directory.join("incident.html");
    let made = Command::new(&stage.observer).arg("report").arg(&copy).arg("-o").arg(&report).output()?;
    ensure!(made.status.success(), "{made:?}");
    let html = fs::read_to_string(&report)?;
    ensure!(
        html.contains("1 OOM kill in") && html.contains(neighbour.path()),
        "the report lacks the kill or what ran"
    );
    Ok(())
}
