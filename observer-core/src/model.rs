//! The vocabulary. Depends on nothing but itself.

pub mod advice;
pub mod bounded;
pub mod cause;
pub mod container;
pub mod event;
pub mod finding;
pub mod kubernetes;
pub mod past_startup;
pub mod printable;
pub mod probe_id;
pub mod time;
pub mod units;
pub mod usage_histogram;
