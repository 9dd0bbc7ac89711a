//! A statement that brings a secret in clear text stays out of the server's log when it fails, whatever it fails of: a permission, a slug
//! that is taken, a time-out, another statement of the same message.

use crate::backend::Local;
use crate::function::raw_function;
use pgrx::pg_sys::{self, Datum, FunctionCallInfo};
use std::cell::Cell;

/// When the client's statement began that may hold a secret.
static CONFIDENTIAL: Local<Cell<Option<pg_sys::TimestampTz>>> = Local::new(Cell::new(None));

static NEXT: Local<Cell<pg_sys::emit_log_hook_type>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(hide);
    }
}

/// The statement, and the functions that it came through, may show it; the error itself does not.
unsafe extern "C-unwind" fn hide(report: *mut pg_sys::ErrorData) {
    // SAFETY: the report is PostgreSQL's, and ours to change until it is written; this frame owns nothing.
    unsafe {
        if CONFIDENTIAL.get().is_some_and(|began| began == pg_sys::GetCurrentStatementStartTimestamp()) {
            (*report).hide_stmt = true;
            (*report).hide_ctx = true;
        }
        if let Some(next) = NEXT.get() {
            next(report);
        }
    }
}

raw_function! {
    /// `amp.mark_confidential() → void`
    amp_mark_confidential, pg_finfo_amp_mark_confidential, |_fcinfo| {
        // SAFETY: reads a variable of the backend.
        CONFIDENTIAL.set(Some(unsafe { pg_sys::GetCurrentStatementStartTimestamp() }));
        Datum::null()
    }
}
