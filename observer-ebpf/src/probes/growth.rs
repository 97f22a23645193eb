//! Memory growing, however it comes to be charged: the usage curve's points.
//!
//! *Sees* each folio that enters an LRU list: anonymous memory, huge pages, page cache, tmpfs, mapped files, and what
//! the kernel faults in for a task. *Hooks* pagemap:mm_lru_insertion (kernel: mm/swap.c), whose folio, or page before
//! v5.17, names the group that was charged. *Falls back to* readings while a container is young or moving. *Feeds* the
//! start-up curve.
//!
//! A CPU puts folios on the lists in batches of at most 31, so an insertion is late by at most 124 KiB in small pages.
//! It runs under the list's lock: it looks at the group's usage and does nothing else unless usage moved by a step.
//! Kernel memory (sockets, slab, page tables) is on no list: it shows in the next point.

use crate::probe::{ArgType, Fallback, Hook, Intent, Probe, tp_btf_if};

pub const PROBE: Probe = Probe {
    name: "growth",
    sees: "memory usage at each step of the start-up curve, by whatever way memory grows",
    intent: Intent::Optional,
    hooks: &[
        Hook {
            attachments: &[tp_btf_if("growth_listed", "mm_lru_insertion", 0, ArgType::PointerTo("folio"))],
        },
        Hook {
            attachments: &[tp_btf_if(
                "growth_listed_page",
                "mm_lru_insertion",
                0,
                ArgType::PointerTo("page"),
            )],
        },
    ],
    fallback: Fallback {
        by: Some("a look every 20 ms while a young container moves and every second while it does not"),
        lost: "growth without page faults that is shorter than that shows only in the peak",
    },
    needs: super::page_fault::PROBE.needs,
    feeds: &["observer_container_memory_usage_bytes", "observer_container_startup_peak_bytes"],
};

#[cfg(target_arch = "bpf")]
pub use program::{growth_listed, growth_listed_page};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

    use crate::{
        abi, curve,
        field::Field,
        maps::SLOTS,
        walk::{self, Memcg, Ptr},
    };

    /// Low bits of `memcg_data` are flags (kernel: include/linux/memcontrol.h, MEMCG_DATA_OBJEXTS,
    /// MEMCG_DATA_KMEM).
    const FLAGS: u64 = 7;

    #[btf_tracepoint(function = "mm_lru_insertion")]
    pub fn growth_listed(ctx: BtfTracePointContext) -> i32 {
        let folio: Ptr = ctx.arg(0);
        // SAFETY: a typed tracepoint argument.
        let charged = unsafe { walk::load::<u64>(folio, Field::FolioMemcg) } & !FLAGS;
        if charged != 0 && walk::has(Field::NodeObjcg) {
            // SAFETY: the address of an obj_cgroup, of which a pointer is read.
            look(&ctx, unsafe { walk::peek::<u64>(charged, Field::ObjcgMemcg) });
        } else {
            look(&ctx, charged);
        }
        0
    }

    #[btf_tracepoint(function = "mm_lru_insertion")]
    pub fn growth_listed_page(ctx: BtfTracePointContext) -> i32 {
        let page: Ptr = ctx.arg(0);
        // SAFETY: a typed tracepoint argument.
        look(&ctx, unsafe { walk::load::<u64>(page, Field::PageMemcg) } & !FLAGS);
        0
    }

    #[inline(always)]
    fn look(ctx: &BtfTracePointContext, memcg: u64) {
        if memcg != 0
            && let Some(slot) = SLOTS.get_ptr_mut(abi::slot::GROWTH)
        {
            // SAFETY: a per-CPU value of this program; the kernel does not let it nest on one CPU.
            let slot = unsafe { &mut *slot };
            curve::turn_to(ctx, slot, Memcg::from_address(memcg));
            curve::look(slot);
        }
    }
}
