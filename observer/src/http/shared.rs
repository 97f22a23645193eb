//! What the server shows: written by the daemon, read by requests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool};

use crate::sinks::{api_state::NodeState, metrics::Metrics};

#[derive(Clone)]
pub struct Shared {
    pub metrics: Metrics,
    pub state: Arc<Mutex<NodeState>>,
    /// The host is not being read: what is shown stands still.
    pub stalled: Arc<AtomicBool>,
}

impl Shared {
    /// A panic while holding the state cannot leave it half changed in a way that matters: it is a view.
    pub fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
