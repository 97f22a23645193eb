//! Builds the eBPF programs into target/bpf/, where the observer's build script takes them from.

use std::{
    fs::{self, File},
    num::NonZero,
    path::PathBuf,
    thread,
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow};

use crate::{
    setup::{self, Chain},
    shell,
};

const TARGET: &str = "bpfel-unknown-none";

/// Where the object is put.
pub fn object() -> PathBuf {
    shell::root().join("target/bpf/observer-ebpf.o")
}

/// Builds the programs while `build` builds what they are embedded in, which waits for them (observer/build.rs).
pub fn beside<T>(build: impl FnOnce() -> T) -> (Result<PathBuf>, T) {
    thread::scope(|scope| {
        let ebpf = scope.spawn(build_ebpf);
        let built = build();
        (ebpf.join().unwrap_or_else(|_| Err(anyhow!("building the eBPF programs panicked"))), built)
    })
}

/// One that waits for the programs is no processor's work.
pub fn jobs_beside() -> String {
    (thread::available_parallelism().map_or(1, NonZero::get) + 1).to_string()
}

/// Returns the object's path. Builds only what changed.
pub fn build_ebpf() -> Result<PathBuf> {
    let directory = shell::root().join("target/bpf");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = directory.join("lock");
    // Held to the end of this function, whatever it is.
    let held = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    held.lock().with_context(|| format!("cannot lock {}", lock.display()))?;
    let began = SystemTime::now();
    let chain = setup::tool_chain()?;
    let mut build = shell::cargo();
    build.args([
        "build",
        "--locked",
        "--quiet",
        "--release",
        "--target",
        TARGET,
        "--package",
        "observer-ebpf",
        "--bins",
    ]);
    build.arg("--target-dir").arg(&directory);
    let linker = match &chain {
        Chain::Nightly { linker } => {
            build.args(["-Z", "build-std=core"]).env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO");
            // The environment's cargo is the pinned one; let rustup choose nightly's.
            let mut nightly = std::process::Command::new("cargo");
            nightly.current_dir(shell::root()).args(build.get_args()).env("RUSTUP_TOOLCHAIN", "nightly");
            build = nightly;
            linker
        }
        Chain::Debian { rustc, linker } => {
            build.env("RUSTC", rustc);
            linker
        }
    };
    // Inline assembly for BPF is unstable; the prebuilt core comes from a stable compiler.
    build.env("RUSTC_BOOTSTRAP", "1");
    build.env("RUSTFLAGS", format!("-C debuginfo=2 -C link-arg=--btf -C linker={}", linker.display()));
    build.env_remove("RUSTDOCFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    shell::run(&mut build)?;
    for name in ["observer-ebpf", "null"] {
        let built = directory.join(TARGET).join("release").join(name);
        let object = directory.join(format!("{name}.o"));
        // An unchanged object keeps its time, so that nothing that embeds it is built again.
        let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
        if fs::read(&object).ok().as_ref() != Some(&bytes) {
            fs::write(&object, bytes).with_context(|| format!("cannot write {}", object.display()))?;
            // As old as the wait for it: a build script that began meanwhile has read this one, and need not run again.
            let written = File::options().write(true).open(&object);
            written
                .and_then(|file| file.set_modified(began))
                .with_context(|| format!("cannot set the time of {}", object.display()))?;
        }
    }
    Ok(object())
}
