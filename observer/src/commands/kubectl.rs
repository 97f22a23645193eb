//! `kubectl observer why NAME`: what `observer why` says, from any machine with a kubeconfig. Finds the nodes of a pod
//! or workload, forwards a port to the agent of each, and asks it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::why::{self, NoAnswer, Output, Printed};
use observer_core::model::printable::printable;

mod agent;
mod find;

use agent::Access;
use find::Place;

/// Agents asked at once, and at most.
const AT_ONCE: usize = 8;
const AGENTS: usize = 256;
/// Pods of a namespace that are looked at.
const PODS: u32 = 5000;

/// What happened to a pod or workload, asked of the observers of its nodes.
#[derive(Debug, Parser)]
#[command(name = "kubectl observer", bin_name = "kubectl observer", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say on one screen what happened to a pod or a workload: kills, whose limit, which scale-up, what to set
    ///
    /// Your account needs list on pods, in the namespace and in that of the observer, and create on pods/portforward
    /// there.
    ///
    /// Exit codes: 0 found, and nothing is wrong; 1 an observer could not be asked; 2 no such name, several of it, or a
    /// pod that is on no node yet; 3 found, and something is wrong.
    Why(Options),
}

#[derive(Args, Debug)]
pub struct Options {
    /// Pod or workload: `web-7d9`, `web`, `deploy/web`, `shop/web`; the beginning is enough where it fits one
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,
    /// Its namespace [default: that of the context]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long)]
    context: Option<String>,
    /// [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace in which the agents run
    #[arg(long, default_value = "observer", value_name = "NAMESPACE")]
    observer_namespace: String,
    #[command(flatten)]
    access: Access,
    /// Seconds to wait for all answers
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    timeout: u64,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// kubectl runs a program of this name as its command.
pub fn is_called_so(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    name.starts_with("kubectl-observer") || name.starts_with("kubectl_observer")
}

pub async fn why(options: &Options) -> Result<Printed, NoAnswer> {
    let within = Duration::from_secs(options.timeout.clamp(1, 3600));
    timeout(within, asked(options)).await.unwrap_or_else(|_| {
        Err(NoAnswer::Failed(format!("no answer of the cluster within {} s (--timeout)", within.as_secs())))
    })
}

async fn asked(options: &Options) -> Result<Printed, NoAnswer> {
    let (client, default_namespace) = connect(options).await.map_err(NoAnswer::Failed)?;
    let wanted = find::Wanted::of(&options.name, options.namespace.as_deref(), &default_namespace)
        .map_err(NoAnswer::BadInput)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &wanted.namespace);
    let listed = pods.list(&ListParams::default().limit(PODS)).await.map_err(|error| {
        NoAnswer::Failed(refused("list the pods", "list pods", &wanted.namespace, &error))
    })?;
    let nodes = match find::nodes(&listed.items, &wanted) {
        Place::Nodes(nodes) => Some(nodes),
        Place::Pending(why) => return Err(NoAnswer::BadInput(why)),
        // It may be gone: the observers remember.
        Place::Unknown => None,
    };
    let agents = agent::list(&client, &options.observer_namespace).await.map_err(NoAnswer::Failed)?;
    let mut chosen = Vec::new();
    let mut failed = Vec::new();
    match &nodes {
        Some(nodes) => {
            for node in nodes {
                match agents.iter().find(|agent| agent.node == *node) {
                    Some(agent) => chosen.push(agent),
                    None => failed.push(format!(
                        "no observer runs on node {}: kubectl -n {} get pods -o wide",
                        printable(node),
                        options.observer_namespace
                    )),
                }
            }
        }
        None => chosen.extend(&agents),
    }
    if chosen.len() > AGENTS {
        failed.push(format!("{} more nodes were not asked", chosen.len() - AGENTS));
        chosen.truncate(AGENTS);
    }
    let access = options.access.load().map_err(NoAnswer::Failed)?;
    let answers = stream::iter(&chosen)
        .map(|agent| async { (agent.node.clone(), agent.state(&client, &access).await) })
        .buffered(AT_ONCE)
        .collect::<Vec<_>>()
        .await;
    let mut known = Vec::new();
    let mut unknown = None;
    for (node, state) in answers {
        let state = match state {
            Ok(state) => state,
            Err(error) => {
                failed.push(format!("node {}: {error}", printable(&node)));
                continue;
            }
        };
        match why::answer(&state, &wanted.asked, Some(&wanted.namespace), options.output) {
            Ok(printed) => known.push((node, printed)),
            Err(NoAnswer::BadInput(error)) => unknown = Some(error),
            Err(error) => return Err(error),
        }
    }
    if known.is_empty() {
        return Err(match (failed.is_empty(), unknown) {
            (false, _) => NoAnswer::Failed(failed.join("\n")),
            (true, Some(error)) if nodes.is_some() => NoAnswer::BadInput(error),
            (true, _) => NoAnswer::BadInput(format!(
                "no pod or workload {} in namespace {}, and no observer remembers one",
                printable(&options.name),
                printable(&wanted.namespace)
            )),
        });
    }
    joined(known, failed, options.output)
}

/// One node's answer as it is; of several, each with its node.
fn joined(known: Vec<(String, Printed)>, failed: Vec<String>, output: Output) -> Result<Printed, NoAnswer> {
    let wrong = known.iter().any(|(_, printed)| printed.wrong);
    // Something that is wrong is found, whatever the others would have said; that nothing is, is not.
    if !failed.is_empty() && !wrong {
        let mut text: String = known.into_iter().map(|(_, printed)| printed.text).collect();
        text += &failed.join("\n");
        return Err(NoAnswer::Failed(text));
    }
    for line in &failed {
        super::notice::notice(format_args!("kubectl observer: {line}"));
    }
    if let [(_, printed)] = known.as_slice() {
        return Ok(Printed { text: printed.text.clone(), wrong });
    }
    let text = match output {
        Output::Text => known
            .iter()
            .map(|(node, printed)| format!("Node {}\n{}", printable(node), printed.text))
            .collect::<Vec<_>>()
            .join("\n"),
        Output::Json => {
            let all: Vec<Value> = known
                .iter()
                .map(|(node, printed)| {
                    let answer: Value = serde_json::from_str(&printed.text).unwrap_or_default();
                    json!({"node": node, "answer": answer})
                })
                .collect();
            why::json(&all).map_err(|error| NoAnswer::Failed(error.to_string()))?
        }
    };
    Ok(Printed { text, wrong })
}

/// A client as kubectl makes it, and the context's namespace.
async fn connect(options: &Options) -> Result<(Client, String), String> {
    let bad = |error: &dyn std::fmt::Display| format!("cannot use the kubeconfig: {error}");
    let wanted = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let config = match &options.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| bad(&error))?;
            kube::Config::from_custom_kubeconfig(file, &wanted).await
        }
        None => kube::Config::from_kubeconfig(&wanted).await,
    };
    let config = config.map_err(|error| bad(&error))?;
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| bad(&error))?;
    Ok((client, namespace))
}

/// What to grant, where that is what is missing.
fn refused(what: &str, right: &str, namespace: &str, error: &kube::Error) -> String {
    let text = error.to_string();
    let hint = match text.contains("403") || text.to_lowercase().contains("forbidden") {
        true => format!("; your account needs it: kubectl auth can-i {right} -n {namespace}"),
        false => String::new(),
    };
    format!("cannot {what} in namespace {}: {}{hint}", printable(namespace), printable(&text))
}
