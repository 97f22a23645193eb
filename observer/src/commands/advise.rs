//! `observer advise`: what was seen, from a node or from Prometheus -> verdicts and numbers, for people and for
//! kubectl.
//!
//! Reads only. Where the facts come from is one function each; everything after is the same.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::client::{Access, http::Http, timeout_seconds};
use observer_core::{
    advice::Settings,
    model::{
        advice::{Advice, Facts},
        finding::Advised,
        printable::printable,
    },
};

mod explain;
pub(in crate::commands) mod nodes;
mod patch;
mod plot;
mod prometheus;
pub(in crate::commands) mod table;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    asked: Asked,
    /// Only this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    access: Access,
    /// The whole fleet, from the series in a Prometheus, Thanos, Mimir or VictoriaMetrics
    #[arg(long, value_name = "URL", conflicts_with = "node", env = "OBSERVER_PROMETHEUS")]
    prometheus: Option<String>,
    /// How far back Prometheus is asked
    #[arg(long, default_value = "7d", value_name = "SPAN", requires = "prometheus", value_parser = window)]
    window: Window,
    /// Seconds to wait for each answer
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = timeout_seconds())]
    timeout: u64,
}

/// Workloads named where the one asked for is not there.
const NAMED: usize = 8;

/// What is wanted of what is known, from wherever that is.
#[derive(Debug, Args)]
pub struct Asked {
    /// Workloads to advise: `web`, `deploy/web`, `sts/db`, `shop/web`; none means all
    workloads: Vec<String>,
    /// Share of the worst peak that a limit leaves free above it, in percent
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT", value_parser = percent)]
    headroom: f64,
    /// Start-ups below which nothing is said of peaks
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    min_startups: u64,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Explain each workload: every check with its evidence, and where the numbers come from
    #[arg(long, conflicts_with = "output")]
    explain: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
pub enum Output {
    /// A line for each container of each workload
    #[default]
    Table,
    Json,
    Yaml,
    /// kubectl commands that set what is advised, to be read and then run
    Patch,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(value) if (0.0..=1000.0).contains(&value) => Ok(value),
        _ => Err("a share in percent, such as 10 or 25%".into()),
    }
}

/// Seconds. Prometheus counts spans in nanoseconds and has room for 292 years.
const LONGEST_WINDOW: u64 = 3650 * 86400;

/// A span of time, as PromQL has it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Window {
    seconds: u64,
}

impl Window {
    fn text(self) -> String {
        format!("{}s", self.seconds)
    }
}

fn window(text: &str) -> Result<Window, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        _ => 0,
    };
    match number.parse::<u32>().map(|number| u64::from(number) * unit) {
        Ok(seconds @ 1..=LONGEST_WINDOW) => Ok(Window { seconds }),
        _ => Err("a span such as 90m, 24h, 7d or 2w, of ten years at the most".into()),
    }
}

/// What is known of a container of a workload, and what follows from it with the settings asked for.
pub struct WorkloadAdvice {
    pub facts: Facts,
    pub advice: Advice,
}

/// What is printed, or what is wrong: on what, why, and what to do.
pub fn run(options: &Options) -> Result<String, String> {
    let settings = options.asked.settings();
    let timeout = Duration::from_secs(options.timeout);
    let advised = match &options.prometheus {
        Some(url) => {
            prometheus::advised(&options.access.connect_to(url, timeout)?, options.window, &settings)?
        }
        None => node(&options.access.connect(timeout)?, &settings)?,
    };
    options.asked.print(advised, options.namespace.as_deref())
}

impl Asked {
    pub fn settings(&self) -> Settings {
        Settings { headroom: self.headroom / 100.0, min_startups: self.min_startups }
    }

    /// What is printed of it.
    pub fn print(&self, mut advised: Vec<WorkloadAdvice>, namespace: Option<&str>) -> Result<String, String> {
        let all = advised.len();
        let names = advised.iter().take(NAMED).map(|one| one.facts.workload.to_string());
        let mut known = names.map(|name| printable(&name).into_owned()).collect::<Vec<_>>().join(", ");
        if all > NAMED {
            known += &format!(" and {} more", all - NAMED);
        }
        advised.retain(|one| self.wants(&one.facts, namespace));
        if advised.is_empty() {
            return Err(match all {
                0 => "nothing to advise yet: no start-up has been seen to its end; ask again after the next rollout or scale-up".into(),
                _ => format!(
                    "none of what is known is {}; known: {known}",
                    [
                        self.workloads.join(", "),
                        namespace.map_or(String::new(), |name| format!("in namespace {name}"))
                    ]
                    .join(" ")
                    .trim()
                ),
            });
        }
        let advice = || advised.iter().map(|one| &one.advice).collect::<Vec<&Advice>>();
        match self.output {
            _ if self.explain => {
                let settings = self.settings();
                Ok(advised.iter().map(|one| explain::story(one, &settings)).collect::<Vec<_>>().join("\n"))
            }
            Output::Table => Ok(table::table(&advised)),
            Output::Patch => Ok(patch::commands(&advised)),
            Output::Json => serde_json::to_string_pretty(&advice())
                .map(|text| text + "\n")
                .map_err(|error| error.to_string()),
            Output::Yaml => serde_saphyr::to_string(&advice()).map_err(|error| error.to_string()),
        }
    }

    fn wants(&self, facts: &Facts, namespace: Option<&str>) -> bool {
        let of = &facts.workload;
        let is = |wanted: &String| match wanted.split_once('/') {
            _ if of.workload == *wanted => true, // a cgroup's name is a path
            Some((before, name)) => {
                of.workload == name && (of.workload_type == long_name(before) || of.namespace == before)
            }
            None => false,
        };
        namespace.is_none_or(|namespace| of.namespace == namespace)
            && (self.workloads.is_empty() || self.workloads.iter().any(is))
    }
}

/// kubectl's short names of what has pods.
pub(in crate::commands) fn long_name(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('s').unwrap_or(&kind) {
        "deploy" => "deployment".into(),
        "st" => "statefulset".into(),
        "d" => "daemonset".into(),
        "r" => "replicaset".into(),
        "cj" => "cronjob".into(),
        "po" => "pod".into(),
        singular => singular.to_owned(),
    }
}

fn node(http: &Http, settings: &Settings) -> Result<Vec<WorkloadAdvice>, String> {
    let advised: Vec<Advised> = http.api("/api/v1/advice", &[])?;
    let judge = |Advised { facts, .. }: Advised| {
        let advice = Advice::of(&facts, settings);
        WorkloadAdvice { facts, advice }
    };
    Ok(advised.into_iter().map(judge).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_named_as_kubectl_names_them() {
        for (short, long) in [
            ("deploy", "deployment"),
            ("sts", "statefulset"),
            ("ds", "daemonset"),
            ("Deployments", "deployment"),
            ("po", "pod"),
        ] {
            assert_eq!(long_name(short), long);
        }
        assert!(
            window("7d") == Ok(Window { seconds: 604_800 })
                && window("7d]) or vector(1").is_err()
                && window("0h").is_err()
                && window("d").is_err()
                && window("4000000000w").is_err()
        );
        assert!(percent("12.5%").is_ok() && percent("-1").is_err() && percent("NaN").is_err());
    }
}
