//! The ledger's answers: records by uid, over TLS, to service accounts it knows; its metrics in the clear.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use axum_server::tls_rustls::RustlsConfig;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use serde::Deserialize;
use tokio::{net::TcpListener, time::Instant};

use super::{Options, Shared};
use crate::objects::Record;

pub const AUDIENCE: &str = "observer-ledger";
/// Asked for at once at the most: an agent asks for the workloads of pods that just started.
const UIDS: usize = 512;
/// A token that was good is not reviewed again for this long.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Tokens remembered; a cluster has one per agent.
const TOKENS: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum CannotServe {
    #[error(
        "cannot use the certificate {cert} with the key {key}: {source}; agents could not ask; `observer ledger-secret` makes a pair"
    )]
    Certificate { cert: PathBuf, key: PathBuf, source: std::io::Error },
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
    cert: PathBuf,
    key: PathBuf,
    state: Answering,
}

#[derive(Clone)]
struct Answering {
    shared: Shared,
    ready: Ready,
    tokens: Tokens,
}

impl Server {
    pub fn new(options: &Options, client: Client, shared: Shared, ready: Ready) -> Result<Self, CannotServe> {
        let tokens = Tokens {
            client,
            allowed: options.allowed.iter().map(|name| format!("system:serviceaccount:{name}")).collect(),
            hasher: RandomState::new(),
            good: Arc::default(),
        };
        Ok(Self {
            listen: options.listen,
            metrics_listen: options.metrics_listen,
            cert: options.cert.clone(),
            key: options.key.clone(),
            state: Answering { shared, ready, tokens },
        })
    }

    pub async fn run(self) -> Result<(), CannotServe> {
        // Of the two providers rustls knows, the one that needs no C compiler; set already if a client was made.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let tls = RustlsConfig::from_pem_file(&self.cert, &self.key).await.map_err(|source| {
            CannotServe::Certificate { cert: self.cert.clone(), key: self.key.clone(), source }
        })?;
        let listen = |address| move |source| CannotServe::Listen { address, source };
        let plain = TcpListener::bind(self.metrics_listen).await.map_err(listen(self.metrics_listen))?;
        let own = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(self.state.clone());
        let answers = Router::new().route("/v1/records", get(records)).with_state(self.state);
        tracing::info!(
            "answering agents on https://{}, /metrics on http://{}",
            self.listen,
            self.metrics_listen
        );
        let answers = axum_server::bind_rustls(self.listen, tls).serve(answers.into_make_service());
        let done = tokio::select! {
            done = answers => done.map_err(listen(self.listen)),
            done = async { axum::serve(plain, own).await } => done.map_err(listen(self.metrics_listen)),
        };
        done
    }
}

async fn metrics(State(state): State<Answering>) -> impl IntoResponse {
    let sizes = state.shared.book().sizes();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.shared.metrics.render(sizes))
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
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default();
    if let Err(why) = state.tokens.check(token).await {
        metrics.asked("refused");
        return (StatusCode::UNAUTHORIZED, why).into_response();
    }
    if !state.ready.get() {
        metrics.asked("failed");
        return (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response();
    }
    let book = state.shared.book();
    let found: Vec<Record> = asked.uids.split(',').take(UIDS).filter_map(|uid| book.record(uid)).collect();
    metrics.asked("answered");
    Json(found).into_response()
}

/// Tokens, reviewed by the API server.
#[derive(Clone)]
struct Tokens {
    client: Client,
    allowed: Vec<String>,
    /// Tokens are remembered by a hash nobody can foresee, not by themselves.
    hasher: RandomState,
    good: Arc<Mutex<HashMap<u64, Instant>>>,
}

impl Tokens {
    async fn check(&self, token: &str) -> Result<(), &'static str> {
        if token.is_empty() {
            return Err("a service-account token for the audience observer-ledger is needed\n");
        }
        let key = self.hasher.hash_one(token);
        let remembered =
            |good: &HashMap<u64, Instant>| good.get(&key).is_some_and(|at| at.elapsed() < REMEMBERED);
        if remembered(&self.good.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.into()]) },
            ..TokenReview::default()
        };
        let api = Api::<TokenReview>::all(self.client.clone());
        let reviewed = api.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!("cannot review an agent's token: {error}; grant create on tokenreviews");
            "the token cannot be reviewed now\n"
        })?;
        let status = reviewed.status.unwrap_or_default();
        let user = status.user.and_then(|user| user.username).unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err("the token is not valid for the audience observer-ledger\n");
        }
        if !self.allowed.contains(&user) {
            return Err("this service account may not ask\n");
        }
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= TOKENS {
            good.clear();
        }
        good.insert(key, Instant::now());
        Ok(())
    }
}
