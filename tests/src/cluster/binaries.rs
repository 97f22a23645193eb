//! Kubernetes, Helm and other controllers, from their Go modules: built once, kept in the user's cache.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::VERSION;
use crate::shell;

/// Their main packages, by the names they get.
const COMMANDS: [(&str, &str); 6] = [
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("helm", "helm.sh/helm/v3/cmd/helm"),
];
/// Of the same Kubernetes, so that what both consist of is compiled once.
const HELM: &str = "3.21.4";

/// Where they are, or will be.
pub fn directory() -> Result<PathBuf> {
    Ok(cache()?.join(format!("kubernetes-{VERSION}")))
}

fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("memory-observer"))
}

/// A folder of the cache.
fn folder(name: &str) -> Result<PathBuf> {
    let directory = cache()?.join(name);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// In this module.
fn go(directory: &Path) -> Command {
    let mut go = Command::new("go");
    go.current_dir(directory).env("CGO_ENABLED", "0");
    go
}

/// Where go keeps a module, as it says itself.
fn download(directory: &Path, module: &str) -> Result<Value> {
    Ok(serde_json::from_str(&shell::output(go(directory).args(["mod", "download", "-json", module]))?)?)
}

/// Builds what is not there yet.
pub fn build() -> Result<PathBuf> {
    let directory = directory()?;
    let missing: Vec<_> =
        COMMANDS.into_iter().filter(|(command, _)| !directory.join(command).is_file()).collect();
    if missing.is_empty() {
        return Ok(directory);
    }
    ensure!(
        shell::find("go").is_some(),
        "Kubernetes is built from its Go modules, and there is no go; install Go 1.26 or newer"
    );
    let module = directory.join("module");
    fs::create_dir_all(&module).with_context(|| format!("cannot make {}", module.display()))?;
    fs::write(module.join("go.mod"), go_mod(&module)?)?;
    let go = || go(&module);
    shell::output(go().args(["mod", "tidy"]))?;
    let (names, packages): (Vec<&str>, Vec<&str>) = missing.into_iter().unzip();
    eprintln!("building {} (ten minutes the first time)", names.join(", "));
    let began = Instant::now();
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION} -X k8s.io/client-go/pkg/version.gitVersion=v{VERSION}"
    );
    let mut build = go();
    // Debug information is stripped: the compiler need not make it.
    build.args(["build", "-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", &flags, "-o"]);
    build.arg(&directory).args(packages);
    shell::output(&mut build)?;
    eprintln!("   {} built, in {} s", names.join(", "), began.elapsed().as_secs());
    Ok(directory)
}

/// kubectl, helm; also without a cluster.
pub fn tool(name: &str) -> Result<PathBuf> {
    Ok(build()?.join(name))
}

/// Grafana's own schema of dashboards, published as a Go module; Grafana itself is not.
const SCHEMA: &str = "github.com/grafana/grafana-foundation-sdk/go";
const SCHEMA_VERSION: &str = "0.0.22";

/// Reports what in a dashboard is not as the schema says (grafana.go).
pub fn dashboard_check() -> Result<PathBuf> {
    let directory = folder(&format!("grafana-schema-{SCHEMA_VERSION}"))?;
    fs::write(directory.join("main.go"), include_str!("grafana.go"))?;
    fs::write(directory.join("go.mod"), "module check\n\ngo 1.26\n")?;
    shell::output(go(&directory).args(["get", &format!("{SCHEMA}@v{SCHEMA_VERSION}")]))?;
    shell::output(go(&directory).args(["build", "-o", "check", "."]))?;
    Ok(directory.join("check"))
}

/// Reads workflows of the forge as the forge does (and their shell by shellcheck, if there).
pub fn actionlint() -> Result<PathBuf> {
    const VERSION: &str = "1.7.12";
    let directory = folder(&format!("actionlint-{VERSION}"))?;
    let package = format!("github.com/rhysd/actionlint/cmd/actionlint@v{VERSION}");
    shell::output(go(&directory).env("GOBIN", &directory).args(["install", &package]))?;
    Ok(directory.join("actionlint"))
}

/// A controller that is built as its project builds it.
pub struct Controller {
    pub name: &'static str,
    module: &'static str,
    version: &'static str,
    package: &'static str,
    /// The folder of its definitions in the module.
    definitions: &'static str,
    minutes: u32,
}

pub const ROLLOUTS: Controller = Controller {
    name: "rollouts-controller",
    module: "github.com/argoproj/argo-rollouts",
    version: "1.8.3",
    package: "cmd/rollouts-controller",
    definitions: "manifests/crds",
    minutes: 5,
};

pub const KEDA: Controller = Controller {
    name: "keda",
    module: "github.com/kedacore/keda/v2",
    version: "2.17.0",
    package: "cmd/operator",
    definitions: "config/crd/bases",
    minutes: 15,
};

impl Controller {
    /// The binary, which writes under its own name, and the folder of its definitions.
    pub fn build(&self) -> Result<(PathBuf, PathBuf)> {
        let directory = folder(&format!("{}-{}", self.name, self.version))?;
        let binary = directory.join(self.name);
        let base = format!("module controller\n\ngo 1.26\n\nrequire {} v{}\n", self.module, self.version);
        fs::write(directory.join("go.mod"), &base)?;
        let module = download(&directory, &format!("{}@v{}", self.module, self.version))?;
        let path = |what: &str| {
            module[what].as_str().map(PathBuf::from).with_context(|| format!("go did not say {what}"))
        };
        if !binary.is_file() {
            eprintln!("building {} (up to {} minutes the first time)", self.name, self.minutes);
            // Replacements count only in the main module, and it does not build without its own.
            let theirs = fs::read_to_string(path("GoMod")?)?;
            fs::write(directory.join("go.mod"), format!("{base}\n{}", replacements(&theirs)))?;
            let package = format!("{}/{}", self.module, self.package);
            let flags = ["build", "-trimpath", "-ldflags", "-s -w", "-o"];
            shell::output(go(&directory).env("GOFLAGS", "-mod=mod").args(flags).arg(&binary).arg(package))?;
        }
        Ok((binary, path("Dir")?.join(self.definitions)))
    }
}

/// The `replace` directives of a go.mod.
fn replacements(go_mod: &str) -> String {
    let mut within = false;
    let mut kept = String::new();
    for line in go_mod.lines() {
        let opens = line.starts_with("replace");
        within |= opens && line.ends_with('(');
        if opens || within {
            kept += line;
            kept.push('\n');
        }
        within &= line != ")";
    }
    kept
}

/// Kubernetes replaces its staging modules by paths inside its own tree; outside of it each is a module of its own.
fn go_mod(module: &Path) -> Result<String> {
    let base = "module cluster\n\ngo 1.26\n";
    fs::write(module.join("go.mod"), base)?;
    let downloaded = download(module, &format!("k8s.io/kubernetes@v{VERSION}"))?;
    let theirs = downloaded["GoMod"].as_str().context("go did not say where go.mod is")?;
    let theirs = fs::read_to_string(theirs)?;
    let mut text = String::from(base);
    for (_, package) in COMMANDS {
        text += &format!("tool {package}\n");
    }
    text += &format!("require (\n\tk8s.io/kubernetes v{VERSION}\n\thelm.sh/helm/v3 v{HELM}\n)\n");
    let staging = VERSION.replacen('1', "0", 1);
    for line in theirs.lines() {
        if let Some((name, _)) =
            line.trim().trim_start_matches("replace ").split_once(" => ./staging/src/k8s.io/")
        {
            text += &format!("replace {name} => {name} v{staging}\n");
        }
    }
    Ok(text)
}
