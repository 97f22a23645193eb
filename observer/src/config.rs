//! One configuration from file, environment and flags, validated once, every problem reported at once.
//!
//! Later wins: defaults, the TOML file, `OBSERVER_*` variables, flags. Unknown keys are rejected: a misspelt setting
//! that is silently ignored is worse than a daemon that does not start.

use std::{ffi::OsString, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args};
use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Serialized, Toml},
    value::{Dict, Map, Value},
};
use serde::{Deserialize, Serialize};

use crate::{http::tls::Pair, recording::incidents};
use observer_core::model::units::parse_limit;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    pub log_format: LogFormat,
    pub log_level: String,
    pub retention: Duration,
    /// From one pass over all cgroups to the next.
    pub pass_interval: Duration,
    pub probes: ProbeChoice,
    pub record: Option<PathBuf>,
    pub metrics_at_exit: Option<PathBuf>,
    /// Where the workloads' histories are kept over restarts; nowhere if absent.
    pub state: Option<PathBuf>,
    /// `None`: no recordings of OOM kills are kept.
    pub incidents: Option<incidents::Settings>,
    /// Absent outside Kubernetes.
    pub kubernetes: Option<Kubernetes>,
    /// `None`: plain HTTP.
    pub tls: Option<Pair>,
    /// Bearer tokens are asked for, and reviewed by the Kubernetes API.
    pub authorize: bool,
    /// Names under which browsers may ask for it in the clear.
    pub allowed_hosts: Vec<String>,
    pub roots: Roots,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Kubernetes {
    /// Name of this host's Node object.
    pub node: String,
    /// `None`: the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    pub ledger: Ledger,
}

/// Who is asked what happened to workloads.
#[derive(Clone, Debug, PartialEq)]
pub enum Ledger {
    Off,
    /// The ledger of the cluster.
    At(LedgerAddress),
    /// This process watches the cluster itself: for clusters of a few nodes.
    Embedded,
}

#[derive(Clone, Debug, PartialEq)]
pub struct LedgerAddress {
    pub url: String,
    /// PEM of the certificate authority it is trusted by.
    pub ca: PathBuf,
    /// The projected service-account token, read again when it changes.
    pub token: PathBuf,
}

/// Probes that the user adds to, or removes from, those attached by default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbeChoice {
    pub enabled: Vec<String>,
    pub disabled: Vec<String>,
}

