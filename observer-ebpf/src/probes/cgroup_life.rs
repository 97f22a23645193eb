//! Life of memory cgroups: made, joined, populated, emptied, removed.
//!
//! *Sees* each change in the memory controller's hierarchy with the cgroup's id and path. *Hooks* cgroup:cgroup_mkdir,
//! cgroup_attach_task, cgroup_notify_populated, cgroup_rmdir (kernel: kernel/cgroup/cgroup.c). *Falls back to* a walk
//! of the tree on the tick. *Feeds* which containers exist, and the last peak before a group goes.

use crate::{
    field::Field,
    probe::{Fallback, Hook, Intent, Probe, tp_btf},
};

pub const PROBE: Probe = Probe {
    name: "cgroup_life",
    sees: "memory cgroups being made, joined, emptied and removed, and their peak when they empty",
    intent: Intent::Optional,
    hooks: &[Hook {
        attachments: &[
            tp_btf("cgroup_made", "cgroup_mkdir"),
            tp_btf("cgroup_attached", "cgroup_attach_task"),
            tp_btf("cgroup_populated", "cgroup_notify_populated"),
            tp_btf("cgroup_removed", "cgroup_rmdir"),
        ],
    }],
    fallback: Fallback {
        by: Some("a walk of the cgroup tree every tick"),
        lost: "a container that lives shorter than a tick is missed, and its last peak with it",
    },
    needs: &[
        Field::CgroupKn,
        Field::KnId,
        Field::CgroupRoot,
        Field::RootHierarchy,
        Field::CgroupMemory,
        Field::CssParent,
        Field::CssCgroup,
        Field::MemcgCss,
        Field::MemcgUsage,
        Field::MemcgWatermark,
    ],
    feeds: &["observer_node_cgroups", "observer_container_memory_peak_bytes"],
};

#[cfg(target_arch = "bpf")]
pub use program::{cgroup_attached, cgroup_made, cgroup_populated, cgroup_removed};

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        helpers::generated::bpf_probe_read_kernel_str as read_str, macros::btf_tracepoint,
        programs::BtfTracePointContext,
    };

    use crate::{
        abi::{self, MAX_NESTING, PATH_LEN, kind},
        field::Field,
        maps::{self, CONTAINERS, KILLS_COUNTED, Urgency},
        walk::{self, Memcg, Ptr},
    };

    #[btf_tracepoint(function = "cgroup_mkdir")]
    pub fn cgroup_made(ctx: BtfTracePointContext) -> i32 {
        let cgroup: Ptr = ctx.arg(0);
        if let Some(parent) = report(kind::CGROUP_MADE, cgroup, ctx.arg(1), 0, Urgency::Now) {
            // SAFETY: a typed tracepoint argument.
            inherit(unsafe { walk::cgroup_id(cgroup) }, parent);
        }
        0
    }

    #[btf_tracepoint(function = "cgroup_attach_task")]
    pub fn cgroup_attached(ctx: BtfTracePointContext) -> i32 {
        maps::next_generation();
        let task: Ptr = ctx.arg(2);
        // SAFETY: a typed tracepoint argument.
        let pid = unsafe { walk::load::<u32>(task, Field::TaskTgid) };
        report(kind::CGROUP_ATTACHED, ctx.arg(0), ctx.arg(1), pid, Urgency::Now);
        0
    }

    #[btf_tracepoint(function = "cgroup_notify_populated")]
    pub fn cgroup_populated(ctx: BtfTracePointContext) -> i32 {
        let populated: i32 = ctx.arg(2);
        // What the files of one that emptied count is read before they go.
        let (kind, urgency) = match populated {
            0 => (kind::CGROUP_EMPTIED, Urgency::Now),
            _ => (kind::CGROUP_POPULATED, Urgency::Routine),
        };
        report(kind, ctx.arg(0), ctx.arg(1), 0, urgency);
        0
    }

    #[btf_tracepoint(function = "cgroup_rmdir")]
    pub fn cgroup_removed(ctx: BtfTracePointContext) -> i32 {
        let cgroup: Ptr = ctx.arg(0);
        if report(kind::CGROUP_REMOVED, cgroup, ctx.arg(1), 0, Urgency::Routine).is_some() {
            // SAFETY: a typed tracepoint argument.
            let id = unsafe { walk::cgroup_id(cgroup) };
            // Absent is what is wanted.
            let _ = KILLS_COUNTED.remove(id);
        }
        0
    }

    /// A child of a container, however deep, is that container: its faults and curve go to the ancestor.
    #[inline(always)]
    fn inherit(child: u64, parent: u64) {
        // SAFETY: entries are written whole and only removed after the cgroup is gone.
        let Some(up) = (unsafe { CONTAINERS.get(parent) }).copied() else { return };
        if up < MAX_NESTING && CONTAINERS.insert(child, up + 1, 0).is_err() {
            maps::count_lost(abi::lost::CGROUP_TABLE_FULL);
        }
    }

    /// Writes the record if the cgroup is one of the memory controller's, and says who its parent is.
    #[inline(always)]
    fn report(kind: u32, cgroup: Ptr, path: Ptr, pid: u32, urgency: Urgency) -> Option<u64> {
        // SAFETY: `cgroup` is a typed tracepoint argument.
        if !unsafe { walk::in_memory_hierarchy(cgroup) } {
            return None;
        }
        // SAFETY: as above. Null on v2 where the controller is not enabled for this cgroup, and while it is removed.
        let css = unsafe { walk::load::<Ptr>(cgroup, Field::CgroupMemory) };
        let (mut parent, mut usage_pages, mut watermark_pages) = (0, 0, 0);
        let mut oom_kills = abi::UNKNOWN;
        if css.is_null() {
            if kind != kind::CGROUP_REMOVED {
                return None;
            }
        } else {
            // SAFETY: typed by the walk.
            let parent_css = unsafe { walk::load::<Ptr>(css, Field::CssParent) };
            if !parent_css.is_null() {
                // SAFETY: typed by the walk.
                parent = unsafe { walk::css_cgroup_id(parent_css) };
            }
            usage_pages = Memcg::of(css).read(Field::MemcgUsage);
            watermark_pages = Memcg::of(css).read(Field::MemcgWatermark);
            if walk::has(Field::MemcgEventsOomKill) {
                oom_kills = Memcg::of(css).read(Field::MemcgEventsOomKill);
            }
        }
        // SAFETY: a typed tracepoint argument.
        let header = maps::header(kind, pid, unsafe { walk::cgroup_id(cgroup) });
        maps::emit_life(urgency, |record: *mut abi::Cgroup| {
            // SAFETY: reserved ring memory of this size; every field is written.
            unsafe {
                (*record).header = header;
                (*record).parent = parent;
                (*record).usage_pages = usage_pages;
                (*record).watermark_pages = watermark_pages;
                (*record).oom_kills = oom_kills;
                let len = read_str((&raw mut (*record).path).cast(), PATH_LEN as u32, path.cast());
                (*record).path_len = if len < 0 { 0 } else { len as u64 };
            }
        });
        Some(parent)
    }
}
