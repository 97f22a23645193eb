//! deploy/ with something taken away: the pod says in one line what is missing, and is ready only if the required
//! probes run.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};

use observer_tests::{
    cluster::{Cluster, HOME},
    shell,
};

use crate::{Case, Deployed, Suite, case};

struct Lack {
    what: &'static str,
    /// In the manifest: this text becomes that.
    change: (&'static str, &'static str),
    says: &'static str,
    ready: bool,
}

const SECCOMP: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;

const LACKS: &[Lack] = &[
    Lack {
        what: "CAP_PERFMON is missing",
        change: ("            - PERFMON\n", ""),
        says: "not ready: required probe oom_kill is unsupported (no CAP_PERFMON; ",
        ready: false,
    },
    Lack {
        what: "seccomp forbids bpf()",
        change: (
            "            type: RuntimeDefault\n",
            "            type: Localhost\n            localhostProfile: no-bpf.json\n",
        ),
        says: "not ready: required probe oom_kill is broken (cannot load the eBPF object",
        ready: false,
    },
    Lack {
        what: "the cgroup tree is not mounted",
        change: ("          path: /sys/fs/cgroup\n", "          path: /sys/kernel/mm\n"),
        says: "is no cgroup directory with a memory controller",
        ready: false,
    },
    Lack {
        what: "the node's name is wrong",
        change: ("fieldPath: spec.nodeName", "fieldPath: metadata.name"),
        says: "the Kubernetes API knows no pod of node observer-",
        ready: true,
    },
    Lack {
        what: "the ClusterRole is not bound",
        change: ("kind: ServiceAccount\n  name: observer\n", "kind: ServiceAccount\n  name: nobody\n"),
        says: "the Kubernetes API forbids to list and watch pods",
        ready: true,
    },
];

pub fn cases() -> Vec<Case> {
    let name = |lack: &Lack| format!("deploy::while_{}", lack.what.replace(' ', "_"));
    LACKS.iter().map(|lack| case(name(lack), Deployed::Nothing, |suite| play(suite, lack))).collect()
}

/// Leaves nothing but the namespace.
fn play(suite: &Suite, lack: &Lack) -> Result<()> {
    suite.import_image()?;
    let cluster = &suite.cluster;
    let profiles = Path::new(HOME).join("kubelet/seccomp");
    fs::create_dir_all(&profiles)?;
    fs::write(profiles.join("no-bpf.json"), SECCOMP)?;
    let deploy = shell::root().join("deploy").display().to_string();
    let manifest = cluster.kubectl(&["kustomize", &deploy])?;
    let (from, to) = lack.change;
    ensure!(manifest.matches(from).count() == 1, "{}: the manifest has not once `{from}`", lack.what);
    cluster.apply(&manifest.replace(from, to))?;
    let seen = reports(cluster, lack);
    cluster.kubectl(&["delete", "daemonset", "observer", "-n", "observer"])?;
    // Bindings cannot be changed, only made new.
    cluster.kubectl(&["delete", "clusterrolebinding", "observer"])?;
    cluster.wait("the pod to go", Duration::from_secs(60), || {
        Ok(cluster.kubectl(&["get", "pods", "-n", "observer", "-o", "name"])?.is_empty())
    })?;
    seen
}

fn reports(cluster: &Cluster, lack: &Lack) -> Result<()> {
    cluster
        .wait(lack.what, Duration::from_secs(60), || Ok(said(cluster)?.contains(lack.says)))
        .with_context(|| format!("it should have said `{}`, and said {:?}", lack.says, said(cluster)))?;
    let ready = || -> Result<bool> {
        let ready = "jsonpath={.items[*].status.containerStatuses[*].ready}";
        Ok(cluster.kubectl(&["get", "pods", "-n", "observer", "-o", ready])? == "true")
    };
    if lack.ready {
        cluster.wait("readiness", Duration::from_secs(30), ready)
    } else {
        ensure!(!ready()?, "{}: it is ready all the same", lack.what);
        Ok(())
    }
}

/// Of the run now, or, where it ends at once, of the one before.
fn said(cluster: &Cluster) -> Result<String> {
    let logs =
        |more: &[&str]| cluster.kubectl(&[&["logs", "-n", "observer", "daemonset/observer"], more].concat());
    Ok(logs(&[])? + &logs(&["--previous"]).unwrap_or_default())
}
