//! `observer simulate`: recorded curves and nodes -> what a scale-up, a rollout or the restart of a node would do.
//!
//! Reads only. Where curves and nodes come from is one file each; the simulation is the core's.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    advise::long_name,
    client::{Access, timeout_seconds},
    why::NoAnswer,
};
use observer_core::{
    model::units::parse_limit,
    simulate::{Change, Kind, Outcome, Requests, plan, simulate},
};

mod curves;
mod nodes;
mod patches;
mod picture;
mod story;

use curves::Pods;

pub const EXAMPLES: &str = "Examples:

  observer simulate --scale deployment/web=3:40 --nodes 4x8Gi
  kubectl get nodes,pods -A -o json | observer simulate --cluster - --rollout web --max-surge 25%
  observer simulate --state /var/lib/memory-observer/state --nodes 4x8Gi --scale web=3:40 --request 64Mi
  observer simulate --restart-node node-1 --nodes 4x8Gi -o svg > restart.svg";

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true)))]
pub struct Options {
    /// More replicas: `deployment/web=3:40`, or `web=40` from what runs now
    #[arg(long, group = "change", value_name = "WORKLOAD=[FROM:]TO", value_parser = scale)]
    scale: Option<Scale>,
    /// A new version of a workload: every pod is replaced
    #[arg(long, group = "change", value_name = "WORKLOAD")]
    rollout: Option<String>,
    /// All containers of a node start at once
    #[arg(long, group = "change", value_name = "NODE")]
    restart_node: Option<String>,
    /// Pods above the number of replicas during a rollout: a number, or a share such as 25%
    #[arg(long, default_value = "25%", value_name = "PODS", requires = "rollout", value_parser = share)]
    max_surge: Share,
    /// Pods below it
    #[arg(long, default_value = "25%", value_name = "PODS", requires = "rollout", value_parser = share)]
    max_unavailable: Share,
    /// Nodes by what pods may request on each: `8Gi`, `4x8Gi`, `big=32Gi`; may be repeated
    #[arg(long, value_name = "[NAME=][COUNTx]SIZE", value_parser = nodes::parse)]
    nodes: Vec<nodes::Sizes>,
    /// The nodes and pods of a cluster, as `kubectl get nodes,pods -A -o json` prints them; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    cluster: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    /// Curves of a recording instead of a running observer's
    #[arg(long, value_name = "RECORDING", conflicts_with = "state")]
    replay: Option<PathBuf>,
    /// Curves of a state file (`observer run --state`) instead of a running observer's
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The workload's namespace, if several have one of its name
    #[arg(short, long)]
    namespace: Option<String>,
    /// Requested by each of its pods, instead of what is set
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    request: Option<u64>,
    /// Limit of each of its pods, instead of what is set
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    limit: Option<u64>,
    /// Seconds to wait for the observer's answer
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = timeout_seconds())]
    timeout: u64,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
    /// A picture of what the pods use on each node over time
    Svg,
}

#[derive(Clone, Debug, PartialEq)]
struct Scale {
    workload: String,
    from: Option<u64>,
    to: u64,
}

fn scale(text: &str) -> Result<Scale, String> {
    let wrong = || "write it as deployment/web=3:40, or web=40".to_owned();
    let (workload, counts) = text.rsplit_once('=').ok_or_else(wrong)?;
    let count = |text: &str| text.parse::<u32>().map(u64::from).map_err(|_| wrong());
    let (from, to) = match counts.split_once(':') {
        Some((from, to)) => (Some(count(from)?), count(to)?),
        None => (None, count(counts)?),
    };
    if workload.is_empty() {
        return Err(wrong());
    }
    if from.is_some_and(|from| from >= to) {
        return Err("that starts no pod: the second number is to be the higher one".into());
    }
    if to > MOST_PODS {
        return Err(format!("no more than {MOST_PODS} pods are simulated"));
    }
    Ok(Scale { workload: workload.into(), from, to })
}

