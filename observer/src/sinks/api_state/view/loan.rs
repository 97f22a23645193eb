//! What is lent to a container for its start.

use serde::Serialize;

use observer_core::model::finding::Lent;

/// What it requests beyond its steady request while it starts, in the agent's answers and the lender's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoanView {
    /// Unix time: its pod was created, or its container started again.
    pub since: f64,
    /// Seconds from its start, or from the creation of its pod until then, at which the loan ends at the latest.
    pub deadline_seconds: f64,
    pub steady_bytes: u64,
    pub need_bytes: u64,
    pub requested_bytes: u64,
    /// Requested beyond what the user asked for.
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
