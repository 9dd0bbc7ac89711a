//! State of one backend.

use pgrx::pg_sys;
use std::cell::Cell;
use std::ops::Deref;

/// True where the library was preloaded: in the postmaster, and so in all of its children.
static PRELOADED: Local<Cell<bool>> = Local::new(Cell::new(false));

pub(crate) fn init() {
    // SAFETY: reads a variable of the backend.
    PRELOADED.set(unsafe { pg_sys::process_shared_preload_libraries_in_progress });
}

/// True where shared memory is there for us.
pub(crate) fn is_preloaded() -> bool {
    PRELOADED.get()
}

/// A static that belongs to this backend. PostgreSQL runs a backend's code on one thread, so a plain cell inside is enough;
/// it is inherited by fork as everything in the process is, and shared with nobody afterwards.
pub(crate) struct Local<T>(T);

impl<T> Local<T> {
    pub(crate) const fn new(value: T) -> Local<T> {
        Local(value)
    }
}

impl<T> Deref for Local<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

// SAFETY: only the backend's own thread ever runs this library's code; no static is handed to another thread.
unsafe impl<T> Sync for Local<T> {}
