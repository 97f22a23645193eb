//! Page faults per container, and the usage curve they push.
//!
//! *Sees* every user page fault. *Hooks* the tracepoint exceptions:page_fault_user (kernel: arch/x86/mm/fault.c,
//! arch/riscv/mm/fault.c) or, where the architecture has none, as arm64, the entry of handle_mm_fault (mm/memory.c),
//! which is also entered for faults of the kernel on behalf of the task, and once more for a fault that has to be tried
//! again. *Falls back to* the files of the cgroup, read on the tick. *Feeds* fault counts and the start-up curve.
//!
//! Nothing leaves the kernel per fault. Each CPU keeps the task and cgroup that faulted last in a [`Slot`]: the same
//! task again costs an increment, and at every sixteenth fault one read of the usage; another task of the same cgroup
//! the walk to it; another cgroup flushes the slot into the table. A curve point is emitted when usage moved by more
//! than `max(1 MiB, 1/128)` since this cgroup's last point, so the curve is exact within that step, and fifteen faults,
//! for all growth that faults.
//!
//! [`Slot`]: crate::abi::Slot

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, fentry, tp_btf},
};

pub const PROBE: Probe = Probe {
    name: "page_fault",
    sees: "every user page fault per container, and memory usage at each step of the start-up curve",
    intent: Intent::Required,
    hooks: &[
        Hook { attachments: &[tp_btf("page_fault", "page_fault_user")] },
        Hook { attachments: &[fentry("page_fault_handled", "handle_mm_fault")] },
    ],
    fallback: Fallback {
        by: Some("memory.stat and the usage file, read every tick"),
        lost: "the curve is sampled at the tick instead of pushed: spikes between two ticks show only as the peak",
    },
    needs: &[
        Field::TaskCgroups,
        Field::CssSetMemory,
        Field::CssSerial,
        Field::CssCgroup,
        Field::CssParent,
        Field::CgroupKn,
        Field::KnId,
        Field::MemcgCss,
        Field::MemcgUsage,
        Field::MemcgWatermark,
    ],
    feeds: &[
        "observer_container_page_faults_total",
        "observer_container_memory_usage_bytes",
        "observer_container_startup_peak_bytes",
    ],
};

#[cfg(target_arch = "bpf")]
pub use program::{page_fault, page_fault_handled};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        EbpfContext,
        macros::{btf_tracepoint, fentry},
        programs::{BtfTracePointContext, FEntryContext},
    };

    use crate::{
        abi, curve,
        maps::{self, SLOTS},
        walk::{self, GROWTH_IS_LISTED, SLOT_BY_TASK},
    };

    #[btf_tracepoint(function = "page_fault_user")]
    pub fn page_fault(ctx: BtfTracePointContext) -> i32 {
        let _ = count(&ctx, ctx.arg::<walk::Ptr>(1));
        0
    }

    #[fentry(function = "handle_mm_fault")]
    pub fn page_fault_handled(ctx: FEntryContext) -> i32 {
        let registers: walk::Ptr = ctx.arg(3);
        // None, where it is no exception but get_user_pages.
        let _ = count(&ctx, if registers.is_null() { walk::current_task() } else { registers });
        0
    }

    #[inline(always)]
    fn count(ctx: &impl EbpfContext, registers: walk::Ptr) -> Option<()> {
        // SAFETY: a per-CPU value of this program; the kernel does not let it nest on one CPU.
        let slot = unsafe { &mut *SLOTS.get_ptr_mut(abi::slot::FAULT)? };
        // Where a task's registers are saved is on its kernel stack: as good as its name, and free to look at.
        let registers = registers as u64;
        let generation = maps::generation();
        let turned = slot.registers != registers || slot.generation != generation;
        if turned {
            curve::turn_to_current(ctx, slot);
            if SLOT_BY_TASK.load() != 0 {
                slot.registers = registers;
            }
            slot.generation = generation;
        }
        slot.faults += 1;
        if GROWTH_IS_LISTED.load() == 0 && (turned || slot.faults.is_multiple_of(abi::LOOK_EVERY)) {
            curve::look(slot);
        }
        Some(())
    }
}
