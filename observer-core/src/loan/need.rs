//! What a start-up is lent, by those that were seen. Pure.

use crate::loan::{MIB, RESERVE};

/// A loan of less is not worth two writes of the pod.
pub const LEAST: u64 = 8 * MIB;
/// As many as `observer advise` wants before it says anything.
const STARTUPS: u64 = 3;

/// What to request, by the highest need of so many start-ups that came through. `None`: too few.
pub fn of(startups: u64, worst: u64) -> Option<u64> {
    (startups >= STARTUPS).then_some((worst as f64 * RESERVE) as u64)
}
