//! The paths below /api/v1. Every answer is of one moment, read-only, and described in docs/openapi.yaml.

use std::time::Duration;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use futures::{
    StreamExt,
    stream::{self, unfold},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{
    accept::WHOLE,
    rendered::{FRESH, Rendered},
    shared::Shared,
};
use crate::sinks::api_state::NodeState;

/// The interface as OpenAPI.
pub const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

/// For the lender: whoever waits for memory waits for as long as what it reads is old.
const LIVE: Duration = Duration::from_millis(200);

/// A stream ends before its connection must ([`WHOLE`]); its reader comes back and goes on where it stopped.
const STREAM: Duration = WHOLE.saturating_sub(Duration::from_secs(3));

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/state", shared(|state| json(&state.view())))
        .route("/api/v1/status", shared(|state| json(&state.status())))
        .route("/api/v1/probes", shared(|state| json(&state.probes())))
        .route("/api/v1/workloads", shared(|state| json(&state.workloads())))
        .route("/api/v1/containers", rendered(LIVE, |state| json(&state.containers())))
        .route("/api/v1/containers/{id}", get(container))
        .route("/api/v1/history", get(history))
        .route("/api/v1/startups", get(startups))
        .route("/api/v1/scale-events", shared(|state| json(&state.scale_events())))
        .route("/api/v1/kills", shared(|state| json(&state.kills())))
        .route("/api/v1/findings", shared(|state| json(&state.findings())))
        .route("/api/v1/advice", shared(|state| json(&state.advice())))
        .route("/api/v1/stream", get(follow))
        .route("/api/v1/openapi.yaml", get(async || ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI)))
}

/// Made at most once a second, however many ask.
fn shared(render: fn(&NodeState) -> Vec<u8>) -> MethodRouter<Shared> {
    rendered(FRESH, render)
}

fn rendered(fresh: Duration, render: fn(&NodeState) -> Vec<u8>) -> MethodRouter<Shared> {
    let rendered = Rendered::fresh_for(fresh);
    get(async move |State(shared): State<Shared>, request: HeaderMap| {
        rendered.answer(&request, "application/json", || render(&shared.state()))
    })
}

/// Unix times; without them, everything kept.
#[derive(Deserialize)]
struct Window {
    from: Option<f64>,
    until: Option<f64>,
}

impl Window {
    fn span(&self) -> (f64, f64) {
        (self.from.unwrap_or(0.0), self.until.unwrap_or(f64::INFINITY))
    }
}

async fn history(State(shared): State<Shared>, Query(window): Query<Window>) -> Response {
    let (from, until) = window.span();
    answer(json(&shared.state().node_history(from, until)))
}

async fn startups(State(shared): State<Shared>, Query(window): Query<Window>) -> Response {
    let (from, until) = window.span();
    answer(json(&shared.state().startups(from, until)))
}

async fn container(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        return refused(StatusCode::BAD_REQUEST, "the id of a container is a number: see /api/v1/containers");
    };
    match shared.state().container(id) {
        Some(detail) => answer(json(&detail)),
        None => refused(
            StatusCode::NOT_FOUND,
            "no such container: it ended and its retention is over, or never was",
        ),
    }
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

async fn follow(State(shared): State<Shared>, Query(query): Query<After>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let hub = shared.state().hub().clone();
    let after = last.or(query.after).unwrap_or_else(|| hub.last());
    let Ok(reader) = hub.read(after) else {
        return refused(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many streams are open; the answers of /api/v1/state can be asked for instead",
        );
    };
    let end = Instant::now() + STREAM;
    let first = stream::once(async { Bytes::from_static(b"retry: 300\n\n") });
    let events = first.chain(unfold((reader, end), async |(mut reader, end)| {
        let bytes = timeout_at(end, reader.next()).await.ok()??;
        Some((bytes, (reader, end)))
    }));
    let events = events.map(Ok::<_, std::convert::Infallible>);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(events)).into_response()
}

#[derive(Serialize)]
struct Refused {
    error: &'static str,
}

fn refused(status: StatusCode, error: &'static str) -> Response {
    (status, Json(Refused { error })).into_response()
}

/// Written while the state is locked, and straight to text: what is shown is of one moment, and copied once.
fn json(what: &impl Serialize) -> Vec<u8> {
    // No key of ours is anything but text.
    serde_json::to_vec(what)
        .inspect_err(|error| tracing::error!("cannot write JSON: {error}"))
        .unwrap_or_default()
}

fn answer(json: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], json).into_response()
}
