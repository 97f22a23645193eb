//! The ledger's answers: records by uid, over TLS, to service accounts it knows; its metrics in the clear.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
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
        rendered::{FRESH, Rendered, Room},
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
    room: Room,
    exposed: Rendered,
}

/// Bytes of records that are being sent; one answer has some megabytes at the most.
const RECORDS: usize = 32 << 20;

/// Serves until the end of the process.
pub async fn serve(
    options: &Options,
    client: Client,
    shared: Shared,
    ready: Ready,
) -> Result<(), CannotServe> {
    let admits = Admits::Accounts { audience: AUDIENCE, allowed: options.allowed.clone() };
    let room = Room::of(RECORDS);
    let exposed = room.text(FRESH).always();
    let state = Answering { shared, ready, access: Access::new(client, admits), room, exposed };
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

async fn metrics(State(state): State<Answering>, request: HeaderMap) -> Response {
    state.exposed.answer(&request, CONTENT_TYPE, || {
        let sizes = state.shared.book().sizes();
        state.shared.metrics.render(sizes, state.shared.clock.ahead_seconds()).into_bytes()
    })
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
    let response = state.room.answer("application/json", || {
        let book = state.shared.book();
        let found: Vec<ChangeRecord> =
            asked.uids.split(',').take(UIDS).filter_map(|uid| book.record(uid)).collect();
        serde_json::to_vec(&found).unwrap_or_default() // no key of ours is anything but text
    });
    metrics.asked(if response.status().is_success() { "answered" } else { "failed" });
    response
}
