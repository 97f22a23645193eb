//! The per-CPU slot and the points it pushes: what `page_fault` and `growth` do alike.

use aya_ebpf::EbpfContext;

use crate::{
    abi::{self, MAX_NESTING, STEP_RATIO_SHIFT, Slot, kind},
    field::Field,
    maps::{self, CGROUPS, CONTAINERS},
    walk::{self, MIN_STEP_PAGES, Memcg},
};

/// Makes the slot that of the current task's cgroup, if it is another's.
#[inline(always)]
pub fn turn_to_current(ctx: &impl EbpfContext, slot: &mut Slot) {
    // SAFETY: the current task is a typed pointer, and so is everything reached from it.
    let css = unsafe { walk::memory_css(walk::current_task()) };
    // SAFETY: as above.
    let serial = unsafe { walk::load::<u64>(css, Field::CssSerial) };
    if slot.serial != serial {
        switch(ctx, slot, css, serial);
    }
}

/// Makes the slot that of a memcg's container, if it is another's.
#[inline(always)]
pub fn turn_to(ctx: &impl EbpfContext, slot: &mut Slot, memcg: Memcg) {
    let serial = memcg.serial();
    if slot.serial != serial {
        switch_to_memcg(ctx, slot, memcg, serial);
    }
}

/// Pushes a point if usage left the step around the last one.
#[inline(always)]
pub fn look(slot: &mut Slot) {
    let usage = Memcg::from_address(slot.memcg).read(Field::MemcgUsage);
    if usage.abs_diff(slot.last_pages) > slot.step_pages {
        moved(slot, usage);
    }
}

/// Another cgroup on this CPU: hands the counted faults over and loads the new one.
#[inline(never)]
fn switch(ctx: &impl EbpfContext, slot: &mut Slot, css: walk::Ptr, serial: u64) {
    hand_over(slot);
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
    // SAFETY: typed pointer.
    let cgroup = if up == 0 { own } else { unsafe { walk::css_cgroup_id(container) } };
    take(ctx, slot, serial, Memcg::of(container), cgroup);
}

/// As [`switch`], from an address instead of a typed pointer.
#[inline(never)]
fn switch_to_memcg(ctx: &impl EbpfContext, slot: &mut Slot, memcg: Memcg, serial: u64) {
    // Its entry was freed with it, and nothing would free another one.
    if memcg.is_dying() {
        return;
    }
    hand_over(slot);
    let own = memcg.own_cgroup_id();
    // SAFETY: entries are written whole and only removed after the cgroup is gone.
    let up = unsafe { CONTAINERS.get(own) }.copied().unwrap_or(0);
    let mut container = memcg;
    for level in 0..MAX_NESTING {
        if level >= up {
            break;
        }
        container = container.parent();
    }
    let cgroup = if up == 0 { own } else { container.own_cgroup_id() };
    take(ctx, slot, serial, container, cgroup);
}

/// The counted faults go into the table.
#[inline(always)]
fn hand_over(slot: &mut Slot) {
    let (previous, faults) = (slot.cgroup, slot.faults);
    // Reset before adding: a reader between the two sees too little, corrected on its next look, never too much.
    slot.faults = 0;
    if faults > 0
        && let Some(totals) = CGROUPS.get_ptr_mut(previous)
    {
        // SAFETY: points into the table.
        unsafe { maps::add(&raw mut (*totals).faults, faults) };
    }
}

#[inline(always)]
fn take(ctx: &impl EbpfContext, slot: &mut Slot, serial: u64, container: Memcg, cgroup: u64) {
    slot.serial = serial;
    slot.memcg = container.address();
    slot.cgroup = cgroup;
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
    // Made when the slot was turned to it; gone with the group, whose last pages may come after it.
    let Some(totals) = CGROUPS.get_ptr_mut(slot.cgroup) else { return };
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
    maps::emit_point(|point: *mut abi::Point| {
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
