//! This process's own heap.
#![expect(unsafe_code, reason = "mallopt")]

/// Has all threads share one heap, which grows in one piece: glibc would make one for each, a dozen pages and system calls, and
/// these threads hardly ever allocate; and it would map what is large, which no filter allows. Called before the first
/// thread starts.
pub fn share() {
    // SAFETY: takes two numbers; one that it does not know changes nothing.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: as above.
    unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
}
