//! One walk of the tree: which memory cgroups exist. Ids are inode numbers (kernel 5.5 and later, 64-bit).
//!
//! What could not be read is not taken for empty: the walk names it, and nothing is known of what is below.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{DirEntryExt, MetadataExt},
        },
    },
    path::Path,
};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat};

use crate::sources::cgroup::{Hierarchy, is_absent, is_gone, name};
use observer_core::model::{container::CgroupId, event::CgroupVersion};

/// Id of the root of a whole hierarchy: the first inode of its file system (kernel: fs/kernfs/dir.c,
/// kernfs_create_root).
pub const ROOT: CgroupId = 1;
/// Directories searched for one cgroup with an unknown path; otherwise the walk finds it.
const SEARCHED: u32 = 4096;
/// Of a group's directory, so that its files have paths too (kernel: PATH_MAX, 4096 with the NUL). Bytes.
const LONGEST_PATH: usize = 4096 - 64;

#[derive(Debug, Default)]
pub struct Walk {
    /// Parents before children.
    pub found: Vec<Found>,
    pub unread: Vec<Unread>,
    /// Groups that no path can name: who may make groups may nest them so deeply. They are there, and not measured.
    pub deep: Vec<CgroupId>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub cgroup: CgroupId,
    /// Path in the hierarchy, beginning with `/`.
    pub path: String,
    /// It has processes of its own, not only below.
    pub populated: bool,
}

/// A directory that is there and could not be read.
#[derive(Debug)]
pub struct Unread {
    pub path: String,
    pub error: io::Error,
}

impl Walk {
    /// Whether a group of this path would have been found if it were there.
    pub fn covers(&self, path: &str) -> bool {
        !self.unread.iter().any(|unread| is_within(path, &unread.path))
    }
}

