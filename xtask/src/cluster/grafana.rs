//! The dashboards are what Grafana reads, by its own schema. What their queries say is asked in the end-to-end test.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::{HOME, binaries};
use crate::{dashboards, shell};

pub fn test() -> Result<u32> {
    let check = binaries::dashboard_check()?;
    let files = dashboards::files();
    shell::output(Command::new(&check).args(files.iter().map(|(path, _)| path)))
        .context("a dashboard is not what Grafana's schema says")?;
    for (path, text) in &files {
        let broken = Path::new(HOME).join("broken-dashboard.json");
        fs::write(&broken, text.replacen("\"gridPos\"", "\"gridPosition\"", 1))?;
        ensure!(
            shell::output(Command::new(&check).arg(broken)).is_err(),
            "the schema lets a misspelt {} pass",
            path.display()
        );
    }
    println!("test grafana_reads_the_dashboards ... ok, {} dashboards", files.len());
    Ok(1)
}
