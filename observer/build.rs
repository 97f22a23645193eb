//! Puts the compiled eBPF object into the binary, or an empty one where it has not been built: the pure core builds and
//! tests without the eBPF tool chain.

use std::{env, fs, path::PathBuf};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("observer-ebpf.o");
    println!("cargo:rerun-if-env-changed=OBSERVER_EBPF_OBJECT");
    let object = env::var_os("OBSERVER_EBPF_OBJECT").map(PathBuf::from).unwrap_or_else(|| {
        let root = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        PathBuf::from(root).join("../target/bpf/observer-ebpf.o")
    });
    println!("cargo:rerun-if-changed={}", object.display());
    // Where they are being built at this moment, they are waited for: `cargo xtask` builds both at once.
    let ours = env::var_os("OBSERVER_EBPF_OBJECT").is_none();
    let lock = ours.then(|| fs::File::open(object.with_file_name("lock")).ok()).flatten();
    if let Some(Err(error)) = lock.as_ref().map(fs::File::lock_shared) {
        panic!("cannot wait for {}: {error}", object.display());
    }
    let bytes = fs::read(&object).unwrap_or_default();
    fs::write(&out, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", out.display()));
}