fn is_within(path: &str, directory: &str) -> bool {
    directory == "/"
        || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Groups that vanish meanwhile are left out; on v2, those without the memory controller too: their memory is charged
/// to the nearest ancestor that has it.
pub fn walk(hierarchy: &Hierarchy) -> Walk {
    let mut walk = Walk::default();
    let mut unvisited = vec![String::from("/")];
    while let Some(path) = unvisited.pop() {
        let done = visit(hierarchy, &path, &mut unvisited, &mut walk);
        match done {
            Ok(()) => {}
            // Removed since its parent was read. The root is not removed.
            Err(error) if is_gone(&error) && path != "/" => {}
            Err(error) => walk.unread.push(Unread { path, error }),
        }
    }
    walk
}

fn visit(hierarchy: &Hierarchy, path: &str, unvisited: &mut Vec<String>, walk: &mut Walk) -> io::Result<()> {
    let directory = hierarchy.directory(path);
    if is_deep(&directory) {
        return deep(&directory, &mut walk.deep);
    }
    walk.found.extend(group(hierarchy, &directory, path)?);
    for (file, _) in children(&directory)? {
        unvisited.push(format!("{}/{}", path.trim_end_matches('/'), name::escape(file.as_bytes())));
    }
    Ok(())
}

fn is_deep(directory: &Path) -> bool {
    directory.as_os_str().len() > LONGEST_PATH
}

/// The first directory of a branch that no path can name, and all below it. Each is opened from the one before, and
/// `..` leads back: however deep it is, one descriptor at a time.
fn deep(directory: &Path, groups: &mut Vec<CgroupId>) -> io::Result<()> {
    let open = |from: &dyn AsFd, name: &OsStr| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(from.as_fd(), name, flags, Mode::empty())
    };
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { return Ok(()) };
    let mut at: OwnedFd = open(&CWD, parent.as_os_str())?;
    let mut unvisited = vec![vec![name.to_owned()]];
    while let Some(names) = unvisited.last_mut() {
        let Some(name) = names.pop() else {
            unvisited.pop();
            if !unvisited.is_empty() {
                at = open(&at, OsStr::new(".."))?;
            }
            continue;
        };
        match open(&at, &name).map_err(io::Error::from) {
            Ok(child) => {
                groups.push(fstat(&child)?.st_ino);
                unvisited.push(folders(&child)?);
                at = child;
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn folders(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory && ![&b"."[..], b".."].contains(&name) {
            folders.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(folders)
}

/// `None`: it is no memory cgroup.
fn group(hierarchy: &Hierarchy, directory: &Path, path: &str) -> io::Result<Option<Found>> {
    let cgroup = fs::metadata(directory)?.ino();
    let has_memory = match hierarchy.version {
        CgroupVersion::V1 => true,
        CgroupVersion::V2 => path == "/" || directory.join("memory.current").try_exists()?,
    };
    if !has_memory {
        return Ok(None);
    }
    let populated = match fs::read(directory.join("cgroup.procs")) {
        Ok(processes) => !processes.trim_ascii().is_empty(),
        // A threaded group (v2) has threads, and its processes are its domain's.
        Err(error) if is_absent(&error) => false,
        Err(error) => return Err(error),
    };
    Ok(Some(Found { cgroup, path: path.to_owned(), populated }))
}

/// Names and ids. An entry itself would hold its directory open.
fn children(directory: &Path) -> io::Result<Vec<(OsString, CgroupId)>> {
    let mut children = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push((entry.file_name(), entry.ino()));
        }
    }
    Ok(children)
}

/// The path of a cgroup somewhere below a directory. `None`: it is not there (any more).
pub fn find(hierarchy: &Hierarchy, below: &str, cgroup: CgroupId) -> io::Result<Option<String>> {
    let mut unvisited = vec![below.trim_end_matches('/').to_owned()];
    for _ in 0..SEARCHED {
        let Some(path) = unvisited.pop() else { return Ok(None) };
        let children = match children(&hierarchy.directory(&path)) {
            Err(error) if is_gone(&error) => continue,
            children => children?,
        };
        for (file, id) in children {
            let path = format!("{path}/{}", name::escape(file.as_bytes()));
            if is_deep(&hierarchy.directory(&path)) {
                continue; // the walk names it
            }
            if id == cgroup {
                return Ok(Some(path));
            }
            unvisited.push(path);
        }
    }
    Err(io::Error::other("too many directories to look into"))
}

/// Nested directories of long names; the last is deeper than a path can name. Their ids, the uppermost first.
#[cfg(test)]
pub fn nest(root: &Path, directories: usize) -> Vec<CgroupId> {
    use rustix::fs::mkdirat;
    let name = "d".repeat(242);
    fs::create_dir_all(root).unwrap();
    let open = |from: &dyn AsFd, name: &OsStr| {
        openat(from.as_fd(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let mut at = open(&CWD, root.as_os_str());
    let mut made = || {
        mkdirat(&at, &*name, Mode::RWXU).unwrap();
        at = open(&at, OsStr::new(&name));
        fstat(&at).unwrap().st_ino
    };
    (0..directories).map(|_| made()).collect()
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
        let found = walk(&Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 }).found;
        let mut paths: Vec<(&str, bool)> = found.iter().map(|f| (f.path.as_str(), f.populated)).collect();
        assert_eq!(paths[0], ("/", false));
        paths.sort_unstable();
        assert_eq!(paths, [("/", false), ("/a.slice", false), ("/a.slice/b.service", true), ("/c", false)]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn on_v2_a_group_without_the_controller_is_not_a_memory_cgroup() {
        let root = tree("v2");
        let found = walk(&Hierarchy { version: CgroupVersion::V2, root: root.clone(), id: 0 }).found;
        let paths: Vec<&str> = found.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["/", "/a.slice"]);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn names_that_are_not_text_are_found_and_distinguished() {
        let root = tree("bytes");
        let hierarchy = Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 };
        for name in [&b"latin-\xe8"[..], b"latin-\xe9"] {
            fs::create_dir(root.join(OsStr::from_bytes(name))).unwrap();
        }
        let found = walk(&hierarchy).found;
        let latin: Vec<&Found> = found.iter().filter(|found| found.path.starts_with("/latin")).collect();
        assert_eq!(latin.len(), 2);
        assert_ne!(latin[0].path, latin[1].path);
        for found in latin {
            let directory = hierarchy.directory(&found.path);
            assert_eq!(fs::metadata(directory).unwrap().ino(), found.cgroup);
            assert_eq!(find(&hierarchy, "/", found.cgroup).unwrap().as_ref(), Some(&found.path));
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_group_is_found_by_its_id() {
        let root = tree("id");
        let hierarchy = Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 };
        let cgroup = fs::metadata(root.join("a.slice/b.service")).unwrap().ino();
        for below in ["/", "", "/a.slice/"] {
            assert_eq!(
                find(&hierarchy, below, cgroup).unwrap().as_deref(),
                Some("/a.slice/b.service"),
                "{below:?}"
            );
        }
        assert_eq!(find(&hierarchy, "/c/", cgroup).unwrap(), None);
        assert_eq!(find(&hierarchy, "/never/", cgroup).unwrap(), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn groups_deeper_than_a_path_are_known_by_their_ids() {
        let root = tree("deep");
        let hierarchy = Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 };
        let mut nested = nest(&root.join("c"), 40);
        let mut walk = walk(&hierarchy);
        assert!(walk.unread.is_empty(), "{:?}", walk.unread);
        let above = nested.len() - walk.deep.len();
        assert!((10..17).contains(&above), "{above} have paths");
        let mut deep = nested.split_off(above);
        for cgroup in [&mut deep, &mut walk.deep] {
            cgroup.sort_unstable();
        }
        assert_eq!(deep, walk.deep);
        assert!(nested.iter().all(|cgroup| walk.found.iter().any(|found| found.cgroup == *cgroup)));
        assert_eq!(find(&hierarchy, "/", deep[0]).unwrap(), None);
        assert!(find(&hierarchy, "/", nested[above - 1]).unwrap().is_some());
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn what_cannot_be_read_is_not_empty() {
        let root = tree("unread");
        // A directory in place of `cgroup.procs`: reading it fails.
        fs::remove_file(root.join("a.slice/cgroup.procs")).unwrap();
        fs::create_dir(root.join("a.slice/cgroup.procs")).unwrap();
        let walk = walk(&Hierarchy { version: CgroupVersion::V1, root: root.clone(), id: 4 });
        let mut paths: Vec<&str> = walk.found.iter().map(|found| found.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/", "/c"]);
        assert_eq!(walk.unread.len(), 1);
        for (path, covered) in
            [("/a.slice", false), ("/a.slice/b.service", false), ("/a.slicer", true), ("/c", true)]
        {
            assert_eq!(walk.covers(path), covered, "{path}");
        }
        fs::remove_dir_all(&root).unwrap();
        let walk = super::walk(&Hierarchy { version: CgroupVersion::V1, root, id: 4 });
        assert!(
            walk.found.is_empty() && !walk.covers("/c"),
            "a root that is not there says nothing of the groups"
        );
    }
}
