//! The allocator keeps what was freed, in case it is needed again.

/// Gives it back to the system: after a time of much, before a long one of little.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
