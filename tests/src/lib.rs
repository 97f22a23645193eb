//! What the live tests, the demo and the benchmarks share: memory cgroups of their own, processes in them, and the
//! daemon under test. Everything made here is removed again when dropped.

pub mod daemon;
pub mod group;
pub mod prometheus;
#[cfg(feature = "bench")]
pub mod synthetic;
