//! A real Prometheus scrapes the observer, and promtool reads its exposition.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    daemon::{Daemon, free_port},
    prometheus,
};

use crate::{Case, Needs::Prometheus, Stage};

pub const CASES: &[Case] = &[
    Case { name: "promtool_finds_nothing_to_say_about_names_and_types", needs: Prometheus, run: promtool },
    Case {
        name: "a_real_prometheus_scrapes_the_observer_and_advise_asks_it",
        needs: Prometheus,
        run: scrape,
    },
    Case {
        name: "the_alert_rules_fire_on_what_they_are_for_and_on_nothing_else",
        needs: Prometheus,
        run: rules,
    },
];

pub fn missing() -> Option<String> {
    let there = |program: &str| Path::new("/usr/bin").join(program).is_file();
    (!(there("prometheus") && there("promtool"))).then(|| "no prometheus or promtool in /usr/bin".to_owned())
}

/// A daemon that has something of every kind to report.
fn busy_daemon(stage: &Stage) -> Result<Daemon> {
    let mut daemon = Daemon::start(&stage.observer, &stage.directory, &[])?;
    daemon.ready(Duration::from_secs(10))?;
    let group = stage.tree()?.group(&format!("observer-test-x{}/scraped", std::process::id()))?;
    group.limit(32 << 20)?;
    let mut child =
        group.spawn(&stage.workload, &["spike", "--peak", "90", "--steady", "9", "--ramp", "0.2"])?;
    let within = Duration::from_secs(10);
    daemon.wait_metric("observer_workload_oom_kills_total", &["scraped"], within, |kills| kills == 1.0)?;
    child.wait()?;
    Ok(daemon)
}

fn promtool(stage: &Stage) -> Result<()> {
    let daemon = busy_daemon(stage)?;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    let metrics = daemon.get("/metrics")?;
    promtool.stdin.take().context("no stdin")?.write_all(metrics.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let said = said(&output);
    ensure!(output.status.success() && said.trim().is_empty(), "promtool says:\n{said}");
    Ok(())
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn scrape(stage: &Stage) -> Result<()> {
    let daemon = busy_daemon(stage)?;
    let job = |name: &str, path: &str| {
        let targets = format!("static_configs: [{{targets: ['{}']}}]", daemon.address);
        format!("  - job_name: {name}\n    metrics_path: {path}\n    {targets}\n")
    };
    let jobs = [job("observer", "/metrics"), job("observer-history", "/metrics/history")].concat();
    let configuration = format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n{jobs}");
    let prometheus = prometheus::Prometheus::start(&stage.directory, &configuration)?;
    let began = Instant::now();
    loop {
        let kills =
            prometheus.ask("observer_workload_oom_kills_total{scope=\"container\"} > 0").unwrap_or_default();
        if kills.iter().any(|kill| kill.to_string().contains("scraped")) {
            return advise(stage, &prometheus.url);
        }
        ensure!(began.elapsed() < Duration::from_secs(30), "Prometheus has not scraped the kill: {kills:?}");
        sleep(Duration::from_millis(250));
    }
}

/// One start-up, and the kernel cut it off: no number, and the limit fails.
fn advise(stage: &Stage, url: &str) -> Result<()> {
    let run = |url: &str| Command::new(&stage.observer).args(["advise", "--prometheus", url]).output();
    let began = Instant::now();
    loop {
        let output = run(url)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let line = said.lines().find(|line| line.contains("scraped"));
        if line.is_some_and(|line| line.contains("fail: limit_covers_peak")) {
            break;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(began.elapsed() < Duration::from_secs(30), "observer advise says:\n{said}\n{errors}");
        sleep(Duration::from_millis(500));
    }
    let absent = run(&format!("http://127.0.0.1:{}", free_port()?))?;
    let said = String::from_utf8_lossy(&absent.stderr);
    ensure!(
        !absent.status.success() && said.contains("is it running"),
        "of a Prometheus that is not there: {said}"
    );
    Ok(())
}

fn rules(_: &Stage) -> Result<()> {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
    let output =
        Command::new("promtool").args(["test", "rules", "rules.test.yaml"]).current_dir(rules).output()?;
    let said = said(&output);
    ensure!(output.status.success(), "promtool says:\n{said}");
    Ok(())
}
