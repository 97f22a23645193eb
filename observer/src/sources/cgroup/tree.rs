//! One walk of the tree: which memory cgroups exist. Ids are inode numbers (kernel 5.5 and later, 64-bit).

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use crate::sources::cgroup::Hierarchy;
use observer_core::model::event::{CgroupId, CgroupVersion};

#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub cgroup: CgroupId,
    /// Path in the hierarchy, beginning with `/`.
    pub path: String,
    /// It has processes of its own, not only below.
    pub populated: bool,
}

/// Parents before children. Groups that vanish meanwhile are left out; on v2, those without the memory controller too:
/// their memory is charged to the nearest ancestor that has it.
pub fn walk(hierarchy: &Hierarchy) -> Vec<Found> {
    let mut found = Vec::new();
    visit(hierarchy, &hierarchy.root, String::from("/"), &mut found);
    found
}

fn visit(hierarchy: &Hierarchy, directory: &Path, path: String, found: &mut Vec<Found>) {
    let Ok(metadata) = fs::metadata(directory) else { return };
    let has_memory = match hierarchy.version {
        CgroupVersion::V1 => true,
        CgroupVersion::V2 => path == "/" || directory.join("memory.current").exists(),
    };
    if has_memory {
        let populated =
            fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|procs| !procs.trim().is_empty());
        found.push(Found { cgroup: metadata.ino(), path: path.clone(), populated });
    }
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.file_name();
            let child = format!("{}/{}", path.trim_end_matches('/'), name.to_string_lossy());
            visit(hierarchy, &entry.path(), child, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A tree of plain directories: the walk needs nothing of the kernel but names and inode numbers.
    fn tree(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("observer-tree-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for (path, procs) in [("", ""), ("a.slice", ""), ("a.slice/b.service", "12\n"), ("c", "")] {
            fs::create_dir_all(root.join(path)).unwrap();
            fs::write(root.join(path).join("cgroup.procs"), procs).unwrap();
        }
        fs::write(root.join("a.slice/memory.current"), "0").unwrap();
        root
    }

    #[test]
    fn a_walk_finds_every_group_parents_first() {
        let root = tree("v1");
        let found = walk(&Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 });
        let mut paths: Vec<(&str, bool)> = found.iter().map(|f| (f.path.as_str(), f.populated)).collect();
        assert_eq!(paths[0], ("/", false));
        paths.sort_unstable();
        assert_eq!(paths, [("/", false), ("/a.slice", false), ("/a.slice/b.service", true), ("/c", false)]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn on_v2_a_group_without_the_controller_is_not_a_memory_cgroup() {
        let root = tree("v2");
        let found = walk(&Hierarchy { version: CgroupVersion::V2, root: root.clone(), id: 0 });
        let paths: Vec<&str> = found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["/", "/a.slice"]);
        fs::remove_dir_all(root).unwrap();
    }
}
