//! The project's programs linked statically: they run in a bare initramfs and in an empty container image.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{run, shell};

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

    /// As cargo names it.
    fn target(self) -> &'static str {
        match self {
            host if host == Arch::host() => "host-tuple",
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

    /// What cargo needs to build for another machine: its standard library, a linker and a C compiler (ring has parts
    /// in assembler and C).
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

/// A program by name, built if it is not.
pub fn program(name: &str) -> Result<PathBuf> {
    program_for(Arch::host(), name)
}

pub fn program_for(arch: Arch, name: &str) -> Result<PathBuf> {
    let mut build = linting_cargo(arch)?;
    build.args(["build", "--workspace", "--bins", "--examples"]);
    shell::executable(build.arg("--quiet"), name)
}

/// The live tests as a program.
pub fn live_tests(arch: Arch) -> Result<PathBuf> {
    let mut build = linting_cargo(arch)?;
    build.args(["test", "--no-run", "--workspace", "--test", "live"]);
    shell::executable(build.arg("--quiet"), "live")
}

/// Cargo, for whatever is tested: one set of artifacts serves the tests here, in virtual machines and on the cluster.
///
/// That holds as long as every command names the whole workspace: cargo unites the features of what is named.
pub fn cargo(arch: Arch) -> Result<Command> {
    let mut cargo = shell::cargo();
    cargo.envs(arch.prepare()?).env("RUSTFLAGS", STATIC).env("CARGO_BUILD_TARGET", arch.target());
    cargo.env("CARGO_TARGET_DIR", run::target().join("static"));
    // Small enough to copy around. Not optimised: that would take longer than all tests gain by it.
    cargo.envs([("CARGO_PROFILE_DEV_DEBUG", "false"), ("CARGO_PROFILE_DEV_STRIP", "symbols")]);
    Ok(cargo)
}

/// Cargo for what is tested: the workspace's crates are compiled by clippy's driver, so that lints and programs come
/// from one compilation; `cargo clippy` would check all dependencies once more, for two minutes.
pub fn linting_cargo(arch: Arch) -> Result<Command> {
    let mut cargo = cargo(arch)?;
    if let Some(driver) = clippy() {
        cargo.env("RUSTC_WORKSPACE_WRAPPER", driver);
    }
    Ok(cargo)
}

pub fn clippy() -> Option<PathBuf> {
    let in_cargo = || shell::cargo_bin().map(|bin| bin.join("clippy-driver")).filter(|path| path.is_file());
    shell::find("clippy-driver").or_else(in_cargo)
}

const STATIC: &str = "-C target-feature=+crt-static";

/// One binary as it is shipped: optimised, without symbols.
pub fn release(name: &str, arch: Arch) -> Result<PathBuf> {
    eprintln!("building {name} for {}, statically, optimised (minutes at the first time)", arch.name());
    let mut build = cargo(arch)?;
    build.args(["build", "--locked", "--release", "--package", name, "--bin", name]);
    // For size: a thousand nodes pull it, and the daemon's work is in the kernel and in waiting.
    build.envs([
        ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
        ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
        ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
    ]);
    shell::executable(build.arg("--quiet"), name)
}
