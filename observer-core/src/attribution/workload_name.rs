//! What instances of one thing have in common: the name of their workload, outside Kubernetes. Pure.
//!
//! An id inside a name is an instance. One rule for all runtimes, schedulers and build systems: the parts of a name, as
//! separated by `-`, `_`, `.`, `:` and `@`, that are ids are left out, and so are directories that are nothing but ids.
//!
//! | id | example | where |
//! |---|---|---|
//! | 12 or more hex digits, one of them 0 to 9 | container ids (64), ECS tasks (32), short ids (12) | everywhere |
//! | uuid, with `-` or `_` | Nomad allocations, Snap and VTE scopes | everywhere |
//! | 16 or more letters and digits, four of them digits; 20, two; 24, one | BuildKit, ULID, KSUID, XID | everywhere |
//! | a number, also after one letter | pids, sessions (`session-c2.scope`), `run-u12.scope` | scopes |
//! | a number of four digits and more, or one that is all of a name | pids, `/web/3`, `build-31337` | plain groups |
//! | a number after `uid_`, `job_`, `step_`, `task_` | Slurm | plain groups |
//! | the number in `qemu-3-web` | libvirt: `machine-qemu-3-web.scope`, `/machine/qemu-3-web.libvirt-qemu` | machines |
//! | what follows `@` | `web@3.service` | units: systemd.unit(5), instances of a template |
//!
//! A number in the name of a service is part of the name: `redis-6379.service`, `postgresql-15.service`.
//!
//! Known wrong answers: groups numbered with four digits that are different things (`/tenant-1001`) are one workload,
//! groups with short numbers that are instances (`/slot-1`) are several; all containers of a bare runtime are one,
//! because their cgroup says nothing but their id.

/// Instances of one template are one workload: `web@3.service` -> `web@.service`.
pub fn of_unit(name: &str) -> String {
    let name = name.replace("\\x2d", "-");
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((&name, ""));
    if let Some((template, _)) = stem.split_once('@') {
        return format!("{template}@.{suffix}");
    }
    // libvirt: machine-qemu-<number>-<name>.scope; the name may be a number too.
    if let Some((driver, machine)) = stem.strip_prefix("machine-").and_then(|rest| rest.split_once('-'))
        && let Some((_, machine)) = machine.split_once('-').filter(|(number, _)| is_number(number))
    {
        return format!("machine-{driver}-{machine}.{suffix}");
    }
    let transient = suffix == "scope" || stem.starts_with("run-");
    match without_ids(stem, if transient { 1 } else { NEVER }) {
        stem if stem.is_empty() => format!("*.{suffix}"),
        stem => format!("{stem}.{suffix}"),
    }
}

/// A unit whose name is nothing but an id (Proxmox' `/qemu.slice/101.scope`) is called by its slice.
pub fn of_unit_in(place: &str, name: &str) -> String {
    let unit = of_unit(name);
    match place.rsplit('/').next() {
        Some(slice) if unit.starts_with("*.") && slice.ends_with(".slice") => format!("{slice}/{unit}"),
        _ => unit,
    }
}

/// A container of a bare runtime: the unit that runs it (Podman's quadlets), or the runtime, or the group it was put
/// into. `place`: the path of the group it is in.
pub fn of_container(runtime: Option<&str>, place: &str) -> String {
    let runtimes_own = ["docker.service", "containerd.service", "crio.service", "podman.service"];
    let mut above = place;
    while let Some((place, name)) = above.rsplit_once('/') {
        // A user's manager is where a unit lies, not what it is.
        let is_unit = name.ends_with(".service") && !name.starts_with("user@");
        if is_unit && !runtimes_own.contains(&name) {
            let manager = manager(place);
            let unit = of_unit(name);
            return if manager.is_empty() { unit } else { format!("{manager}/{unit}") };
        }
        above = place;
    }
    match runtime {
        Some(runtime) => runtime.split('-').next().unwrap_or(runtime).to_owned(),
        None => of_group(place),
    }
}

/// The systemd manager that a unit belongs to, by where its cgroup is: empty for the host's own. A manager's units are
/// unique by name, and lie in nothing but slices below it (systemd.slice(5)); so whatever is no slice names the
/// manager: `user@1000.service`, `lxc.payload.alpha`, `systemd-nspawn@alpha.service/payload`.
pub fn manager(place: &str) -> String {
    let names = place.split('/').filter(|name| !name.is_empty() && !name.ends_with(".slice"));
    names.collect::<Vec<_>>().join("/")
}

/// `/demo/web/3` -> `/demo/web`, `/slurm/uid_1000/job_42/step_0` -> `/slurm/uid/job/step`.
pub fn of_group(path: &str) -> String {
    let names = path.split('/').filter(|name| !name.is_empty()).map(of_directory);
    let names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    if names.is_empty() { "/*".to_owned() } else { format!("/{}", names.join("/")) }
}

