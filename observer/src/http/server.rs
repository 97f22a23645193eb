//! /metrics, /metrics/history, /healthz, /readyz, /api and the page, from a snapshot of metrics and findings.
//! Read-only.

use std::{net::SocketAddr, sync::atomic::Ordering};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware::from_fn_with_state,
    response::{Html, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    http::{
        accept::{self, Limits},
        api,
        auth::{self, Access},
        browser::{self, Hosts},
        exposition::Exposed,
        rendered::Room,
        shared::Shared,
        tls::Certificate,
    },
    sinks::metrics::Page,
};

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
    /// Checks every path but /healthz and /readyz, which contain nothing about workloads.
    pub access: Option<Access>,
    /// Under which names it may be asked in the clear.
    pub hosts: Hosts,
}

#[derive(Clone)]
struct Serving {
    shared: Shared,
    current: Exposed,
    history: Exposed,
}

/// Serves until `stop` resolves; requests under way are finished.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    shared: Shared,
    protection: Protection,
    stop: impl Future<Output = ()>,
) {
    let hub = shared.state().hub().clone();
    let stop = async {
        stop.await;
        hub.close();
    };
    let tls = protection.tls.clone();
    accept::serve(listener, limits, tls, router(shared, protection), stop).await;
}

/// What answers a request.
pub fn router(shared: Shared, protection: Protection) -> Router {
    let room = Room::default();
    let serving =
        Serving { shared: shared.clone(), current: Exposed::always(&room), history: Exposed::always(&room) };
    let mut reported = Router::new()
        .route("/", get(async || Html(include_str!("web/page.html"))))
        .route("/page.js", get(async || (SCRIPT, include_str!("web/page.js"))))
        .route("/page.css", get(async || (STYLE, include_str!("web/page.css"))))
        .route("/metrics", get(current))
        .route("/metrics/history", get(history))
        .merge(api::routes(&room).with_state(shared));
    if let Some(access) = protection.access {
        reported = reported.layer(from_fn_with_state(access, auth::guard));
    }
    let open = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(ready));
    let mut router = reported.merge(open).with_state(serving);
    if protection.tls.is_none() {
        router = protection.hosts.guard(router);
    }
    browser::headers(router)
}

type ContentType = [(header::HeaderName, &'static str); 1];
const SCRIPT: ContentType = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")];
const STYLE: ContentType = [(header::CONTENT_TYPE, "text/css; charset=utf-8")];

async fn current(State(at): State<Serving>, request: HeaderMap) -> Response {
    at.current.answer(&request, &at.shared.metrics, Page::Current)
}

async fn history(State(at): State<Serving>, request: HeaderMap) -> Response {
    at.history.answer(&request, &at.shared.metrics, Page::History)
}

async fn ready(State(at): State<Serving>) -> (StatusCode, String) {
    if at.shared.stalled.load(Ordering::Relaxed) {
        let why = "not ready: the host's files do not answer; what is shown stands still\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why.into());
    }
    match at.shared.state().ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(missing) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {missing}\n")),
    }
}
