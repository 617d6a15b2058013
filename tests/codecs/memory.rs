//! How much memory the whole program, or one thread, has on Rust's heap, and has had at most. The C
//! code of zstd keeps its contexts outside of this heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Measuring;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// Nothing to make and nothing to drop: an allocator can use them at any time of a thread's life. A
// thread may free what another has allocated, so the number can fall below 0.
thread_local! {
    static OWN: Cell<isize> = const { Cell::new(0) };
    static OWN_PEAK: Cell<isize> = const { Cell::new(0) };
}

fn grown(by: usize) {
    PEAK.fetch_max(NOW.fetch_add(by, Relaxed) + by, Relaxed);
    OWN.set(OWN.get() + by as isize);
    OWN_PEAK.set(OWN_PEAK.get().max(OWN.get()));
}

fn shrunk(by: usize) {
    NOW.fetch_sub(by, Relaxed);
    OWN.set(OWN.get() - by as isize);
}

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Measuring {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        shrunk(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        shrunk(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Measuring = Measuring;

/// Bytes beyond those of now that this thread had at the same time in `work`, whatever the threads
/// of an earlier test are still up to.
pub fn own_peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = OWN.get();
    OWN_PEAK.set(before);
    let result = work();
    (result, usize::try_from(OWN_PEAK.get() - before).unwrap_or(0))
}

/// Bytes beyond those of now that the program had at the same time in `work`.
pub fn peak_of<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}
