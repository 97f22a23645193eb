//! The limit of the observer's own memory: of its cgroup and of those above it, as far as it sees them.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use procfs::process::MountInfo;

use crate::sources::cgroup::{memory, mountinfo};
use observer_core::model::event::{CgroupVersion, Limit, Room};

/// Of groups that could limit it, the own one first. Empty where its group is not to be found, as without a mount of
/// its tree.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OwnLimit {
    groups: Vec<(PathBuf, CgroupVersion)>,
}

impl OwnLimit {
    pub fn find() -> Self {
        let read = |name| fs::read(format!("/proc/self/{name}")).unwrap_or_default();
        let own = |group: &PathBuf| lists(group, std::process::id());
        Self::of(&read("cgroup"), &read("mountinfo"), own)
    }

    /// From the contents of /proc/self/cgroup and /proc/self/mountinfo. A mount may be of another namespace, so that
    /// its paths mean other groups than they name: `is_own` asks the group itself.
    fn of(cgroup: &[u8], mountinfo: &[u8], is_own: impl Fn(&PathBuf) -> bool) -> Self {
        let mounts: Vec<MountInfo> = mountinfo::mounts(mountinfo).collect();
        // The tree that has the memory controller: v1's own, else the one of v2.
        for (version, path) in memberships(cgroup) {
            for mount in &mounts {
                let of_memory = match version {
                    CgroupVersion::V1 => {
                        mount.fs_type == "cgroup" && mount.super_options.contains_key("memory")
                    }
                    CgroupVersion::V2 => mount.fs_type == "cgroup2",
                };
                let Some(below) = path.strip_prefix(&mount.root).ok().filter(|_| of_memory) else {
                    continue;
                };
                // Without the slash that an empty part would leave at its end.
                let group: PathBuf = mount.mount_point.join(below).components().collect();
                if is_own(&group) {
                    let above = group.ancestors().take_while(|group| group.starts_with(&mount.mount_point));
                    return Self { groups: above.map(|group| (group.to_owned(), version)).collect() };
                }
            }
        }
        Self::default()
    }

    /// Of those with a limit, the one with the least room.
    pub fn room(&self) -> Option<Room> {
        let rooms = self.groups.iter().filter_map(|(group, version)| {
            let reading = memory::reading(group, *version).ok()?; // one that has no limit may have no files
            let Some(Limit::Bytes(limit)) = reading.levels.limit else { return None };
            Some(Room { limit, taken: reading.levels.unreclaimable() })
        });
        rooms.min_by_key(|room| room.limit.saturating_sub(room.taken))
    }
}

/// Lines of /proc/self/cgroup: `4:memory:/path`, `0::/path`. The memory controller is in one of the two trees. Names of
/// groups are any bytes: one that is not UTF-8, in whatever tree, hides nothing.
fn memberships(cgroup: &[u8]) -> impl Iterator<Item = (CgroupVersion, &Path)> {
    let of = |v1: bool| {
        cgroup.split(|byte| *byte == b'\n').find_map(move |line| {
            let mut parts = line.splitn(3, |byte| *byte == b':');
            let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let found = match v1 {
                true => controllers.split(|byte| *byte == b',').any(|controller| controller == b"memory"),
                false => id == b"0",
            };
            found.then_some(Path::new(OsStr::from_bytes(path)))
        })
    };
    let v1 = of(true).map(|path| (CgroupVersion::V1, path));
    v1.into_iter().chain(of(false).map(|path| (CgroupVersion::V2, path)))
}

fn lists(group: &Path, pid: u32) -> bool {
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    processes.lines().any(|line| line.parse() == Ok(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "0::/kubepods/burstable/pod1/app\n";
    const NAMESPACED: &str = "0::/\n";
    const HYBRID: &str = "5:cpu,cpuacct:/other\n4:memory:/docker/abc\n0::/system.slice\n";

    fn mount(number: u32, root: &str, at: &str, kind: &str, options: &str) -> String {
        format!("{number} 1 0:{number} {root} {at} ro,relatime - {kind} {kind} rw{options}\n")
    }

    fn groups(cgroup: &str, mounts: &[String], own: &str) -> Vec<String> {
        let found =
            OwnLimit::of(cgroup.as_bytes(), mounts.concat().as_bytes(), |group| group == Path::new(own));
        found.groups.iter().map(|(group, _)| group.display().to_string()).collect()
    }

    #[test]
    fn the_own_group_is_found_whatever_is_mounted() {
        let whole = mount(2, "/", "/sys/fs/cgroup", "cgroup2", "");
        assert_eq!(
            groups(V2, std::slice::from_ref(&whole), "/sys/fs/cgroup/kubepods/burstable/pod1/app"),
            [
                "/sys/fs/cgroup/kubepods/burstable/pod1/app",
                "/sys/fs/cgroup/kubepods/burstable/pod1",
                "/sys/fs/cgroup/kubepods/burstable",
                "/sys/fs/cgroup/kubepods",
                "/sys/fs/cgroup"
            ]
        );
        // A namespace of its own, the host's tree mounted beside it.
        let host = mount(3, "/../../..", "/host/cgroup", "cgroup2", "");
        assert_eq!(groups(NAMESPACED, &[host, whole], "/sys/fs/cgroup"), ["/sys/fs/cgroup"]);
        // v1: the container's group alone is mounted, under the host's name.
        let own = mount(4, "/docker/abc", "/sys/fs/cgroup/memory", "cgroup", ",memory");
        let cpu = mount(5, "/other", "/sys/fs/cgroup/cpu", "cgroup", ",cpu,cpuacct");
        assert_eq!(groups(HYBRID, &[cpu, own], "/sys/fs/cgroup/memory"), ["/sys/fs/cgroup/memory"]);
    }

    #[test]
    fn another_group_of_the_same_path_is_not_taken_for_it() {
        let host = mount(2, "/", "/host/cgroup", "cgroup2", "");
        assert!(groups(NAMESPACED, &[host], "/sys/fs/cgroup").is_empty());
        assert!(groups("", &[], "/").is_empty() && groups("nonsense\n::\n", &[], "/").is_empty());
    }

    #[test]
    fn a_group_whose_name_is_not_text_hides_no_limit() {
        let mount = mount(4, "/", "/sys/fs/cgroup/memory", "cgroup", ",memory");
        for (cgroup, own) in [
            (&b"6:freezer:/\xe9\n4:memory:/jobs\n0::/\xe9\n"[..], &b"/sys/fs/cgroup/memory/jobs"[..]),
            (b"4:memory:/jobs/\xe9:1\n", b"/sys/fs/cgroup/memory/jobs/\xe9:1"),
        ] {
            let own = Path::new(OsStr::from_bytes(own));
            let found = OwnLimit::of(cgroup, mount.as_bytes(), |group| group == own);
            assert_eq!(found.groups.first().map(|(group, _)| group.as_path()), Some(own));
        }
    }
}
