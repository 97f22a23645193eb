//! A program that does nothing, on the page fault hook: what the hook itself costs, for `cargo xtask bench faults`.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
#[aya_ebpf::macros::btf_tracepoint(function = "page_fault_user")]
pub fn null(_ctx: aya_ebpf::programs::BtfTracePointContext) -> i32 {
    0
}

#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
pub static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("this binary is an eBPF object; build it with `cargo xtask build-ebpf`");
}
