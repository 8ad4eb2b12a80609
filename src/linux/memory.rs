//! Memory that the allocator keeps.

/// Arenas of the allocator: threads share them. By default there are eight for each processor, and what one thread frees
/// in its arena serves no other.
const ARENAS: i32 = 2;
/// Larger pieces come from the kernel and go back to it at once. By default this grows with what is freed, up to 32 MiB.
const MAPPED_FROM_B: i32 = 1 << 20;
/// So much may lie free at the end of the heap.
const KEPT_AT_END_B: i32 = 1 << 20;

/// Makes the allocator hold less. To be called before there are threads.
pub fn set_up() {
    // SAFETY: takes no pointer, and changes the allocator's parameters under its lock (mallopt(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_B);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_AT_END_B);
    }
}

/// Gives freed memory back to the kernel, in all arenas of the allocator. For after work that needed much of it for a
/// short time: by itself glibc gives back only what lies at the end of the heap. Takes milliseconds.
pub fn trim() {
    // SAFETY: takes no pointer, and may be called at any time by any thread (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
