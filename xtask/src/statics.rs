//! The project's programs linked statically: they run in a bare initramfs and in an empty container image.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Small enough to copy around, quick enough to build.
const QUICK: &str = "-C target-feature=+crt-static -C strip=symbols -C opt-level=1";

/// Binaries of the workspace by name, in this order.
pub fn build(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    eprintln!("building {} statically", names.join(", "));
    let mut built =
        executables(&["build", "--package", "observer", "--package", "observer-tests", "--bins"])?;
    let mut taken = Vec::new();
    for name in names {
        let at = built.iter().position(|(built, _)| built == name);
        taken.push(built.remove(at.with_context(|| format!("cargo built no {name}"))?));
    }
    Ok(taken)
}

/// One binary as it is shipped: optimised, without symbols.
pub fn release(name: &str) -> Result<PathBuf> {
    eprintln!("building {name} statically, optimised (minutes at the first time)");
    let args = ["build", "--release", "--package", name, "--bin", name];
    // For size: a thousand nodes pull it, and the daemon's work is in the kernel and in waiting.
    let built = executables_with(&args, "-C target-feature=+crt-static -C strip=symbols -C opt-level=s")?;
    let found = built.into_iter().find(|(built, _)| built == name);
    found.map(|(_, path)| path).with_context(|| format!("cargo built no {name}"))
}

/// The live tests as a program.
pub fn live_tests() -> Result<(String, PathBuf)> {
    let built = executables(&["test", "--no-run", "--package", "observer-tests", "--test", "live"])?;
    built.into_iter().find(|(name, _)| name == "live").context("cargo built no live tests")
}

fn executables(args: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    executables_with(args, QUICK)
}

fn executables_with(args: &[&str], flags: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo: Command = shell::cargo();
    cargo.args(args).args(["--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(shell::root().join("target/static")).env("RUSTFLAGS", flags);
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the static binaries do not build");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    };
    Ok(text.lines().filter_map(executable).collect())
}