/// More than any cluster runs of one workload.
const MOST_PODS: u64 = 20_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Share {
    Pods(u64),
    Percent(u64),
}

fn share(text: &str) -> Result<Share, String> {
    let parsed = match text.strip_suffix('%') {
        Some(percent) => {
            percent.parse::<u16>().ok().filter(|percent| *percent <= 1000).map(|n| Share::Percent(n.into()))
        }
        None => text.parse::<u16>().ok().map(|pods| Share::Pods(pods.into())),
    };
    parsed.ok_or_else(|| "a number of pods, or a share such as 25%".into())
}

impl Share {
    /// As Kubernetes does it: surge is rounded up, unavailable down.
    fn of(self, replicas: u64, up: bool) -> u64 {
        match self {
            Share::Pods(pods) => pods,
            Share::Percent(percent) if up => (replicas * percent).div_ceil(100),
            Share::Percent(percent) => replicas * percent / 100,
        }
    }
}

/// All that is said of it.
#[derive(Debug, Serialize)]
pub struct Simulated {
    change: String,
    workload: Option<String>,
    /// As the requests are, with the peak requested for good, and with lending.
    outcomes: Vec<Outcome>,
    /// Most pods that may start at once without a node running short.
    largest_step: Option<u64>,
    largest_surge: Option<u64>,
    patches: Vec<String>,
    notes: Vec<String>,
}

/// What is printed, or what is wrong: on what, why, and what to do.
pub fn run(options: &Options) -> Result<String, NoAnswer> {
    let timeout = Duration::from_secs(options.timeout);
    let known = match (&options.replay, &options.state) {
        (Some(path), _) => curves::of_recording(path).map_err(NoAnswer::BadInput)?,
        (_, Some(path)) => curves::of_state(path).map_err(NoAnswer::BadInput)?,
        (None, None) => {
            let http = options.access.connect(timeout).map_err(NoAnswer::BadInput)?;
            curves::of_observer(&http).map_err(NoAnswer::Failed)?
        }
    };
    let simulated = about(options, &known).map_err(NoAnswer::BadInput)?;
    match options.output {
        Output::Table => Ok(story::text(&simulated)),
        Output::Json => {
            let json = serde_json::to_string_pretty(&simulated).map(|text| text + "\n");
            json.map_err(|error| NoAnswer::Failed(error.to_string()))
        }
        Output::Svg => picture::svg(&simulated).map_err(NoAnswer::Failed),
    }
}

