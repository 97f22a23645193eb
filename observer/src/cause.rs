//! Why a container started, as far as the node alone can tell: after what it started. Pure.
//!
//! A container that starts under a name that ended before is a restart, by how it ended; any other is the first of its
//! name. What made a first one (a scale-up, a rollout, a deployment) only the cluster knows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    event::ExitStatus,
    finding::{Container, Ended},
};

/// Names kept; beyond that all are forgotten at once, and restarts look like first starts until they end again.
const NAMES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Nobody of this name ended while the observer watched.
    First,
    RestartAfterOomKill,
    /// A signal, or an exit code other than zero.
    RestartAfterFailure,
    RestartAfterCompletion,
    /// It is a restart, and how the one before ended was not seen.
    RestartUnknown,
}

impl Cause {
    pub const ALL: [Cause; 5] = [
        Cause::First,
        Cause::RestartAfterOomKill,
        Cause::RestartAfterFailure,
        Cause::RestartAfterCompletion,
        Cause::RestartUnknown,
    ];

    /// Of the start that follows such an end.
    pub fn after(status: Option<ExitStatus>, oom_killed: bool) -> Self {
        match status {
            _ if oom_killed => Cause::RestartAfterOomKill,
            Some(ExitStatus::Code(0)) => Cause::RestartAfterCompletion,
            Some(_) => Cause::RestartAfterFailure,
            None => Cause::RestartUnknown,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Cause::First => "first",
            Cause::RestartAfterOomKill => "restart_after_oom_kill",
            Cause::RestartAfterFailure => "restart_after_failure",
            Cause::RestartAfterCompletion => "restart_after_completion",
            Cause::RestartUnknown => "restart_unknown",
        }
    }
}

/// How the last of each name ended.
#[derive(Debug, Default)]
pub struct Ends {
    by_name: HashMap<(String, String, String), Cause>,
}

impl Ends {
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
