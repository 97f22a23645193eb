//! /metrics, /healthz, /readyz, /api and the page, from a snapshot of metrics and findings. Read-only.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use prometheus::Registry;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::{
    http::auth::{self, Access},
    sinks::{api_state::ApiView, metrics},
};

/// Requests under way when it stops are waited for this long.
const GRACE: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Shared {
    pub registry: Registry,
    pub board: Arc<Mutex<ApiView>>,
}

impl Shared {
    /// A panic while holding the board cannot leave it half changed in a way that matters: it is a view.
    pub fn board(&self) -> MutexGuard<'_, ApiView> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address}: {source}; metrics would not be reachable; give another address with --listen"
)]
pub struct CannotListen {
    address: SocketAddr,
    source: std::io::Error,
}

pub async fn bind(address: SocketAddr) -> Result<TcpListener, CannotListen> {
    TcpListener::bind(address).await.map_err(|source| CannotListen { address, source })
}

/// How it is protected; by default it is not, and bound to where only the pod's network reaches.
#[derive(Clone, Default)]
pub struct Protection {
    pub tls: Option<RustlsConfig>,
    /// Asked about everything but /healthz and /readyz, which tell nothing of workloads.
    pub access: Option<Access>,
}

/// Serves until `stop` resolves; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    shared: Shared,
    protection: Protection,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let mut told = Router::new()
        .route("/", get(page))
        .route("/metrics", get(exposition))
        .route("/api/probes", get(async |State(shared): State<Shared>| Json(shared.board().probes.clone())))
        .route("/api/state", get(state))
        .route("/api/scale-events", get(scale_events))
        .route("/api/advice", get(advice));
    if let Some(access) = protection.access {
        told = told.layer(from_fn_with_state(access, auth::guard));
    }
    let open = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    let router = told.merge(open).with_state(shared).into_make_service();
    let (listener, handle) = (listener.into_std()?, Handle::new());
    let stopping = handle.clone();
    tokio::spawn(async move {
        stop.await;
        stopping.graceful_shutdown(Some(GRACE));
    });
    match protection.tls {
        Some(tls) => axum_server::from_tcp_rustls(listener, tls)?.handle(handle).serve(router).await,
        None => axum_server::from_tcp(listener)?.handle(handle).serve(router).await,
    }
}

async fn page() -> Html<&'static str> {
    Html(include_str!("web/page.html"))
}

async fn exposition(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render(&shared.registry))
}

async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.board().ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    }
}

async fn state(State(shared): State<Shared>) -> Response {
    json(&*shared.board())
}

async fn advice(State(shared): State<Shared>) -> Response {
    json(&shared.board().advice.values().collect::<Vec<_>>())
}

async fn scale_events(State(shared): State<Shared>) -> Response {
    json(&shared.board().scale_events)
}

/// Written while the board is locked, and straight to text: what is shown is of one moment, and copied once.
fn json(what: &impl Serialize) -> Response {
    match serde_json::to_string(what) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
