//! The observer of a node, asked through a port that the API server forwards.

use std::{fs, path::PathBuf, sync::Arc};

use axum::body::{Body, to_bytes};
use clap::Args;
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::refused;
use crate::{commands::client::state::State, http::tls};
use observer_core::model::printable::printable;

const LABEL: &str = "app.kubernetes.io/name=observer";
const PORT: u16 = 9843;
/// An answer larger than this is none: bytes.
const LARGEST: usize = 256 << 20;

#[derive(Args, Debug)]
pub struct Access {
    /// Agents of deploy/secured: PEM file with the certificate authority of observer-tls
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Agents of deploy/secured: the bearer token they are sent, of an account that may get /metrics
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The same, read.
pub struct Trust {
    tls: Option<TlsConnector>,
    token: Option<String>,
}

impl Access {
    pub fn load(&self) -> Result<Trust, String> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let token = self.token_file.as_ref().map(read).transpose()?.map(|token| token.trim().to_owned());
        let tls = self.ca.as_ref().map(read).transpose()?.map(|pem| connector(&pem)).transpose()?;
        Ok(Trust { tls, token })
    }
}

fn connector(pem: &str) -> Result<TlsConnector, String> {
    let _ = rustls::crypto::ring::default_provider().install_default(); // set already by the client of the cluster
    let mut roots = RootCertStore::empty();
    for der in tls::certificates(pem.as_bytes()).ok_or("--ca: there is no certificate in it")? {
        roots.add(CertificateDer::from(der)).map_err(|error| format!("--ca: {error}"))?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
pub struct Agent {
    pub node: String,
    namespace: String,
    pod: String,
    /// It serves by TLS.
    secured: bool,
}

/// Those that run.
pub async fn list(client: &Client, namespace: &str) -> Result<Vec<Agent>, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = pods
        .list(&ListParams::default().labels(LABEL))
        .await
        .map_err(|error| refused("list the observers", "list pods", namespace, &error))?;
    if listed.items.is_empty() {
        return Err(format!(
            "no observer in namespace {}: is it deployed (kubectl apply -k deploy/), or elsewhere (--observer-namespace)?",
            printable(namespace)
        ));
    }
    let agent = |pod: Pod| {
        let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let scheme = pod.metadata.annotations.as_ref().and_then(|all| all.get("prometheus.io/scheme"));
        let secured = scheme.is_some_and(|scheme| scheme == "https");
        let (node, pod) = (pod.spec?.node_name?, pod.metadata.name?);
        running.then(|| Agent { node, namespace: namespace.to_owned(), pod, secured })
    };
    Ok(listed.items.into_iter().filter_map(agent).collect())
}

impl Agent {
    pub async fn state(&self, client: &Client, trust: &Trust) -> Result<State, String> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let what = format!("forward a port of pod {}", self.pod);
        let mut forwarded = pods
            .portforward(&self.pod, &[PORT])
            .await
            .map_err(|error| refused(&what, "create pods/portforward", &self.namespace, &error))?;
        let stream = forwarded.take_stream(PORT).ok_or("the port was not forwarded")?;
        if !self.secured {
            return self.ask(stream, trust).await;
        }
        let Some(tls) = &trust.tls else {
            return Err(format!(
                "it serves by TLS: give its certificate authority (kubectl -n {0} get secret observer-tls -o jsonpath='{{.data.ca\\.crt}}' | base64 -d >ca.crt) with --ca, and a token with --token-file",
                self.namespace
            ));
        };
        let name = format!("observer.{}.svc", self.namespace);
        let server = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
        let stream = tls
            .connect(server, stream)
            .await
            .map_err(|error| format!("its certificate is not for {name} by --ca: {error}"))?;
        self.ask(stream, trust).await
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        trust: &Trust,
    ) -> Result<State, String> {
        let broke = |error: &dyn std::fmt::Display| format!("pod {} does not answer: {error}", self.pod);
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(&error))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::get("/api/v1/state").header(header::HOST, "localhost");
        if let Some(token) = &trust.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).map_err(|error| format!("--token-file: {error}"))?;
        let answer = sender.send_request(request).await.map_err(|error| broke(&error))?;
        let status = answer.status();
        let body = to_bytes(Body::new(answer.into_body()), LARGEST).await.map_err(|error| broke(&error))?;
        connection.abort();
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| format!("pod {} is no observer of this version: {error}", self.pod)),
            StatusCode::UNAUTHORIZED => Err(format!(
                "pod {} asks for a token: kubectl -n {} create token ACCOUNT >token, of an account with the ClusterRole observer-reader, and --token-file token",
                self.pod, self.namespace
            )),
            StatusCode::FORBIDDEN => Err(format!(
                "pod {} does not let this account in: it needs get on the nonResourceURL /metrics (ClusterRole observer-reader)",
                self.pod
            )),
            status => {
                let text = String::from_utf8_lossy(&body).chars().take(200).collect::<String>();
                Err(format!("pod {}: {status}: {}", self.pod, printable(&text)))
            }
        }
    }
}
