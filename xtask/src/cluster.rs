//! A real Kubernetes on this machine: control plane, kubelet and containerd as plain processes, without a container engine
//! and without a download site. Nothing leaves the machine: everything speaks over one bridge of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{build_ebpf, shell, statics};

mod bad_input;
mod binaries;
mod causes;
mod chart;
mod control;
mod deployed;
mod e2e;
mod grafana;
mod links;
mod outage;
mod scenes;
mod scrape;
mod secured;

#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Build what is missing (minutes at the first time), start the cluster, say how to talk to it
    Up,
    /// Start containers for every reason there is, and compare what the observer says with the truth
    Test(causes::Options),
    /// Only apply deploy/ to the cluster and see it work, end to end: the same as `test e2e`
    Deploy,
    /// Stop the cluster and remove what it made
    Down,
    /// kubectl, talking to the cluster
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

pub fn cluster(options: &Options) -> Result<()> {
    match &options.what {
        What::Up => {
            let cluster = control::up()?;
            println!(
                "the cluster is up: cargo xtask cluster kubectl get pods -A; KUBECONFIG={}",
                cluster.kubeconfig().display()
            );
            Ok(())
        }
        What::Test(options) => {
            let was_up = Cluster::running().is_some();
            build_ebpf::build_ebpf()?;
            let cluster = control::up()?;
            let done = match options.scenes.as_slice() {
                [] => test(&cluster, options),
                [scene] if scene == "e2e" => deploy(&cluster),
                [scene] if scene == "outage" => outage::test(&cluster),
                _ => causes::test(&cluster, options),
            };
            if !was_up {
                control::down()?;
            }
            done.map(|_| ())
        }
        What::Deploy => {
            build_ebpf::build_ebpf()?;
            deploy(&control::up()?).map(|_| ())
        }
        What::Down => control::down(),
        What::Kubectl { args } => {
            let cluster = Cluster::running().context("the cluster is not up: cargo xtask cluster up")?;
            shell::run(cluster.kubectl_command().args(args))
        }
    }
}

/// Every test against the cluster, whatever became of those before; how many passed.
fn test(cluster: &Cluster, options: &causes::Options) -> Result<u32> {
    let all = [causes::test(cluster, options), outage::test(cluster), deploy(cluster)];
    let mut passed = 0;
    let mut failures = Vec::new();
    for result in all {
        match result {
            Ok(more) => passed += more,
            Err(failure) => failures.push(format!("{failure:#}")),
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(passed)
}

/// What is deployed, and everything around it.
fn deploy(cluster: &Cluster) -> Result<u32> {
    secured::remove(cluster)?; // what an interrupted run left
    deployed::remove(cluster)?;
    deployed::image()?;
    let mut passed =
        grafana::test()? + chart::test(cluster)? + bad_input::test(cluster)? + secured::test(cluster)?;
    passed += deployed::test(cluster)? + e2e::test(cluster)?;
    deployed::remove(cluster)?;
    Ok(passed)
}

pub use binaries::actionlint;

/// kubectl, helm; also without a cluster.
pub fn tool(name: &str) -> Result<PathBuf> {
    Ok(binaries::build()?.join(name))
}

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

/// Built once: all of a run is of one observer, whatever becomes of its source meanwhile.
fn observer() -> Result<PathBuf> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(built) = BUILT.get() {
        return Ok(built.clone());
    }
    let built = statics::program("observer")?;
    Ok(BUILT.get_or_init(|| built).clone())
}

/// A Secret with a certificate, as the observer makes it.
fn secret(args: &[&str]) -> Result<String> {
    shell::output(Command::new(observer()?).arg("ledger-secret").args(args))
}

/// The files a Secret holds.
fn write_files(secret: &str, directory: &Path) -> Result<()> {
    let secret: serde_json::Value = serde_saphyr::from_str(secret).context("the Secret is no YAML")?;
    fs::create_dir_all(directory)?;
    for (name, text) in secret["stringData"].as_object().context("the Secret holds nothing")? {
        fs::write(directory.join(name), text.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// Builds what a cluster and its tests consist of: ten minutes at the first time.
pub fn prepare() -> Result<()> {
    binaries::build()?;
    binaries::dashboard_check().map(|_| ())
}

/// For `cargo xtask test`: starts a cluster, tests, and stops it again.
pub fn test_all() -> Result<u32> {
    let cluster = control::up()?;
    let done = test(&cluster, &causes::Options::default());
    control::down()?;
    done
}

/// Where a cluster lives: a short path, because of the kubelet's sockets (108 characters at the most).
const HOME: &str = "/run/observer-cluster";
pub const NODE: &str = "node-1";
pub const VERSION: &str = "1.36.3";
/// The API server listens on the service address of `kubernetes`, which this host holds on the cluster's own bridge: pods
/// reach it as they do anywhere, and no proxy is needed.
const API: &str = "10.96.0.1";

pub struct Cluster {
    home: PathBuf,
    binaries: PathBuf,
}

impl Cluster {
    fn new() -> Result<Self> {
        Ok(Self { home: PathBuf::from(HOME), binaries: binaries::directory()? })
    }

    pub fn running() -> Option<Self> {
        let cluster = Self::new().ok()?;
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
