//! The tree of cgroups where nobody expects it: mounted elsewhere, and seen from a cgroup namespace.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use observer_tests::{daemon::Daemon, group::Group};

use super::kernel::{SOON, group, own, run};
use crate::{Case, Needs::Probes, Stage};

pub const CASES: &[Case] = &[
    Case {
        name: "a_hierarchy_mounted_elsewhere_is_found_beside_a_part_of_it",
        needs: Probes,
        run: elsewhere,
    },
    Case { name: "in_a_cgroup_namespace_what_is_in_it_is_measured", needs: Probes, run: namespace },
];

/// Starts the daemon in namespaces of its own, after a script that has `$whole` and `$part`, two directories, `$root`,
/// where the tree is mounted, and `$kind`, the arguments that mount it.
fn start(stage: &Stage, name: &str, options: &str, before: &str, script: &str) -> Result<Daemon> {
    let base = stage.directory.join(name);
    let (whole, part, inner, outer) =
        (base.join("whole"), base.join("part"), base.join("inner.sh"), base.join("outer.sh"));
    for directory in [&whole, &part] {
        fs::create_dir_all(directory)?;
    }
    let v1 = stage.tree()?.is_v1();
    let kind = if v1 { "-t cgroup -o memory" } else { "-t cgroup2" };
    let root = root(stage)?;
    let write = |path: &Path, text: String| -> Result<()> {
        fs::write(path, format!("#!/bin/sh\nset -e\n{text}\n"))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    };
    let (root, whole, part) = (root.display(), whole.display(), part.display());
    let observer = stage.observer.display();
    write(
        &inner,
        format!(
            "root={root} whole={whole} part={part} kind='{kind}'\nmount --make-rprivate /\n{script}\nexec {observer} \"$@\""
        ),
    )?;
    let workload = stage.workload.display();
    let inner = inner.display();
    write(&outer, format!("{before}\nexec {workload} apart {options} -- /bin/sh {inner} \"$@\""))?;
    let mut daemon = Daemon::start(&outer, &stage.directory, &[])?;
    daemon.ready(Duration::from_secs(10))?;
    Ok(daemon)
}

/// Where the memory controller's tree is mounted.
fn root(stage: &Stage) -> Result<PathBuf> {
    let group = stage.tree()?.group(&format!("observer-test-x{}", std::process::id()))?;
    Ok(group.directory().parent().context("no parent")?.to_owned())
}

fn is_measured(daemon: &Daemon, stage: &Stage, group: &Group, own: &str) -> Result<()> {
    let mut child = run(stage, group, "spike --peak 40 --steady 30 --ramp 0.2 --seconds 60")?;
    let measured = daemon
        .wait_metric("observer_container_memory_peak_bytes", &[own], SOON, |v| v > 40e6)
        .and_then(|_| daemon.wait_metric("observer_container_memory_usage_bytes", &[own], SOON, |v| v > 30e6))
        .and_then(|_| {
            daemon.wait_metric("observer_container_state", &[own, "state=\"starting\""], SOON, |v| v == 1.0)
        });
    child.kill()?;
    child.wait()?;
    measured.map(|_| ())
}

/// The mount of a part comes first in the list of mounts.
fn elsewhere(stage: &Stage) -> Result<()> {
    let decoy = group(stage, "elsewhere/decoy")?;
    let script = format!(
        "mount -o bind {} $part\nmount $kind none $whole\numount -l $root",
        decoy.directory().display()
    );
    let daemon = start(stage, "elsewhere", "", "", &script)?;
    let group = group(stage, "elsewhere/one")?;
    is_measured(&daemon, stage, &group, &own(&group))?;
    let log = daemon.log_text();
    ensure!(!log.contains("only a part"), "{log}");
    Ok(())
}

fn namespace(stage: &Stage) -> Result<()> {
    let place = group(stage, "namespace")?;
    let directory = place.directory().display();
    // The namespace begins where the process is; then it makes room, since on v2 a group with groups holds no process.
    let before = format!("echo $$ > {directory}/cgroup.procs");
    let script = format!(
        "mkdir -p {directory}/agent\necho $$ > {directory}/agent/cgroup.procs\nmount $kind none $whole\numount -l $root"
    );
    let daemon = start(stage, "namespace", "--cgroup", &before, &script)?;
    let log = daemon.log_text();
    ensure!(log.contains("only a part of the cgroup tree"), "it does not say so: {log}");
    let outside = group(stage, "outside")?;
    let mut beyond = run(stage, &outside, "spike --peak 40 --steady 30 --ramp 0.2 --seconds 60")?;
    // Under the name that it has in there.
    let inside = group(stage, "namespace/inside")?;
    let measured = is_measured(&daemon, stage, &inside, "container=\"/inside\"");
    let text = daemon.get("/metrics");
    beyond.kill()?;
    beyond.wait()?;
    drop(daemon);
    let agent = fs::remove_dir(place.directory().join("agent"));
    measured?;
    ensure!(!text?.contains(outside.path()), "a container outside of the part is reported");
    agent.context("the agent's group is not empty")
}
