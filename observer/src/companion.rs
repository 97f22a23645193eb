//! What the agents' companions in the cluster (the ledger, the lender) have in common: answers over TLS, their own
//! metrics and health in the clear, and how they cannot run.

use std::{future::pending, io, net::SocketAddr};

use axum::{Router, routing::get};
use tokio::net::TcpListener;

use crate::{
    descriptors,
    http::{
        accept::{self, Limits},
        browser::{self, Hosts},
        tls::{self, Pair},
    },
    sources::kubernetes,
};

#[derive(Debug, thiserror::Error)]
pub enum CannotServe {
    #[error("{0}; `observer ledger-secret` makes a pair")]
    Certificate(#[from] tls::CannotUse),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum CannotRun {
    #[error(transparent)]
    Connect(#[from] kubernetes::CannotConnect),
    #[error(transparent)]
    Serve(#[from] CannotServe),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
}

pub struct Server {
    pub listen: SocketAddr,
    /// Where it serves in the clear.
    pub metrics_listen: SocketAddr,
    pub pair: Pair,
    /// Of the connections over TLS.
    pub limits: Limits,
}

impl Server {
    /// Until the end of the process. `what` it does, for the log; `own`: what is served in the clear beside /healthz.
    pub async fn run(self, what: &str, answers: Router, own: Router) -> Result<(), CannotServe> {
        let tls = self.pair.load().await?;
        let bind = async |address| {
            TcpListener::bind(address).await.map_err(|source| CannotServe::Listen { address, source })
        };
        let (answers_at, own_at) = (bind(self.listen).await?, bind(self.metrics_listen).await?);
        let own = own.route("/healthz", get(async || "ok\n"));
        let own = browser::headers(Hosts::default().guard(own));
        tracing::info!("{what} on https://{}, /metrics on http://{}", self.listen, self.metrics_listen);
        let descriptors = descriptors::raise_limit();
        let (many, few) = (self.limits.below(descriptors), Limits::AGENT.below(descriptors / 2));
        let renewing = self.pair.renew(tls.clone());
        tokio::select! {
            () = accept::serve(answers_at, many, Some(tls), answers, pending()) => {}
            () = accept::serve(own_at, few, None, own, pending()) => {}
            () = renewing => {}
        }
        Ok(())
    }
}
