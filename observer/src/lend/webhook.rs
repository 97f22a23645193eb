//! What the API server asks: a pod is being created, is it lent to? And the lender's metrics in the clear.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use json_patch::Patch as Changes;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{ObjectReference, Pod},
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse, AdmissionReview},
    },
};
use serde_json::json;

use crate::{
    companion::{CannotServe, Server},
    failure::one_line,
    http::{accept::Limits, tls::Pair},
    lend::{
        Options,
        admit::{self, Refused},
        cluster::Cluster,
        events::Events,
        lent::Lent,
        metrics::Metrics,
    },
    sinks::metrics::CONTENT_TYPE,
    sources::kubernetes::{
        metadata,
        terms::{LENT_LABEL, OPT_IN, TERMS, Terms},
    },
};

/// The API server stores no object above 1.5 MiB, and its own limit of a request is 3.
const BODY: usize = 3 << 20;
/// The cluster-autoscaler waits so long for a pod that finds no room: a spike is over by then.
const SCALE_UP_DELAY: (&str, &str) = ("cluster-autoscaler.kubernetes.io/pod-scale-up-delay", "60s");

#[derive(Clone)]
pub struct Webhook {
    pub cluster: Cluster,
    pub metrics: Metrics,
    pub events: Events,
    pub deadline_seconds: f64,
    pub dry_run: bool,
    pub ready: Arc<AtomicBool>,
    pub lent: Lent,
}

/// Serves until the end of the process.
pub async fn serve(options: &Options, webhook: Webhook) -> Result<(), CannotServe> {
    let own = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .route("/api/v1/loans", get(async |State(webhook): State<Webhook>| webhook.lent.answer().await))
        .with_state(webhook.clone());
    let asked =
        Router::new().route("/v1/admit", post(review)).layer(DefaultBodyLimit::max(BODY)).with_state(webhook);
    let server = Server {
        listen: options.listen,
        metrics_listen: options.metrics_listen,
        pair: Pair { cert: options.cert.clone(), key: options.key.clone() },
        limits: Limits::LENDER,
    };
    server.run("reviewing pods", asked, own).await
}

async fn metrics(State(webhook): State<Webhook>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], webhook.metrics.render())
}

async fn ready(State(webhook): State<Webhook>) -> (StatusCode, &'static str) {
    match webhook.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready: waiting for the first lists\n"),
    }
}

/// Whatever happens, the pod is created.
async fn review(
    State(webhook): State<Webhook>,
    body: Result<Json<AdmissionReview<Pod>>, JsonRejection>,
) -> Response {
    let request: Result<AdmissionRequest<Pod>, String> = match body {
        Ok(Json(review)) => review.try_into().map_err(|_| "it holds no request".to_owned()),
        Err(rejection) => Err(rejection.body_text()),
    };
    match request {
        Ok(request) => Json(webhook.answer(&request)).into_response(),
        Err(why) => {
            webhook.metrics.reviewed("unreadable");
            tracing::warn!("a review cannot be read: {why}");
            (StatusCode::BAD_REQUEST, "no AdmissionReview of a pod\n").into_response()
        }
    }
}

impl Webhook {
    fn answer(&self, request: &AdmissionRequest<Pod>) -> AdmissionReview<DynamicObject> {
        let unchanged = AdmissionResponse::from(request);
        let Some(pod) = &request.object else { return unchanged.into_review() };
        let namespace = request.namespace.as_deref().unwrap_or_default();
        if metadata::label(&pod.metadata, OPT_IN) == Some("false") {
            return unchanged.into_review();
        }
        let decided = admit::admit(pod, namespace, self.deadline_seconds, &self.cluster);
        let counts = !request.dry_run;
        match decided {
            Ok(None) if counts => self.metrics.reviewed("unchanged"),
            Ok(None) => {}
            Ok(Some(terms)) if self.dry_run => {
                if counts {
                    self.metrics.reviewed("would_raise");
                    self.say(pod, namespace, "WouldLend", &raised(&terms));
                }
            }
            Ok(Some(terms)) => {
                let patched = unchanged.clone().with_patch(changes(pod, &terms));
                match patched {
                    Ok(patched) => {
                        if counts {
                            self.metrics.reviewed("raised");
                        }
                        return patched.into_review();
                    }
                    Err(error) => tracing::error!("cannot write a patch: {error}"),
                }
            }
            Err(refused) if counts => self.refused(pod, namespace, refused),
            Err(_) => {}
        }
        unchanged.into_review()
    }

    fn refused(&self, pod: &Pod, namespace: &str, refused: Refused) {
        self.metrics.reviewed("refused");
        self.metrics.refused(refused.as_ref());
        self.say(
            pod,
            namespace,
            "NotLent",
            &format!("no memory is lent for the start of its pods: {}", refused.words()),
        );
    }

