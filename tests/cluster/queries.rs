//! Everything that is shipped with a query in it has something to show.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use observer_tests::{daemon::get, prometheus::Prometheus, shell};
use serde_json::Value;

use crate::{Suite, grafana};

/// What of the shipped queries may have nothing to show here, and why.
const MAY_BE_EMPTY: &[(&str, &str)] = &[
    ("observer_container_state{state=\"drifting\"}", "nothing leaks here"),
    ("check=\"scaling_signal\"", "the queue's depth is a right signal"),
    ("check=\"hpa_vpa_conflict\"", "there is no VPA"),
    (
        "observer_node_startup_forecast_bytes >",
        "twelve spikes take more than half of the room, not all of it",
    ),
    ("observer_probe_status{status=\"broken\"}) == 1", "nothing is broken"),
    ("observer_lend_oldest_loan_seconds", "nothing is lent here"),
];

/// Dashboards, rules and documents: everything that is shipped with a query in it.
pub fn queries(_: &Suite, prometheus: &Prometheus) -> Result<()> {
    let mut all: Vec<(String, String)> = grafana::queries()?
        .into_iter()
        .map(|(panel, query)| {
            let query = ["$namespace", "$workload", "$instance"]
                .iter()
                .fold(query, |query, name| query.replace(name, ".*"));
            (panel, query)
        })
        .collect();
    let rules: Value = serde_json::from_str(&get(&format!("{}/api/v1/rules", prometheus.url))?)?;
    for rule in rules["data"]["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|group| group["rules"].as_array())
        .flatten()
    {
        ensure!(rule["health"] == "ok", "rule {}: {}", rule["name"], rule["lastError"]);
        all.push((
            format!("rule {}", rule["name"]),
            rule["query"].as_str().context("a rule without a query")?.to_owned(),
        ));
    }
    all.extend(documents()?);
    let mut empty = Vec::new();
    for (from, query) in &all {
        let excused =
            MAY_BE_EMPTY.iter().any(|(part, _)| query.replace(", ", ",").contains(&part.replace(", ", ",")));
        if prometheus.ask(query)?.is_empty() && !excused && prometheus.ask(&ever(query))?.is_empty() {
            empty.push(format!("{query} ({from})"));
        }
    }
    ensure!(empty.is_empty(), "nothing to show for {}", empty.join(", "));
    eprintln!("   {} queries", all.len());
    Ok(())
}

/// What is so for a moment only (a forecast, what was seen in the last minute) counts if it was seen since the scale-up
/// began.
fn ever(query: &str) -> String {
    format!("last_over_time(({query})[10m:5s])")
}

/// Every line of every promql block.
fn documents() -> Result<Vec<(String, String)>> {
    let root = shell::root();
    let mut paths: Vec<PathBuf> = vec![root.join("README.md")];
    let documents = fs::read_dir(root.join("docs"))?.flatten().map(|entry| entry.path());
    paths.extend(documents.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let mut found = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for block in text.split("```promql\n").skip(1) {
            let block = block.split("```").next().unwrap_or_default();
            let lines =
                block.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            found.extend(lines.map(|line| (path.display().to_string(), line.to_owned())));
        }
    }
    Ok(found)
}
