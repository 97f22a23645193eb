//! Which container a cgroup belongs to, read off its path alone. Pure.
//!
//! A cgroup path names its owner in one of four ways: a container of a Kubernetes pod, a container of a bare runtime,
//! a systemd unit, or nothing but itself. Everything below the owner *is* the owner: a nested init, a service's
//! delegated group. Layouts: docs/identity of kubelet (`cgroup_manager_linux.go`), systemd.unit(5), crun, CRI-O.

use crate::{attribution::workload_name, model::container::Labels};

/// The owner of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// The part of the path that is the owner's own cgroup.
    pub path: &'a str,
    /// How many levels below the owner the cgroup is.
    pub below: u32,
    pub kind: Kind<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// `…/kubepods…/pod<uid>/<container id>`; a static pod's uid is 32 hex digits (its config hash).
    Pod {
        uid: String,
        container_id: &'a str,
    },
    /// A container outside Kubernetes: `docker-<id>.scope`, `libpod-<id>.scope`, `/docker/<id>`.
    Container {
        /// As the scope's name has it.
        runtime: Option<&'a str>,
        id: &'a str,
    },
    Unit {
        name: &'a str,
    },
    Plain,
}

/// Who a cgroup's memory is reported for. `None`: not a container but a group of them (root, slices, pods, QoS
/// classes), or the runtime's own helpers.
pub fn owner(path: &str) -> Option<Owner<'_>> {
    if path.is_empty() || path == "/" {
        return None;
    }
    let parts: Vec<Part> = parts(path);
    if let Some(at) = parts.iter().position(|part| pod_uid(part.name).is_some())
        && is_kubernetes(&parts[..=at])
    {
        // Where kubelet and runtime disagree on the driver, pod and container share one component:
        // `kubepods-burstable-pod<uid_>.slice:cri-containerd:<id>`.
        let (leaf, name) = match parts[at].name.rsplit_once(':') {
            Some((_, id)) => (at, id),
            None => (at + 1, parts.get(at + 1)?.name),
        };
        let (runtime, container_id) = runtime_leaf(name)?;
        if runtime.is_some_and(is_monitor) {
            return None;
        }
        return Some(own(path, &parts, leaf, Kind::Pod { uid: pod_uid(parts[at].name)?, container_id }));
    }
    if parts.iter().any(|part| part.name.starts_with("kubepods")) {
        return None; // a QoS class, or something of the kubelet's between class and pod
    }
    // Nothing but a container runtime names a group by 64 hex digits, below whatever `--cgroup-parent` it was given.
    for (at, part) in parts.iter().enumerate() {
        let Some((runtime, id)) = runtime_leaf(part.name) else { continue };
        // Podman's pods, with the driver cgroupfs: /libpod_parent/POD/libpod-CONTAINER.
        let holds_containers = at > 0 && parts[at - 1].name == "libpod_parent" && runtime.is_none();
        if runtime.is_some_and(is_monitor) || (holds_containers && at + 1 == parts.len()) {
            return None;
        }
        if holds_containers {
            continue;
        }
        return Some(own(path, &parts, at, Kind::Container { runtime, id }));
    }
    if let Some(at) = parts.iter().rposition(|part| is_unit(part.name)) {
        // Slurm's one scope holds the jobs of all users.
        if parts[at].name.ends_with("slurmstepd.scope")
            && parts.get(at + 1).is_some_and(|part| part.name.starts_with("job_"))
        {
            return Some(own(path, &parts, at + 1, Kind::Plain));
        }
        return Some(own(path, &parts, at, Kind::Unit { name: parts[at].name }));
    }
    if parts.last()?.name.ends_with(".slice") {
        return None;
    }
    Some(own(path, &parts, parts.len() - 1, Kind::Plain))
}

/// The kubelet's group of all pods: `/kubepods`, `/kubepods.slice`, `/kubelet.slice/kubelet-kubepods.slice`.
pub fn holds_all_pods(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    let name = last.strip_suffix(".slice").unwrap_or(last);
    name.rsplit('-').next() == Some("kubepods")
}

struct Part<'a> {
    name: &'a str,
    end: usize,
}

fn parts(path: &str) -> Vec<Part<'_>> {
    let mut end = 0;
    let mut out = Vec::new();
    for name in path.split('/') {
        end += name.len();
        if !name.is_empty() {
            out.push(Part { name, end });
        }
        end += 1;
    }
    out
}

fn own<'a>(path: &'a str, parts: &[Part<'a>], at: usize, kind: Kind<'a>) -> Owner<'a> {
    Owner { path: &path[..parts[at].end], below: (parts.len() - 1 - at) as u32, kind }
}

