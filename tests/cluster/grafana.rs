//! The dashboards are what Grafana reads, by its own schema. What their queries say is asked in the end-to-end test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use observer_tests::{
    cluster::{HOME, binaries},
    shell,
};
use serde_json::Value;

use crate::{Case, Deployed, Suite, case};

pub fn cases() -> Vec<Case> {
    vec![case("deploy::grafana_reads_the_dashboards", Deployed::Nothing, readable)]
}

fn readable(_: &Suite) -> Result<()> {
    let check = binaries::dashboard_check()?;
    let files = files()?;
    shell::output(Command::new(&check).args(&files))
        .context("a dashboard is not what Grafana's schema says")?;
    for path in &files {
        let broken = Path::new(HOME).join("broken-dashboard.json");
        fs::write(&broken, fs::read_to_string(path)?.replacen("\"gridPos\"", "\"gridPosition\"", 1))?;
        let passes = shell::output(Command::new(&check).arg(broken)).is_ok();
        ensure!(!passes, "the schema lets a misspelt {} pass", path.display());
    }
    Ok(())
}

/// The dashboards that are shipped.
fn files() -> Result<Vec<PathBuf>> {
    let directory = shell::root().join("deploy/grafana");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "json")).collect();
    ensure!(!files.is_empty(), "{} has no dashboards", directory.display());
    Ok(files)
}

/// Every query of them, with the panel it is in.
pub fn queries() -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for path in files()? {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        collect(&dashboard, dashboard["title"].as_str().unwrap_or_default(), &mut found);
    }
    ensure!(!found.is_empty(), "the dashboards ask nothing");
    Ok(found)
}

fn collect(value: &Value, title: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, title, found)),
        Value::Object(fields) => {
            let title = value["title"].as_str().unwrap_or(title);
            let query = value["expr"].as_str().map(|query| match value["step"].as_str() {
                Some(step) => format!("last_over_time(({query})[1h:{step}])"), // an annotation, as it is drawn
                None => query.to_owned(),
            });
            found.extend(query.map(|query| (title.to_owned(), query)));
            fields.values().for_each(|field| collect(field, title, found));
        }
        _ => {}
    }
}
