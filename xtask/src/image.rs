//! The container image: the observer alone, statically linked, in an empty file system; a tar file, made without an engine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    build_ebpf, oci, run,
    statics::{self, Arch},
};

#[derive(clap::Args)]
pub struct Options {
    /// Name and tag in the image
    #[arg(long, default_value = NAME)]
    name: String,
    /// Processor architecture; another than this machine's is cross-built
    #[arg(long, value_enum, default_value_t = Arch::host())]
    arch: Arch,
}

/// What deploy/ asks for.
pub const NAME: &str = concat!("memory-observer:", env!("CARGO_PKG_VERSION"));

impl Options {
    pub fn of(arch: Arch) -> Self {
        Self { name: NAME.to_owned(), arch }
    }
}

pub fn image(options: &Options) -> Result<PathBuf> {
    build_ebpf::build_ebpf()?;
    let to = run::target().join(if options.arch == Arch::host() {
        "image.tar".to_owned()
    } else {
        format!("image-{}.tar", options.arch.name())
    });
    write(&to, &options.name, options.arch, statics::release("observer", options.arch)?)?;
    let size = fs::metadata(&to).with_context(|| format!("cannot read {}", to.display()))?.len();
    println!("{}: {}, {:.1} MiB", to.display(), options.name, size as f64 / 1048576.0);
    Ok(to)
}

/// An image that holds this binary.
pub fn write(to: &Path, name: &str, arch: Arch, observer: PathBuf) -> Result<()> {
    oci::write(to, name, arch, &[("observer", observer)], &["/observer"])
}
