//! How the last container of each name ended, outside Kubernetes.

use std::collections::HashMap;

use crate::model::{cause::Cause, container::Container, finding::Ended};

/// Names kept; beyond that all are forgotten at once, and restarts look like first starts until they end again.
const NAMES: usize = 4096;

/// How the last of each name ended.
#[derive(Debug, Default)]
pub struct PreviousExits {
    by_name: HashMap<(String, String, String), Cause>,
}

impl PreviousExits {
    pub fn ended(&mut self, ended: &Ended) {
        if self.by_name.len() >= NAMES {
            self.by_name.clear();
        }
        self.by_name.insert(name(&ended.container), Cause::after(ended.status, ended.oom_killed));
    }

    pub fn cause(&self, container: &Container) -> Cause {
        self.by_name.get(&name(container)).copied().unwrap_or(Cause::First)
    }
}

fn name(container: &Container) -> (String, String, String) {
    let labels = &container.labels;
    (labels.namespace.clone(), labels.pod.clone(), labels.container.clone())
}
