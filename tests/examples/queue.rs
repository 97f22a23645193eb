//! A queue's depth as an external metric: what a metrics adapter serves to the HorizontalPodAutoscaler. A stand-in for
//! queue and adapter both: the depth is whatever a file holds.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use axum_server::tls_rustls::RustlsConfig;
use clap::Parser;
use serde_json::{Value, json};

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// Holds the depth; read at every question
    #[arg(long)]
    depth: PathBuf,
}

const GROUP: &str = "/apis/external.metrics.k8s.io/v1beta1";
const METRIC: &str = "queue_depth";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let _ = rustls::crypto::ring::default_provider().install_default(); // installed already is what is wanted
    let tls =
        RustlsConfig::from_pem_file(&cli.cert, &cli.key).await.context("cannot read the certificate")?;
    let router = Router::new()
        .route(GROUP, get(async || Json(resources())))
        .route(&format!("{GROUP}/namespaces/{{namespace}}/{{metric}}"), get(depth))
        .with_state(cli.depth);
    axum_server::bind_rustls(cli.listen, tls).serve(router.into_make_service()).await.context("cannot serve")
}

fn resources() -> Value {
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "external.metrics.k8s.io/v1beta1",
        "resources": [{"name": METRIC, "singularName": "", "namespaced": true, "kind": "ExternalMetricValueList", "verbs": ["get"]}],
    })
}

async fn depth(
    State(file): State<PathBuf>,
    Path((_, metric)): Path<(String, String)>,
) -> Result<Json<Value>, StatusCode> {
    let depth = fs::read_to_string(&file).ok().filter(|_| metric == METRIC).ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(json!({
        "kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {},
        "items": [{
            "metricName": metric, "metricLabels": {}, "timestamp": jiff::Timestamp::now().to_string(), "value": depth.trim(),
        }],
    })))
}
