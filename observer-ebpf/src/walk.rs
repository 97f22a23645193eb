//! Following kernel structs with offsets that the verifier knows as constants (see [`crate::field`]).
//!
//! A typed pointer (a tp_btf argument, or `bpf_get_current_task_btf`) stays typed through each load, so the verifier
//! checks every step and the JIT guards it against faults; no helper is called. Only `css -> mem_cgroup` is a
//! container_of, which has no type: from there on `bpf_probe_read_kernel` is used.

use core::mem::MaybeUninit;

use aya_ebpf::{
    Global,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_task, bpf_get_current_task_btf, bpf_probe_read_kernel},
    },
};

use crate::field::{COUNT, Field};

/// Filled by userland before load, frozen after.
#[unsafe(no_mangle)]
pub static OFFSETS: [Global<u32>; COUNT] = [const { Global::new(crate::field::ABSENT) }; COUNT];
/// The hierarchy the memory controller is on: 0 is cgroup v2.
#[unsafe(no_mangle)]
pub static MEMORY_HIERARCHY: Global<u32> = Global::new(0);
/// `abi::MIN_STEP_BYTES` in pages of this host.
#[unsafe(no_mangle)]
pub static MIN_STEP_PAGES: Global<u64> = Global::new(256);

/// BTF id of `struct mem_cgroup`; 0 where the kernel cannot cast (before v6.2).
#[unsafe(no_mangle)]
pub static MEMCG_TYPE: Global<u32> = Global::new(0);
/// The same of `struct mem_cgroup_per_node`.
#[unsafe(no_mangle)]
pub static NODE_TYPE: Global<u32> = Global::new(0);

/// 1: every exit and every attach is seen, so a per-CPU slot may be kept by task. 0: walk at each fault.
#[unsafe(no_mangle)]
pub static SLOT_BY_TASK: Global<u32> = Global::new(0);

/// 1: growth is looked at as it enters the page lists, so a page fault need only be counted.
#[unsafe(no_mangle)]
pub static GROWTH_IS_LISTED: Global<u32> = Global::new(0);

/// 1: this kernel cannot type the current task (before v5.11), so every step is read by a helper.
#[unsafe(no_mangle)]
pub static READ_BY_HELPER: Global<u32> = Global::new(0);

pub type Ptr = *const u8;

#[inline(always)]
pub fn offset(field: Field) -> usize {
    OFFSETS[field as usize].load() as usize
}

#[inline(always)]
pub fn has(field: Field) -> bool {
    OFFSETS[field as usize].load() != crate::field::ABSENT
}

/// Loads a value through a typed pointer.
///
/// # Safety
/// `base` is a pointer the verifier has a type for, of the struct `field` belongs to, and `T` is the field's type.
#[inline(always)]
pub unsafe fn load<T: Copy>(base: Ptr, field: Field) -> T {
    // SAFETY: by contract.
    unsafe { load_at(base, offset(field)) }
}

/// # Safety
/// As [`load`]; `offset` is that of a field of type `T`.
#[inline(always)]
unsafe fn load_at<T: Copy>(base: Ptr, offset: usize) -> T {
    if READ_BY_HELPER.load() != 0 {
        let address = base as u64 + offset as u64;
        // SAFETY: by contract every T here is an integer or a pointer.
        return unsafe { peek_at(address) };
    }
    // SAFETY: by contract; the verifier proves it at load time and the JIT turns a bad address into zero.
    unsafe { *(base.add(offset) as *const T) }
}

#[inline(always)]
pub fn current_task() -> Ptr {
    if READ_BY_HELPER.load() != 0 {
        // SAFETY: no preconditions.
        return unsafe { bpf_get_current_task() } as Ptr;
    }
    // SAFETY: no preconditions; returns a typed, trusted pointer.
    unsafe { bpf_get_current_task_btf() as Ptr }
}

#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// A task's memory controller state.
///
/// # Safety
/// `task` is a typed `struct task_struct` pointer.
#[inline(always)]
pub unsafe fn memory_css(task: Ptr) -> Ptr {
    // SAFETY: task -> css_set -> css, each typed.
    unsafe { load::<Ptr>(load::<Ptr>(task, Field::TaskCgroups), Field::CssSetMemory) }
}

/// Cgroup id of a controller state.
///
/// # Safety
/// `css` is a typed `struct cgroup_subsys_state` pointer.
#[inline(always)]
pub unsafe fn css_cgroup_id(css: Ptr) -> u64 {
    // SAFETY: css -> cgroup, typed.
    unsafe { cgroup_id(load::<Ptr>(css, Field::CssCgroup)) }
}

