//! `observer lend`: a pod requests what it needs to start while it starts, and gives the difference back when it has.
//!
//! So the scheduler itself keeps room for the spike, and a scale-up goes in waves as wide as the node allows. A
//! webhook raises the request of memory of pods that opted in when they are created; the leading one of the replicas
//! gives it back by what the agents measure. Nothing else of a pod is changed, and no limit, unless `--airbag` is
//! given. All that outlives the process is on the pods: docs/lend.md.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kube::Client;
use tokio::time::sleep;

use crate::{
    companion::CannotRun,
    ledger::lease,
    signals::Signals,
    sources::kubernetes::{self, ApiClock, terms},
};

pub mod admit;
pub mod agents;
pub mod airbag;
pub mod cluster;
pub mod entry;
pub mod events;
pub mod held;
pub mod lent;
pub mod loans;
pub mod metrics;
pub mod pods;
pub mod resize;
pub mod rules;
pub mod webhook;

/// Name of the Lease.
const LEASE: &str = "observer-lend";
/// The authority is compared with what the API server trusts this often: it may have been renewed.
const AUTHORITY: Duration = Duration::from_secs(60);
/// After a try that failed.
const AGAIN: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address on which the API server asks, by TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9847", env = "OBSERVER_LEND_LISTEN")]
    pub listen: SocketAddr,
    /// Address of /metrics, /api/v1/loans, /healthz and /readyz, in the clear
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9846",
        env = "OBSERVER_LEND_METRICS_LISTEN"
    )]
    pub metrics_listen: SocketAddr,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEND_CERT")]
    pub cert: PathBuf,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEND_KEY")]
    pub key: PathBuf,
    /// Authority of the certificate (PEM), to be written into the webhook's configuration
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEND_CA", requires = "webhook")]
    pub ca: Option<PathBuf>,
    /// Name of the MutatingWebhookConfiguration into which the authority is written
    #[arg(long, value_name = "NAME", env = "OBSERVER_LEND_WEBHOOK", requires = "ca")]
    pub webhook: Option<String>,
    /// Namespace of this Deployment: of its Lease, and of the agents
    #[arg(long, value_name = "NAMESPACE", default_value = "observer", env = "OBSERVER_LEND_NAMESPACE")]
    pub namespace: String,
    /// Name of this replica in the Lease
    #[arg(long, value_name = "NAME", default_value = "observer-lend", env = "OBSERVER_LEND_IDENTITY")]
    pub identity: String,
    /// Longest loan: from the creation of a pod, or the start of its container
    #[arg(long, value_name = "SPAN", default_value = "3m", env = "OBSERVER_LEND_DEADLINE", value_parser = span)]
    pub deadline: Duration,
    /// A pod that finds no node for so long gives its loan back, so that it can be placed without
    #[arg(long, value_name = "SPAN", default_value = "1m", env = "OBSERVER_LEND_PENDING", value_parser = span)]
    pub pending: Duration,
    /// Most that a pod requests with its loan, as a share of the largest node's allocatable memory
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, env = "OBSERVER_LEND_SHARE", value_parser = share)]
    pub share: f64,
    /// Pods use no swap although nodes have it (the kubelet's default, swapBehavior NoSwap): they can be lent to
    #[arg(long, env = "OBSERVER_LEND_NO_SWAP_FOR_PODS")]
    pub no_swap_for_pods: bool,
    /// Raise the memory limit of a container, once, when it is foreseen to meet it and its node has room: of pods with
    /// the label memory-observer/airbag=true
    #[arg(long, env = "OBSERVER_LEND_AIRBAG")]
    pub airbag: bool,
    /// By how much: as a share of the limit (by 8 MiB at least)
    #[arg(long, value_name = "SHARE", default_value_t = 0.25, env = "OBSERVER_LEND_AIRBAG_SHARE", value_parser = share)]
    pub airbag_share: f64,
    /// Decide, count and say by Events what would be lent, and change no pod
    #[arg(long, env = "OBSERVER_LEND_DRY_RUN")]
    pub dry_run: bool,
    /// Port of the agents
    #[arg(long, value_name = "PORT", default_value_t = 9843, env = "OBSERVER_LEND_AGENT_PORT")]
    pub agent_port: u16,
    /// Authority of the agents' certificate (PEM), where they serve by TLS
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEND_AGENT_CA")]
    pub agent_ca: Option<PathBuf>,
    /// Name in the agents' certificate [default: observer.NAMESPACE.svc]
    #[arg(long, value_name = "NAME", env = "OBSERVER_LEND_AGENT_NAME")]
    pub agent_name: Option<String>,
    /// Token shown to agents that serve by TLS
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/token",
        env = "OBSERVER_LEND_AGENT_TOKEN"
    )]
    pub agent_token: PathBuf,
    /// How to reach the Kubernetes API, instead of the pod's service account
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEND_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

