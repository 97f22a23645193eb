//! What is lent to a container for its start.

use serde::Serialize;

use observer_core::model::finding::Lent;

/// What it requests beyond its steady request while it starts: the lender's own view has the same names.
#[derive(Clone, Debug, Serialize)]
pub struct LoanView {
    /// Unix time: its pod was created, or its container started again.
    pub since: f64,
    pub deadline_seconds: f64,
    pub steady_bytes: u64,
    pub need_bytes: u64,
    pub requested_bytes: u64,
    pub lent_bytes: u64,
}

impl From<&Lent> for LoanView {
    fn from(lent: &Lent) -> Self {
        Self {
            since: lent.since,
            deadline_seconds: lent.loan.deadline_seconds,
            steady_bytes: lent.steady,
            need_bytes: lent.loan.need,
            requested_bytes: lent.loan.requested,
            lent_bytes: lent.loan.requested.saturating_sub(lent.steady),
        }
    }
}