/// `uid_1000`, `job_42`, `step_0` and `task_3` are Slurm's (slurm.conf, proctrack/cgroup).
fn of_directory(name: &str) -> String {
    let slurm = name
        .split_once('_')
        .filter(|(kind, number)| matches!(*kind, "uid" | "job" | "step" | "task") && is_number(number));
    // libvirt without systemd: /machine/qemu-3-web.libvirt-qemu.
    let libvirt = name.rsplit_once(".libvirt-").and_then(|(stem, driver)| {
        let (_, machine) = stem.split_once('-')?;
        let (number, machine) = machine.split_once('-')?;
        is_number(number).then(|| format!("{driver}-{machine}"))
    });
    match slurm {
        Some((kind, _)) => kind.to_owned(),
        None if libvirt.is_some() => libvirt.unwrap_or_default(),
        None if is_numbered(name) => String::new(),
        None => without_ids(name, PID_DIGITS),
    }
}

/// Shorter numbers people write by hand.
const PID_DIGITS: usize = 4;
const NEVER: usize = usize::MAX;
const SEPARATORS: [char; 5] = ['-', '_', '.', ':', '@'];

/// The name without the parts that are ids, and without the separators before them. `digits`: a number this long is
/// one.
fn without_ids(name: &str, digits: usize) -> String {
    let mut kept = String::new();
    let mut rest = name;
    let mut separator = None;
    while !rest.is_empty() {
        let (part, is_id) = match uuid(rest) {
            Some(uuid) => (uuid, true),
            None => {
                let part = rest.split(SEPARATORS).next().unwrap_or(rest);
                (part, is_id(part) || (part.len() >= digits && is_numbered(part)))
            }
        };
        rest = &rest[part.len()..];
        if !is_id {
            kept.extend(separator.filter(|_| !kept.is_empty()));
            kept.push_str(part);
        }
        separator = rest.chars().next();
        rest = &rest[separator.map_or(0, char::len_utf8)..];
    }
    kept
}

/// The uuid that the text begins with.
fn uuid(text: &str) -> Option<&str> {
    let uuid = text.get(..36)?;
    let fits = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-' || byte == b'_',
        _ => byte.is_ascii_hexdigit(),
    };
    let ends = text[36..].chars().next().is_none_or(|next| SEPARATORS.contains(&next));
    (ends && uuid.bytes().enumerate().all(fits)).then_some(uuid)
}

fn is_id(part: &str) -> bool {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let all = |test: fn(&u8) -> bool| part.bytes().all(|byte| test(&byte));
    // The longer, the less likely it is a word that somebody wrote.
    let least = match part.len() {
        ..16 => usize::MAX,
        16..20 => 4,
        20..24 => 2,
        24.. => 1,
    };
    (part.len() >= 12 && digits > 0 && all(u8::is_ascii_hexdigit))
        || (digits >= least && all(u8::is_ascii_alphanumeric))
}

