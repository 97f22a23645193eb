//! What is released: the image, the chart, one manifest, the dashboards, a bill of materials with licences, and
//! checksums. The forge publishes them (.github/workflows/release.yml); everything before that is proved here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use observer_tests::cluster::binaries;

use crate::{
    dashboards, deny, image, oci, run, shell,
    statics::{self, Arch},
};

#[derive(clap::Args)]
pub struct Options {
    /// Make and check everything, publish nothing: what the workflow does before it uploads
    #[arg(long)]
    dry_run: bool,
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
const CYCLONEDX: &str = "0.5.9";
const WORKFLOW: &str = ".github/workflows/release.yml";
/// More would be noticed by whoever pulls it on a thousand nodes.
const LARGEST_IMAGE: u64 = 15 << 20;

pub fn release(options: &Options) -> Result<()> {
    if !options.dry_run {
        bail!(
            "publishing is the forge's: push the tag v{VERSION}; here there is `cargo xtask release --dry-run`"
        );
    }
    let to = run::target().join("release-files");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    fs::create_dir_all(&to)?;
    let step = |what: &str| eprintln!("== {what}");
    step("versions agree");
    versions()?;
    step("licences, sources, advisories");
    deny::deny()?;
    step("the forge can read the workflow");
    shell::apt(&["shellcheck"])?;
    shell::output(Command::new(binaries::actionlint()?).arg(shell::root().join(WORKFLOW)))?;
    for arch in Arch::ALL {
        step(&format!("image for {}", arch.name()));
        let tar = image::image(&image::Options::of(arch))?;
        let size = fs::metadata(&tar)?.len();
        ensure!(size < LARGEST_IMAGE, "the image is {size} bytes, above {LARGEST_IMAGE}");
        fs::copy(&tar, to.join(format!("memory-observer-{VERSION}-{}.tar", arch.name())))?;
    }
    step("both replay alike");
    replay_alike()?;
    step("chart");
    let chart = shell::root().join("deploy/chart");
    shell::output(
        Command::new(binaries::tool("helm")?).arg("package").arg(&chart).arg("--destination").arg(&to),
    )?;
    step("manifests");
    for (overlay, file) in [("", "install.yaml"), ("ledger", "install-with-ledger.yaml")] {
        let path = shell::root().join("deploy").join(overlay);
        let text = shell::output(Command::new(binaries::tool("kubectl")?).arg("kustomize").arg(path))?;
        fs::write(to.join(file), text)?;
    }
    step("rules and dashboards");
    fs::copy(shell::root().join("deploy/prometheus/rules.yaml"), to.join("rules.yaml"))?;
    for (path, text) in dashboards::files() {
        let name = path.file_name().context("a dashboard without a name")?.to_string_lossy().into_owned();
        fs::write(to.join(format!("dashboard-{name}")), text)?;
    }
    step("bill of materials");
    materials(&to)?;
    step("checksums");
    let sums = checksums(&to)?;
    fs::write(to.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    println!("{} is complete; nothing was published", to.display());
    Ok(())
}

/// A recording gives the same metrics, byte for byte, on either architecture: the other's binary runs in an emulator.
fn replay_alike() -> Result<()> {
    shell::apt(&["qemu-user-static"])?;
    let case = shell::root().join("tests/cases/kubernetes_scale_up_by_a_bot/events.jsonl");
    let replay = |arch: Arch| {
        let observer = statics::release("observer", arch)?;
        let mut command = if arch == Arch::host() {
            Command::new(observer)
        } else {
            let mut emulator = Command::new(arch.emulator());
            emulator.arg(observer);
            emulator
        };
        shell::output(command.arg("replay").arg(&case))
    };
    let [amd64, arm64] = [replay(Arch::Amd64)?, replay(Arch::Arm64)?];
    ensure!(
        !amd64.is_empty() && amd64 == arm64,
        "the two binaries report other metrics of {}",
        case.display()
    );
    Ok(())
}

/// The workspace's version, the chart's, the image's tag in deploy/, and the changelog's.
fn versions() -> Result<()> {
    for (file, wanted) in [
        ("deploy/chart/Chart.yaml", format!("\nversion: {VERSION}\n")),
        ("deploy/chart/Chart.yaml", format!("\nappVersion: {VERSION}\n")),
        ("deploy/base/daemonset.yaml", format!("image: memory-observer:{VERSION}\n")),
        ("deploy/ledger/ledger.yaml", format!("image: memory-observer:{VERSION}\n")),
        ("CHANGELOG.md", format!("{VERSION})\n")),
    ] {
        let text =
            fs::read_to_string(shell::root().join(file)).with_context(|| format!("cannot read {file}"))?;
        ensure!(text.contains(&wanted), "{file} has no `{}`: it is of another version", wanted.trim());
    }
    Ok(())
}

/// CycloneDX, with every crate's licence; the eBPF part must stay compatible with the GPL.
fn materials(to: &Path) -> Result<()> {
    let tool = || {
        shell::find("cargo-cyclonedx")
            .or_else(|| Some(shell::cargo_bin()?.join("cargo-cyclonedx")).filter(|path| path.is_file()))
    };
    if tool().is_none() {
        eprintln!("installing cargo-cyclonedx {CYCLONEDX}");
        shell::run(shell::cargo().args([
            "install",
            "--locked",
            "--quiet",
            "--version",
            CYCLONEDX,
            "cargo-cyclonedx",
        ]))?;
    }
    let name = format!("memory-observer-{VERSION}.cdx");
    let mut cyclonedx = Command::new(tool().context("cargo-cyclonedx was installed and is not to be found")?);
    cyclonedx.current_dir(shell::root()).args([
        "cyclonedx",
        "--format",
        "json",
        "--override-filename",
        &name,
    ]);
    shell::output(cyclonedx.args(["--manifest-path", "observer/Cargo.toml"]))?;
    // It writes beside every member's manifest, and not every member has one.
    let written = |member: &str| shell::root().join(member).join(format!("{name}.json"));
    let text = fs::read_to_string(written("observer")).context("cargo-cyclonedx wrote nothing")?;
    for member in ["observer", "observer-ebpf", "xtask", "tests"] {
        let _ = fs::remove_file(written(member));
    }
    fs::write(to.join(format!("{name}.json")), &text)?;
    let materials: serde_json::Value = serde_json::from_str(&text)?;
    let components = materials["components"].as_array().context("no components")?;
    let named = |one: &&serde_json::Value| one["licenses"].as_array().is_none_or(Vec::is_empty);
    let nameless: Vec<&str> =
        components.iter().filter(named).filter_map(|one| one["name"].as_str()).collect();
    ensure!(nameless.is_empty(), "without a licence: {}", nameless.join(", "));
    eprintln!("   {} components, each with its licence", components.len());
    Ok(())
}

fn checksums(of: &Path) -> Result<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(of)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let line = |path: &PathBuf| -> Result<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(format!("{}  {name}\n", oci::hex(&fs::read(path)?)))
    };
    files.iter().map(line).collect()
}
