//! Findings -> Prometheus series. The only place that names the prometheus crate.
//!
//! Adding a metric is one declaration and one arm. Nothing here reads a clock or a file, so a replay renders the same
//! bytes as the run it was recorded from.

use prometheus::{Encoder, Registry, TextEncoder};

use observer_core::model::finding::Finding;

mod advice;
mod container;
mod family;
mod history;
mod node;
mod observer;
mod scale;
mod workload;

pub use family::{Declaration, Kind};

/// Every family, for docs/metrics.md and the tests.
pub fn declarations() -> Vec<&'static Declaration> {
    [container::ALL, workload::ALL, history::ALL, advice::ALL, scale::ALL, node::ALL, observer::ALL].concat()
}

pub struct Metrics {
    registry: Registry,
    container: container::Families,
    workload: workload::Families,
    history: history::Families,
    advice: advice::Families,
    scale: scale::Families,
    node: node::Families,
    observer: observer::Families,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        Self {
            container: container::Families::new(&registry),
            workload: workload::Families::new(&registry),
            history: history::Families::new(&registry),
            advice: advice::Families::new(&registry),
            scale: scale::Families::new(&registry),
            node: node::Families::new(&registry),
            observer: observer::Families::new(&registry),
            registry,
        }
    }
}

impl Metrics {
    pub fn apply(&mut self, finding: &Finding) {
        self.container.apply(finding);
        self.workload.apply(finding);
        self.history.apply(finding);
        self.advice.apply(finding);
        self.scale.apply(finding);
        self.node.apply(finding);
        self.observer.apply(finding);
    }

    /// The text exposition format, version 0.0.4.
    pub fn render(&self) -> String {
        render(&self.registry)
    }

    /// A handle for the server: gathers from the same series.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }
}

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn render(registry: &Registry) -> String {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut text) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        // Encoding fails only for a family without series, which gather leaves out.
        Err(error) => format!("# cannot encode: {error}\n"),
    }
}
