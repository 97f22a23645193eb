//! What a container requests for its start, by the terms on its pod.

use serde::{Deserialize, Serialize};

/// Bytes that a container requests for its start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loan {
    /// Now.
    pub requested: u64,
    /// At first.
    pub need: u64,
    pub deadline_seconds: f64,
}
