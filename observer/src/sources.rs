//! Where events come from: the kernel, cgroup files, /proc, the Kubernetes API, the ledger.

pub mod cgroup;
pub mod kernel;
pub mod kubernetes;
pub mod node;
pub mod own_limit;
pub mod sampler;
pub mod sweep;
pub mod unread;
