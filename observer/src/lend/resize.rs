//! One resize of one pod: requests of memory, and nothing else.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    failure::one_line,
    lend::held::{Held, HeldContainer},
    sources::kubernetes::terms,
};
use observer_core::loan::Ask;

pub enum Resized {
    Done(Box<Pod>),
    /// It is gone, or another of the same name is there.
    Gone,
    /// It changed since it was read.
    Conflict,
    /// By a rule that does not change by asking again.
    Refused(String),
}

/// `Err`: it may be done or not; absolute numbers can be asked for again.
pub async fn resize(client: &Client, held: &Held, asked: &[(HeldContainer, Ask)]) -> Result<Resized, String> {
    let api = Api::<Pod>::namespaced(client.clone(), &held.namespace);
    let patch = Patch::Strategic(body(held, asked));
    match api.patch_subresource("resize", &held.name, &PatchParams::default(), &patch).await {
        Ok(pod) => Ok(Resized::Done(Box::new(pod))),
        Err(Error::Api(status)) => match status.code {
            404 | 410 => Ok(Resized::Gone),
            409 => Ok(Resized::Conflict),
            // A wrong uid is also 422: the pod of this name is another one.
            422 if status.message.contains("metadata.uid") => Ok(Resized::Gone),
            403 | 422 => Ok(Resized::Refused(status.message.clone())),
            _ => Err(format!("{} {}", status.code, status.message)),
        },
        Err(error) => Err(one_line(&error)),
    }
}

fn body(held: &Held, asked: &[(HeldContainer, Ask)]) -> Value {
    let containers: Vec<Value> = asked
        .iter()
        .map(|(one, ask)| json!({"name": one.name, "resources": {"requests": {"memory": written(one, ask)}}}))
        .collect();
    json!({
        "metadata": {"uid": held.uid, "resourceVersion": held.version},
        "spec": {"containers": containers}
    })
}

/// What the user wrote, where it goes back to that.
pub fn written(one: &HeldContainer, ask: &Ask) -> String {
    match ask.request == one.bounds.steady {
        true => one.steady.clone(),
        false => terms::quantity(ask.request.min(one.bounds.need)),
    }
}
