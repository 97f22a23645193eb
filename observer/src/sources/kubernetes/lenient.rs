//! Objects of the API, of which one that cannot be read spoils no other.
//!
//! A list or a watch is read as a whole: by the library alone one odd object ends it, again and again, and who may
//! change one object could blind everybody who watches its kind. The API server accepts, for one, a time in
//! metadata.managedFields that is later than the last which the library knows (9999-12-30T22:00:00Z).

use std::{borrow::Cow, collections::HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, runtime::watcher::Event};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

use observer_core::model::printable::printable;

#[derive(Clone, Debug)]
pub enum Lenient<K> {
    Read(K),
    Unreadable(Box<Unreadable>),
}

#[derive(Clone, Debug)]
pub struct Unreadable {
    /// No more than which object it is, and of which version.
    pub meta: ObjectMeta,
    pub why: String,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let why = match K::deserialize(&value) {
            Ok(object) => return Ok(Self::Read(object)),
            Err(why) => why.to_string(),
        };
        // Who wrote which field is what may be missing: the object itself is all there.
        let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
        if metadata.is_some_and(|metadata| metadata.remove("managedFields").is_some())
            && let Ok(object) = K::deserialize(&value)
        {
            return Ok(Self::Read(object));
        }
        let text = |name: &str| value["metadata"][name].as_str().map(str::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self::Unreadable(Box::new(Unreadable { meta, why })))
    }
}

impl<K: Resource> Resource for Lenient<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => object.meta(),
            Self::Unreadable(odd) => &odd.meta,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => object.meta_mut(),
            Self::Unreadable(odd) => &mut odd.meta,
        }
    }
}

impl<K> Lenient<K> {
    pub fn read(self) -> Option<K> {
        match self {
            Self::Read(object) => Some(object),
            Self::Unreadable(_) => None,
        }
    }
}

/// Objects that could not be read: each is logged once.
#[derive(Default)]
pub struct Oddities {
    logged: HashSet<String>,
    pub count: u64,
}

impl Oddities {
    /// Beyond these they are forgotten, and logged again.
    const MOST: usize = 256;

    pub fn take(&mut self, kind: &str, odd: &Unreadable) {
        self.count += 1;
        let [namespace, name] = [&odd.meta.namespace, &odd.meta.name]
            .map(|text| printable(text.as_deref().unwrap_or_default()).into_owned());
        let key = format!("{namespace}/{name}");
        if self.logged.contains(&key) {
            return;
        }
        tracing::warn!(
            "{kind} {key} cannot be read and is passed over, what is known of it stays: {}",
            printable(&odd.why)
        );
        if self.logged.len() >= Self::MOST {
            self.logged.clear();
        }
        self.logged.insert(key);
    }

    /// The event without what cannot be read of it.
    pub fn readable<K>(&mut self, kind: &str, event: Event<Lenient<K>>) -> Option<Event<K>> {
        let (wrap, object): (fn(K) -> Event<K>, _) = match event {
            Event::Init => return Some(Event::Init),
            Event::InitDone => return Some(Event::InitDone),
            Event::InitApply(object) => (Event::InitApply, object),
            Event::Apply(object) => (Event::Apply, object),
            Event::Delete(object) => (Event::Delete, object),
        };
        match object {
            Lenient::Read(object) => Some(wrap(object)),
            Lenient::Unreadable(odd) => {
                self.take(kind, &odd);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Event as ApiEvent, Pod};
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    use super::*;

    /// Accepted by kube-apiserver v1.36.3 from who may patch the object.
    const LATE: &str = "9999-12-31T23:59:59Z";

    fn pod(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": name, "resourceVersion": "7"}})
    }

    #[test]
    fn one_object_that_cannot_be_read_leaves_the_others_of_a_list() {
        let mut late = pod("late");
        late["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Update", "time": LATE}]);
        let mut odd = pod("odd");
        odd["metadata"]["labels"] = json!({"a": 1});
        let items = [pod("good"), late, odd, Value::Null, pod("last")];
        let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "9"}, "items": items});
        assert!(serde_json::from_value::<ObjectList<Pod>>(list.clone()).is_err());
        let list: ObjectList<Lenient<Pod>> = serde_json::from_value(list).unwrap();
        let uids: Vec<_> = list.items.iter().map(|pod| pod.meta().uid.as_deref()).collect();
        assert_eq!(uids, [Some("good"), Some("late"), Some("odd"), None, Some("last")]);
        let read: Vec<bool> = list.items.into_iter().map(|pod| pod.read().is_some()).collect();
        assert_eq!(read, [true, true, false, false, true]);
    }

    #[test]
    fn an_event_of_a_watch_that_cannot_be_read_has_its_version() {
        let event = json!({"metadata": {"name": "e", "resourceVersion": "8"}, "involvedObject": {}, "lastTimestamp": LATE});
        let event: WatchEvent<Lenient<ApiEvent>> =
            serde_json::from_value(json!({"type": "ADDED", "object": event})).unwrap();
        let WatchEvent::Added(Lenient::Unreadable(odd)) = event else { panic!("{event:?}") };
        assert_eq!(odd.meta.resource_version.as_deref(), Some("8"));
        let mut oddities = Oddities::default();
        assert!(oddities.readable("event", Event::Apply(Lenient::<ApiEvent>::Unreadable(odd))).is_none());
        assert_eq!(oddities.count, 1);
    }
}