/// Where the host's pseudo file systems are; elsewhere in a container, made up in tests.
#[derive(Clone, Debug, PartialEq)]
pub struct Roots {
    pub proc: PathBuf,
    pub sys: PathBuf,
    /// `None`: found in the mount table.
    pub cgroup: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// Flags of `observer run`; each is also a key of the file and an `OBSERVER_<KEY>` variable.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct Flags {
    /// TOML file with any of the settings below (with _ for -) [env: OBSERVER_CONFIG]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address of /metrics, /healthz, /readyz, /api and the page [default: 127.0.0.1:9843]
    ///
    /// Limits: 64 connections at once, of which the oldest without a request makes room for a new one; one request
    /// each, without a body; TLS handshake 5 s; request line and headers 16 KiB, 64 fields, 5 s; 15 s to the last byte
    /// of the answer; each text is rendered at most once a second.
    #[arg(long, value_name = "ADDRESS:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Serve by TLS, with this certificate chain (PEM), read again when it is renewed
    #[arg(long, value_name = "FILE", help_heading = "Protection")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Protection")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Answer only bearer tokens whose account RBAC lets `get` /metrics (nonResourceURLs), as the Kubernetes API says;
    /// /healthz and /readyz stay open. Needs TLS, and create on tokenreviews and subjectaccessreviews
    #[arg(long, help_heading = "Protection")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub authorize: bool,
    /// Answer in the clear under this host name too (may be given again). Addresses, names without a dot, *.localhost,
    /// *.internal, *.svc and *.cluster.local always are; another one may point to this host by DNS rebinding
    #[arg(long = "allow-host", value_name = "NAME", help_heading = "Protection")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// How log lines look [default: text]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// error, warn, info, debug, trace, or a tracing filter such as info,observer=debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// How long the series of an ended container stay, for a scraper to read its end: 1s to 24h [default: 5m]
    #[arg(long, value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
    /// How often all cgroups are read at once: 100ms to 60s [default: 1s]
    #[arg(long, value_name = "SPAN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_interval: Option<String>,
    /// Do not attach this probe (may be given again); `observer check` lists them
    #[arg(long = "disable-probe", value_name = "PROBE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disabled_probes: Vec<String>,
    /// Attach this probe too, although it costs more than a default may (may be given again): fault_latency
    #[arg(long = "enable-probe", value_name = "PROBE")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enabled_probes: Vec<String>,
    /// Write every event to this file, for `observer replay`
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<PathBuf>,
    /// Write the metrics to this file when stopping
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_at_exit: Option<PathBuf>,
    /// Keep what was learned of each workload's start-ups in this file, over restarts
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
    /// Keep the last minutes before each OOM kill as a recording in this folder, for `observer incident`
    #[arg(long, value_name = "DIR", help_heading = "Incidents")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incidents: Option<PathBuf>,
    /// How long before a kill: 10s to 1h [default: 5m]
    #[arg(long, value_name = "SPAN", help_heading = "Incidents")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_window: Option<String>,
    /// Of one recording, 1Mi to 1Gi; a busy node fills it in less than the window [default: 32Mi]
    #[arg(long, value_name = "SIZE", help_heading = "Incidents")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_size: Option<String>,
    /// How many are kept, the newest: 1 to 1000 [default: 8]
    #[arg(long, value_name = "COUNT", help_heading = "Incidents")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident_files: Option<String>,
    /// Name of this host's Node object: containers are reported by pod, with their cause [env: OBSERVER_NODE_NAME]
    #[arg(long, value_name = "NAME", help_heading = "Kubernetes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// How to reach the Kubernetes API, instead of the pod's service account
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// The cluster's `observer ledger`, which knows who scaled what and when: makes causes sure
    #[arg(long, value_name = "URL", help_heading = "Kubernetes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<String>,
    /// PEM file with the certificate authority of the ledger
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_ca: Option<PathBuf>,
    /// Service-account token for the ledger (audience observer-ledger)
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger_token: Option<PathBuf>,
    /// Watch the cluster's workloads from this very process instead of asking a ledger: every such agent costs the API
    /// server a watch of all Deployments, ReplicaSets, StatefulSets and autoscalers; for a few nodes
    #[arg(long, help_heading = "Kubernetes")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embed_ledger: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub roots: RootFlags,
}

#[derive(Args, Clone, Debug, Default, Serialize)]
pub struct RootFlags {
    /// The host's proc [default: /proc]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proc_root: Option<PathBuf>,
    /// The host's sys [default: /sys]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sys_root: Option<PathBuf>,
    /// The memory controller's tree [default: found in the mount table]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_root: Option<PathBuf>,
}

/// Everything wrong with a configuration.
#[derive(Debug)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let n = self.0.len();
        write!(f, "the configuration has {n} problem{}:", if n == 1 { "" } else { "s" })?;
        for problem in &self.0 {
            write!(f, "\n  - {problem}")?;
        }
        write!(f, "\nnot started; see `observer run --help` for all settings")
    }
}

impl std::error::Error for Problems {}

/// What a setting takes, by its flag: the flags are the only list of settings.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Takes {
    Text,
    Switch,
    List,
}