/// `kubepods` may be folded into a longer slice name (kind, `--cgroup-root`) or be an ancestor directory.
fn is_kubernetes(parts: &[Part]) -> bool {
    parts.iter().any(|part| part.name.split(['-', '.', ':']).any(|word| word == "kubepods"))
}

/// The uid in `pod<uid>`, `kubepods-burstable-pod<uid_>.slice` or `…-pod<uid_>.slice:cri-containerd:<id>`.
fn pod_uid(name: &str) -> Option<String> {
    let name = name.split(':').next()?;
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let at = name.rfind("pod").filter(|&at| at == 0 || name.as_bytes()[at - 1] == b'-')?;
    let uid = &name[at + 3..];
    let dashed = uid.len() == 36
        && uid.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-' || b == b'_',
            _ => b.is_ascii_hexdigit(),
        });
    let hash = uid.len() == 32 && uid.bytes().all(|b| b.is_ascii_hexdigit());
    (dashed || hash).then(|| uid.replace('_', "-"))
}

/// `<runtime>-<64 hex>.scope`, `<runtime>-<64 hex>` or `<64 hex>`; and `<slice>:<runtime>:<64 hex>`, where the runtime
/// was given a path for systemd and does not use it.
fn runtime_leaf(name: &str) -> Option<(Option<&str>, &str)> {
    if let Some((place, id)) = name.rsplit_once(':') {
        let (_, runtime) = place.rsplit_once(':')?;
        return runtime_leaf(id).map(|(_, id)| (Some(runtime), id));
    }
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let at = name.len().checked_sub(64)?;
    let (prefix, id) = name.split_at_checked(at)?;
    if !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match prefix {
        "" => Some((None, id)),
        _ => Some((Some(prefix.strip_suffix('-')?), id)),
    }
}

/// conmon, which holds a container's terminal and is none itself; CRI-O puts it into the pod or into system.slice.
fn is_monitor(runtime: &str) -> bool {
    matches!(runtime, "crio-conmon" | "libpod-conmon")
}

fn is_unit(name: &str) -> bool {
    name.ends_with(".service") || name.ends_with(".scope")
}

/// Labels of an owner, from the path alone. Two owners never share a name; `workload_name.rs` groups them.
pub fn labels(owner: &Owner) -> Labels {
    let of = |container: String, workload: String, workload_type: &str| Labels {
        container,
        workload,
        workload_type: workload_type.to_owned(),
        ..Labels::default()
    };
    let (place, name) = owner.path.rsplit_once('/').unwrap_or_default();
    match &owner.kind {
        Kind::Pod { uid, container_id, .. } => {
            Labels { pod: uid.clone(), ..of(short(container_id).to_owned(), uid.clone(), "pod") }
        }
        Kind::Container { runtime, id } => {
            let workload = workload_name::of_container(*runtime, place);
            of(short(id).to_owned(), workload, "container")
        }
        Kind::Unit { .. } => {
            let manager = workload_name::manager(place);
            let workload = join(&manager, &workload_name::of_unit_in(place, name));
            of(join(&manager, name), workload, "systemd_unit")
        }
        Kind::Plain => of(owner.path.to_owned(), workload_name::of_group(owner.path), "cgroup"),
    }
}