fn about(options: &Options, known: &[Pods]) -> Result<Simulated, String> {
    let named = options.scale.as_ref().map(|scale| &scale.workload).or(options.rollout.as_ref());
    let at = named.map(|name| find(known, name, options.namespace.as_deref())).transpose()?;
    let mut notes = Vec::new();
    let mut kinds = Vec::new();
    for (i, pods) in known.iter().enumerate() {
        let (request, limit) = match at {
            Some(at) if at == i => (options.request, options.limit),
            _ => (None, None),
        };
        let kind = match pods.kind(request, limit) {
            Ok(kind) => kind,
            Err(why) if at == Some(i) => return Err(why),
            Err(_) => Kind { name: pods.name(), span: 1.0, ..pods.unknown() },
        };
        kinds.push(kind);
    }
    let mut nodes = match &options.cluster {
        Some(path) => nodes::of_cluster(path, known, &mut notes)?,
        None => nodes::of_sizes(&options.nodes)?,
    };
    // Of what runs, the number that is to be there before.
    let from = match (&options.scale, at) {
        (Some(Scale { from: Some(from), .. }), _) => Some(*from),
        (_, Some(at)) if options.cluster.is_none() => Some(known[at].alive),
        _ => None,
    };
    if options.cluster.is_none() {
        let counts: Vec<u64> = known
            .iter()
            .enumerate()
            .map(|(i, pods)| from.filter(|_| at == Some(i)).unwrap_or(pods.alive))
            .collect();
        let left = nodes::spread(&mut nodes, &kinds, &counts);
        if left > 0 {
            notes.push(format!(
                "{left} pods that run now do not fit these nodes by their requests, and are left out"
            ));
        }
    }
    let there = |at: usize| -> u64 {
        let pods = nodes.iter().flat_map(|node| &node.pods);
        pods.filter(|(kind, _)| *kind == at).map(|(_, pods)| pods).sum()
    };
    let (change, text, most) = match (&options.scale, &options.restart_node, at) {
        (Some(scale), _, Some(at)) => {
            let from = scale.from.unwrap_or_else(|| there(at));
            let pods = scale.to.saturating_sub(from);
            if pods == 0 {
                return Err(format!(
                    "{} has {from} pods now: --scale {}=FROM:TO with a higher TO",
                    scale.workload, scale.workload
                ));
            }
            (
                Change::Add { kind: at, pods },
                format!("{}: {from} to {} replicas", kinds[at].name, scale.to),
                pods,
            )
        }
        (_, Some(name), _) => {
            let node = nodes.iter().position(|node| node.name == *name);
            let node = node.ok_or_else(|| {
                let names: Vec<&str> = nodes.iter().take(10).map(|node| node.name.as_str()).collect();
                format!("there is no node {name:?}; there are {}", names.join(", "))
            })?;
            if nodes[node].pods.is_empty() {
                return Err(format!("nothing known runs on {name}: no curve is recorded of its pods"));
            }
            (Change::Restart { node }, format!("restart of everything on {name}"), 0)
        }
        (_, _, Some(at)) => {
            let replicas = there(at);
            if replicas == 0 {
                return Err(format!("{} has no pod that could be replaced on these nodes", kinds[at].name));
            }
            let surge = options.max_surge.of(replicas, true);
            let unavailable = options.max_unavailable.of(replicas, false).min(replicas);
            // Kubernetes refuses both at zero, and takes one for it where shares round to that.
            let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
            let text = format!(
                "rollout of {}, {replicas} replicas, maxSurge {surge}, maxUnavailable {unavailable}",
                kinds[at].name
            );
            (Change::Rollout { kind: at, surge, unavailable }, text, replicas)
        }
        (_, _, None) => return Err("say what is to change: --scale, --rollout or --restart-node".into()),
    };
    let outcomes: Vec<Outcome> =
        Requests::ALL.iter().filter_map(|requests| simulate(&kinds, &nodes, change, *requests)).collect();
    let (largest_step, largest_surge) = match change {
        Change::Add { kind, .. } => (Some(plan::largest_step(&kinds, &nodes, kind, most)), None),
        Change::Rollout { kind, .. } => (None, Some(plan::largest_surge(&kinds, &nodes, kind, most))),
        Change::Restart { .. } => (None, None),
    };
    let mut simulated = Simulated {
        change: text,
        workload: at.map(|at| kinds[at].name.clone()),
        outcomes,
        largest_step,
        largest_surge,
        patches: Vec::new(),
        notes,
    };
    let fits = simulated.outcomes.first().is_some_and(Outcome::fits);
    if let Some(at) = at.filter(|_| !fits) {
        simulated.patches = patches::patches(&known[at], &kinds[at], &simulated);
    }
    Ok(simulated)
}

