//! What the daemon costs by the number of cgroups: `cargo xtask bench scale`.
//!
//! Every setting is measured with the pass and with the files in turn, in one run on one machine, and cAdvisor beside
//! them. Processor time is the process's own as the kernel counts it, between two scrapes. Rows are written as they
//! come; `--report` makes docs/performance.md of them.

#[path = "bench_scale/load.rs"]
mod load;
#[path = "bench_scale/measure.rs"]
mod measure;
#[path = "bench_scale/report.rs"]
mod report;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use serde::{Deserialize, Serialize};

/// What the observer costs by the number of cgroups, with the pass, with files, and cAdvisor beside them.
///
/// Needs root. Makes memory cgroups, each with a process that sleeps, four to a workload, starts the observer or
/// cAdvisor over them, lets it settle, and measures: its processor time, its resident memory, what a scrape takes.
/// All of it takes some three hours; each row is printed as soon as it is measured.
#[derive(Parser)]
#[command(after_help = "\
Examples (after `cargo xtask bench scale --`):
  --cgroups 1000 --load idle --by pass          one row, four minutes
  --short                                       every row, measured shortly: 50 minutes
  --rows rows.jsonl                             all rows, added to a file
  --rows rows.jsonl --report docs               docs/performance.md and its curves from that file

Other load on the machine makes every row worse: --beside other work is written into the report.")]
struct Cli {
    /// How many cgroups rest
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100, 1000, 5000])]
    cgroups: Vec<usize>,
    /// How long each row is measured; a whole minute, since some work is done once a minute
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these loads
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Load::Idle, Load::Starts, Load::Churn])]
    load: Vec<Load>,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Reader::Pass, Reader::Files, Reader::Cadvisor])]
    by: Vec<Reader>,
    /// Short-lived cgroups of a churn, each with a name of its own and a process
    #[arg(long, default_value_t = 10_000)]
    churn: u64,
    /// Time over which they are spread
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    churn_seconds: u64,
    /// The churn is beside this many cgroups only
    #[arg(long, default_value_t = 1000, value_name = "CGROUPS")]
    churn_beside: usize,
    /// Every row measured for 20 s; a churn of 1,000 in one minute
    #[arg(long, conflicts_with_all = ["seconds", "churn", "churn_seconds"])]
    short: bool,
    /// Serves cAdvisor's memory metrics at the address it is given (tests/peer); without it cAdvisor is left out
    #[arg(long)]
    cadvisor: Option<PathBuf>,
    /// What else ran on the machine meanwhile, for the report
    #[arg(long, value_name = "TEXT")]
    beside: Option<String>,
    /// Rows are added here, one JSON object a line
    #[arg(long)]
    rows: Option<PathBuf>,
    /// Measure nothing: write performance.md and its curves into this folder, from the rows
    #[arg(long, requires = "rows", value_name = "FOLDER")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Load {
    /// Nothing happens
    Idle,
    /// 100 starts a minute, of 32 MiB each
    Starts,
    /// Short-lived cgroups with names of their own
    Churn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Reader {
    Pass,
    Files,
    Cadvisor,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    cgroups: usize,
    load: Load,
    by: Reader,
    cpu_percent: f64,
    resident_mib: f64,
    scrape_cpu_ms: f64,
    scrape_gzip_bytes: usize,
    series: usize,
    /// Of the observer.
    own: Option<Own>,
    churn: Option<Churn>,
    machine: String,
    beside: Option<String>,
    date: String,
}

/// What only the observer reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Own {
    lost_records: f64,
    /// Entries in the kernel's table of containers beyond those there are.
    entries_left: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Churn {
    groups: u64,
    seconds: u64,
    before_mib: f64,
    /// At its end, and one minute later.
    end_mib: f64,
    after_mib: f64,
    /// Starts that the observer counted.
    seen: Option<f64>,
}

fn main() -> Result<()> {
    let mut cli = Cli::parse();
    if cli.short {
        (cli.seconds, cli.churn, cli.churn_seconds) = (20, 1000, 60);
    }
    if let (Some(folder), Some(rows)) = (&cli.report, &cli.rows) {
        let text = fs::read_to_string(rows).with_context(|| format!("cannot read {}", rows.display()))?;
        let rows = text.lines().map(serde_json::from_str).collect::<Result<Vec<Row>, _>>()?;
        return report::write(folder, &rows);
    }
    measure::all(&cli)
}
