//! Puts the kfunc `bpf_rdonly_cast` where the programs have a placeholder (see `observer_ebpf::walk`). Bytes in, bytes
//! out.

use aya::Btf;
use aya_obj::btf::BtfKind;
use observer_ebpf::abi::CAST_PLACEHOLDER;

/// `call` with an immediate: opcode 0x85, no registers, no offset, then the helper's number (kernel:
/// include/uapi/linux/bpf.h).
const CALL: [u8; 4] = [0x85, 0, 0, 0];
/// Source register `BPF_PSEUDO_KFUNC_CALL`: the immediate is the BTF id of a kernel function.
const CALL_KFUNC: [u8; 4] = [0x85, 0x20, 0, 0];

/// BTF ids of what addresses are cast to.
#[derive(Default)]
pub struct Types {
    /// `struct mem_cgroup`
    pub memcg: u32,
    /// `struct mem_cgroup_per_node`
    pub node: u32,
}

/// The object with every placeholder resolved. `None`: this kernel has no such function; the placeholders stay, in code
/// that is never reached.
pub fn resolve(object: &[u8], btf: &Btf) -> Option<(Vec<u8>, Types)> {
    let function = btf.id_by_type_name_kind("bpf_rdonly_cast", BtfKind::Func).ok()?;
    let structure = |name| btf.id_by_type_name_kind(name, BtfKind::Struct).ok();
    let types = Types { memcg: structure("mem_cgroup")?, node: structure("mem_cgroup_per_node")? };
    let placeholder = [CALL, CAST_PLACEHOLDER.to_ne_bytes()].concat();
    let call = [CALL_KFUNC, function.to_ne_bytes()].concat();
    let mut resolved = object.to_vec();
    // Instructions are 8 bytes and aligned so in the file.
    for instruction in resolved.chunks_exact_mut(8).filter(|bytes| **bytes == placeholder) {
        instruction.copy_from_slice(&call);
    }
    Some((resolved, types))
}
