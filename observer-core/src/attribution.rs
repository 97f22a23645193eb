//! Whose is it? A cgroup path and a cgroup id lead to a container; the Kubernetes API adds the names.

pub mod cgroup_index;
pub mod cgroup_path;
pub mod pod_index;
