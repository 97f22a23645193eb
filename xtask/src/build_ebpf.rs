//! Builds the eBPF programs into target/bpf/, where the observer's build script takes them from.

use std::{
    env,
    fs::{self, File},
    io::Write,
    num::NonZero,
    path::PathBuf,
    process::Command,
    thread,
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
        // At once: the last line of a long build would hide it.
        let ebpf =
            scope.spawn(|| build_ebpf().inspect_err(|error| eprintln!("the eBPF programs: {error:#}")));
        let built = build();
        (ebpf.join().unwrap_or_else(|_| Err(anyhow!("building the eBPF programs panicked"))), built)
    })
}

/// One job that waits for the programs is no processor's work. Whoever set a number of jobs keeps it.
pub fn one_job_more(build: &mut Command) -> &mut Command {
    if env::var_os("CARGO_BUILD_JOBS").is_some() {
        return build;
    }
    let jobs = thread::available_parallelism().map_or(1, NonZero::get) + 1;
    build.args(["--jobs", &jobs.to_string()])
}

/// Returns the object's path. Builds only what changed.
pub fn build_ebpf() -> Result<PathBuf> {
    let directory = shell::root().join("target/bpf");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = directory.join("lock");
    // Held to the end of this function, whatever it is.
    let mut held = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    held.lock().with_context(|| format!("cannot lock {}", lock.display()))?;
    // By the clock of the file system, which cargo compares it with.
    let began = held
        .write_all(b"held while the programs are being built")
        .and_then(|()| held.metadata()?.modified())
        .with_context(|| format!("cannot write {}", lock.display()))?;
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
    build.arg("--target-dir").arg(&directory).env("CARGO_BUILD_BUILD_DIR", &directory);
    let linker = match &chain {
        Chain::Nightly { linker } => {
            build.args(["-Z", "build-std=core"]).env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO");
            // The environment's cargo is the pinned one; let rustup choose nightly's.
            let mut nightly = Command::new("cargo");
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
