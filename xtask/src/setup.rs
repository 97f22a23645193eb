//! The eBPF tool chain: one of two, whichever this machine has or can get.
//!
//! - rustup's nightly with rust-src, and bpf-linker (builds `core` for the target);
//! - Debian's rustc-web with a prebuilt `core` for bpfel, and bpf-linker linked to the same LLVM.

use std::{fmt, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::shell;

/// The linker's version that goes with aya 0.14's objects; a newer one may want a newer LLVM.
const LINKER: &str = "0.13.0";
/// LLVM of Debian's rustc-web: compiler and linker must speak the same bitcode.
const LLVM: &str = "22";

#[derive(Clone, Debug)]
pub enum Chain {
    Nightly { linker: PathBuf },
    Debian { rustc: PathBuf, linker: PathBuf },
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Chain::Nightly { linker } => write!(f, "rustup nightly with rust-src, {}", linker.display()),
            Chain::Debian { rustc, linker } => write!(f, "{} and {}", rustc.display(), linker.display()),
        }
    }
}

/// Finds a tool chain, or installs one.
pub fn tool_chain() -> Result<Chain> {
    if nightly_has_sources() {
        let linker = linker(&[])?;
        return Ok(Chain::Nightly { linker });
    }
    shell::apt(&[
        "rustc-web",
        "libstd-rust-web-dev-bpf",
        &format!("llvm-{LLVM}-dev"),
        &format!("libpolly-{LLVM}-dev"),
        "zlib1g-dev",
        "libzstd-dev",
    ])
    .context("no eBPF tool chain: neither rustup's nightly with rust-src nor Debian's rustc-web; the pure core builds and tests without it (plain cargo)")?;
    let llvm = format!("llvm-{LLVM}");
    let linker = linker(&["--no-default-features", "--features", &llvm])?;
    Ok(Chain::Debian { rustc: "/usr/bin/rustc".into(), linker })
}

fn nightly_has_sources() -> bool {
    let mut rustc = Command::new("rustup");
    rustc.args(["run", "nightly", "rustc", "--print", "sysroot"]);
    shell::output(&mut rustc).is_ok_and(|sysroot| {
        PathBuf::from(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
    })
}

fn linker(features: &[&str]) -> Result<PathBuf> {
    let there = || {
        let in_cargo = shell::cargo_bin().map(|bin| bin.join("bpf-linker")).filter(|path| path.is_file());
        shell::find("bpf-linker").or(in_cargo)
    };
    if let Some(linker) = there() {
        return Ok(linker);
    }
    eprintln!("installing bpf-linker {LINKER} (about 30 s)");
    let mut install = shell::cargo();
    install.args(["install", "bpf-linker", "--version", LINKER, "--locked", "--quiet"]).args(features);
    install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"));
    // Not in the target directory that may be configured: cargo would wait there for who waits for this.
    install.arg("--target-dir").arg(shell::root().join("target/bpf/linker"));
    // What works in it is LLVM. Optimised, it takes two and a half times as long to install, and links no faster.
    install.envs([("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"), ("CARGO_PROFILE_RELEASE_LTO", "off")]);
    install.envs([("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"), ("CARGO_PROFILE_RELEASE_DEBUG", "false")]);
    shell::run(&mut install)?;
    there().context("bpf-linker was installed but is not to be found on PATH or in cargo's bin")
}
