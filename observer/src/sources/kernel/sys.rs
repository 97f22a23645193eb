//! The calls of bpf(2) that aya does not make.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type::BPF_TRACE_ITER, bpf_cmd};

/// The part of `union bpf_attr` for BPF_LINK_CREATE of an iterator (kernel: include/uapi/linux/bpf.h).
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    _pad: u32,
}

/// `union bpf_iter_link_info`, its member `cgroup`.
#[repr(C)]
struct CgroupIterInfo {
    order: u32,
    cgroup_fd: u32,
    cgroup_id: u64,
}

#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// `BPF_CGROUP_ITER_DESCENDANTS_PRE`: the group, then those below, parents before children.
const DESCENDANTS_PRE: u32 = 2;

/// A link of an iterator program to the cgroups at and below a directory.
pub fn link_cgroup_iter(program: BorrowedFd, cgroup: BorrowedFd) -> io::Result<OwnedFd> {
    let info = CgroupIterInfo { order: DESCENDANTS_PRE, cgroup_fd: cgroup.as_raw_fd() as u32, cgroup_id: 0 };
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: 0,
        attach_type: BPF_TRACE_ITER as u32,
        flags: 0,
        iter_info: (&raw const info) as u64,
        iter_info_len: size_of::<CgroupIterInfo>() as u32,
        _pad: 0,
    };
    // SAFETY: of the layout the command expects; the kernel reads `info` during the call only.
    unsafe { descriptor(bpf_cmd::BPF_LINK_CREATE, &attr) }
}

/// A descriptor: reading it runs the program once over everything the link names.
pub fn create_iter(link: BorrowedFd) -> io::Result<OwnedFd> {
    let attr = IterCreate { link_fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: of the layout the command expects.
    unsafe { descriptor(bpf_cmd::BPF_ITER_CREATE, &attr) }
}

/// # Safety
/// `attr` has the layout of the command, which returns a descriptor.
unsafe fn descriptor<T>(command: bpf_cmd, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: by contract; the size is that of the attribute.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, owned by nothing else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