fn find(known: &[Pods], name: &str, namespace: Option<&str>) -> Result<usize, String> {
    let is = |pods: &Pods| {
        let named = match name.split_once('/') {
            _ if pods.workload == name => true,
            Some((kind, name)) => pods.workload == name && pods.workload_type == long_name(kind),
            None => false,
        };
        named && namespace.is_none_or(|namespace| pods.namespace == namespace)
    };
    let found: Vec<usize> = (0..known.len()).filter(|i| is(&known[*i])).collect();
    match found[..] {
        [one] => Ok(one),
        [] if known.is_empty() => Err("no start-up was recorded yet: ask again after the next one".into()),
        [] => {
            let names: Vec<String> = known.iter().take(10).map(Pods::name).collect();
            Err(format!("no start-up of {name} was recorded; there are curves of {}", names.join(", ")))
        }
        _ => {
            let names: Vec<String> = found.iter().take(10).map(|i| known[*i].name()).collect();
            Err(format!("{name} may be {}: say which with --namespace or as kind/name", names.join(" or ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_written_as_kubectl_has_them() {
        let web = |from, to| Ok(Scale { workload: "deployment/web".into(), from, to });
        assert_eq!(scale("deployment/web=3:40"), web(Some(3), 40));
        assert_eq!(scale("deployment/web=40"), web(None, 40));
        for wrong in
            ["web", "=3:4", "web=4:3", "web=3:3", "web=-1:4", "web=1:2:3", "web=a", "web=1:99999", ""]
        {
            assert!(scale(wrong).is_err(), "{wrong}");
        }
        assert_eq!((share("25%"), share("3")), (Ok(Share::Percent(25)), Ok(Share::Pods(3))));
        assert_eq!((Share::Percent(25).of(10, true), Share::Percent(25).of(10, false)), (3, 2));
        for wrong in ["", "%", "-1", "1.5", "99999%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn simulated(arguments: &str) -> Result<String, String> {
        let case = |name: &str| format!("{}/../tests/cases/{name}/events.jsonl", env!("CARGO_MANIFEST_DIR"));
        let arguments = arguments.replace("SPIKE", &case("spike_settles"));
        let cli = <Cli as clap::Parser>::try_parse_from(["simulate"].into_iter().chain(arguments.split(' ')));
        let options = cli.map_err(|error| error.to_string())?.options;
        run(&options).map_err(|error| match error {
            NoAnswer::Failed(why) | NoAnswer::BadInput(why) => why,
        })
    }

    /// The pods of the recording peak at 166 MiB, by the kernel's watermark, and settle at 61 MiB.
    #[test]
    fn a_recorded_start_up_foretells_a_scale_up() {
        let common =
            "--replay SPIKE --scale /observer-case/web=0:12 --request 64Mi --limit 200Mi --nodes 1Gi";
        let table = simulated(common).unwrap();
        let row = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(!row("as set").contains(" 0 ") && row("as set").contains("1 node"), "{table}");
        assert!(row("peak kept").contains("7 ever") && row("peak kept").ends_with("  5"), "{table}");
        assert!(row("lent").ends_with("5 3 2 2"), "{table}");
        assert!(table.contains("At most 6 pods may start at once"), "{table}");
        let json: serde_json::Value =
            serde_json::from_str(&simulated(&format!("{common} -o json")).unwrap()).unwrap();
        assert_eq!((&json["outcomes"][1]["pending_forever"], &json["largest_step"]), (&7.into(), &6.into()));
        assert!(simulated(&format!("{common} -o svg")).unwrap().contains("</svg>"));
        let roomy = simulated(&common.replace("1Gi", "4x8Gi")).unwrap();
        assert!(roomy.contains("It fits") && !roomy.contains("kubectl"), "{roomy}");
    }

    #[test]
    fn what_cannot_be_simulated_says_why_and_what_to_do() {
        let web = "--replay SPIKE --scale /observer-case/web=0:12";
        for (arguments, expected) in [
            ("--nodes 1Gi", "required"),
            (&format!("{web} --request 64Mi"), "say on which nodes"),
            (&format!("{web} --nodes 8Zi"), "8Gi, 4x8Gi or big=32Gi"),
            (&format!("{web} --cluster /nowhere --request 1Mi"), "/nowhere"),
            (&format!("{web} --rollout web"), "cannot be used with"),
            ("--replay SPIKE --scale nobody=1:2 --nodes 1Gi", "there are curves of /observer-case/web"),
            ("--replay SPIKE --restart-node other --nodes 1Gi", "there are node-1"),
            ("--replay /nowhere --rollout web --nodes 1Gi", "/nowhere"),
            ("--state /nowhere --rollout web --nodes 1Gi", "/nowhere"),
        ] {
            let why = simulated(arguments).unwrap_err();
            assert!(why.contains(expected), "{arguments}: {why}");
        }
    }
}
