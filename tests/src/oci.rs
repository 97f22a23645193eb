//! A container image as a tar file, without an engine: one layer, one configuration (OCI image-spec v1.1 in the layout
//! `docker save` writes, which `ctr images import` reads too).

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// What the observer's image is named in deploy/.
pub const NAME: &str = concat!("memory-observer:", env!("CARGO_PKG_VERSION"));
/// This machine's processor architecture, as images name it.
pub const HOST: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Writes an image with these executables in its root.
pub fn write(
    to: &Path,
    name: &str,
    arch: &str,
    files: &[(&str, PathBuf)],
    entrypoint: &[&str],
) -> Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    for (path, from) in files {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        append(&mut layer, path, 0o755, &bytes)?;
    }
    let layer = layer.into_inner()?;
    let digest = hex(&layer);
    let config = json!({
        "architecture": arch,
        "os": "linux",
        "config": { "Entrypoint": entrypoint },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    })
    .to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let layer_name = format!("{digest}/layer.tar");
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": [layer_name] }]).to_string();
    let mut image = tar::Builder::new(Vec::new());
    append(&mut image, &config_name, 0o644, config.as_bytes())?;
    append(&mut image, &layer_name, 0o644, &layer)?;
    append(&mut image, "manifest.json", 0o644, manifest.as_bytes())?;
    let mut file = fs::File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    file.write_all(&image.into_inner()?)?;
    Ok(())
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    // The same input gives the same image: no times, no owners.
    header.set_mtime(0);
    header.set_cksum();
    tar.append_data(&mut header, path.trim_start_matches('/'), bytes)?;
    Ok(())
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
