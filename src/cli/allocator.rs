//! What the C library's allocator keeps of memory that was freed.
//!
//! By itself it keeps an arena for each thread, up to eight for each core, and raises the size from
//! which blocks go back to the system at once to that of the largest block freed, up to 32 MiB: a
//! daemon with some twenty threads then holds a third more than it uses. Measured: docs/decisions.

/// Arenas that all threads share. Threads that allocate much at once are few: the serving ones
/// allocate little for a request.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

/// Blocks from this size on, in bytes, are their own mapping, and free memory of this size at the
/// end of a heap goes back to the system.
#[cfg(target_env = "gnu")]
const BLOCK_BYTES_MAX: libc::c_int = 1 << 20;

/// Bounds what the allocator keeps. To be called before other threads exist; does nothing with
/// another C library.
pub fn bound() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS_MAX),
        (libc::M_MMAP_THRESHOLD, BLOCK_BYTES_MAX),
        (libc::M_TRIM_THRESHOLD, BLOCK_BYTES_MAX),
    ] {
        // SAFETY: takes two numbers and changes settings of the allocator.
        if unsafe { libc::mallopt(parameter, value) } != 1 {
            tracing::debug!(parameter, "the allocator did not take a bound");
        }
    }
}
