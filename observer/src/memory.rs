//! Memory that is kept in case it is needed again, and is not.

use std::env;

use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};
use rustix::mm::{Advice, madvise};

/// A block from this size on has pages of its own, which are the system's again when it is freed.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 256 << 10;

/// Texts of megabytes come and go. By itself the allocator takes the first that is freed as a sign to keep blocks of
/// that size, and what lies between them, for the next (mallopt(3), M_MMAP_THRESHOLD). Once, before any thread.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; a value that is refused leaves the allocator as it is.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Gives back what the allocator keeps of what was freed: after a time of much, before a long one of little.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps this program's code and constants. Most of them only ran at the start, and what is mapped is the last that
/// the kernel takes back where memory is short; what still runs is mapped again from the page cache as it is used.
pub fn unmap_code() {
    advise_code(Advice::LinuxDontNeed);
}

/// Returns how much of it was resident before.
fn advise_code(advice: Advice) -> u64 {
    let maps = Process::myself().and_then(|own| own.smaps());
    let (Ok(maps), Ok(program)) = (maps, env::current_exe()) else { return 0 };
    let program = MMapPath::Path(program);
    let unwritten = |map: &MemoryMap| {
        !map.perms.contains(MMPermissions::WRITE) && map.extension.map.get("Anonymous") == Some(&0)
    };
    let mut resident = 0;
    for map in maps.into_iter().filter(|map| map.pathname == program && unwritten(map)) {
        resident += map.extension.map.get("Rss").copied().unwrap_or(0);
        let (start, end) = map.address;
        // SAFETY: no page of it differs from the file, which cannot be written while it runs, so that each comes back
        // as it was. It fails where the kernel knows better, and then nothing changes.
        let _ = unsafe { madvise(start as *mut _, (end - start) as usize, advice) };
    }
    resident
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_does_not_run_is_not_mapped() {
        advise_code(Advice::LinuxPopulateRead); // Linux 5.14
        let all = advise_code(Advice::LinuxDontNeed);
        let left = advise_code(Advice::Normal); // and what other tests run meanwhile
        assert!(left < all / 2, "{left} of {all} bytes");
    }
}
