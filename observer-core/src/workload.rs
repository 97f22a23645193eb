//! What is remembered of a workload: its last start-ups, and how long its memory was at which level.

pub mod history;
pub mod usage_histogram;
