//! What the leading replica remembers of one pod. All of it may be lost: pod and agent say it again.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::lend::{
    held::{Held, HeldContainer},
    resize::RETRY,
};
use observer_core::loan::{Ask, Loan, course::Course};

pub struct Entry {
    pub held: Held,
    /// In the last list, if one is under way.
    pub listed: bool,
    pub loans: HashMap<String, Loan>,
    /// By container: the agent's id of its run, and how that went.
    pub courses: HashMap<String, (String, Course)>,
    /// Nothing is asked for before.
    pub next: Option<Instant>,
    pub pause: Duration,
    /// A resize that is not in force yet: since when, and whether it was reported.
    pub asked: Option<(Instant, bool)>,
}

impl Entry {
    pub fn new(held: Held) -> Self {
        Self {
            held,
            listed: true,
            loans: HashMap::new(),
            courses: HashMap::new(),
            next: None,
            pause: RETRY[0],
            asked: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.held.containers.iter().any(|one| !self.loans.get(&one.name).is_some_and(Loan::is_over))
    }

    /// What was decided and not carried out is decided again.
    pub fn forget(&mut self, asked: &[(HeldContainer, Ask)]) {
        for (one, ask) in asked {
            if let Some(loan) = self.loans.get_mut(&one.name) {
                loan.not_done(ask.why);
            }
        }
    }
}

/// Namespace, pod and container: as agents name it.
pub fn key(held: &Held, one: &HeldContainer) -> (String, String, String) {
    (held.id.namespace.clone(), held.id.name.clone(), one.name.clone())
}
