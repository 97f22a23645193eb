//! `kubectl observer top`: one node at a time, beginning with the one on which most happens.

use std::{io::IsTerminal, time::Duration};

use clap::Args;
use serde::Deserialize;

use super::{
    Cluster, Connected,
    find::{Place, Wanted},
    tunnel,
};
use crate::{
    clock,
    commands::{
        client::http::Http,
        notice::notice,
        top::{self, nodes::Nodes},
        why::NoAnswer,
    },
};

/// How far back counts for where to begin, seconds.
const RECENT: f64 = 600.0;

#[derive(Args, Debug)]
pub struct Options {
    /// Only the nodes of this pod or workload, and its rows: `web-7d9`, `web`, `deploy/web`, `shop/web`
    #[arg(conflicts_with = "node")]
    name: Option<String>,
    /// Its namespace [default: that of the context]; without a name, only rows of this namespace [default: all]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only this node; may be repeated [default: all nodes]
    #[arg(long, value_name = "NODE")]
    node: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Which nodes are shown, and which rows of them.
pub struct Found {
    nodes: Nodes,
    filter: String,
}

/// Until it is quit.
pub async fn run(options: &Options) -> Result<(), NoAnswer> {
    if !std::io::stdout().is_terminal() {
        return Err(NoAnswer::Failed(top::no_terminal("kubectl observer")));
    }
    let found = options.cluster.within(find(options)).await?;
    // The ports that it reads by are served by this thread meanwhile.
    let drawn = tokio::task::spawn_blocking(move || top::nodes(found.nodes, found.filter)).await;
    match drawn {
        Ok(done) => done.map_err(NoAnswer::Failed),
        Err(error) => Err(NoAnswer::Failed(error.to_string())),
    }
}

async fn find(options: &Options) -> Result<Found, NoAnswer> {
    let cluster = options.cluster.connect().await?;
    let mut nodes = (!options.node.is_empty()).then(|| options.node.clone());
    let mut filter = options.namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
    if let Some(name) = &options.name {
        let wanted = Wanted::of(name, options.namespace.as_deref(), &cluster.default_namespace)
            .map_err(NoAnswer::BadInput)?;
        match cluster.place(&wanted).await? {
            Place::Nodes(found) => nodes = Some(found.into_iter().collect()),
            Place::Pending(why) => return Err(NoAnswer::BadInput(why)),
            Place::Unknown => {
                return Err(NoAnswer::BadInput(format!(
                    "no pod or workload {name} in namespace {}; what is gone is remembered: kubectl observer why",
                    wanted.namespace
                )));
            }
        }
        let (_, name) = name.rsplit_once('/').unwrap_or(("", name));
        filter = format!("{}/ {name}", wanted.namespace);
    }
    let mut chosen = cluster.agents(nodes).await?;
    let from = clock::unix_seconds() - RECENT;
    let recent: Vec<(String, Recent)> =
        cluster.ask(&mut chosen, &format!("/api/v1/history?from={from}")).await;
    for line in &chosen.failed {
        notice(format_args!("kubectl observer: {line}"));
    }
    let first = recent.iter().max_by_key(|(node, recent)| (recent.weight(), std::cmp::Reverse(node)));
    let Some(first) = first.map(|(node, _)| node.clone()) else {
        return Err(NoAnswer::Failed(chosen.failed.join("\n")));
    };
    let timeout = Duration::from_secs(options.cluster.timeout);
    let away = chosen.failed.len();
    let all = ports(&cluster, chosen.agents, timeout).await.map_err(NoAnswer::Failed)?;
    Ok(Found { nodes: Nodes::new(all, &first, away), filter })
}

async fn ports(
    cluster: &Connected,
    agents: Vec<super::Agent>,
    timeout: Duration,
) -> Result<Vec<(String, Http)>, String> {
    let mut all = Vec::new();
    for agent in agents {
        let node = agent.node.clone();
        let address = tunnel::open(cluster, agent).await?;
        let token = cluster.trust.token.clone();
        all.push((node, Http::new(&format!("http://{address}"), timeout, token, None)?));
    }
    Ok(all)
}

/// Of /api/v1/history.
#[derive(Debug, Deserialize)]
struct Recent {
    starting: Vec<u64>,
    stampede: Vec<bool>,
    oom_kills: Vec<u64>,
}

impl Recent {
    /// What an operator would look at first: a stampede, kills, start-ups.
    fn weight(&self) -> (bool, u64, u64) {
        (
            self.stampede.last().copied().unwrap_or(false),
            self.oom_kills.iter().copied().fold(0, u64::saturating_add),
            self.starting.last().copied().unwrap_or(0),
        )
    }
}
