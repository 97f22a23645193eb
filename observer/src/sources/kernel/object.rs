//! The compiled programs, put into the binary at build time.

/// The object file, if the eBPF tool chain was there when this binary was built.
pub fn embedded() -> Option<&'static [u8]> {
    // Aligned, because the ELF parser reads 8-byte fields in place.
    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/observer-ebpf.o"));
    (!OBJECT.is_empty()).then_some(OBJECT)
}
