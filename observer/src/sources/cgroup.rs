//! The cgroup tree as a source: where the memory controller is, what groups there are, what their files say.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use procfs::process::MountInfo;
use rustix::{fs::FsWord, io::Errno};

use observer_core::model::event::CgroupVersion;

pub mod memory;
pub mod mountinfo;
pub mod name;
pub mod tree;
pub mod writable;

/// Kernel: include/uapi/linux/magic.h.
const CGROUP: FsWord = 0x0027_e0eb;
const CGROUP2: FsWord = 0x6367_7270;

/// Where the memory controller's tree is mounted.
#[derive(Clone, Debug, PartialEq)]
pub struct Hierarchy {
    pub version: CgroupVersion,
    pub root: PathBuf,
    /// The kernel's number of the hierarchy; 0 is cgroup v2 (kernel: kernel/cgroup/cgroup.c, cgrp_dfl_root).
    pub id: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum NoHierarchy {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error(
        "no memory controller: {mounts} has neither a cgroup v1 memory mount nor a cgroup2 mount with memory in \
         cgroup.controllers; mount one, or give its place with --cgroup-root"
    )]
    NotMounted { mounts: String },
    #[error(
        "{path} is no cgroup directory with a memory controller ({missing} not found); give the right --cgroup-root"
    )]
    NotThere { path: PathBuf, missing: &'static str },
}

impl Hierarchy {
    /// Looks at this process's mounts; `root` overrides the place, as in a container with the host's tree mounted
    /// elsewhere.
    pub fn find(proc: &Path, root: Option<&Path>) -> Result<Self, NoHierarchy> {
        if let Some(root) = root {
            // On a v1 or hybrid host each controller has a folder of its own.
            let v1 = root.join("memory");
            let is_v1 = v1.join("memory.usage_in_bytes").exists();
            return Self::at(proc, if is_v1 { &v1 } else { root });
        }
        let path = proc.join("self/mountinfo");
        let text =
            fs::read(&path).map_err(|source| NoHierarchy::Unreadable { path: path.clone(), source })?;
        let mounts: Vec<MountInfo> = mountinfo::mounts(&text).collect();
        let of = |kind: fn(&MountInfo) -> bool| {
            let mut roots: Vec<&Path> =
                mounts.iter().filter(|mount| kind(mount)).map(|mount| mount.mount_point.as_path()).collect();
            // Of the whole hierarchy before those of parts of it (bind mounts, other cgroup namespaces): what mountinfo
            // calls their roots depends on who reads it.
            roots.sort_by_key(|root| !is_whole(root));
            roots
        };
        let v1 = of(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key("memory"));
        let v2 = of(|mount| mount.fs_type == "cgroup2");
        // One may be covered by another mount, or be without the controller.
        let found = v1.into_iter().chain(v2).find_map(|root| Self::at(proc, root).ok());
        found.ok_or(NoHierarchy::NotMounted { mounts: path.display().to_string() })
    }

    /// Of a cgroup namespace, or where a part of the tree is mounted, only that part is seen.
    pub fn is_part(&self) -> bool {
        let of_kernel =
            rustix::fs::statfs(&self.root).is_ok_and(|root| [CGROUP, CGROUP2].contains(&root.f_type));
        of_kernel && !is_whole(&self.root)
    }

    fn at(proc: &Path, root: &Path) -> Result<Self, NoHierarchy> {
        let not_there = |missing| NoHierarchy::NotThere { path: root.to_owned(), missing };
        if root.join("memory.usage_in_bytes").exists() {
            let id = v1_hierarchy_id(proc).ok_or(not_there("memory in /proc/cgroups"))?;
            return Ok(Self { version: CgroupVersion::V1, root: root.to_owned(), id });
        }
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))
            .map_err(|_| not_there("cgroup.controllers"))?;
        if !controllers.split_whitespace().any(|controller| controller == "memory") {
            return Err(not_there("memory in cgroup.controllers"));
        }
        Ok(Self { version: CgroupVersion::V2, root: root.to_owned(), id: 0 })
    }

    /// Directory of a cgroup, given its path in the hierarchy.
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(name::unescape(path.trim_start_matches('/')))
    }
}

fn is_whole(root: &Path) -> bool {
    fs::metadata(root).is_ok_and(|root| root.ino() == tree::ROOT)
}

/// A cgroup that was removed: its directory is not there, or its files no longer answer. Any other error says nothing
/// of whether it exists.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}

/// A file that this kernel, or this kind of group, does not have: PSI may be off, a threaded group has no processes.
pub fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error())
}

/// Second column of /proc/cgroups.
fn v1_hierarchy_id(proc: &Path) -> Option<u32> {
    memory_column(proc, 1)?.try_into().ok()
}

/// Cgroups of the memory controller's hierarchy: the third column.
pub fn count(proc: &Path) -> Option<u64> {
    memory_column(proc, 2)
}

/// Of the memory controller's line of /proc/cgroups.
fn memory_column(proc: &Path, column: usize) -> Option<u64> {
    let text = fs::read_to_string(proc.join("cgroups")).ok()?;
    let line = text.lines().find(|line| line.split_whitespace().next() == Some("memory"))?;
    line.split_whitespace().nth(column)?.parse().ok()
}
