//! The bpf object: it re-exports the programs of the library, so that they reach the linker.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
pub use observer_ebpf::probes::{
    cgroup_life::{cgroup_attached, cgroup_made, cgroup_populated, cgroup_removed},
    cgroup_pass::cgroup_pass,
    fault_latency::{fault_begin, fault_end},
    growth::{growth_listed, growth_listed_page},
    oom_kill::{kill_sent, oom_kill_pid, oom_kill_task},
    oom_scope::{oom_kill_begin, oom_kill_end},
    page_fault::{page_fault, page_fault_handled},
    process::{process_exec, process_exit},
    reclaim::{direct_reclaim_begin, direct_reclaim_end, memcg_reclaim_begin, memcg_reclaim_end},
};

/// `GPL` in the object lets the verifier offer GPL-only helpers (`bpf_probe_read_kernel`); the sources are offered
/// under the GPL as well as the project's licences.
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
    eprintln!("this binary is the eBPF object of the observer; build it with `cargo xtask build-ebpf`");
}
