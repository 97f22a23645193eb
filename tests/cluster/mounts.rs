//! What the agent's pod could write of its host: its own folder, and nothing of the cgroup tree.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use observer_tests::{cluster::Cluster, shell};

use crate::{Case, Deployed, Suite, case, deployed};

pub fn cases() -> Vec<Case> {
    vec![case("deploy::the_cgroup_tree_cannot_be_written", Deployed::Nothing, cgroups)]
}

/// As the kubelet and the runtime mounted it, whoever writes: by the way of the agent's own root directory.
fn cgroups(suite: &Suite) -> Result<()> {
    suite.import_image()?;
    let cluster = &suite.cluster;
    // The runtime here may be older than recursively read-only mounts: the overlay for such nodes is what is tried
    // then.
    let v1 = Path::new("/sys/fs/cgroup/memory/memory.usage_in_bytes").exists();
    let overlay = shell::root().join("deploy").join(if v1 { "cgroup-v1" } else { "base" });
    let overlay = overlay.display().to_string();
    cluster.kubectl(&["apply", "-k", &overlay])?;
    let done = deployed::ready(cluster).and_then(|()| nothing_is_written(cluster));
    cluster.kubectl(&["delete", "-k", &overlay, "--ignore-not-found", "--timeout=60s"])?;
    done
}

fn nothing_is_written(cluster: &Cluster) -> Result<()> {
    let process = process(cluster)?;
    let tree = process.join("root/host/cgroup");
    let limit = ["memory.limit_in_bytes", "memory.high"].map(|name| tree.join("kubepods").join(name));
    let limit = limit.iter().find(|path| path.exists()).context("the pods' group has no limit to write")?;
    let text = fs::read_to_string(limit)?;
    for (what, tried) in [
        ("made a group", fs::create_dir(tree.join("observer-test-made"))),
        ("wrote a limit", fs::write(limit, text)),
    ] {
        let refused = tried.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem);
        ensure!(refused, "{what} below {}: {tried:?}", tree.display());
    }
    let mounts = fs::read_to_string(process.join("mountinfo"))?;
    let mut seen = 0;
    for mount in mounts.lines().filter(|line| line.contains(" /host/cgroup")) {
        let options = mount.split(' ').nth(5).context("a mount without options")?;
        ensure!(options.split(',').any(|option| option == "ro"), "is writable: {mount}");
        seen += 1;
    }
    ensure!(seen > 0, "no cgroup tree is mounted");
    Ok(())
}

/// The directory in /proc of the agent in the pod.
fn process(cluster: &Cluster) -> Result<PathBuf> {
    let uid = "jsonpath={.items[0].metadata.uid}";
    let name = "app.kubernetes.io/name=observer";
    let uid = cluster.kubectl(&["get", "pods", "-n", "observer", "-l", name, "-o", uid])?;
    let is_it = |path: &PathBuf| {
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap_or_default();
        read("comm").trim() == "observer" && read("cgroup").contains(&format!("pod{uid}"))
    };
    let processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    processes.filter(|path| path.join("comm").exists()).find(is_it).context("the pod's process is not found")
}
