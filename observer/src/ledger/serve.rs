//! The ledger's answers: records by uid, over TLS, to service accounts it knows; its metrics in the clear.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use kube::Client;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::{
    descriptors,
    http::{
        accept::{self, Limits},
        auth::{Access, Admits},
        browser::{self, Hosts},
        tls::{self, Pair},
    },
    ledger::{Options, Shared},
    sinks::metrics::CONTENT_TYPE,
};
use observer_core::model::kubernetes::ChangeRecord;

pub const AUDIENCE: &str = "observer-ledger";
/// Asked for at once at the most: an agent asks for the workloads of pods that just started.
const UIDS: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum CannotServe {
    #[error("{0}; `observer ledger-secret` makes a pair")]
    Certificate(#[from] tls::CannotUse),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// Set once everything has been listed.
#[derive(Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    pub fn set(&self) {
        tracing::info!("everything is listed: answering");
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Server {
    listen: SocketAddr,
    metrics_listen: SocketAddr,
    pair: Pair,
    state: Answering,
}

#[derive(Clone)]
struct Answering {
    shared: Shared,
    ready: Ready,
    access: Access,
}

impl Server {
    pub fn new(options: &Options, client: Client, shared: Shared, ready: Ready) -> Self {
        let admits = Admits::Accounts { audience: AUDIENCE, allowed: options.allowed.clone() };
        Self {
            listen: options.listen,
            metrics_listen: options.metrics_listen,
            pair: Pair { cert: options.cert.clone(), key: options.key.clone() },
            state: Answering { shared, ready, access: Access::new(client, admits) },
        }
    }

    pub async fn run(self) -> Result<(), CannotServe> {
        let tls = self.pair.load().await?;
        let bind = async |address| {
            TcpListener::bind(address).await.map_err(|source| CannotServe::Listen { address, source })
        };
        let (answers_at, own_at) = (bind(self.listen).await?, bind(self.metrics_listen).await?);
        let own = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(self.state.clone());
        let own = browser::headers(Hosts::default().guard(own));
        let answers =
            browser::headers(Router::new().route("/v1/records", get(records)).with_state(self.state));
        tracing::info!(
            "answering agents on https://{}, /metrics on http://{}",
            self.listen,
            self.metrics_listen
        );
        let descriptors = descriptors::raise_limit();
        let (many, few) = (Limits::LEDGER.below(descriptors), Limits::AGENT.below(descriptors / 2));
        let renewing = self.pair.renew(tls.clone());
        tokio::select! {
            () = accept::serve(answers_at, many, Some(tls), answers, pending()) => {}
            () = accept::serve(own_at, few, None, own, pending()) => {}
            () = renewing => {}
        }
        Ok(())
    }
}

async fn metrics(State(state): State<Answering>) -> impl IntoResponse {
    let sizes = state.shared.book().sizes();
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        state.shared.metrics.render(sizes, state.shared.clock.ahead_seconds()),
    )
}

async fn ready(State(state): State<Answering>) -> (StatusCode, &'static str) {
    match state.ready.get() {
        true => (StatusCode::OK, "ready\n"),
        false => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: waiting for the lease, or for the first lists\n")
        }
    }
}

#[derive(Deserialize)]
struct Asked {
    uids: String,
}

async fn records(State(state): State<Answering>, headers: HeaderMap, Query(asked): Query<Asked>) -> Response {
    let metrics = &state.shared.metrics;
    if let Err(refused) = state.access.check(&headers).await {
        metrics.asked("refused");
        return refused.into_response();
    }
    if !state.ready.get() {
        metrics.asked("failed");
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response();
    }
    let book = state.shared.book();
    let found: Vec<ChangeRecord> =
        asked.uids.split(',').take(UIDS).filter_map(|uid| book.record(uid)).collect();
    metrics.asked("answered");
    Json(found).into_response()
}
