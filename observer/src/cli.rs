//! The command line: what can be typed, and what each exit code means.

use std::{ffi::OsStr, path::PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};

use crate::{
    commands::{advise, incident, report, simulate, top, why},
    config::{Flags, RootFlags},
    ledger, lend,
};

/// Watches containers start: peaks, overshoot, time to stable, every OOM kill with victim and scope, and what it means.
///
/// Exit codes: 0 done; 1 failed while running; 2 bad command line, configuration or input; 3 a required probe cannot
/// run on this host (`check`), or something is wrong (`why`).
#[derive(Debug, Parser)]
#[command(name = "observer", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Of this process; ends it where the command line is wrong, or asks for help.
    pub fn of_this_process() -> Self {
        let empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
        let matches = without_variables(Self::command(), empty).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// clap takes an empty variable for a value. Here it counts as unset, for these commands as for `run`.
fn without_variables(command: clap::Command, empty: impl Fn(&OsStr) -> bool + Copy) -> clap::Command {
    command
        .mut_args(|argument| match argument.get_env().is_some_and(empty) {
            true => argument.env(Resettable::Reset),
            false => argument,
        })
        .mut_subcommands(|command| without_variables(command, empty))
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure this host until SIGTERM or Ctrl-C, and serve /metrics and a page
    ///
    /// Needs CAP_BPF and CAP_PERFMON (or root) for its probes; without them it measures what cgroup files report, and
    /// stays not ready. Every setting can also be given as OBSERVER_<NAME> or in a TOML file.
    Run(Box<Flags>),
    /// Say what this host offers, which hook each probe will use, and what to do about the rest
    Check {
        #[command(flatten)]
        roots: RootFlags,
    },
    /// Run a recording through the same pipeline and print the metrics it ends with
    Replay {
        /// A file written by `observer run --record`; - is standard input
        recording: PathBuf,
        /// Print each finding as one JSON line instead of the metrics
        #[arg(long)]
        findings: bool,
        /// Print the findings worth reading as text instead of the metrics
        #[arg(long, conflicts_with = "findings")]
        story: bool,
        /// Show it in the page, as the daemon would: serve page, API and metrics at this address until Ctrl-C
        #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["findings", "story"])]
        serve: Option<std::net::SocketAddr>,
        /// How fast it is played while it is served, times as it was [default: all at once]
        #[arg(long, value_name = "TIMES", requires = "serve", value_parser = crate::recording::pace::parse_speed)]
        speed: Option<f64>,
    },
    /// Write a recording as one HTML file that can be mailed: the page, with everything of the recording in it
    ///
    /// It needs no server and no network. It begins with what happened in words: OOM kills, whose limit, who else was
    /// starting, what to set. At most 16 MiB: of a long recording it has lows and highs of ever longer spans, and what
    /// does not fit is counted in it. A recording that ends early or is damaged is used up to there, and the report
    /// says so.
    Report(report::Options),
    /// List the recordings that `observer run --incidents` kept of the minutes before OOM kills, or copy one
    ///
    /// Each replays as any recording: `observer replay`, `why --replay`, `report`.
    ///
    /// Exit codes: 0 done; 1 it could not be written; 2 no such recording or folder, or a file in the way.
    Incident(incident::Options),
    /// Analyse a recorded memory curve: peak, steady level, overshoot, time to stable, verdict
    ///
    /// Reads CSV with the columns seconds,usage_bytes[,anon_bytes,inactive_file_bytes], Grafana's CSV, JSON of
    /// Prometheus, VictoriaMetrics and cAdvisor, kubectl top and docker stats in a loop, pidstat, psrecord and mprof:
    /// docs/recording.md has a command for each. Seconds count from the start of the container; Unix times, dates and
    /// times far from zero count from the first row. Needs no privileges.
    Analyse {
        /// The file; - is standard input
        file: PathBuf,
        /// Print one JSON object instead of text
        #[arg(long)]
        json: bool,
        /// Also draw curve, band, time to stable, peak and limit
        #[arg(long, value_name = "FILE.svg")]
        plot: Option<PathBuf>,
        /// The container's memory limit, drawn and compared with the peak: bytes, or 512Mi, 512m, 1.5GiB, 512MB
        #[arg(long, value_name = "SIZE", value_parser = observer_core::model::units::parse_limit)]
        limit: Option<u64>,
        /// The process ended (or was killed) with the last row
        #[arg(long)]
        ended: bool,
        /// Of several series, the one whose name or labels contain this
        #[arg(long, value_name = "NAME")]
        series: Option<String>,
        /// Seconds between two readings, for tables that were recorded without times
        #[arg(long, value_name = "SECONDS", value_parser = interval)]
        interval: Option<f64>,
    },
    /// Advise requests, limits and scaling from what was measured: of a node, or of the fleet by Prometheus
    ///
    /// Requests reflect steady usage, limits cover the worst start-up and headroom, memory must settle, replicas follow
    /// request rate, queue depth or latency. Each is a check: pass, warn, fail, or unknown where too little was seen
    /// (docs/advice.md). Reads only: --output patch prints commands for kubectl and runs none. Needs no privileges.
    Advise(Box<advise::Options>),
    /// Foretell what a scale-up, a rollout or the restart of a node does to the nodes' memory, from recorded curves
    ///
    /// Says which nodes run short, when and by how much, who would be killed, how it would go if every pod requested
    /// its peak, for good or only while it starts (lending: placed in waves), and the largest step that fits, as
    /// commands for kubectl. Curves come from a running observer, a recording or a state file; nothing is changed.
    /// What the model leaves out: docs/simulate.md. Needs no privileges.
    #[command(after_long_help = simulate::EXAMPLES)]
    Simulate(Box<simulate::Options>),
    /// Explain on one screen what happened to a pod, workload or cgroup: kills, whose limit, which scale-up, what to
    /// set
    ///
    /// Asks the observer of its node, or a recording. Needs no privileges.
    ///
    /// Exit codes: 0 found, and nothing is wrong; 1 the observer could not be asked; 2 bad input: no such name, several
    /// of it, no recording; 3 found, and something is wrong: an OOM kill, a failed exit, memory that does not settle,
    /// or advice that a check fails.
    Why(why::Options),
    /// Watch start-ups on a terminal: what starts now with its curve against its limit, OOM kills, and the rest by risk
    ///
    /// Shows a running observer, by default that of this host; a node's of a cluster is brought here by `kubectl
    /// port-forward`. --replay plays a recording in this process instead, at any --speed. Enter opens a container:
    /// its curve, its cause with evidence, its kills, and what to set; / filters, s sorts, ? explains keys and words,
    /// q quits. NO_COLOR is obeyed, and nothing is said by colour alone. For scripts there are `observer why` and
    /// /api/v1. Needs no privileges.
    Top(top::Options),
    /// Watch what scales which workload in the whole cluster, and answer the agents: the optional companion of `run`
    ///
    /// Runs as a small Deployment. It watches autoscalers, Deployments and ReplicaSets (metadata only), StatefulSets
    /// and a few events, keeps two hours of changes, and answers agents by TLS. Without it causes are less sure.
    Ledger(ledger::Options),
    /// Lend pods memory for their start: request the peak while they start, give it back as it is measured to pass
    ///
    /// Runs as a small Deployment with rights of its own. Pods that opted in are raised when they are created; nothing
    /// else of them is changed, and no limit. Every loan ends by its deadline.
    Lend(Box<lend::Options>),
    /// Print a Secret with a certificate for the ledger, or for the agents, for clusters without an issuer
    LedgerSecret {
        /// Namespace of the Secret, and of the ledger
        #[arg(long, default_value = "observer")]
        namespace: String,
        /// Name of the Secret
        #[arg(long, default_value = "observer-ledger-tls")]
        secret: String,
        /// Names or addresses by which it is reached, instead of observer-ledger.NAMESPACE.svc
        names: Vec<String>,
    },
    /// Print a generated document: metrics or probes
    #[command(hide = true)]
    Docs { name: Document },
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1e-6..=86400.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0.000001 to 86400".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Document {
    Metrics,
    Probes,
    /// Reads docs/advice.md from standard input
    Advice,
    /// Reads docs/causes.md from standard input
    Causes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn an_empty_variable_is_none_of_any_command() {
        let variables = |command: &clap::Command| -> Vec<String> {
            let arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
            arguments.filter_map(|one| Some(one.get_env()?.to_str()?.to_owned())).collect()
        };
        let all = variables(&Cli::command());
        for one in ["OBSERVER_LEDGER_CERT", "OBSERVER_LEND_LISTEN", "OBSERVER_INCIDENTS"] {
            assert!(all.iter().any(|name| name == one), "{one} not in {all:?}");
        }
        let rest = variables(&without_variables(Cli::command(), |name| name == "OBSERVER_LEDGER_CERT"));
        assert_eq!(rest.len(), all.len() - 1);
        assert_eq!(variables(&without_variables(Cli::command(), |_| true)), Vec::<String>::new());
    }

    #[test]
    fn a_number_that_cannot_be_is_refused_before_anything_is_done() {
        let accepts = |line: &str| Cli::try_parse_from(line.split_whitespace()).is_ok();
        for command in ["why web", "top", "advise", "simulate --scale web=40 --nodes 4x8Gi --replay r"] {
            assert!(accepts(&format!("observer {command} --timeout 5")), "{command}");
            for seconds in ["0", "3601", "18446744073709551615", "-1", "1e9", ""] {
                assert!(!accepts(&format!("observer {command} --timeout={seconds}")), "{command} {seconds}");
            }
        }
        for (interval, is_one) in
            [("0", false), ("1e-9", false), ("0.5", true), ("1e300", false), ("inf", false)]
        {
            assert_eq!(accepts(&format!("observer analyse f --interval {interval}")), is_one, "{interval}");
        }
        for (limit, is_one) in
            [("0", false), ("512Mi", true), ("1e30", false), ("99999999Ei", false), ("NaN", false)]
        {
            assert_eq!(accepts(&format!("observer analyse f --limit {limit}")), is_one, "{limit}");
        }
    }
}
