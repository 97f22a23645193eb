//! `kubectl observer why|advise|top`: what `observer` says of a node, from any machine with a kubeconfig. Finds the
//! agents, forwards a port to each that is asked, and asks it.

use std::{future::Future, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{client::timeout_seconds, why::NoAnswer};
use crate::sources::kubernetes::lenient::Lenient;
use observer_core::model::printable::printable;

pub mod advise;
mod agent;
mod find;
pub mod top;
mod tunnel;
pub mod why;

use agent::{Access, Agent, Trust};
use find::{Place, Wanted};

/// Agents asked at once, and at most.
const AT_ONCE: usize = 8;
const AGENTS: usize = 256;
/// Pods of a namespace that are looked at.
const PODS: u32 = 5000;

/// What the observers of a cluster know, asked through ports that the API server forwards.
///
/// Your account needs list on pods and create on pods/portforward in the namespace of the observer. Nothing is changed.
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
    Why(why::Options),
    /// Judge whether workloads are fit to be scaled, and advise request and limit, from what all nodes saw
    ///
    /// What several nodes saw of a workload is put together: the worst of the worst, and the worst of their checks.
    /// Reads only: --output patch prints commands for kubectl and runs none.
    ///
    /// Exit codes: 0; 1 an observer could not be asked, what the others know is printed; 2 nothing is known of it.
    Advise(advise::Options),
    /// Watch start-ups on a terminal, one node at a time: n and N go to the next and the previous
    ///
    /// Begins with the node on which most happens. With a name only the nodes of its pods are shown, and only its rows.
    Top(top::Options),
}

/// Which cluster is asked, and how.
#[derive(Args, Debug)]
pub struct Cluster {
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
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = timeout_seconds())]
    timeout: u64,
}

/// kubectl runs a program of this name as its command.
pub fn is_called_so(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or_default();
    name.starts_with("kubectl-observer") || name.starts_with("kubectl_observer")
}

impl Cluster {
    async fn within<T>(&self, asked: impl Future<Output = Result<T, NoAnswer>>) -> Result<T, NoAnswer> {
        let within = Duration::from_secs(self.timeout);
        timeout(within, asked).await.unwrap_or_else(|_| {
            Err(NoAnswer::Failed(format!(
                "no answer of the cluster within {} s (--timeout)",
                within.as_secs()
            )))
        })
    }

    async fn connect(&self) -> Result<Connected, NoAnswer> {
        let (client, default_namespace) = self.client().await.map_err(NoAnswer::Failed)?;
        let trust = self.access.load().map_err(NoAnswer::Failed)?;
        let namespace = self.observer_namespace.clone();
        Ok(Connected { client, default_namespace, trust, namespace })
    }

    /// A client as kubectl makes it, and the context's namespace.
    async fn client(&self) -> Result<(Client, String), String> {
        let bad = |error: &dyn std::fmt::Display| format!("cannot use the kubeconfig: {error}");
        let wanted = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let config = match &self.kubeconfig {
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
}

/// A cluster, and how its agents are trusted.
struct Connected {
    client: Client,
    /// Of the context.
    default_namespace: String,
    trust: Trust,
    /// Where the agents run.
    namespace: String,
}

/// Agents to ask, and why others that should be cannot.
struct Chosen {
    agents: Vec<Agent>,
    failed: Vec<String>,
}

impl Connected {
    async fn place(&self, wanted: &Wanted) -> Result<Place, NoAnswer> {
        let pods: Api<Lenient<Pod>> = Api::namespaced(self.client.clone(), &wanted.namespace);
        let listed = pods.list(&ListParams::default().limit(PODS)).await.map_err(|error| {
            NoAnswer::Failed(refused("list the pods", "list pods", &wanted.namespace, &error))
        })?;
        let read: Vec<Pod> = listed.items.into_iter().filter_map(Lenient::read).collect();
        Ok(find::nodes(&read, wanted))
    }

    /// Those of these nodes; without any, all.
    async fn agents(&self, nodes: Option<impl IntoIterator<Item = String>>) -> Result<Chosen, NoAnswer> {
        let mut all = agent::list(&self.client, &self.namespace).await.map_err(NoAnswer::Failed)?;
        all.sort_by(|a, b| a.node.cmp(&b.node));
        let mut failed = Vec::new();
        let mut agents = Vec::new();
        match nodes {
            Some(nodes) => {
                for node in nodes {
                    match all.iter().position(|agent| agent.node == node) {
                        Some(at) => agents.push(all.remove(at)),
                        None => failed.push(format!(
                            "no observer runs on node {}: is there such a node, and does the DaemonSet tolerate its \
                             taints? kubectl -n {} get pods -o wide",
                            printable(&node),
                            self.namespace
                        )),
                    }
                }
            }
            None => agents = all,
        }
        agents.retain(|agent| match agent.away() {
            Some(why) => {
                failed.push(why);
                false
            }
            None => true,
        });
        if agents.len() > AGENTS {
            failed.push(format!("{} more nodes were not asked; choose with --node", agents.len() - AGENTS));
            agents.truncate(AGENTS);
        }
        Ok(Chosen { agents, failed })
    }

    /// What each answers, in their order; who does not is among `failed`.
    async fn ask<T: DeserializeOwned>(&self, chosen: &mut Chosen, path: &str) -> Vec<(String, T)> {
        let answers: Vec<(String, Result<T, String>)> = stream::iter(&chosen.agents)
            .map(|agent| async { (agent.node.clone(), agent.ask(&self.client, &self.trust, path).await) })
            .buffered(AT_ONCE)
            .collect()
            .await;
        let mut known = Vec::new();
        for (node, answer) in answers {
            match answer {
                Ok(answer) => known.push((node, answer)),
                Err(error) => chosen.failed.push(format!("node {}: {error}", printable(&node))),
            }
        }
        known
    }
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