fn join(place: &str, name: &str) -> String {
    if place.is_empty() { name.to_owned() } else { format!("{place}/{name}") }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f0c5b2f4a1d9e8c7b6a5f4e3d2c1b0a3f0c5b2f4a1d9e8c7b6a5f4e3d2c1b0a";
    const UID: &str = "8a7b6c5d-1234-4abc-9def-0123456789ab";

    fn kind_of(path: &str) -> String {
        match owner(path) {
            None => "none".into(),
            Some(owner) => match owner.kind {
                Kind::Pod { uid, container_id } => {
                    assert_eq!(container_id, ID, "{path}");
                    format!("pod {uid} +{}", owner.below)
                }
                Kind::Container { id, .. } => {
                    assert_eq!(id, ID, "{path}");
                    format!("container +{}", owner.below)
                }
                Kind::Unit { name } => format!("unit {name} +{}", owner.below),
                Kind::Plain => format!("plain {} +{}", owner.path, owner.below),
            },
        }
    }

    #[test]
    fn every_layout_names_its_owner() {
        let u = UID.replace('-', "_");
        let hash = "0123456789abcdef0123456789abcdef";
        let table = [
            ("/".into(), "none".into()),
            ("".into(), "none".into()),
            ("/kubepods".into(), "none".into()),
            ("/kubepods.slice/kubepods-burstable.slice".into(), "none".into()),
            (format!("/kubepods/burstable/pod{UID}"), "none".into()),
            (format!("/kubepods/burstable/pod{UID}/{ID}"), format!("pod {UID} +0")),
            (format!("/kubepods/pod{UID}/{ID}"), format!("pod {UID} +0")),
            (format!("/kubepods/besteffort/pod{hash}/{ID}"), format!("pod {hash} +0")),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{u}.slice/cri-containerd-{ID}.scope"
                ),
                format!("pod {UID} +0"),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{u}.slice/crio-{ID}.scope/container"),
                format!("pod {UID} +1"),
            ),
            (format!("/kubepods.slice/kubepods-pod{u}.slice/crio-conmon-{ID}.scope"), "none".into()),
            (
                format!(
                    "/system.slice/docker-{}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{u}.slice/cri-containerd-{ID}.scope/init.scope",
                    ID.replace('3', "4")
                ),
                format!("pod {UID} +1"),
            ),
            (
                format!(
                    "/system.slice/containerd.service/kubepods-burstable-pod{u}.slice:cri-containerd:{ID}"
                ),
                format!("pod {UID} +0"),
            ),
            (format!("/system.slice/docker-{ID}.scope"), "container +0".into()),
            (format!("/docker/{ID}/system.slice/nginx.service"), "container +2".into()),
            ("/system.slice/nginx.service".into(), "unit nginx.service +0".into()),
            ("/system.slice/nginx.service/worker".into(), "unit nginx.service +1".into()),
            ("/user.slice/user-0.slice/user@0.service/app.slice/a.scope".into(), "unit a.scope +0".into()),
            ("/system.slice".into(), "none".into()),
            ("/demo/web/3".into(), "plain /demo/web/3 +0".into()),
            (format!("/system.slice:docker:{ID}"), "container +0".into()),
            (format!("/user.slice:podman:{ID}/init.scope"), "container +1".into()),
            (format!("/libpod_parent/libpod-{ID}"), "container +0".into()),
            (format!("/libpod_parent/{}", ID.replace('3', "4")), "none".into()),
            (format!("/libpod_parent/{}/libpod-{ID}", ID.replace('3', "4")), "container +0".into()),
            (
                format!("/machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope/container"),
                "container +1".into(),
            ),
            (format!("/machine.slice/machine-libpod_pod_{ID}.slice"), "none".into()),
            (format!("/docker/{ID}/docker/{}", ID.replace('3', "4")), "container +2".into()),
            (
                "/system.slice/slurmstepd.scope/job_42/step_0/user/task_0".into(),
                "plain /system.slice/slurmstepd.scope/job_42 +3".into(),
            ),
            ("/system.slice/slurmstepd.scope/system".into(), "unit slurmstepd.scope +1".into()),
            (
                "/machine.slice/machine-qemu\\x2d1\\x2dweb.scope/libvirt/emulator".into(),
                "unit machine-qemu\\x2d1\\x2dweb.scope +2".into(),
            ),
        ];
        for (path, expected) in table {
            assert_eq!(kind_of(&path), expected, "{path}");
        }
    }

    /// As the trees' file writes it.
    fn said(path: &str) -> String {
        let Some(owner) = owner(path) else { return "none".into() };
        match owner.kind {
            Kind::Pod { uid, container_id } => {
                format!("pod/{}/{}", &uid[..8], &container_id[..8])
            }
            Kind::Container { id, .. } => format!("container/{}", &id[..8]),
            Kind::Unit { name } => format!("unit/{name}"),
            Kind::Plain => "plain".into(),
        }
    }

    #[test]
    fn the_group_of_all_pods_is_known() {
        let table = [
            ("/kubepods", true),
            ("/kubelet/kubepods", true),
            ("/kubepods.slice", true),
            ("/kubelet.slice/kubelet-kubepods.slice", true),
            ("/kubepods.slice/kubepods-burstable.slice", false),
            ("/kubepods/burstable", false),
            ("/", false),
        ];
        for (path, expected) in table {
            assert_eq!(holds_all_pods(path), expected, "{path}");
        }
    }

    #[test]
    fn groups_of_real_nodes_are_reported() {
        let lines = include_str!("trees.txt").lines();
        let groups = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let reported: Vec<_> =
            groups.map(|line| line.split_once(' ').expect("what it is, and its path")).collect();
        assert!(!reported.is_empty());
        for (expected, path) in reported {
            assert_eq!(said(path), expected, "{path}");
        }
    }

    #[test]
    fn units_of_one_name_are_named_by_their_manager() {
        let table = [
            ("/system.slice/smbd.service", "smbd.service"),
            ("/system.slice/system-web.slice/web@3.service", "web@3.service"),
            ("/lxc.payload.alpha/system.slice/smbd.service", "lxc.payload.alpha/smbd.service"),
            ("/lxc/beta/system.slice/smbd.service", "lxc/beta/smbd.service"),
            (
                "/machine.slice/systemd-nspawn@alpha.service/payload/system.slice/dbus.service",
                "systemd-nspawn@alpha.service/payload/dbus.service",
            ),
            ("/user.slice/user-7.slice/user@7.service/app.slice/a.service", "user@7.service/a.service"),
            ("/init.scope", "init.scope"),
            ("/user.slice/user-0.slice/user@0.service/init.scope", "user@0.service/init.scope"),
        ];
        for (path, expected) in table {
            assert_eq!(labels(&owner(path).unwrap()).container, expected, "{path}");
        }
    }

    /// What the kubelet and a runtime call the groups of a pod and its container (kubernetes:
    /// pkg/kubelet/cm/cgroup_manager_linux.go; a systemd slice's name holds those of its parents).
    fn layout(
        roots: &[String],
        systemd: bool,
        class: Option<&str>,
        uid: &str,
        runtime: &str,
        id: &str,
    ) -> String {
        let pod = format!("pod{}", if systemd { uid.replace('-', "_") } else { uid.to_owned() });
        let names = roots.iter().map(String::as_str).chain(["kubepods"]).chain(class).chain([pod.as_str()]);
        let names: Vec<&str> = names.collect();
        let groups: Vec<String> = match systemd {
            true => (1..=names.len()).map(|n| names[..n].join("-") + ".slice").collect(),
            false => names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let leaf = if systemd { format!("{runtime}-{id}.scope") } else { id.to_owned() };
        format!("/{}/{leaf}", groups.join("/"))
    }

    proptest::proptest! {
        #[test]
        fn every_pod_is_read_back(
            node in proptest::option::of("/docker/[0-9a-f]{64}|/system[.]slice/docker-[0-9a-f]{64}[.]scope|/machine/[a-z]{1,9}"),
            roots in proptest::collection::vec("kubelet|k8s|nodes|[a-z]{1,12}", 0..3),
            systemd in proptest::bool::ANY,
            class in proptest::option::of("burstable|besteffort"),
            uid in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}",
            runtime in "cri-containerd|crio|docker",
            id in "[0-9a-f]{64}",
            below in proptest::collection::vec("init[.]scope|container|[a-z]{1,9}", 0..3),
        ) {
            let own = format!("{}{}", node.unwrap_or_default(), layout(&roots, systemd, class.as_deref(), &uid, &runtime, &id));
            let path = below.iter().fold(own.clone(), |path, name| format!("{path}/{name}"));
            let owner = owner(&path).unwrap();
            proptest::prop_assert_eq!(owner.path, own.as_str());
            proptest::prop_assert_eq!(owner.below as usize, below.len());
            proptest::prop_assert_eq!(owner.kind, Kind::Pod { uid, container_id: &id });
            let (of_pod, _) = own.rsplit_once('/').unwrap();
            proptest::prop_assert!(super::owner(of_pod).is_none());
        }

        /// However groups are named: what is not one container is not one series.
        #[test]
        fn two_owners_never_share_a_name(
            paths in proptest::collection::vec(
                "(/(system|user|user-[0-9]|app)[.]slice|/user@[0-9][.]service|/lxc[.]payload[.][ab]|/[ab]){0,4}/([ab]|init)[.](service|scope)|(/[ab0-9]{1,3}){1,4}",
                2,
            ),
        ) {
            if let (Some(a), Some(b)) = (owner(&paths[0]), owner(&paths[1])) && a.path != b.path {
                // A unit's slice may change, its manager and name do not: such a pair cannot be there at the same time.
                let manager = |path: &str| path.split('/').filter(|name| !name.ends_with(".slice")).collect::<String>();
                proptest::prop_assume!(manager(a.path) != manager(b.path));
                proptest::prop_assert_ne!(labels(&a).container, labels(&b).container);
            }
        }

        #[test]
        fn an_owner_is_a_prefix_of_its_path(path in "(/[a-z0-9_:@.-]{0,70}){0,7}") {
            if let Some(owner) = owner(&path) {
                proptest::prop_assert!(path.starts_with(owner.path));
                let rest = path[owner.path.len()..].split('/').filter(|part| !part.is_empty()).count();
                proptest::prop_assert_eq!(rest as u32, owner.below);
            }
        }
    }
}
