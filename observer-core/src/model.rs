//! The vocabulary. Depends on nothing but itself.

pub mod bounded;
pub mod event;
pub mod finding;
pub mod kubernetes;
pub mod printable;
pub mod time;
pub mod units;