    /// To the controller: the pod has no uid yet, and often no name.
    fn say(&self, pod: &Pod, namespace: &str, reason: &'static str, note: &str) {
        let Some(owner) = metadata::controller(&pod.metadata) else { return };
        let about = ObjectReference {
            api_version: Some(owner.api_version.clone()),
            kind: Some(owner.kind.to_string()),
            name: Some(owner.name.clone()),
            namespace: Some(namespace.to_owned()),
            uid: Some(owner.uid.to_string()),
            ..ObjectReference::default()
        };
        self.events.normal(about, reason, note.to_owned());
    }
}

fn raised(terms: &Terms) -> String {
    let parts =
        terms.containers.iter().map(|(name, lent)| format!("{name}: {} -> {}", lent.steady, lent.request));
    format!("would request for the start: {}", parts.collect::<Vec<_>>().join(", "))
}

/// As JSON Patch (RFC 6902). Paths that may be absent are added whole.
fn changes(pod: &Pod, terms: &Terms) -> Changes {
    let mut operations = Vec::new();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers).enumerate();
    for (index, container) in containers {
        if let Some(lent) = terms.containers.get(&container.name) {
            let path = format!("/spec/containers/{index}/resources/requests/memory");
            operations.push(json!({"op": "replace", "path": path, "value": lent.request}));
        }
    }
    let mut add = |field: &str, absent: bool, entries: &[(&str, String)]| {
        if absent {
            operations.push(json!({"op": "add", "path": format!("/metadata/{field}"), "value": {}}));
        }
        for (name, value) in entries {
            let name = name.replace('~', "~0").replace('/', "~1");
            operations
                .push(json!({"op": "add", "path": format!("/metadata/{field}/{name}"), "value": value}));
        }
    };
    let meta = &pod.metadata;
    add("labels", meta.labels.is_none(), &[(LENT_LABEL, "true".to_owned())]);
    let terms = serde_json::to_string(terms).unwrap_or_default();
    let mut annotations = vec![(TERMS, terms)];
    if metadata::annotation(meta, SCALE_UP_DELAY.0).is_none() {
        annotations.push((SCALE_UP_DELAY.0, SCALE_UP_DELAY.1.to_owned()));
    }
    add("annotations", meta.annotations.is_none(), &annotations);
    serde_json::from_value(operations.into()).unwrap_or_default()
}

/// Writes the authority of the lender's certificate into the webhook's configuration, so that the API server trusts it.
pub async fn publish_authority(client: &Client, configuration: &str, authority: &Path) -> Result<(), String> {
    let shown = authority.display();
    let pem = std::fs::read(authority).map_err(|error| format!("{shown}: {error}"))?;
    let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
    let current = api.get(configuration).await.map_err(|error| one_line(&error))?;
    let hooks = current.webhooks.unwrap_or_default();
    let ours = ByteString(pem);
    if hooks.iter().all(|hook| hook.client_config.ca_bundle.as_ref() == Some(&ours)) {
        return Ok(());
    }
    let hooks: Vec<_> =
        hooks.iter().map(|hook| json!({"name": hook.name, "clientConfig": {"caBundle": ours}})).collect();
    let patch = Patch::Strategic(json!({"webhooks": hooks}));
    api.patch(configuration, &PatchParams::default(), &patch).await.map_err(|error| one_line(&error))?;
    tracing::info!("the API server trusts {shown} now ({configuration})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::sources::kubernetes::terms::Lent;

    fn applied(pod: Value) -> Value {
        let lent = Lent { steady: "64Mi".into(), request: "170Mi".into() };
        let terms = Terms { deadline_seconds: 180.0, containers: [("app".to_owned(), lent)].into() };
        let mut patched = pod.clone();
        json_patch::patch(&mut patched, &changes(&serde_json::from_value(pod).unwrap(), &terms)).unwrap();
        patched
    }

    #[test]
    fn a_review_changes_a_request_and_says_so_and_leaves_the_rest() {
        let container = |name: &str, memory: &str| json!({"name": name, "resources": {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": "1Gi"}}});
        let pod = |meta: Value| json!({"metadata": meta, "spec": {"containers": [container("proxy", "8Mi"), container("app", "64Mi")]}});
        for meta in [
            json!({}),
            json!({"labels": {"app": "web"}, "annotations": {"note": "theirs", SCALE_UP_DELAY.0: "5s"}}),
        ] {
            let patched = applied(pod(meta.clone()));
            assert_eq!(
                patched["spec"]["containers"],
                json!([container("proxy", "8Mi"), container("app", "170Mi")])
            );
            let found = &patched["metadata"];
            assert_eq!(found["labels"][LENT_LABEL], "true");
            let terms: Terms = found["annotations"][TERMS].as_str().unwrap().parse().unwrap();
            assert_eq!(terms.containers["app"].steady, "64Mi");
            let theirs = meta["annotations"].as_object().into_iter().flatten();
            for (name, value) in theirs {
                assert_eq!(found["annotations"][name], *value, "{name}");
            }
            let delay = if meta["annotations"].is_null() { "60s" } else { "5s" };
            assert_eq!(found["annotations"][SCALE_UP_DELAY.0], delay);
            assert_eq!(found["labels"]["app"], meta["labels"]["app"]);
        }
    }
}
