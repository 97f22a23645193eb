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
    rendered::{FRESH, Room},
    shared::Shared,
};
use crate::sinks::api_state::NodeState;

/// The interface as OpenAPI.
pub const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

/// For the lender: whoever waits for memory waits for as long as what it reads is old.
const LIVE: Duration = Duration::from_millis(200);

/// A stream ends before its connection must ([`WHOLE`]); its reader comes back and goes on where it stopped.
const STREAM: Duration = WHOLE.saturating_sub(Duration::from_secs(3));

pub fn routes(room: &Room) -> Router<Shared> {
    let shared = |render: fn(&NodeState) -> Vec<u8>| rendered(room, FRESH, render);
    let own = room.clone();
    let curves = move |state: State<Shared>, id: Path<String>| container(state, id, own);
    let own = room.clone();
    let history = move |State(shared): State<Shared>, Query(window): Query<Window>| async move {
        let (from, until) = window.span();
        own.answer(JSON, || json(&shared.state().node_history(from, until)))
    };
    let own = room.clone();
    let startups = move |State(shared): State<Shared>, Query(window): Query<Window>| async move {
        let (from, until) = window.span();
        own.answer(JSON, || json(&shared.state().startups(from, until)))
    };
    Router::new()
        .route("/api/v1/state", shared(|state| json(&state.view())))
        .route("/api/v1/status", shared(|state| json(&state.status())))
        .route("/api/v1/probes", shared(|state| json(&state.probes())))
        .route("/api/v1/workloads", shared(|state| json(&state.workloads())))
        .route("/api/v1/containers", rendered(room, LIVE, |state| json(&state.containers())))
        .route("/api/v1/containers/{id}", get(curves))
        .route("/api/v1/history", get(history))
        .route("/api/v1/startups", get(startups))
        .route("/api/v1/scale-events", shared(|state| json(&state.scale_events())))
        .route("/api/v1/kills", shared(|state| json(&state.kills())))
        .route("/api/v1/findings", shared(|state| json(&state.findings())))
        .route("/api/v1/advice", shared(|state| json(&state.advice())))
        .route("/api/v1/stream", get(follow))
        .route("/api/v1/openapi.yaml", get(async || ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI)))
}

const JSON: &str = "application/json";

/// Made at most once in this time, however many ask.
fn rendered(room: &Room, fresh: Duration, render: fn(&NodeState) -> Vec<u8>) -> MethodRouter<Shared> {
    let rendered = room.text(fresh);
    get(async move |State(shared): State<Shared>, request: HeaderMap| {
        rendered.answer(&request, JSON, || render(&shared.state()))
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

async fn container(State(shared): State<Shared>, Path(id): Path<String>, room: Room) -> Response {
    let Ok(id) = id.parse() else {
        return refused(StatusCode::BAD_REQUEST, "the id of a container is a number: see /api/v1/containers");
    };
    if shared.state().container(id).is_none() {
        let why = "no such container: it ended and its retention is over, or never was";
        return refused(StatusCode::NOT_FOUND, why);
    }
    room.answer(JSON, || json(&shared.state().container(id)))
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
