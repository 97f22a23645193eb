//! Where only a part of the tree is mounted, as in a cgroup namespace: paths as this process sees them.
//!
//! The kernel's records have paths that begin at the root of the whole hierarchy, and nothing that such a process can
//! read says where its part is in it. So the first record of a group that is found in the part tells.

use std::{fs, os::unix::fs::MetadataExt};

use observer_core::model::container::CgroupId;

use crate::sources::cgroup::Hierarchy;

#[derive(Default)]
pub struct Part {
    /// Path of the part's root in the whole hierarchy.
    above: Option<String>,
}

impl Part {
    /// Makes a path of the whole hierarchy one of the part; `false`: it is outside, or it is gone and none before it
    /// was found.
    pub fn translate(&mut self, hierarchy: &Hierarchy, cgroup: CgroupId, path: &mut String) -> bool {
        if let Some(above) = &self.above {
            let Some(below) = path.strip_prefix(above.as_str()) else { return false };
            if !below.is_empty() && !below.starts_with('/') {
                return false;
            }
            *path = if below.is_empty() { "/".to_owned() } else { below.to_owned() };
            return true;
        }
        let is_there =
            |below: &str| fs::metadata(hierarchy.directory(below)).is_ok_and(|found| found.ino() == cgroup);
        let Some(at) = path.match_indices('/').map(|(at, _)| at).find(|at| is_there(&path[*at..])) else {
            return false;
        };
        tracing::info!("the part of the cgroup tree that is seen is {} on the host", &path[..at]);
        self.above = Some(path[..at].to_owned());
        path.drain(..at);
        true
    }
}

#[cfg(test)]
mod tests {
    use observer_core::model::event::CgroupVersion;

    use super::*;

    #[test]
    fn the_first_group_that_is_found_says_where_the_part_is() {
        let root = std::env::temp_dir().join(format!("observer-part-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        let id = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        let hierarchy = Hierarchy { version: CgroupVersion::V2, root: root.clone(), id: 0 };
        let mut part = Part::default();
        let mut translated = |cgroup, path: &str| {
            let mut path = path.to_owned();
            part.translate(&hierarchy, cgroup, &mut path).then_some(path)
        };
        assert_eq!(translated(id("a/b"), "/pod/x/y"), None, "outside");
        assert_eq!(translated(id("a"), "/pod/x/a/b"), None, "the same names, another group");
        assert_eq!(translated(id("a/b"), "/pod/x/a/b"), Some("/a/b".into()));
        // From now on without a look: it may be gone.
        assert_eq!(translated(1, "/pod/x/gone"), Some("/gone".into()));
        assert_eq!(translated(1, "/pod/x"), Some("/".into()));
        assert_eq!(translated(1, "/pod/xy/z"), None);
        assert_eq!(translated(1, "/other"), None);
        fs::remove_dir_all(root).unwrap();
    }
}
