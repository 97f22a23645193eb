//! Metadata of any kind of object: an API for it, and the contents of managedFields.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind, PartialObjectMeta},
};

use observer_core::model::kubernetes::{Reference, Writer, is_of_replica_sets};

pub fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

pub fn api(client: Client, namespace: &str, of: &Reference) -> Api<DynamicObject> {
    Api::namespaced_with(client, namespace, &resource(&of.api_version, &of.kind.to_string()))
}

/// The metadata of every object of a kind.
pub fn all(client: Client, resource: &ApiResource) -> Api<PartialObjectMeta<DynamicObject>> {
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
