//! Memory that the allocator keeps.

/// Gives freed memory back to the kernel, in all arenas of the allocator. For after work that needed much of it for a
/// short time: by itself glibc gives back only what lies at the end of the heap. Takes milliseconds.
pub fn trim() {
    // SAFETY: takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