fn keys() -> Vec<(String, Takes)> {
    let command = Flags::augment_args(clap::Command::new("run"));
    let settings = command.get_arguments().filter(|argument| argument.get_id() != "config");
    let takes = |argument: &clap::Arg| match argument.get_action() {
        ArgAction::SetTrue => Takes::Switch,
        ArgAction::Append => Takes::List,
        _ => Takes::Text,
    };
    settings.map(|argument| (argument.get_id().to_string(), takes(argument))).collect()
}

/// `OBSERVER_*` variables. A value is text, whatever it looks like: a node may be called `007`, `true` or `12.5`. Lists
/// are separated by commas.
struct Variables(Vec<(String, String)>);

impl Variables {
    /// An empty one counts as unset, as a manifest has it that fills in a variable or does not.
    fn of(environment: impl Iterator<Item = (OsString, OsString)>, problems: &mut Vec<String>) -> Self {
        let mut variables = Vec::new();
        for (name, value) in environment.filter(|(_, value)| !value.is_empty()) {
            let key = name.to_str().and_then(|name| name.strip_prefix("OBSERVER_")).map(str::to_lowercase);
            let Some(key) = key else { continue };
            if key == "config" || key == "ebpf_object" || is_service_link(&key) {
                continue;
            }
            match value.to_str() {
                Some(text) => variables.push((key, text.to_owned())),
                // With replacement characters it would name another file.
                None => problems.push(format!("{key} (OBSERVER_{}): is not UTF-8", key.to_uppercase())),
            }
        }
        Self(variables)
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named("environment").interpolater(|_, keys| {
            let names: Vec<String> =
                keys.iter().map(|key| format!("OBSERVER_{}", key.to_uppercase())).collect();
            names.join(", ")
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let keys = keys();
        let value = |key: &str, text: &str| match keys.iter().find(|(known, _)| known == key) {
            Some((_, Takes::Switch)) if text == "true" || text == "false" => Value::from(text == "true"),
            Some((_, Takes::List)) => {
                let items = text
                    .trim_matches(['[', ']'])
                    .split(',')
                    .map(|item| item.trim().trim_matches(['"', '\'']));
                Value::from(items.filter(|item| !item.is_empty()).map(str::to_owned).collect::<Vec<_>>())
            }
            _ => Value::from(text.to_owned()),
        };
        let dict = self.0.iter().map(|(key, text)| (key.clone(), value(key, text))).collect();
        Ok(Profile::Default.collect(dict))
    }
}

impl Config {
    pub fn load(flags: &Flags) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let named = || std::env::var_os("OBSERVER_CONFIG").filter(|path| !path.is_empty());
        let file = flags.config.clone().or_else(|| named().map(PathBuf::from));
        let mut figment = Figment::new();
        if let Some(path) = &file {
            if !path.is_file() {
                problems.push(format!("--config: {} is not a file", path.display()));
            }
            figment = figment.merge(Toml::file_exact(path));
        }
        let variables = Variables::of(std::env::vars_os(), &mut problems);
        let figment = figment.merge(variables).merge(Serialized::defaults(flags));
        Self::from(&figment, problems)
    }

    fn from(figment: &Figment, problems: Vec<String>) -> Result<Self, Problems> {
        let mut read = Reader { figment, problems };
        read.keys();
        let config = Self {
            listen: read.parsed("listen", "127.0.0.1:9843", "an address and a port, such as 0.0.0.0:9843"),
            log_format: read.value("log_format", LogFormat::Text),
            log_level: read.value("log_level", "info".to_owned()),
            retention: read.span("retention", Duration::from_secs(300), ("1s", "24h")),
            pass_interval: read.span("pass_interval", Duration::from_secs(1), ("100ms", "60s")),
            probes: ProbeChoice {
                enabled: read.value("enabled_probes", Vec::new()),
                disabled: read.value("disabled_probes", Vec::new()),
            },
            record: read.value("record", None),
            metrics_at_exit: read.value("metrics_at_exit", None),
            state: read.value("state", None),
            incidents: read.incidents(),
            kubernetes: read.kubernetes(),
            tls: read.tls(),
            authorize: read.value("authorize", false),
            allowed_hosts: read.value("allowed_hosts", Vec::new()),
            roots: Roots {
                proc: read.value("proc_root", PathBuf::from("/proc")),
                sys: read.value("sys_root", PathBuf::from("/sys")),
                cgroup: read.value("cgroup_root", None),
            },
        };
        if config.authorize && (config.tls.is_none() || config.kubernetes.is_none()) {
            let why = "it needs node_name, tls_cert and tls_key; tokens are reviewed by the Kubernetes API and not accepted over plain HTTP";
            read.problems.push(format!("authorize: {why}"));
        }
        let names: Vec<&str> = observer_ebpf::probes::ALL.iter().map(|probe| probe.name).collect();
        for (key, chosen) in
            [("disabled_probes", &config.probes.disabled), ("enabled_probes", &config.probes.enabled)]
        {
            for probe in chosen.iter().filter(|probe| !names.contains(&probe.as_str())) {
                read.problems.push(format!("{key}: no probe {probe:?}; there are {}", names.join(", ")));
            }
        }
        if !is_log_filter(&config.log_level) {
            let expected = "off, error, warn, info, debug, trace, or module=level, separated by commas";
            read.problems
                .push(format!("log_level: {:?} is not a level or filter: {expected}", config.log_level));
        }
        if read.problems.is_empty() { Ok(config) } else { Err(Problems(read.problems)) }
    }
}

/// Kubernetes sets variables in a pod for every Service of its namespace, such as `OBSERVER_LEDGER_SERVICE_HOST` and
/// `OBSERVER_LEDGER_PORT_9845_TCP`: they are no settings (kubernetes: pkg/kubelet/envvars).
fn is_service_link(key: &str) -> bool {
    // The Service's own name may be all of the prefix: OBSERVER_SERVICE_HOST of a Service called `observer`.
    let key = format!("_{key}");
    ["_service_host", "_service_port", "_port_"].iter().any(|part| key.contains(part))
        || key.ends_with("_port")
}

/// Any word is a filter to `tracing`: of a module that is not there, so that nothing is logged at all.
fn is_log_filter(text: &str) -> bool {
    let level = |text: &str| text.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let directive = |part: &str| level(part.rsplit_once('=').map_or(part, |(_, level)| level).trim());
    !text.trim().is_empty()
        && text.split(',').all(directive)
        && text.parse::<tracing_subscriber::EnvFilter>().is_ok()
}

struct Reader<'a> {
    figment: &'a Figment,
    problems: Vec<String>,
}

