//! The pass: one record of every memory cgroup, from one run of the program `cgroup_pass`, without a file.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    ptr::NonNull,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::ProgramFd,
};
use observer_ebpf::probes::cgroup_pass::{CAPACITY, CgroupRecord, EVERY_ONE, Header, WHOLE_EVERY, mode};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

use crate::sources::kernel::sys;

/// What one run found, parents before children. Borrowed from the mapped table, which the next run overwrites.
#[derive(Debug)]
pub struct Found<'a> {
    pub records: &'a [CgroupRecord],
    /// Indexes of those that are not as the last run over all of them left them, ascending. `None`: any may be.
    pub changed: Option<&'a [u64]>,
    /// Groups for which the table had no room.
    pub dropped: u64,
}

pub struct Pass {
    program: ProgramFd,
    whole: OwnedFd,
    records: Mapping<CgroupRecord>,
    changed: Mapping<u64>,
    header: Mapping<Header>,
    mode: u64,
    runs: u64,
    /// The table is as the last run over everything left it, or differs from what the next will write.
    kept: bool,
    /// Of the first record of that run.
    first: u64,
}

/// One cgroup and those below it.
pub struct Below(OwnedFd);

/// Entries of the table: twice the cgroups of now, so that a node may double before any is dropped. Everything is
/// mapped, and what is used of it is resident: 208 bytes each. `None`: nothing counts them.
pub fn capacity(cgroups: Option<u64>) -> u32 {
    let Some(cgroups) = cgroups else { return CAPACITY };
    let wanted = u32::try_from(cgroups.saturating_mul(2)).unwrap_or(u32::MAX);
    wanted.clamp(CAPACITY / 4, CAPACITY * 8).next_power_of_two()
}

impl Pass {
    /// `capacity` is that of the map `PASS` as loaded.
    pub fn open(programs: &mut Ebpf, root: &Path, capacity: u32) -> Result<Self, String> {
        let program = programs
            .program("cgroup_pass")
            .and_then(|program| program.fd().ok())
            .ok_or("the program cgroup_pass is not loaded")?
            .try_clone()
            .map_err(|error| format!("cannot keep the program cgroup_pass: {error}"))?;
        let whole = link(&program, root)
            .map_err(|error| format!("cannot link iter cgroup at {}: {error}", root.display()))?;
        Ok(Self {
            program,
            whole,
            records: Mapping::new(programs, "PASS", capacity as usize)?,
            changed: Mapping::new(programs, "PASS_CHANGED", capacity as usize)?,
            header: Mapping::new(programs, "PASS_HEADER", 1)?,
            mode: mode::ALL,
            runs: 0,
            kept: false,
            first: 0,
        })
    }

    /// For runs over one group; its directory is opened once, here.
    pub fn below(&self, directory: &Path) -> io::Result<Below> {
        link(&self.program, directory).map(Below)
    }

    /// Every group there is. Where they do not fit, the containers come first.
    pub fn run(&mut self) -> io::Result<Found<'_>> {
        let kept = std::mem::take(&mut self.kept);
        self.runs += 1;
        let whole = self.runs % WHOLE_EVERY;
        let counts = self.go(None, self.mode, whole)?;
        let (counts, kept) = if counts.dropped > 0 && self.mode == mode::ALL {
            self.mode = mode::CONTAINERS;
            (self.go(None, self.mode, whole)?, false)
        } else {
            (counts, kept)
        };
        if self.mode == mode::CONTAINERS && counts.stored + counts.dropped <= self.records.len as u64 {
            self.mode = mode::ALL;
        }
        self.kept = true;
        self.first = self.records.as_slice().first().map_or(0, |record| record.cgroup);
        let mut found = self.found(counts);
        found.changed = found.changed.filter(|_| kept);
        Ok(found)
    }

    /// Overwrites the beginning of the table: the next run over everything finds that changed.
    pub fn run_below(&mut self, group: &Below) -> io::Result<Found<'_>> {
        let kept = std::mem::take(&mut self.kept);
        let counts = self.go(Some(group.0.as_fd()), mode::ALL, EVERY_ONE)?;
        // But if that is what is at the beginning anyway.
        self.kept = kept && self.records.as_slice().first().is_some_and(|record| record.cgroup != self.first);
        Ok(Found { changed: None, ..self.found(counts) })
    }

    fn go(&mut self, link: Option<BorrowedFd>, mode: u64, whole: u64) -> io::Result<Header> {
        self.header.write(Header { mode, whole, ..Header::default() });
        let iterator = sys::create_iter(link.unwrap_or(self.whole.as_fd()))?;
        // The program writes no output: the read that ran it over everything returns 0.
        let mut nothing = [0u8; 64];
        loop {
            match rustix::io::read(&iterator, &mut nothing) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.header.read())
    }

    fn found(&self, counts: Header) -> Found<'_> {
        let of = |count: u64| (count as usize).min(self.records.len);
        Found {
            records: &self.records.as_slice()[..of(counts.stored)],
            changed: Some(&self.changed.as_slice()[..of(counts.changed)]),
            dropped: counts.dropped,
        }
    }
}

fn link(program: &ProgramFd, directory: &Path) -> io::Result<OwnedFd> {
    let directory = File::open(directory)?;
    sys::link_cgroup_iter(program.as_fd(), directory.as_fd())
}

/// An array map in this process's memory. The kernel rounds an entry up to 8 bytes.
struct Mapping<T> {
    start: NonNull<T>,
    len: usize,
    bytes: usize,
    _map: MapData,
}

// SAFETY: the mapping is owned, and written by nothing but the program that this process runs by a system call.
unsafe impl<T: Send> Send for Mapping<T> {}

impl<T: bytemuck::Pod> Mapping<T> {
    fn new(programs: &mut Ebpf, name: &str, len: usize) -> Result<Self, String> {
        let map = match programs.take_map(name) {
            Some(Map::Array(map)) => map,
            _ => return Err(format!("the eBPF object has no array {name}")),
        };
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let bytes = (len * size_of::<T>()).next_multiple_of(rustix::param::page_size());
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, flags, MapFlags::SHARED, map.fd().as_fd(), 0) };
        let start = start.map_err(|error| format!("cannot map {name}: {error}"))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| format!("cannot map {name}: at null"))?;
        Ok(Self { start, len, bytes, _map: map })
    }

    fn as_slice(&self) -> &[T] {
        // SAFETY: mapped, page-aligned, plain bytes; the program runs only while `Pass` is borrowed mutably.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn read(&self) -> T {
        // SAFETY: mapped, and plain bytes; volatile because the kernel wrote it.
        unsafe { self.start.as_ptr().read_volatile() }
    }

    fn write(&mut self, value: T) {
        // SAFETY: mapped; volatile because the kernel reads it.
        unsafe { self.start.as_ptr().write_volatile(value) }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no reference into it outlives this.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_twice_what_there_is_within_bounds() {
        assert_eq!(capacity(None), CAPACITY);
        assert_eq!(capacity(Some(10)), CAPACITY / 4);
        assert_eq!(capacity(Some(2015)), 4096);
        assert_eq!(capacity(Some(u64::MAX)), CAPACITY * 8);
    }
}
