//! When a proof ends, it ends: at the clock, at every use.
//!
//! Answers are cached until the generation advances. So a timer advances it at the moment of expiry, in the middle of a
//! statement if need be, and the next use decides anew and finds the proof expired. PostgreSQL drops its timers when an error
//! reaches the top level: the timer is armed again at every decision, and a savepoint's rollback makes for a new one. A clock that was set
//! forward is noticed at the next statement, where the executor's hook compares it.

pub(crate) use super::proof::NEVER;
use crate::backend::Local;
use crate::compat;
use crate::context::transaction;
use std::cell::Cell;
use std::ffi::c_int;

unsafe extern "C-unwind" {
    // Without pgrx's guards: called at every statement, and they do not fail.
    fn GetCurrentTimestamp() -> i64;
    fn RegisterTimeout(id: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
    fn enable_timeout_at(id: c_int, at: i64);
    fn get_timeout_active(id: c_int) -> bool;
    fn get_timeout_finish_time(id: c_int) -> i64;
}

/// Our timer, registered at its first use.
static TIMER: Local<Cell<Option<c_int>>> = Local::new(Cell::new(None));

/// The time now, in PostgreSQL's microseconds.
pub(crate) fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { GetCurrentTimestamp() }
}

/// True if that time has come.
#[inline(always)]
pub(crate) fn is_past(expires: i64) -> bool {
    expires != NEVER && now() >= expires
}

/// Makes every answer stale at that time.
pub(crate) fn arm(expires: i64) {
    if expires == NEVER {
        return;
    }
    // SAFETY: on the backend's thread, after its timers were initialized; the handler stays loaded.
    unsafe {
        let timer = TIMER.get().unwrap_or_else(|| {
            let timer = RegisterTimeout(compat::USER_TIMEOUT, on_expiry);
            TIMER.set(Some(timer));
            timer
        });
        if !(get_timeout_active(timer) && get_timeout_finish_time(timer) == expires) {
            enable_timeout_at(timer, expires);
        }
    }
}

/// Runs inside a signal handler: one atomic addition.
unsafe extern "C-unwind" fn on_expiry() {
    transaction::advance();
}

#[cfg(test)]
mod tests {
    #[test]
    fn never_does_not_come() {
        assert!(!super::is_past(super::NEVER));
    }
}
