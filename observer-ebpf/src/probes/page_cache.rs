//! Memory charged without a page fault: files read into the page cache, or written.
//!
//! *Sees* each folio added to the page cache, by the task that adds it. *Hooks* filemap:mm_filemap_add_to_page_cache
//! (kernel: mm/filemap.c). *Falls back to* the usage file, read while a container is young or moving. *Feeds* the start-up
//! curve.
//!
//! The point is pushed as `page_fault` pushes it, so a curve has the same error bound whether memory grows by touching
//! pages or by reading files. Kernel memory (sockets, slab, page tables) is charged by neither: it shows in the next
//! point, and in the files.

use crate::probe::{Fallback, Hook, Intent, Probe, tp_btf};

pub const PROBE: Probe = Probe {
    name: "page_cache",
    sees: "memory usage at each step that files add to the start-up curve",
    intent: Intent::Optional,
    hooks: &[Hook { attachments: &[tp_btf("page_cache", "mm_filemap_add_to_page_cache")] }],
    fallback: Fallback {
        by: Some(
            "the usage file, read every 20 ms while a container moves and every second while it is young",
        ),
        lost: "page cache shorter than that shows only in the peak",
    },
    needs: super::page_fault::PROBE.needs,
    feeds: &["observer_container_memory_usage_bytes", "observer_container_startup_peak_bytes"],
};

#[cfg(target_arch = "bpf")]
pub use program::page_cache;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

    use crate::{abi, curve, maps::SLOTS};

    #[btf_tracepoint(function = "mm_filemap_add_to_page_cache")]
    pub fn page_cache(ctx: BtfTracePointContext) -> i32 {
        if let Some(slot) = SLOTS.get_ptr_mut(abi::slot::CACHE) {
            // SAFETY: a per-CPU value of this program; the kernel does not let it nest on one CPU.
            let slot = unsafe { &mut *slot };
            curve::turn_to_current(&ctx, slot);
            curve::look(slot);
        }
        0
    }
}