/// A number, or an id after a single letter, as systemd makes them: `u12`, `c2`, `r0123456789abcdef`.
fn is_numbered(part: &str) -> bool {
    let after_letter = part.strip_prefix(|first: char| "rupci".contains(first)).unwrap_or_default();
    is_number(part) || is_number(after_letter) || is_id(after_letter)
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use crate::attribution::cgroup_path::{labels, owner};

    const ID: &str = "3f0c5b2f4a1d9e8c7b6a5f4e3d2c1b0a3f0c5b2f4a1d9e8c7b6a5f4e3d2c1b0a";
    const UUID: &str = "8a7b6c5d-1234-4abc-9def-0123456789ab";

    #[test]
    fn instances_of_one_thing_share_a_workload() {
        let table = [
            ("/demo/web/3".to_owned(), "/demo/web"),
            ("/demo/web".into(), "/demo/web"),
            ("/7".into(), "/*"),
            ("/case-15/app".into(), "/case-15/app"),
            ("/tenant-2/web-1".into(), "/tenant-2/web-1"),
            ("/jobs/build-31337".into(), "/jobs/build"),
            ("/slurm/uid_1000/job_42/step_0".into(), "/slurm/uid/job/step"),
            (format!("/ecs/{UUID}/{}", &ID[..12]), "/ecs"),
            (format!("/ecs/{}/{}-4242424242", &ID[..32], &ID[32..]), "/ecs"),
            (format!("/system.slice/docker-{ID}.scope"), "docker"),
            (format!("/docker/{ID}"), "/docker"),
            (format!("/my-parent/{ID}/init.scope"), "/my-parent"),
            (format!("/machine.slice/libpod-{ID}.scope/container"), "libpod"),
            (format!("/system.slice/web.service/libpod-payload-{ID}"), "web.service"),
            (
                format!("/user.slice/user-7.slice/user@7.service/app.slice/db.service/libpod-payload-{ID}"),
                "user@7.service/db.service",
            ),
            (format!("/user.slice/user-7.slice/user@7.service/user.slice/libpod-{ID}.scope"), "libpod"),
            (format!("/nomad.slice/share.slice/{UUID}.web.scope"), "web.scope"),
            ("/system.slice/web@3.service".into(), "web@.service"),
            ("/system.slice/run-r0123456789abcdef0123456789abcdef.scope".into(), "run.scope"),
            ("/system.slice/run-u12.service".into(), "run.service"),
            ("/system.slice/run-p1234-i5678.scope".into(), "run.scope"),
            ("/user.slice/user-0.slice/session-12.scope".into(), "session.scope"),
            ("/user.slice/user-0.slice/session-c2.scope".into(), "session.scope"),
            ("/system.slice/runner.service".into(), "runner.service"),
            ("/system.slice/redis-6379.service".into(), "redis-6379.service"),
            ("/system.slice/postgresql-15.service".into(), "postgresql-15.service"),
            (
                "/user.slice/user-1.slice/user@1.service/app.slice/app-gnome-firefox-4711.scope".into(),
                "user@1.service/app-gnome-firefox.scope",
            ),
            (
                format!("/user.slice/user-1.slice/user@1.service/app.slice/vte-spawn-{UUID}.scope"),
                "user@1.service/vte-spawn.scope",
            ),
            ("/machine.slice/machine-qemu\\x2d3\\x2dweb\\x2d2.scope".into(), "machine-qemu-web-2.scope"),
            ("/buildkit/k2j4h6g8f1d3s5a7q9w1e3r5t".into(), "/buildkit"),
            ("/buildkit/abcdefghijklmnopqrstuvw1x".into(), "/buildkit"),
            ("/jobs/2NfWqDbBhYtmKsRzXwVcLpGaJeU".into(), "/jobs"),
            (format!("/system.slice:docker:{ID}"), "docker"),
            (format!("/libpod_parent/{}/libpod-{ID}", ID.replace('3', "4")), "libpod"),
            ("/machine/qemu-3-web-2.libvirt-qemu".into(), "/machine/qemu-web-2"),
            ("/machine/lxc-4711-db.libvirt-lxc".into(), "/machine/lxc-db"),
            ("/machine.slice/machine-lxc\\x2d1234\\x2dci.scope".into(), "machine-lxc-ci.scope"),
            ("/qemu.slice/101.scope".into(), "qemu.slice/*.scope"),
            (format!("/user.slice/user-7.slice/{UUID}.scope"), "user-7.slice/*.scope"),
            (
                "/system.slice/slurmstepd.scope/job_42/step_0/user/task_0".into(),
                "/system.slice/slurmstepd.scope/job",
            ),
            (format!("/ecstasks.slice/ecstasks-{}.slice/docker-{ID}.scope", &ID[..32]), "docker"),
            (
                format!(
                    "/user.slice/user-7.slice/user@7.service/app.slice/snap.firefox.firefox-{UUID}.scope"
                ),
                "user@7.service/snap.firefox.firefox.scope",
            ),
            (format!("/actions_job/{ID}"), "/actions_job"),
            (format!("/mesos/{UUID}"), "/mesos"),
            (format!("/system.slice/nerdctl-{ID}.scope"), "nerdctl"),
            ("/facade".into(), "/facade"),
            ("/deadbeefcafe".into(), "/deadbeefcafe"),
        ];
        for (path, expected) in table {
            assert_eq!(labels(&owner(&path).unwrap()).workload, expected, "{path}");
        }
    }

    proptest::proptest! {
        /// Whatever the id: two instances of one thing are one workload, and neither name holds the id.
        #[test]
        fn an_id_is_never_part_of_a_workload(
            a in "[0-9a-f]{63}[0-9]|[0-9a-f]{31}[0-9]|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[1-9][0-9]{3,6}",
            b in "[0-9a-f]{63}[0-9]|[0-9a-f]{31}[0-9]|[1-9][0-9]{3,6}",
            layout in 0..6usize,
        ) {
            let path = |id: &str| match layout {
                0 => format!("/batch/{id}"),
                1 => format!("/batch/job-{id}/task"),
                2 => format!("/batch/job_{id}"),
                3 => format!("/system.slice/worker-{id}.scope"),
                4 => format!("/system.slice/{id}.worker.scope"),
                _ => format!("/system.slice/worker@{id}.service"),
            };
            let workload = |id: &str| labels(&owner(&path(id)).unwrap()).workload;
            // A bare runtime's container is named by its runtime, whatever lies around its id.
            proptest::prop_assume!((a.len() == 64) == (b.len() == 64));
            proptest::prop_assert_eq!(workload(&a), workload(&b));
            proptest::prop_assert!(!workload(&a).contains(&a));
        }

        #[test]
        fn any_path_has_a_workload(path in "(/[a-zA-Z0-9_:@.\\\\-]{0,70}){0,7}|\\PC{0,40}") {
            if let Some(owner) = owner(&path) {
                proptest::prop_assert!(!labels(&owner).workload.is_empty());
            }
        }
    }
}
