//! /metrics, /healthz, /readyz, /api and the page, from a snapshot of metrics and findings. Read-only.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{Html, Response},
    routing::get,
};
use prometheus::Registry;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::{
    http::{
        accept::{self, Limits},
        auth::{self, Access},
        browser::{self, Hosts},
        rendered::Rendered,
        tls::Certificate,
    },
    sinks::{api_state::ApiView, metrics},
};

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
    pub tls: Option<Certificate>,
    /// Asked about everything but /healthz and /readyz, which tell nothing of workloads.
    pub access: Option<Access>,
    /// Under which names it may be asked in the clear.
    pub hosts: Hosts,
}

#[derive(Clone)]
struct Serving {
    shared: Shared,
    metrics: Rendered,
    state: Rendered,
    scale_events: Rendered,
    advice: Rendered,
}

/// Serves until `stop` resolves; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    shared: Shared,
    protection: Protection,
    stop: impl Future<Output = ()>,
) {
    let serving = Serving {
        shared,
        metrics: Rendered::default(),
        state: Rendered::default(),
        scale_events: Rendered::default(),
        advice: Rendered::default(),
    };
    let mut told = Router::new()
        .route("/", get(async || Html(include_str!("web/page.html"))))
        .route("/page.js", get(async || (SCRIPT, include_str!("web/page.js"))))
        .route("/page.css", get(async || (STYLE, include_str!("web/page.css"))))
        .route("/metrics", get(exposition))
        .route("/api/probes", get(async |State(at): State<Serving>| Json(at.shared.board().probes.clone())))
        .route("/api/state", get(state))
        .route("/api/scale-events", get(scale_events))
        .route("/api/advice", get(advice));
    if let Some(access) = protection.access {
        told = told.layer(from_fn_with_state(access, auth::guard));
    }
    let open = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    let mut router = told.merge(open).with_state(serving);
    if protection.tls.is_none() {
        router = protection.hosts.guard(router);
    }
    accept::serve(listener, limits, protection.tls, browser::headers(router), stop).await;
}

type ContentType = [(header::HeaderName, &'static str); 1];
const SCRIPT: ContentType = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
const STYLE: ContentType = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];

async fn exposition(State(at): State<Serving>, request: HeaderMap) -> Response {
    at.metrics.answer(&request, metrics::CONTENT_TYPE, || metrics::render(&at.shared.registry).into_bytes())
}

async fn ready(State(at): State<Serving>) -> (StatusCode, String) {
    match at.shared.board().ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    }
}

async fn state(State(at): State<Serving>, request: HeaderMap) -> Response {
    json(&at.state, &request, &*at.shared.board())
}

async fn advice(State(at): State<Serving>, request: HeaderMap) -> Response {
    json(&at.advice, &request, &at.shared.board().advice.values().collect::<Vec<_>>())
}

async fn scale_events(State(at): State<Serving>, request: HeaderMap) -> Response {
    json(&at.scale_events, &request, &at.shared.board().scale_events)
}

/// Written while the board is locked, and straight to text: what is shown is of one moment, and copied once.
fn json(text: &Rendered, request: &HeaderMap, what: &impl Serialize) -> Response {
    text.answer(request, "application/json", || match serde_json::to_vec(what) {
        Ok(json) => json,
        // No key of ours is anything but text.
        Err(error) => {
            tracing::error!("cannot write JSON: {error}");
            Vec::new()
        }
    })
}
