//! The container image: the observer alone, statically linked, in an empty file system; a tar file, made without an engine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{build_ebpf, oci, run, statics};

#[derive(clap::Args)]
pub struct Options {
    /// Name and tag in the image
    #[arg(long, default_value = NAME)]
    name: String,
}

/// What deploy/ asks for.
pub const NAME: &str = concat!("memory-observer:", env!("CARGO_PKG_VERSION"));

impl Default for Options {
    fn default() -> Self {
        Self { name: NAME.to_owned() }
    }
}

pub fn image(options: &Options) -> Result<PathBuf> {
    build_ebpf::build_ebpf()?;
    let to = run::target().join("image.tar");
    write(&to, &options.name, statics::release("observer")?)?;
    let size = fs::metadata(&to).with_context(|| format!("cannot read {}", to.display()))?.len();
    println!("{}: {}, {:.1} MiB", to.display(), options.name, size as f64 / 1048576.0);
    Ok(to)
}

/// An image that holds this binary.
pub fn write(to: &Path, name: &str, observer: PathBuf) -> Result<()> {
    oci::write(to, name, &[("observer", observer)], &["/observer"])
}
