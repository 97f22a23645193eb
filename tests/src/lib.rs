//! What the live tests, the cluster's tests, the demo, the tasks and the benchmarks share: memory cgroups of their own,
//! processes in them, the daemon under test, a Kubernetes to deploy it to. What a test made is removed when dropped.

pub mod cluster;
pub mod daemon;
pub mod group;
pub mod interrupted;
pub mod mock_api;
pub mod oci;
pub mod pod;
pub mod prometheus;
pub mod shell;
pub mod staged;
#[cfg(feature = "bench")]
pub mod synthetic;
pub mod tmux;
