//! What is lent now, to whom, and since when: the metrics of the moment, and /api/v1/loans.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use serde::Serialize;

use crate::{
    lend::{
        entry::Entry,
        held::{Held, HeldContainer, Status},
    },
    sinks::api_state::view::LoanView,
};
use observer_core::loan::Loan;

/// Of the replica that leads; the other has none.
#[derive(Clone, Default)]
pub struct Lent(Arc<Mutex<Arc<Answer>>>);

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Answer {
    /// This replica gives back; else ask the other.
    pub leading: bool,
    pub lent_bytes: u64,
    pub loans: Vec<Borrower>,
}

/// One container.
#[derive(Debug, PartialEq, Serialize)]
pub struct Borrower {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// null: it waits for one.
    pub node: Option<String>,
    pub state: &'static str,
    #[serde(flatten)]
    pub loan: LoanView,
    /// It will be asked to give back; else what is lent is what it uses.
    pub open: bool,
}

impl Lent {
    pub fn show(&self, answer: Answer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answer);
    }

    pub async fn answer(self) -> Json<Arc<Answer>> {
        Json(Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Answer {
    pub fn of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut loans: Vec<Borrower> = entries
            .flat_map(|entry| {
                let view = |one| Borrower::of(&entry.held, one, entry.loans.get(&one.name));
                entry.held.containers.iter().filter_map(view).collect::<Vec<_>>()
            })
            .collect();
        let name = |one: &Borrower| (one.namespace.clone(), one.pod.clone(), one.container.clone());
        loans.sort_by_cached_key(name);
        Self { leading: true, lent_bytes: loans.iter().map(|one| one.loan.lent_bytes).sum(), loans }
    }
}

impl Borrower {
    /// `None`: nothing is lent to it.
    fn of(held: &Held, one: &HeldContainer, loan: Option<&Loan>) -> Option<Self> {
        let open = !loan.is_some_and(Loan::is_over);
        let lent_bytes = one.requested.saturating_sub(one.bounds.steady);
        let (state, since) = match one.status {
            Status::Finished => return None,
            Status::Creating if held.node.is_none() => ("pending", held.created),
            Status::Creating => ("creating", held.created),
            Status::Running { restarts: 1.., since } => ("running", since),
            Status::Running { .. } => ("running", held.created),
            Status::Waiting { .. } => ("waiting", held.created),
        };
        (open || lent_bytes > 0).then(|| Self {
            namespace: held.id.namespace.clone(),
            pod: held.id.name.clone(),
            container: one.name.clone(),
            node: held.node.clone(),
            state,
            loan: LoanView {
                since,
                deadline_seconds: one.bounds.deadline,
                steady_bytes: one.bounds.steady,
                need_bytes: one.bounds.need,
                requested_bytes: one.requested,
                lent_bytes,
            },
            open,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lend::pods::PodId;
    use observer_core::loan::{Bounds, Measured, State};

    const MIB: u64 = 1 << 20;

    fn entry(requested: u64, status: Status) -> Entry {
        let bounds = Bounds { need: 170 * MIB, steady: 64 * MIB, deadline: 120.0, pending: 60.0 };
        let app = HeldContainer {
            name: "app".into(),
            bounds,
            steady: "64Mi".into(),
            requested: requested * MIB,
            actual: None,
            status,
        };
        let held = Held {
            id: PodId {
                uid: "u".into(),
                namespace: "shop".into(),
                name: "web-1".into(),
                version: "1".into(),
            },
            node: Some("node-1".into()),
            created: 100.0,
            containers: vec![app],
        };
        Entry::new(held)
    }

    #[test]
    fn what_is_lent_is_shown_while_it_is() {
        let running = |restarts| Status::Running { restarts, since: 200.0 };
        let of = |entry: &Entry| {
            let answer = Answer::of(std::iter::once(entry));
            let loan = answer
                .loans
                .first()
                .map(|one| (one.state, one.loan.since, one.loan.lent_bytes / MIB, one.open));
            assert_eq!(answer.lent_bytes / MIB, loan.map_or(0, |loan| loan.2));
            loan
        };
        assert_eq!(of(&entry(170, running(0))), Some(("running", 100.0, 106, true)));
        assert_eq!(of(&entry(170, running(1))), Some(("running", 200.0, 106, true)));
        assert_eq!(of(&entry(170, Status::Finished)), None);
        // Its verdict is there: what it uses stays, and nothing is shown of what requests no more than it did.
        for (requested, expected) in [(80, Some(("running", 100.0, 16, false))), (64, None)] {
            let mut entry = entry(requested, running(0));
            let measured = Measured { working_set: 76 * MIB, peak: 160 * MIB, settled: true, earlier: None };
            let state = State::Running { restarts: 0, age: 9.0, measured: Some(measured) };
            let mut loan = Loan::default();
            assert_eq!(loan.decide(&entry.held.containers[0].bounds, requested * MIB, state), None);
            entry.loans.insert("app".into(), loan);
            assert_eq!(of(&entry), expected, "{requested}");
        }
    }
}
