//! A real Kubernetes on this machine: control plane, kubelet and containerd as plain processes, without a container
//! engine and without a download site. Nothing leaves the machine: everything speaks over one bridge of its own.
//!
//! `cargo xtask cluster` starts and stops it; the tests in `tests/cluster/` only use the one that runs.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::shell;

pub mod binaries;
pub mod control;

/// Where a cluster lives: a short path, because of the kubelet's sockets (108 characters at the most).
pub const HOME: &str = "/run/observer-cluster";
pub const NODE: &str = "node-1";
pub const VERSION: &str = "1.36.3";
/// The API server listens on the service address of `kubernetes`, which this host holds on the cluster's own bridge:
/// pods reach it as they do anywhere, and no proxy is needed.
const API: &str = "10.96.0.1";

/// Why there can be no cluster on this machine, if so.
pub fn missing() -> Option<&'static str> {
    if !shell::is_root() {
        return Some("a kubelet runs as root");
    }
    if shell::find("go").is_none()
        && binaries::directory().is_ok_and(|found| !found.join("kubelet").is_file())
    {
        return Some("Kubernetes is built from its Go modules, and there is no go");
    }
    None
}

/// Builds what a cluster and its tests consist of: ten minutes at the first time.
pub fn prepare() -> Result<()> {
    binaries::build()?;
    binaries::dashboard_check().map(|_| ())
}

pub struct Cluster {
    home: PathBuf,
    pub binaries: PathBuf,
}

impl Cluster {
    /// The one of this machine, whether or not it runs.
    pub fn here() -> Result<Self> {
        Ok(Self { home: PathBuf::from(HOME), binaries: binaries::directory()? })
    }

    pub fn running() -> Option<Self> {
        let cluster = Self::here().ok()?;
        cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok().then_some(cluster)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.home.join("admin.kubeconfig")
    }

    pub fn kubectl_command(&self) -> Command {
        let mut kubectl = Command::new(self.binaries.join("kubectl"));
        kubectl.arg("--kubeconfig").arg(self.kubeconfig());
        kubectl
    }

    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        shell::output(self.kubectl_command().args(args))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let file = self.home.join("apply.yaml");
        fs::write(&file, manifest)?;
        self.kubectl(&["apply", "-f", &file.display().to_string()])
            .map(|_| ())
            .with_context(|| format!("while applying\n{manifest}"))
    }

    /// Asks again until it is so.
    pub fn wait(&self, what: &str, within: Duration, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let began = Instant::now();
        loop {
            let last = match is_so() {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(error) => format!(": {error:#}"),
            };
            if began.elapsed() > within {
                bail!("{what}: not within {} s{last}", within.as_secs());
            }
            sleep(Duration::from_millis(300));
        }
    }
}
