//! `kubectl observer why NAME`: asked of the agents on the nodes of a pod or a workload.

use clap::Args;
use serde_json::{Value, json};

use super::{
    Cluster,
    find::{Place, Wanted},
};
use crate::commands::{
    client::state::State,
    notice::notice,
    why::{self, NoAnswer, Output, Printed},
};
use observer_core::model::printable::printable;

#[derive(Args, Debug)]
pub struct Options {
    /// Pod or workload: `web-7d9`, `web`, `deploy/web`, `shop/web`; the beginning is enough where it fits one
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,
    /// Its namespace [default: that of the context]
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: Cluster,
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(options: &Options) -> Result<Printed, NoAnswer> {
    options.cluster.within(asked(options)).await
}

async fn asked(options: &Options) -> Result<Printed, NoAnswer> {
    let cluster = options.cluster.connect().await?;
    let wanted = Wanted::of(&options.name, options.namespace.as_deref(), &cluster.default_namespace)
        .map_err(NoAnswer::BadInput)?;
    let nodes = match cluster.place(&wanted).await? {
        Place::Nodes(nodes) => Some(nodes),
        Place::Pending(why) => return Err(NoAnswer::BadInput(why)),
        // It may be gone: the observers remember.
        Place::Unknown => None,
    };
    let runs = nodes.is_some();
    let mut chosen = cluster.agents(nodes).await?;
    let states: Vec<(String, State)> = cluster.ask(&mut chosen, "/api/v1/state").await;
    let failed = chosen.failed;
    let mut known = Vec::new();
    let mut unknown = None;
    for (node, state) in states {
        match why::answer(&state, &wanted.asked, Some(&wanted.namespace), options.output) {
            Ok(printed) => known.push((node, printed)),
            Err(NoAnswer::BadInput(error)) => unknown = Some(error),
            Err(error) => return Err(error),
        }
    }
    if known.is_empty() {
        return Err(match (failed.is_empty(), unknown) {
            (false, _) => NoAnswer::Failed(failed.join("\n")),
            (true, Some(error)) if runs => NoAnswer::BadInput(error),
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
        notice(format_args!("kubectl observer: {line}"));
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
