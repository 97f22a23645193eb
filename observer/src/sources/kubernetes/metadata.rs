//! Metadata of any kind of object: an API for it, and the contents of managedFields.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{APIResourceList, ObjectMeta},
};
use kube::{
    Api, Client,
    api::GetParams,
    core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta},
};

use tokio::time::sleep;

use super::lenient::Lenient;

use observer_core::model::kubernetes::{Reference, Writer, is_of_replica_sets};

/// A kind that is not installed is looked for again this often, and one for which no answer came sooner.
const DISCOVER: Duration = Duration::from_secs(300);
const UNANSWERED: Duration = Duration::from_secs(10);

pub fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// Waits until a custom resource is installed.
pub async fn installed(client: &Client, api_version: &str, kind: &str) {
    while let Some(pause) = look_again(client.list_api_group_resources(api_version).await, kind) {
        sleep(pause).await;
    }
}

/// `None`: it is there.
fn look_again(found: Result<APIResourceList, kube::Error>, kind: &str) -> Option<Duration> {
    match found {
        Ok(list) if list.resources.iter().any(|resource| resource.kind == kind) => None,
        Ok(_) => Some(DISCOVER),
        Err(kube::Error::Api(status)) if status.code == 404 => Some(DISCOVER),
        Err(_) => Some(UNANSWERED),
    }
}

/// `None`: it is not there.
pub async fn get(
    client: &Client,
    namespace: &str,
    of: &Reference,
    params: &GetParams,
) -> Result<Option<Lenient<PartialObjectMeta<DynamicObject>>>, kube::Error> {
    let kind = resource(&of.api_version, &of.kind.to_string());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let request = kube::core::Request::new(api.resource_url()).get_metadata(&of.name, params);
    match client.request(request.map_err(kube::Error::BuildRequest)?).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The metadata of every object of a kind.
pub fn all(client: Client, resource: &ApiResource) -> Api<Lenient<PartialObjectMeta<DynamicObject>>> {
    Api::all_with(client, resource)
}

pub fn created(metadata: &ObjectMeta) -> f64 {
    metadata.creation_timestamp.as_ref().map_or(0.0, |time| time.0.as_second() as f64)
}

pub fn controller(metadata: &ObjectMeta) -> Option<Reference> {
    let owner = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    Some(Reference {
        api_version: owner.api_version.clone(),
        kind: owner.kind.as_str().into(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

pub fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

pub fn label<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// Who last changed spec.replicas: ownership moves when the value does.
pub fn replicas_set_by(metadata: &ObjectMeta) -> Option<Writer> {
    let owns = |fields: &serde_json::Value| fields.pointer("/f:spec/f:replicas").is_some();
    let entry = metadata
        .managed_fields
        .iter()
        .flatten()
        .find(|entry| entry.fields_v1.as_ref().is_some_and(|fields| owns(&fields.0)))?;
    Some(Writer {
        manager: entry.manager.clone().unwrap_or_default(),
        scale: entry.subresource.as_deref() == Some("scale"),
    })
}

/// When its own controller last changed anything but the status. (Entries of the scale subresource carry no time: they
/// take it from the parent's, which has none for a new manager. kubernetes: apimachinery managedfields/scalehandler.go)
pub fn controller_wrote(metadata: &ObjectMeta) -> Option<f64> {
    let entries = metadata.managed_fields.iter().flatten();
    entries
        .filter(|entry| {
            entry.subresource.is_none() && entry.manager.as_deref().is_some_and(is_of_replica_sets)
        })
        .filter_map(|entry| entry.time.as_ref().map(|time| time.0.as_second() as f64))
        .max_by(f64::total_cmp)
}

/// A condition of a pod's status that is true.
pub fn condition<'a>(pod: &'a Pod, kind: &'a str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition =
        conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True")?;
    Some(condition.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;

    #[test]
    fn no_answer_does_not_mean_that_a_kind_is_not_installed() {
        let list = |kind: &str| {
            let resource = APIResource { kind: kind.into(), ..APIResource::default() };
            Ok(APIResourceList { resources: vec![resource], ..APIResourceList::default() })
        };
        let refused = |code| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            Err(kube::Error::Api(status.boxed()))
        };
        for (found, expected) in [
            (list("Rollout"), None),
            (list("Experiment"), Some(DISCOVER)),
            (refused(404), Some(DISCOVER)),
            (refused(429), Some(UNANSWERED)),
            (refused(503), Some(UNANSWERED)),
        ] {
            assert_eq!(look_again(found, "Rollout"), expected);
        }
    }
}
