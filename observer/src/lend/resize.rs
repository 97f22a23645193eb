//! One resize of one pod: requests or limits of memory, and nothing else.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Error,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    failure::one_line,
    lend::{
        held::{Held, HeldContainer},
        pods::PodId,
    },
    sources::kubernetes::{lenient::Lenient, terms},
};
use observer_core::loan::Ask;

/// Between tries of a resize that failed: the first pause and the longest.
pub const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

pub enum Resized {
    Done(Box<Pod>),
    /// It is gone, or another of the same name is there.
    Gone,
    /// It changed since it was read.
    Conflict,
    /// By a rule that does not change by asking again.
    Refused(String),
}

pub async fn resize(client: &Client, held: &Held, asked: &[(HeldContainer, Ask)]) -> Result<Resized, String> {
    let request = |(one, ask): &(HeldContainer, Ask)| json!({"name": one.name, "resources": {"requests": {"memory": written(one, ask)}}});
    let asked = asked.iter().map(request).collect();
    patch(client, &held.id, &PatchParams::default(), asked).await
}

/// `containers`: names with resources. `Err`: it may be done or not; absolute numbers can be asked for again.
pub async fn patch(
    client: &Client,
    id: &PodId,
    params: &PatchParams,
    containers: Vec<Value>,
) -> Result<Resized, String> {
    let api = Api::<Lenient<Pod>>::namespaced(client.clone(), &id.namespace);
    let patch = Patch::Strategic(json!({
        "metadata": {"uid": id.uid, "resourceVersion": id.version},
        "spec": {"containers": containers}
    }));
    match api.patch_subresource("resize", &id.name, params, &patch).await {
        Ok(Lenient::Read(pod)) => Ok(Resized::Done(Box::new(pod))),
        Ok(Lenient::Unreadable(pod)) => Err(format!("the answer cannot be read: {}", pod.why)),
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

/// What the user wrote, where it goes back to that.
pub fn written(one: &HeldContainer, ask: &Ask) -> String {
    match ask.request == one.bounds.steady {
        true => one.steady.clone(),
        false => terms::quantity(ask.request.min(one.bounds.need)),
    }
}
