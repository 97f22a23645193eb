//! Page faults per container, and the usage curve they push.
//!
//! *Sees* every user page fault. *Hooks* the tracepoint exceptions:page_fault_user (kernel: arch/x86/mm/fault.c,
//! arch/riscv/mm/fault.c). *Falls back to* the files of the cgroup, read on the tick. *Feeds* fault counts and the
//! start-up curve.
//!
//! Nothing leaves the kernel per fault. Each CPU keeps the task and cgroup that faulted last in a [`Slot`]: the same task
//! again costs an increment and one read of the usage; another task of the same cgroup the walk to it; another cgroup
//! flushes the slot into the table. A curve point is
//! emitted when usage moved by more than `max(1 MiB, 1/128)` since this cgroup's last point, so the curve is exact
//! within that step for all growth that faults.
//!
//! [`Slot`]: crate::abi::Slot

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, tp_btf},
};

pub const PROBE: Probe = Probe {
    name: "page_fault",
    sees: "every user page fault per container, and memory usage at each step of the start-up curve",
    intent: Intent::Required,
    hooks: &[Hook { attachments: &[tp_btf("page_fault", "page_fault_user")] }],
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
pub use program::page_fault;

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

    use crate::{
        abi::{self, MAX_NESTING, STEP_RATIO_SHIFT, Slot, kind},
        field::Field,
        maps::{self, CGROUPS, CONTAINERS, SLOTS, Urgency},
        walk::{self, MIN_STEP_PAGES, Memcg, SLOT_BY_TASK},
    };

    #[btf_tracepoint(function = "page_fault_user")]
    pub fn page_fault(ctx: BtfTracePointContext) -> i32 {
        let _ = count(&ctx);
        0
    }

    #[inline(always)]
    fn count(ctx: &BtfTracePointContext) -> Option<()> {
        // SAFETY: a per-CPU value; the kernel does not let this program nest on one CPU.
        let slot = unsafe { &mut *SLOTS.get_ptr_mut(0)? };
        // Where a task's user registers are saved is on its kernel stack: as good as its name, and free to look at.
        let registers = ctx.arg::<walk::Ptr>(1) as u64;
        let generation = maps::generation();
        if slot.registers != registers || slot.generation != generation {
            // SAFETY: the current task is a typed pointer, and so is everything reached from it.
            let css = unsafe { walk::memory_css(walk::current_task()) };
            // SAFETY: as above.
            let serial = unsafe { walk::load::<u64>(css, Field::CssSerial) };
            if slot.serial != serial {
                switch(ctx, slot, css, serial);
            }
            if SLOT_BY_TASK.load() != 0 {
                slot.registers = registers;
            }
            slot.generation = generation;
        }
        slot.faults += 1;
        let usage = Memcg::from_address(slot.memcg).read(Field::MemcgUsage);
        if usage.abs_diff(slot.last_pages) > slot.step_pages {
            moved(slot, usage);
        }
        Some(())
    }

    /// Another cgroup faults on this CPU: hands the counted faults over and loads the new one.
    #[inline(never)]
    fn switch(ctx: &BtfTracePointContext, slot: &mut Slot, css: walk::Ptr, serial: u64) {
        let (previous, faults) = (slot.cgroup, slot.faults);
        // Reset before adding: a reader between the two sees too little, corrected on its next look, never too much.
        slot.faults = 0;
        if let Some(totals) = CGROUPS.get_ptr_mut(previous) {
            // SAFETY: points into the table.
            unsafe { maps::add(&raw mut (*totals).faults, faults) };
        }
        // SAFETY: typed pointer.
        let own = unsafe { walk::css_cgroup_id(css) };
        // SAFETY: entries are written whole and only removed after the cgroup is gone.
        let up = unsafe { CONTAINERS.get(own) }.copied().unwrap_or(0);
        let mut container = css;
        for level in 0..MAX_NESTING {
            if level >= up {
                break;
            }
            // SAFETY: css -> parent, typed.
            container = unsafe { walk::load::<walk::Ptr>(container, Field::CssParent) };
        }
        slot.serial = serial;
        slot.memcg = Memcg::of(container).address();
        // SAFETY: typed pointer.
        slot.cgroup = if up == 0 { own } else { unsafe { walk::css_cgroup_id(container) } };
        slot.last_pages = match maps::totals(slot.cgroup) {
            // SAFETY: points into the table.
            Some(totals) => unsafe { (*totals).last_pages },
            None => {
                aya_log_ebpf::warn!(ctx, "table full: faults of cgroup {} are not counted", slot.cgroup);
                0
            }
        };
        slot.step_pages = step(slot.last_pages);
    }

    /// Usage left the step around the last point this CPU knows of.
    #[inline(never)]
    fn moved(slot: &mut Slot, usage: u64) {
        let Some(totals) = maps::totals(slot.cgroup) else { return };
        // SAFETY: points into the table.
        let last = unsafe { (*totals).last_pages };
        slot.last_pages = last;
        slot.step_pages = step(last);
        if usage.abs_diff(last) <= slot.step_pages {
            return; // another CPU has already reported this move
        }
        // SAFETY: points into the table. Two CPUs racing here emit a point too many, never one too few.
        unsafe { (*totals).last_pages = usage };
        slot.last_pages = usage;
        slot.step_pages = step(usage);
        let watermark_pages = Memcg::from_address(slot.memcg).read(Field::MemcgWatermark);
        let header = maps::header(kind::POINT, walk::current_tgid(), slot.cgroup);
        maps::emit(Urgency::Routine, |point: *mut abi::Point| {
            // SAFETY: reserved ring memory of this size.
            unsafe { point.write(abi::Point { header, usage_pages: usage, watermark_pages }) }
        });
    }

    #[inline(always)]
    fn step(pages: u64) -> u64 {
        let relative = pages >> STEP_RATIO_SHIFT;
        let least = MIN_STEP_PAGES.load();
        if relative > least { relative } else { least }
    }
}
