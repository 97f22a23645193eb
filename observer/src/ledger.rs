//! The ledger records the scalings of the whole cluster: actor, workload, time. The same binary, as a small Deployment.
//!
//! Agents see only their own node, and no node shows why a Deployment was scaled from 2 to 4. So one process watches
//! autoscalers, Deployments and ReplicaSets (metadata only), StatefulSets and a few events, keeps two hours of changes,
//! and answers agents by uid. Without it causes have a lower confidence; nothing else is affected.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::Client;

use crate::{
    companion::CannotRun,
    memory,
    signals::Signals,
    sources::kubernetes::{self, ApiClock},
};

mod allowed;
pub mod certificate;
pub mod client;
pub mod lease;
pub mod metrics;
pub mod serve;
pub mod watch;

use observer_core::ledger::ChangeLog;

/// Name of the Lease.
const LEASE: &str = "observer-ledger";

/// The book, shared between those who write it and those who read it; never held across an await.
#[derive(Clone, Default)]
pub struct Shared {
    book: Arc<Mutex<ChangeLog>>,
    pub metrics: metrics::Metrics,
    /// The API server's, by which changes are dated as objects are.
    pub clock: ApiClock,
}

impl Shared {
    pub fn of(clock: ApiClock) -> Self {
        Self { clock, ..Self::default() }
    }

    pub fn book(&self) -> MutexGuard<'_, ChangeLog> {
        // A panic while it is held leaves a book that lacks a change: still the best there is.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Address on which agents ask, by TLS
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9845", env = "OBSERVER_LEDGER_LISTEN")]
    pub listen: SocketAddr,
    /// Address of /metrics, /healthz and /readyz, in the clear
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9846",
        env = "OBSERVER_LEDGER_METRICS_LISTEN"
    )]
    pub metrics_listen: SocketAddr,
    /// Certificate chain (PEM)
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEDGER_CERT")]
    pub cert: PathBuf,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEDGER_KEY")]
    pub key: PathBuf,
    /// Service accounts that may ask, as namespace:name; may be given again [default: the account `observer` of its own
    /// namespace, which outside of a pod its certificate names]
    #[arg(
        long = "allow",
        value_name = "NAMESPACE:NAME",
        env = "OBSERVER_LEDGER_ALLOW",
        value_delimiter = ','
    )]
    pub allowed: Vec<String>,
    /// Namespace of the Lease by which one of several replicas is chosen; without it this one always watches
    #[arg(long, value_name = "NAMESPACE", env = "OBSERVER_LEDGER_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Name of this replica in the Lease
    #[arg(long, value_name = "NAME", default_value = "observer-ledger", env = "OBSERVER_LEDGER_IDENTITY")]
    pub identity: String,
    /// How to reach the Kubernetes API, instead of the pod's service account
    #[arg(long, value_name = "FILE", env = "OBSERVER_LEDGER_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
}

/// Waits for its turn, watches and answers, until SIGTERM or SIGINT.
pub async fn run(mut options: Options) -> Result<(), CannotRun> {
    memory::give_back_large_blocks();
    let signals = Signals::new().map_err(CannotRun::Signals)?;
    if options.allowed.is_empty() {
        options.allowed.push(allowed::beside(Path::new(allowed::OWN_NAMESPACE), &options.cert));
    }
    tracing::info!("these accounts may ask: {}", options.allowed.join(", "));
    let shared = Shared::default();
    let client = kubernetes::client(options.kubeconfig.as_deref(), shared.clock.clone()).await?;
    let mut lease = options
        .lease_namespace
        .as_deref()
        .map(|namespace| lease::Holding::new(client.clone(), namespace, LEASE, &options.identity));
    let done = tokio::select! {
        done = work(&options, client, shared, lease.as_mut()) => done,
        _ = signals.wait() => Ok(()),
    };
    if let Some(lease) = lease {
        lease.release().await;
    }
    done
}

async fn work(
    options: &Options,
    client: Client,
    shared: Shared,
    mut lease: Option<&mut lease::Holding>,
) -> Result<(), CannotRun> {
    let ready = serve::Ready::default();
    let watching = async {
        if let Some(lease) = lease.as_mut() {
            tracing::info!("waiting for the lease {}", LEASE);
            lease.acquire().await;
        }
        tracing::info!("watching the cluster's workloads");
        let renewed = async {
            match lease {
                Some(lease) => lease.keep().await,
                None => std::future::pending().await,
            }
        };
        let synced = watch::all(client.clone(), shared.clone(), || ready.set());
        tokio::select! {
            () = renewed => tracing::warn!("lost the lease to another replica; exiting to restart as standby"),
            () = synced => {}
        }
    };
    tokio::select! {
        served = serve::serve(options, client.clone(), shared.clone(), ready.clone()) => served.map_err(Into::into),
        () = watching => Ok(()),
    }
}