/// # Safety
/// `cgroup` is a typed `struct cgroup` pointer.
#[inline(always)]
pub unsafe fn cgroup_id(cgroup: Ptr) -> u64 {
    // SAFETY: cgroup -> kernfs_node -> id, typed.
    unsafe { load::<u64>(load::<Ptr>(cgroup, Field::CgroupKn), Field::KnId) }
}

/// Whether a cgroup is in the memory controller's hierarchy. On v1 every controller has a tree of its own, and the
/// ids of different trees overlap.
///
/// # Safety
/// `cgroup` is a typed `struct cgroup` pointer.
#[inline(always)]
pub unsafe fn in_memory_hierarchy(cgroup: Ptr) -> bool {
    // SAFETY: cgroup -> cgroup_root, typed.
    unsafe {
        load::<u32>(load::<Ptr>(cgroup, Field::CgroupRoot), Field::RootHierarchy) == MEMORY_HIERARCHY.load()
    }
}

/// Gives an address a type: kfunc `bpf_rdonly_cast` (kernel: kernel/bpf/helpers.c, v6.2), which the verifier replaces
/// by a move, so that what follows is a plain guarded load instead of a helper call. The object cannot name a kfunc;
/// userland finds this placeholder and puts the kfunc's BTF id there. Not reached, and so removed by the verifier,
/// where there is none.
#[inline(always)]
fn cast(address: u64, ty: u32) -> Ptr {
    let typed: u64;
    // SAFETY: the kfunc has no side effects; it clobbers what every call clobbers.
    unsafe {
        core::arch::asm!(
            "call {placeholder}",
            placeholder = const crate::abi::CAST_PLACEHOLDER,
            inlateout("r1") address => _,
            inlateout("r2") u64::from(ty) => _,
            lateout("r0") typed,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
    typed as Ptr
}

/// Reads a value by a helper: for rare paths, and for addresses the verifier has no type for. Zero if the memory is
/// gone.
///
/// # Safety
/// `T` is the field's type, an integer or a pointer, for which zero is valid.
#[inline(always)]
pub unsafe fn peek<T: Copy>(base: u64, field: Field) -> T {
    // SAFETY: the helper checks the address.
    unsafe { peek_at(base + offset(field) as u64) }
}

/// Reads a value at an address; zero if the memory is gone. Without a branch on the helper's answer, which the kernel
/// makes needless (it clears what it could not read: kernel/trace/bpf_trace.c, v5.5): each branch doubles the paths
/// that the verifier follows, and kernel 5.10 did not come to an end with ten reads for each of 32 levels.
///
/// # Safety
/// As [`peek`].
#[inline(always)]
pub unsafe fn peek_at<T: Copy>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address and writes all of `value`, for which zero is valid by contract.
    unsafe {
        bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        value.assume_init()
    }
}

/// Reads 8 bytes at any address: where the kernel can cast, by a guarded load as the `usage` of a made-up memcg that
/// has it there. Zero if the memory is gone.
#[inline(always)]
pub fn word(address: u64) -> u64 {
    let ty = MEMCG_TYPE.load();
    if ty != 0 {
        // SAFETY: typed by the cast; the verifier has the load guarded.
        return unsafe { load(cast(address - offset(Field::MemcgUsage) as u64, ty), Field::MemcgUsage) };
    }
    read_address(address)
}

/// `struct mem_cgroup_per_node` at an address.
#[inline(always)]
pub fn typed_node(address: u64) -> Typed {
    Typed::at(address, NODE_TYPE.load())
}

/// A struct at an address: cast once where the kernel can, read by helpers where it cannot.
#[derive(Clone, Copy)]
pub struct Typed {
    address: u64,
    /// Null where it could not be cast.
    cast: Ptr,
}

impl Typed {
    #[inline(always)]
    fn at(address: u64, ty: u32) -> Self {
        Self { address, cast: if ty != 0 { cast(address, ty) } else { core::ptr::null() } }
    }

    /// The 8-byte field at this offset.
    #[inline(always)]
    pub fn word(self, offset: usize) -> u64 {
        if MEMCG_TYPE.load() != 0 {
            // SAFETY: typed by the cast.
            return unsafe { load_at(self.cast, offset) };
        }
        read_address(self.address + offset as u64)
    }

    /// The first of `N` elements of 8 bytes; those after them are not read, or not to be used.
    #[inline(always)]
    pub fn words<const N: usize>(self, offset: usize, first: usize) -> [u64; N] {
        if MEMCG_TYPE.load() == 0 {
            // One call for all. SAFETY: integers.
            return unsafe { peek_at(self.address + offset as u64) };
        }
        let mut words = [0; N];
        for (n, word) in words.iter_mut().enumerate() {
            if n >= first {
                break;
            }
            *word = self.word(offset + n * size_of::<u64>());
        }
        words
    }

    #[inline(always)]
    pub fn byte(self, offset: usize) -> u8 {
        if MEMCG_TYPE.load() != 0 {
            // SAFETY: typed by the cast.
            return unsafe { load_at(self.cast, offset) };
        }
        // SAFETY: a byte.
        unsafe { peek_at(self.address + offset as u64) }
    }
}

/// A `struct mem_cgroup`: an address only.
#[derive(Clone, Copy)]
pub struct Memcg(u64);

impl Memcg {
    #[inline(always)]
    pub fn of(css: Ptr) -> Self {
        Self(css as u64 - offset(Field::MemcgCss) as u64)
    }

    /// Cgroup id of a memcg the verifier has a type for.
    ///
    /// # Safety
    /// `memcg` is a typed `struct mem_cgroup` pointer.
    #[inline(always)]
    pub unsafe fn cgroup_id(memcg: Ptr) -> u64 {
        // The css is a member, so its fields are fields of the memcg, further on.
        let at = offset(Field::MemcgCss) + offset(Field::CssCgroup);
        // SAFETY: memcg -> css.cgroup, typed.
        unsafe { cgroup_id(load_at::<Ptr>(memcg, at)) }
    }

    #[inline(always)]
    pub fn from_address(address: u64) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub fn address(self) -> u64 {
        self.0
    }

    /// For many reads.
    #[inline(always)]
    pub fn typed(self) -> Typed {
        Typed::at(self.0, MEMCG_TYPE.load())
    }

    /// `cgroup_subsys_state.serial_nr`.
    #[inline(always)]
    pub fn serial(self) -> u64 {
        let at = offset(Field::MemcgCss) + offset(Field::CssSerial);
        let ty = MEMCG_TYPE.load();
        if ty != 0 {
            // SAFETY: typed by the cast; the css is a member.
            return unsafe { load_at::<u64>(cast(self.0, ty), at) };
        }
        read_address(self.0 + at as u64)
    }

    /// Its group was removed: its pages live on for a while, and some are still to be put on the lists.
    #[inline(always)]
    pub fn is_dying(self) -> bool {
        // Kernel: include/linux/cgroup-defs.h, CSS_DYING; set before the removal is reported.
        const CSS_DYING: u32 = 1 << 4;
        let at = offset(Field::MemcgCss) + offset(Field::CssFlags);
        // SAFETY: an integer.
        has(Field::CssFlags) && unsafe { peek_at::<u32>(self.0 + at as u64) } & CSS_DYING != 0
    }

    /// Cgroup id of an address the verifier has no type for.
    #[inline(always)]
    pub fn own_cgroup_id(self) -> u64 {
        let css = self.0 + offset(Field::MemcgCss) as u64;
        let cgroup = read_address(css + offset(Field::CssCgroup) as u64);
        let node = read_address(cgroup + offset(Field::CgroupKn) as u64);
        read_address(node + offset(Field::KnId) as u64)
    }

    #[inline(always)]
    pub fn parent(self) -> Self {
        let css = self.0 + offset(Field::MemcgCss) as u64;
        Self(read_address(css + offset(Field::CssParent) as u64) - offset(Field::MemcgCss) as u64)
    }

    /// Reads one 8-byte field; 0 if the memory is gone.
    #[inline(always)]
    pub fn read(self, field: Field) -> u64 {
        let ty = MEMCG_TYPE.load();
        if ty != 0 {
            // SAFETY: typed by the cast.
            return unsafe { load::<u64>(cast(self.0, ty), field) };
        }
        read_address(self.0 + offset(field) as u64)
    }
}

/// Reads 8 bytes by a helper; 0 if the memory is gone.
#[inline(always)]
fn read_address(address: u64) -> u64 {
    // SAFETY: an integer.
    unsafe { peek_at(address) }
}

/// The current task's thread group, cgroup id and memcg.
#[inline(always)]
pub fn current_cgroup() -> (u64, Memcg) {
    // SAFETY: the current task is a typed pointer.
    let css = unsafe { memory_css(current_task()) };
    // SAFETY: css is typed by the walk.
    (unsafe { css_cgroup_id(css) }, Memcg::of(css))
}