fn span(text: &str) -> Result<Duration, String> {
    let span = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string())?;
    let span = Duration::try_from(span).map_err(|_| "it is not above zero".to_owned())?;
    match (1.0..=terms::LONGEST).contains(&span.as_secs_f64()) {
        true => Ok(span),
        false => Err("it is not between 1s and 1h".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err("not a share above 0 and up to 1".to_owned()),
    }
}

/// Reviews pods, and gives back while it leads, until SIGTERM or SIGINT.
pub async fn run(options: Options) -> Result<(), CannotRun> {
    let signals = Signals::new().map_err(CannotRun::Signals)?;
    let clock = ApiClock::default();
    let client = kubernetes::client(options.kubeconfig.as_deref(), clock.clone()).await?;
    let mut lease = lease::Holding::new(client.clone(), &options.namespace, LEASE, &options.identity);
    let done = tokio::select! {
        done = work(&options, client, clock, &mut lease) => done,
        _ = signals.wait() => Ok(()),
    };
    lease.release().await;
    done
}

async fn work(
    options: &Options,
    client: Client,
    clock: ApiClock,
    lease: &mut lease::Holding,
) -> Result<(), CannotRun> {
    let metrics = metrics::Metrics::default();
    let access = agents::Access {
        port: options.agent_port,
        authority: options.agent_ca.clone(),
        name: options.agent_name.clone().unwrap_or_else(|| format!("observer.{}.svc", options.namespace)),
        token: options.agent_token.clone(),
    };
    let (cluster, watches) = cluster::Cluster::new(access, options.share, options.no_swap_for_pods);
    let (events, writing) = events::Events::new(client.clone(), &options.identity);
    let ready = Arc::default();
    let lent = lent::Lent::default();
    let webhook = webhook::Webhook {
        cluster: cluster.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
        deadline_seconds: options.deadline.as_secs_f64(),
        dry_run: options.dry_run,
        ready: Arc::clone(&ready),
        lent: lent.clone(),
    };
    let airbag = airbag::Airbag {
        client: client.clone(),
        cluster: cluster.clone(),
        metrics: metrics.clone(),
        events: events.clone(),
        share: options.airbag_share,
        dry_run: options.dry_run,
    };
    let loans = loans::Loans {
        client: client.clone(),
        cluster: cluster.clone(),
        metrics: metrics.clone(),
        lent,
        events,
        clock,
        pending_seconds: options.pending.as_secs_f64(),
    };
    let known = async {
        cluster.wait_until_known().await;
        tracing::info!("everything is listed: reviewing pods");
        ready.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let leading = async {
        lease.acquire().await;
        tracing::info!("leading: giving back what is lent");
        tokio::select! {
            () = lease.keep() => tracing::warn!("lost the lease to another replica; exiting to restart as standby"),
            () = loans.run() => {}
            () = airbag.run(), if options.airbag => {}
        }
    };
    tokio::select! {
        served = webhook::serve(options, webhook) => served.map_err(Into::into),
        () = leading => Ok(()),
        () = watches.run(client.clone(), &options.namespace, cluster.clone(), metrics) => Ok(()),
        () = writing => Ok(()),
        () = known => Ok(()),
        () = publish(&client, options.webhook.as_deref().zip(options.ca.as_deref())) => Ok(()),
    }
}

async fn publish(client: &Client, what: Option<(&str, &Path)>) {
    let Some((configuration, authority)) = what else { return std::future::pending().await };
    let mut failed = String::new();
    loop {
        match webhook::publish_authority(client, configuration, authority).await {
            Ok(()) => {
                failed.clear();
                sleep(AUTHORITY).await;
            }
            Err(error) => {
                if error != failed {
                    tracing::warn!(
                        "the API server cannot be told what to trust: {error}; no pod is raised until then"
                    );
                    failed = error;
                }
                sleep(AGAIN).await;
            }
        }
    }
}
