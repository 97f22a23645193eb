//! What the lender did, as Events that `kubectl describe` and `kubectl get events` show.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use crate::failure::one_line;

/// Events that wait to be written; beyond it they are dropped: the metrics have the count.
const WAITING: usize = 256;

#[derive(Clone)]
pub struct Events(mpsc::Sender<(ObjectReference, Event)>);

impl Events {
    /// And what writes them, until the end of the process.
    pub fn new(client: Client, identity: &str) -> (Self, impl Future<Output = ()>) {
        let (out, mut came) = mpsc::channel::<(ObjectReference, Event)>(WAITING);
        let reporter =
            Reporter { controller: "memory-observer-lend".into(), instance: Some(identity.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let writing = async move {
            while let Some((about, event)) = came.recv().await {
                if let Err(error) = recorder.publish(&event, &about).await {
                    tracing::debug!("an Event was not written: {}", one_line(&error));
                }
            }
        };
        (Self(out), writing)
    }

    pub fn normal(&self, about: ObjectReference, reason: &'static str, note: String) {
        self.send(about, EventType::Normal, reason, note);
    }

    pub fn warning(&self, about: ObjectReference, reason: &'static str, note: String) {
        self.send(about, EventType::Warning, reason, note);
    }

    fn send(&self, about: ObjectReference, type_: EventType, reason: &'static str, note: String) {
        let event =
            Event { type_, reason: reason.into(), note: Some(note), action: "Lend".into(), secondary: None };
        let _ = self.0.try_send((about, event)); // full: dropped, as said above
    }
}
