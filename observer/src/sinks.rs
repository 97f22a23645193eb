//! Where findings go: metrics, log lines, what the API shows.

pub mod api_state;
pub mod log;
pub mod metrics;