impl Reader<'_> {
    /// Refuses unknown keys; a file that cannot be parsed is reported here, once.
    fn keys(&mut self) {
        match self.figment.extract::<figment::value::Dict>() {
            Ok(dict) => {
                let known: Vec<String> = keys().into_iter().map(|(key, _)| key).collect();
                for key in dict.keys().filter(|key| !known.contains(key)) {
                    let origin = self.origin(key);
                    self.problems
                        .push(format!("{key}{origin}: no such setting; there are {}", known.join(", ")));
                }
            }
            Err(error) => self.problems.extend(error.into_iter().map(|error| error.to_string())),
        }
    }

    fn origin(&self, key: &str) -> String {
        let source = self.figment.find_metadata(key).map(|metadata| match &metadata.source {
            Some(figment::Source::File(path)) => format!(" ({})", path.display()),
            // The source of a flag's value is a place in this file, which does not help the user.
            Some(_) => " (command line)".to_owned(),
            None => format!(" (OBSERVER_{})", key.to_uppercase()),
        });
        source.unwrap_or_default()
    }

    fn tls(&mut self) -> Option<Pair> {
        match (self.value("tls_cert", None::<PathBuf>), self.value("tls_key", None::<PathBuf>)) {
            (Some(cert), Some(key)) => Some(Pair { cert, key }),
            (None, None) => None,
            (cert, _) => {
                let missing = if cert.is_none() { "tls_cert" } else { "tls_key" };
                self.problems.push(format!("{missing}: is not set; TLS needs the certificate and its key"));
                None
            }
        }
    }

    fn incidents(&mut self) -> Option<incidents::Settings> {
        let folder = self.value("incidents", None::<PathBuf>).filter(|folder| !folder.as_os_str().is_empty());
        let window = self.span("incident_window", Duration::from_secs(300), ("10s", "1h"));
        let text = self.text("incident_size").unwrap_or_else(|| "32Mi".to_owned());
        let bytes = parse_limit(&text).unwrap_or_else(|error| {
            self.problems.push(format!("incident_size: {error}"));
            1 << 20
        });
        if !(1 << 20..=1 << 30).contains(&bytes) {
            self.problems.push(format!("incident_size: {text} is not between 1Mi and 1Gi"));
        }
        let files: usize = self.parsed("incident_files", "8", "a number of recordings");
        if !(1..=1000).contains(&files) {
            self.problems.push(format!("incident_files: {files} is not between 1 and 1000"));
        }
        Some(incidents::Settings { folder: folder?, window, bytes, files })
    }

    fn kubernetes(&mut self) -> Option<Kubernetes> {
        let node = self.value("node_name", None::<String>).filter(|node| !node.is_empty());
        let kubeconfig = self.value("kubeconfig", None::<PathBuf>);
        let (url, ca, token) = (
            self.value("ledger", None::<String>),
            self.value("ledger_ca", None::<PathBuf>),
            self.value("ledger_token", None::<PathBuf>),
        );
        let embedded = self.value("embed_ledger", false);
        if node.is_none() && (kubeconfig.is_some() || url.is_some() || embedded) {
            self.problems
                .push("node_name: is not set, and kubeconfig, ledger and embed_ledger need it".into());
        }
        if url.is_some() && embedded {
            self.problems.push("ledger and embed_ledger are mutually exclusive".into());
        }
        let ledger = match (url, ca, token) {
            (None, ..) if embedded => Ledger::Embedded,
            (None, ..) => Ledger::Off,
            (Some(url), Some(ca), Some(token)) => {
                if !url.starts_with("https://") {
                    self.problems.push(format!("ledger: {url:?} is not an https:// address"));
                }
                Ledger::At(LedgerAddress { url, ca, token })
            }
            (Some(_), ca, _) => {
                let missing = if ca.is_none() { "ledger_ca" } else { "ledger_token" };
                self.problems.push(format!("{missing}: is not set, and ledger needs it"));
                Ledger::Off
            }
        };
        Some(Kubernetes { node: node?, kubeconfig, ledger })
    }

    fn value<T: for<'de> Deserialize<'de>>(&mut self, key: &str, default: T) -> T {
        if self.figment.find_value(key).is_err() {
            return default;
        }
        self.figment.extract_inner(key).unwrap_or_else(|error| {
            let origin = self.origin(key);
            self.problems.push(format!("{key}{origin}: {}", error.kind));
            default
        })
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.figment.find_value(key).ok()? {
            Value::String(_, text) => Some(text),
            // In a file, retention = 300 is a number.
            value => value.to_i128().map(|n| n.to_string()),
        }
    }

    fn parsed<T: std::str::FromStr>(&mut self, key: &str, default: &str, expected: &str) -> T
    where
        T::Err: fmt::Display,
    {
        let text = self.text(key).unwrap_or_else(|| default.to_owned());
        match text.parse() {
            Ok(value) => value,
            Err(error) => {
                let origin = self.origin(key);
                self.problems.push(format!("{key}{origin}: {text:?} is not {expected} ({error})"));
                // Any value will do: a configuration with problems is never used.
                default.parse().unwrap_or_else(|_| unreachable!("the default of {key} is valid"))
            }
        }
    }

    /// `within`: the shortest and the longest that it may be.
    fn span(&mut self, key: &str, default: Duration, within: (&str, &str)) -> Duration {
        let Some(text) = self.text(key) else { return default };
        let span = text.parse::<jiff::SignedDuration>();
        let why = match (&span, [within.0, within.1].map(str::parse::<jiff::SignedDuration>)) {
            (Err(_), _) => "is not a span such as 90s, 5m or 1h".to_owned(),
            (Ok(span), [Ok(least), Ok(most)]) if (least..=most).contains(span) => {
                return span.unsigned_abs();
            }
            _ => format!("is not between {} and {}", within.0, within.1),
        };
        let origin = self.origin(key);
        self.problems.push(format!("{key}{origin}: {text:?} {why}"));
        default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(toml: &str) -> Result<Config, String> {
        let figment = Figment::new().merge(Toml::string(toml));
        Config::from(&figment, Vec::new()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn an_empty_configuration_is_the_defaults() {
        let config = load("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9843");
        assert_eq!(config.retention, Duration::from_secs(300));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let error = load(
            "listen = 'nowhere'\nretention = 'soon'\nlog_format = 'xml'\ndisabled_probes = ['pagefault']\nlimit = 3",
        )
        .unwrap_err();
        for part in ["5 problems", "nowhere", "soon", "xml", "pagefault", "limit"] {
            assert!(error.contains(part), "{part} not in:\n{error}");
        }
    }

    #[test]
    fn half_a_protection_is_none() {
        let error = load("tls_cert = '/c'\nauthorize = true").unwrap_err();
        for part in ["2 problems", "tls_key: is not set", "authorize: it needs"] {
            assert!(error.contains(part), "{part} not in:\n{error}");
        }
        assert!(
            load("tls_cert = '/c'\ntls_key = '/k'\nauthorize = true\nnode_name = 'n'").unwrap().authorize
        );
    }

    #[test]
    fn variables_of_a_service_of_that_name_are_no_settings() {
        for key in [
            "ledger_service_host",
            "ledger_service_port_records",
            "ledger_port",
            "ledger_port_9845_tcp",
            "service_host",
            "port",
            "port_9843_tcp",
            "service_port",
        ] {
            assert!(is_service_link(key), "{key}");
        }
        assert!(!keys().iter().any(|(key, _)| is_service_link(key)));
    }

    #[test]
    fn a_ledger_needs_its_certificate_and_a_node() {
        let error = load("ledger = 'http://x'\nembed_ledger = true").unwrap_err();
        for part in ["node_name", "ledger_ca", "mutually exclusive"] {
            assert!(error.contains(part), "{part} not in:\n{error}");
        }
        let config = load("node_name = 'n1'\nembed_ledger = true").unwrap();
        assert_eq!(config.kubernetes.map(|kubernetes| kubernetes.ledger), Some(Ledger::Embedded));
    }

    #[test]
    fn a_file_that_is_not_toml_is_refused() {
        let error = load("listen = [").unwrap_err();
        assert!(error.contains("problem"), "{error}");
    }

    fn with(variables: &[(&str, &str)]) -> Result<Config, String> {
        with_any(variables.iter().map(|(key, value)| (*key, value.into())))
    }

    fn with_any<'a>(variables: impl Iterator<Item = (&'a str, OsString)>) -> Result<Config, String> {
        let named = variables.map(|(key, value)| (format!("OBSERVER_{}", key.to_uppercase()).into(), value));
        let mut problems = Vec::new();
        let figment = Figment::new().merge(Variables::of(named, &mut problems));
        Config::from(&figment, problems).map_err(|problems| problems.to_string())
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let keys = keys();
        let empty = with_any(keys.iter().map(|(key, _)| (key.as_str(), OsString::new())));
        assert_eq!(empty.unwrap(), load("").unwrap());
    }

    #[test]
    fn a_variable_that_is_not_utf_8_is_a_problem_and_no_other_path() {
        use std::os::unix::ffi::OsStringExt;
        let value = || OsString::from_vec(b"/tmp/\xe9/s".to_vec());
        let error = with_any([("state", value()), ("config", value())].into_iter()).unwrap_err();
        assert!(error.contains("1 problem") && error.contains("OBSERVER_STATE): is not UTF-8"), "{error}");
    }

    #[test]
    fn a_variable_is_text_whatever_it_looks_like() {
        for name in ["007", "1001", "12.5", "1e3", "true", "null", "[x]", "0x10", "{a=1}", "\"q\"", "n1"] {
            let config = with(&[("node_name", name), ("retention", "90s")]).unwrap();
            assert_eq!(config.kubernetes.unwrap().node, name);
        }
        let config =
            with(&[("disabled_probes", "reclaim, growth"), ("embed_ledger", "true"), ("node_name", "n")]);
        let config = config.unwrap();
        assert_eq!(config.probes.disabled, ["reclaim", "growth"]);
        assert_eq!(config.kubernetes.unwrap().ledger, Ledger::Embedded);
        let error = with(&[("embed_ledger", "perhaps"), ("retention", "soon")]).unwrap_err();
        for part in ["2 problems", "OBSERVER_EMBED_LEDGER", "OBSERVER_RETENTION"] {
            assert!(error.contains(part), "{part} not in:\n{error}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for (level, is_one) in [
            ("loud", false),
            ("info", true),
            ("debug,kube=warn", true),
            ("observer=loud", false),
            ("", false),
            ("off", true),
        ] {
            assert_eq!(is_log_filter(level), is_one, "{level}");
        }
    }

    #[test]
    fn incidents_are_off_by_default_and_bounded() {
        assert_eq!(load("").unwrap().incidents, None);
        let incidents =
            load("incidents = '/i'\nincident_window = '60s'\nincident_files = 3").unwrap().incidents;
        let expected = incidents::Settings {
            folder: "/i".into(),
            window: Duration::from_secs(60),
            bytes: 32 << 20,
            files: 3,
        };
        assert_eq!(incidents, Some(expected));
        let error =
            load("incidents = '/i'\nincident_window = '2h'\nincident_size = '2Gi'\nincident_files = 0");
        for part in ["3 problems", "incident_window", "incident_size", "incident_files"] {
            assert!(error.as_ref().is_err_and(|error| error.contains(part)), "{part} not in: {error:?}");
        }
    }

    #[test]
    fn values_are_taken() {
        let config = load("pass_interval = '200ms'").unwrap();
        assert_eq!(config.pass_interval, Duration::from_millis(200));
        for wrong in ["99ms", "0s", "61s", "-1s"] {
            let error = load(&format!("pass_interval = '{wrong}'")).unwrap_err();
            assert!(error.contains("pass_interval"), "{error}");
        }
        for (retention, expected) in [("1s", 1), ("24h", 86_400), ("1h 30m", 5400)] {
            let config = load(&format!("retention = '{retention}'")).unwrap();
            assert_eq!(config.retention, Duration::from_secs(expected));
        }
        // Shorter than any scrape interval the end of a container would never be read; longer, its series pile up.
        for wrong in
            ["0s", "0", "999ms", "24h 1s", "-5m", "1000000h", "9223372036854775807s", "1e30s", "", "5"]
        {
            let error = load(&format!("retention = '{wrong}'")).unwrap_err();
            assert!(error.contains("1 problem") && error.contains("retention"), "{wrong}: {error}");
        }
        let config = load("retention = '90s'\nlisten = '0.0.0.0:1'\ndisabled_probes = ['reclaim']").unwrap();
        assert_eq!(config.retention, Duration::from_secs(90));
        assert_eq!(config.probes.disabled, ["reclaim"]);
    }
}
