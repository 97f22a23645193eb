//! Facts about the host, gathered once: kernel, BTF, cgroups, lockdown, capabilities, PSI. Judges nothing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    config::Roots,
    sources::{
        cgroup::Hierarchy,
        kernel::btf::{Layout, NoTypes},
    },
};

#[derive(Debug)]
pub struct Support {
    pub kernel: String,
    pub layout: Result<Layout, NoTypes>,
    pub hierarchy: Result<Hierarchy, crate::sources::cgroup::NoHierarchy>,
    pub lockdown: Lockdown,
    pub capabilities: Capabilities,
    pub psi: bool,
    pub page_size: u64,
    pub cpus: u64,
    pub numa_nodes: u32,
    /// Entries of the pass's table.
    pub pass_capacity: u32,
    pub object: Option<&'static [u8]>,
    pub btf_path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// The file is not there: securityfs not mounted, or a kernel without the module.
    Unknown,
    None,
    Integrity,
    /// Reading kernel memory from BPF is refused (kernel: security/lockdown, LOCKDOWN_BPF_READ_KERNEL).
    Confidentiality,
}

/// Effective capabilities that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub bpf: bool,
    pub perfmon: bool,
    /// Includes both (capabilities(7)).
    pub sys_admin: bool,
}

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

impl Support {
    pub fn gather(roots: &Roots) -> Self {
        let btf_path = roots.sys.join("kernel/btf/vmlinux");
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            layout: Layout::read(&btf_path),
            hierarchy: Hierarchy::find(&roots.proc, roots.cgroup.as_deref()),
            lockdown: lockdown(&roots.sys.join("kernel/security/lockdown")),
            capabilities: capabilities(&roots.proc),
            psi: fs::read(roots.proc.join("pressure/memory")).is_ok(),
            page_size: rustix::param::page_size() as u64,
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            numa_nodes: numa_nodes(&roots.sys.join("devices/system/node/possible")),
            pass_capacity: crate::sources::kernel::pass::capacity(crate::sources::cgroup::count(&roots.proc)),
            object: crate::sources::kernel::object::embedded(),
            btf_path,
        }
    }

    /// Why no program at all can be loaded, if so.
    pub fn cannot_load(&self) -> Option<String> {
        if self.object.is_none() {
            return Some("eBPF object in this binary; run `cargo xtask build-ebpf` and build again".into());
        }
        if !self.capabilities.can_load() {
            let absent = [(self.capabilities.bpf, "CAP_BPF"), (self.capabilities.perfmon, "CAP_PERFMON")];
            let absent: Vec<&str> = absent.iter().filter(|(has, _)| !has).map(|(_, name)| *name).collect();
            return Some(format!("{}; run as root, or add it", absent.join(" and ")));
        }
        if self.lockdown == Lockdown::Confidentiality {
            return Some("permission to read kernel memory (lockdown=confidentiality); boot with lockdown=integrity or none".into());
        }
        None
    }

    #[cfg(test)]
    pub fn made_up(layout: Layout) -> Self {
        Self {
            kernel: "test".into(),
            layout: Ok(layout),
            hierarchy: Err(crate::sources::cgroup::NoHierarchy::NotMounted { mounts: "test".into() }),
            lockdown: Lockdown::None,
            capabilities: Capabilities { bpf: true, perfmon: true, sys_admin: false },
            psi: true,
            page_size: 4096,
            cpus: 2,
            numa_nodes: 1,
            pass_capacity: 100,
            object: Some(&[0]),
            btf_path: PathBuf::from("/sys/kernel/btf/vmlinux"),
        }
    }
}

impl Capabilities {
    pub fn can_load(self) -> bool {
        self.sys_admin || (self.bpf && self.perfmon)
    }
}

fn lockdown(path: &Path) -> Lockdown {
    let Ok(text) = fs::read_to_string(path) else { return Lockdown::Unknown };
    // "none [integrity] confidentiality": the brackets mark the current one.
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')) {
        Some(("integrity", _)) => Lockdown::Integrity,
        Some(("confidentiality", _)) => Lockdown::Confidentiality,
        _ => Lockdown::None,
    }
}

/// One more than the highest node there can be: `0-1`, `0,2`.
fn numa_nodes(path: &Path) -> u32 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let highest = text.trim().rsplit([',', '-']).next().and_then(|highest| highest.parse::<u32>().ok());
    highest.map_or(1, |highest| highest.saturating_add(1))
}

fn capabilities(proc: &Path) -> Capabilities {
    let status = fs::read_to_string(proc.join("self/status")).unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    Capabilities {
        bpf: effective & CAP_BPF != 0,
        perfmon: effective & CAP_PERFMON != 0,
        sys_admin: effective & CAP_SYS_ADMIN != 0,
    }
}
