//! Writes what is generated: documents from the observer's declarations, dashboards and the PrometheusRule from their
//! sources. Tests compare: `generated_docs_are_fresh` the former, one here the latter.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{dashboards, shell};

pub fn docs() -> Result<()> {
    let mut build = shell::cargo();
    let observer = shell::executable(build.args(["build", "--quiet", "--package", "observer"]), "observer")?;
    let mut files = deployed()?;
    for name in ["metrics", "probes"] {
        let text = shell::output(Command::new(&observer).args(["docs", name]))?;
        files.push((shell::root().join(format!("docs/{name}.md")), text));
    }
    for name in ["advice", "causes"] {
        let path = shell::root().join(format!("docs/{name}.md"));
        let written = fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = shell::output(Command::new(&observer).args(["docs", name]).stdin(written))?;
        files.push((path, text));
    }
    for (path, text) in files {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn deployed() -> Result<Vec<(PathBuf, String)>> {
    let mut files = dashboards::files();
    let rules = shell::root().join("deploy/prometheus/rules.yaml");
    let rules = fs::read_to_string(&rules).with_context(|| format!("cannot read {}", rules.display()))?;
    files.push((shell::root().join("deploy/operator/prometheusrule.yaml"), prometheus_rule(&rules)));
    // Helm reads nothing outside of the chart.
    files.push((shell::root().join("deploy/chart/files/rules.yaml"), rules));
    Ok(files)
}

/// The plain rules, as the Prometheus Operator wants them.
fn prometheus_rule(rules: &str) -> String {
    let rules: String = rules
        .lines()
        .skip_while(|line| line.starts_with('#'))
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") })
        .collect();
    format!(
        "# Made from ../prometheus/rules.yaml by `cargo xtask docs`.\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: observer\n  \
         labels: {{app.kubernetes.io/name: observer}}\nspec:\n{rules}"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn dashboards_and_the_prometheus_rule_are_fresh() {
        for (path, fresh) in super::deployed().unwrap() {
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                committed == fresh,
                "{} is not what its source says: run `cargo xtask docs`",
                path.display()
            );
        }
    }
}
