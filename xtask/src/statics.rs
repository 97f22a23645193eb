//! The project's programs linked statically: they run in a bare initramfs and in an empty container image.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell;

/// As images name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub const ALL: [Arch; 2] = [Arch::Amd64, Arch::Arm64];

    /// This machine's.
    pub fn host() -> Self {
        if cfg!(target_arch = "aarch64") { Arch::Arm64 } else { Arch::Amd64 }
    }

    pub fn name(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Arch::Amd64 => "x86_64-unknown-linux-gnu",
            Arch::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Runs its programs on other machines (Debian: qemu-user-static).
    pub fn emulator(self) -> &'static str {
        match self {
            Arch::Amd64 => "qemu-x86_64-static",
            Arch::Arm64 => "qemu-aarch64-static",
        }
    }

    /// What cargo needs to build for another machine: its standard library, a linker and a C compiler (ring has parts in
    /// assembler and C).
    fn prepare(self) -> Result<Vec<(&'static str, &'static str)>> {
        if self == Arch::host() {
            return Ok(Vec::new());
        }
        let (packages, gcc, environment) = match self {
            Arch::Amd64 => (
                ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
                "x86_64-linux-gnu-gcc",
                ["CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "CC_x86_64_unknown_linux_gnu"],
            ),
            Arch::Arm64 => (
                ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
                "aarch64-linux-gnu-gcc",
                ["CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "CC_aarch64_unknown_linux_gnu"],
            ),
        };
        shell::apt(&packages)?;
        let library = ["--print", "target-libdir", "--target", self.target()];
        let library = PathBuf::from(shell::output(Command::new("rustc").args(library))?.trim());
        if !library.exists() {
            let add = ["target", "add", self.target()];
            shell::output(Command::new("rustup").args(add))
                .with_context(|| format!("there is no Rust standard library for {}", self.target()))?;
        }
        Ok(environment.map(|name| (name, gcc)).to_vec())
    }
}

/// Small enough to copy around, quick enough to build.
const QUICK: &str = "-C target-feature=+crt-static -C strip=symbols -C opt-level=1";

/// Binaries of the workspace by name, in this order.
pub fn build(names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    build_for(Arch::host(), names)
}

pub fn build_for(arch: Arch, names: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    eprintln!("building {} statically", names.join(", "));
    let args = ["build", "--package", "observer", "--package", "observer-tests", "--bins"];
    let mut built = executables(&args, QUICK, arch)?;
    let mut taken = Vec::new();
    for name in names {
        let at = built.iter().position(|(built, _)| built == name);
        taken.push(built.remove(at.with_context(|| format!("cargo built no {name}"))?));
    }
    Ok(taken)
}

/// One binary as it is shipped: optimised, without symbols.
pub fn release(name: &str, arch: Arch) -> Result<PathBuf> {
    eprintln!("building {name} for {}, statically, optimised (minutes at the first time)", arch.name());
    let args = ["build", "--release", "--package", name, "--bin", name];
    // For size: a thousand nodes pull it, and the daemon's work is in the kernel and in waiting.
    let flags = "-C target-feature=+crt-static -C strip=symbols -C opt-level=s";
    let built = executables(&args, flags, arch)?;
    let found = built.into_iter().find(|(built, _)| built == name);
    found.map(|(_, path)| path).with_context(|| format!("cargo built no {name}"))
}

/// The live tests as a program.
pub fn live_tests(arch: Arch) -> Result<(String, PathBuf)> {
    let args = ["test", "--no-run", "--package", "observer-tests", "--test", "live"];
    let built = executables(&args, QUICK, arch)?;
    built.into_iter().find(|(name, _)| name == "live").context("cargo built no live tests")
}

fn executables(args: &[&str], flags: &str, arch: Arch) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo: Command = shell::cargo();
    cargo.envs(arch.prepare()?);
    cargo.args(args).args(["--target", arch.target(), "--message-format", "json-render-diagnostics"]);
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
