//! `kubectl observer advise`: what the agents of all nodes, or of one, saw of each workload, put together.

use clap::Args;

use super::Cluster;
use crate::commands::{
    advise::{Asked, nodes::joined},
    why::NoAnswer,
};
use observer_core::model::finding::Advised;

#[derive(Args, Debug)]
pub struct Options {
    #[command(flatten)]
    asked: Asked,
    /// Only this namespace [default: that of the context]
    #[arg(short, long)]
    namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only what was seen on this node; may be repeated [default: all nodes]
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

/// What is printed, and which observers could not be asked.
pub struct Printed {
    pub text: String,
    pub failed: Vec<String>,
}

pub async fn run(options: &Options) -> Result<Printed, NoAnswer> {
    options.cluster.within(asked(options)).await
}

async fn asked(options: &Options) -> Result<Printed, NoAnswer> {
    let cluster = options.cluster.connect().await?;
    let nodes = (!options.node.is_empty()).then(|| options.node.clone());
    let mut chosen = cluster.agents(nodes).await?;
    let answers: Vec<(String, Vec<Advised>)> = cluster.ask(&mut chosen, "/api/v1/advice").await;
    let failed = chosen.failed;
    if answers.is_empty() {
        return Err(NoAnswer::Failed(failed.join("\n")));
    }
    let namespace = match options.all_namespaces {
        true => None,
        false => Some(options.namespace.as_deref().unwrap_or(&cluster.default_namespace)),
    };
    let advised = joined(answers, &options.asked.settings());
    match options.asked.print(advised, namespace) {
        Ok(text) => Ok(Printed { text, failed }),
        // Another node may know it.
        Err(error) if !failed.is_empty() => Err(NoAnswer::Failed(format!("{error}\n{}", failed.join("\n")))),
        Err(error) if namespace.is_some() => {
            Err(NoAnswer::BadInput(format!("{error}; --all-namespaces looks in all")))
        }
        Err(error) => Err(NoAnswer::BadInput(error)),
    }
}
