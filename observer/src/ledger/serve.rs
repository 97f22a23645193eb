//! The ledger's answers: records by uid, over TLS, to service accounts it knows; its metrics in the clear.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
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

use crate::{
    companion::{CannotServe, Server},
    http::{
        accept::Limits,
        auth::{Access, Admits},
        browser,
        tls::Pair,
    },
    ledger::{Options, Shared},
    sinks::metrics::CONTENT_TYPE,
};
use observer_core::model::kubernetes::ChangeRecord;

pub const AUDIENCE: &str = "observer-ledger";
/// Asked for at once at the most: an agent asks for the workloads of pods that just started.
const UIDS: usize = 512;

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

#[derive(Clone)]
struct Answering {
    shared: Shared,
    ready: Ready,
    access: Access,
}

/// Serves until the end of the process.
pub async fn serve(
    options: &Options,
    client: Client,
    shared: Shared,
    ready: Ready,
) -> Result<(), CannotServe> {
    let admits = Admits::Accounts { audience: AUDIENCE, allowed: options.allowed.clone() };
    let state = Answering { shared, ready, access: Access::new(client, admits) };
    let own = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(self::ready))
        .with_state(state.clone());
    let answers = browser::headers(Router::new().route("/v1/records", get(records)).with_state(state));
    let server = Server {
        listen: options.listen,
        metrics_listen: options.metrics_listen,
        pair: Pair { cert: options.cert.clone(), key: options.key.clone() },
        limits: Limits::LEDGER,
    };
    server.run("answering agents", answers, own).await
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
