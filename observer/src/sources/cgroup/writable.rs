//! Whether the host's cgroup tree, mounted into a container for reading, can be written all the same.
//!
//! A read-only bind mount is read-only at its top. On cgroup v1 every controller below it is a mount of its own, and
//! stays writable unless the runtime makes the whole read-only (Kubernetes: recursiveReadOnly).

use std::path::{Path, PathBuf};

use crate::sources::cgroup::mountinfo;

/// Cgroup mounts at and below `root` that are not read-only, from the text of /proc/self/mountinfo.
pub fn mounts(mountinfo: &[u8], root: &Path) -> Vec<PathBuf> {
    let writable = mountinfo::mounts(mountinfo).filter(|mount| {
        mount.fs_type.starts_with("cgroup")
            && mount.mount_point.starts_with(root)
            && !mount.mount_options.contains_key("ro")
    });
    writable.map(|mount| mount.mount_point).collect()
}

/// For a tree that was mounted at a place of its own, as a container has it.
pub fn warn(proc: &Path, root: &Path) {
    let Ok(text) = std::fs::read(proc.join("self/mountinfo")) else { return }; // reported by the search for the tree
    let writable = mounts(&text, root);
    if !writable.is_empty() {
        let shown: Vec<String> = writable.iter().map(|path| path.display().to_string()).collect();
        tracing::warn!(
            "{} can be written, though nothing here ever does: mount what is read and read-only (deploy/cgroup-v1), or use a \
             kubelet and a runtime that know recursiveReadOnly (Kubernetes 1.31, containerd 2.0)",
            shown.join(", ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a container's mountinfo has of the host's tree, by the runtime's options.
    fn of(options: [&str; 3]) -> Vec<String> {
        let [top, memory, unified] = options;
        let text = format!(
            "1 0 0:30 / / rw,relatime - overlay overlay rw\n\
             2 1 0:31 / /host/cgroup {top},relatime - tmpfs tmpfs rw,mode=755\n\
             3 2 0:32 / /host/cgroup/memory {memory},relatime - cgroup cgroup rw,memory\n\
             4 2 0:33 / /host/cgroup/unified {unified},relatime - cgroup2 cgroup2 rw\n\
             5 1 0:34 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup rw\n"
        );
        let found = mounts(text.as_bytes(), Path::new("/host/cgroup"));
        found.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_controller_below_a_read_only_top_is_reported() {
        assert_eq!(of(["ro", "rw", "ro"]), ["/host/cgroup/memory"]);
        assert_eq!(of(["ro", "rw", "rw"]), ["/host/cgroup/memory", "/host/cgroup/unified"]);
        assert!(of(["ro", "ro", "ro"]).is_empty());
    }
}
