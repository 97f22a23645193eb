//! The container image: the observer alone, statically linked, in an empty file system; a tar file, made without an
//! engine.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    build_ebpf,
    oci::{self, NAME},
    run,
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
    let observer = statics::release("observer", options.arch)?;
    oci::write(&to, &options.name, options.arch.name(), &[("observer", observer)], &["/observer"])?;
    let size = fs::metadata(&to).with_context(|| format!("cannot read {}", to.display()))?.len();
    println!("{}: {}, {:.1} MiB", to.display(), options.name, size as f64 / 1048576.0);
    Ok(to)
}
