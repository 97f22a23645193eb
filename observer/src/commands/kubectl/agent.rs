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
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::refused;
use crate::{http::tls, sources::kubernetes::lenient::Lenient};
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
#[derive(Clone)]
pub struct Trust {
    tls: Option<TlsConnector>,
    pub token: Option<String>,
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
    pub pod: String,
    /// It serves by TLS.
    secured: bool,
    /// Why it does not run, if it does not.
    away: Option<String>,
}

/// Those that have a node.
pub async fn list(client: &Client, namespace: &str) -> Result<Vec<Agent>, String> {
    let pods: Api<Lenient<Pod>> = Api::namespaced(client.clone(), namespace);
    let listed = pods
        .list(&ListParams::default().labels(LABEL))
        .await
        .map_err(|error| refused("list the observers", "list pods", namespace, &error))?;
    let mut all: Vec<Agent> =
        listed.items.into_iter().filter_map(|pod| Agent::of(pod.read()?, namespace)).collect();
    if all.is_empty() {
        return Err(format!(
            "no observer in namespace {}: is it deployed (kubectl apply -k deploy/), or elsewhere (--observer-namespace)?",
            printable(namespace)
        ));
    }
    // While one is replaced there are two on its node: the one that runs is asked.
    all.sort_by_key(|agent| agent.away.is_some());
    Ok(all)
}

impl Agent {
    fn of(pod: Pod, namespace: &str) -> Option<Self> {
        let away = away(&pod);
        let scheme = pod.metadata.annotations.as_ref().and_then(|all| all.get("prometheus.io/scheme"));
        let secured = scheme.is_some_and(|scheme| scheme == "https");
        let (node, pod) = (pod.spec?.node_name?, pod.metadata.name?);
        Some(Self { node, namespace: namespace.to_owned(), pod, secured, away })
    }

    /// Why it cannot be asked, and where to look.
    pub fn away(&self) -> Option<String> {
        let why = self.away.as_ref()?;
        let (node, pod, namespace) = (printable(&self.node), &self.pod, &self.namespace);
        Some(format!(
            "the observer on node {node} does not run ({}): kubectl -n {namespace} describe pod {pod}; kubectl -n \
             {namespace} logs {pod} --previous",
            printable(why)
        ))
    }

    /// A connection to it, by TLS where it wants that.
    pub async fn open(&self, client: &Client, trust: &Trust) -> Result<Box<dyn Stream>, String> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let what = format!("forward a port of pod {}", self.pod);
        let mut forwarded = pods
            .portforward(&self.pod, &[PORT])
            .await
            .map_err(|error| refused(&what, "create pods/portforward", &self.namespace, &error))?;
        let stream = forwarded.take_stream(PORT).ok_or("the port was not forwarded")?;
        if !self.secured {
            return Ok(Box::new(stream));
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
        Ok(Box::new(stream))
    }

    pub async fn ask<T: DeserializeOwned>(
        &self,
        client: &Client,
        trust: &Trust,
        path: &str,
    ) -> Result<T, String> {
        let stream = self.open(client, trust).await?;
        let broke = |error: &dyn std::fmt::Display| {
            format!("pod {} does not answer: {error}; kubectl -n {} logs {0}", self.pod, self.namespace)
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broke(&error))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::get(path).header(header::HOST, "localhost");
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

/// To an agent, in the clear or by TLS.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// As `kubectl get pods` would say it.
fn away(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let states = || containers.into_iter().flatten().filter_map(|one| one.state.as_ref());
    let running = states().any(|state| state.running.is_some());
    if phase == "Running" && (running || containers.is_none()) {
        return None;
    }
    let waiting = states().find_map(|state| state.waiting.as_ref()?.reason.clone());
    let ended = states().find_map(|state| state.terminated.as_ref()?.reason.clone());
    Some(waiting.or(ended).unwrap_or_else(|| phase.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_does_not_run_says_why_and_where_to_look() {
        let agent = |phase: &str, state: serde_json::Value| {
            let pod = serde_json::json!({
                "metadata": {"name": "observer-x"}, "spec": {"nodeName": "n1", "containers": []},
                "status": {"phase": phase, "containerStatuses": [{"name": "observer", "ready": false, "restartCount": 3,
                    "image": "", "imageID": "", "state": state}]},
            });
            Agent::of(serde_json::from_value(pod).unwrap(), "observer").unwrap()
        };
        assert_eq!(agent("Running", serde_json::json!({"running": {}})).away(), None);
        for (phase, state, why) in [
            ("Running", serde_json::json!({"waiting": {"reason": "CrashLoopBackOff"}}), "CrashLoopBackOff"),
            ("Pending", serde_json::json!({"waiting": {"reason": "ImagePullBackOff"}}), "ImagePullBackOff"),
            ("Failed", serde_json::json!({"terminated": {"exitCode": 1, "reason": "Error"}}), "Error"),
            ("Pending", serde_json::json!({}), "Pending"),
        ] {
            let said = agent(phase, state).away().unwrap();
            assert!(said.contains(why) && said.contains("n1") && said.contains("logs observer-x"), "{said}");
        }
    }
}
