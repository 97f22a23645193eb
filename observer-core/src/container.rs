//! What happened to one container: its start-up curve, its verdict, its OOM kills, its end.

pub mod curve;
pub mod lifecycle;
pub mod oom;
pub mod stability;
pub mod startup;
