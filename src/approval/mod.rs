//! Approval: what somebody wants published is decided by others, by the tenant's rules.
//!
//! A request's state follows from its row, its decisions, the rules, who is able to decide, and the clock ([`rules`]). Nothing has to
//! run for it to change with time: it is computed where it is read ([`functions`]), and the SQL in sql/approval/ makes permanent
//! what holds, whenever it writes. What it is computed from is read with a catalog snapshot: a REPEATABLE READ transaction does not
//! take a rejected request for one that is still pending.
//!
//! Time counts from the request on, and an approver cannot see it before it commits. So its transaction may not take long, and it
//! cannot be prepared.

mod functions;
mod rules;

use crate::backend::Local;
use crate::context::transaction;
use crate::error::{Code, Error, guarded};
use crate::identity::expiry;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_void;

/// How long after its first request a transaction may commit, in microseconds.
const COMMITS_WITHIN: i64 = 10 * 60 * 1_000_000;

/// The transaction that made a request, by its serial number, and the time of its first one.
static REQUESTED: Local<Cell<Option<(u64, i64)>>> = Local::new(Cell::new(None));

pub(crate) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::RegisterXactCallback(Some(before_commit), std::ptr::null_mut()) };
}

/// Notes that the running transaction makes a request. A savepoint's rollback does not take it back.
fn requested() {
    let serial = transaction::serial();
    if REQUESTED.get().is_none_or(|(noted, _)| noted != serial) {
        REQUESTED.set(Some((serial, expiry::now())));
    }
}

/// Before anything is committed, an error still aborts the transaction.
unsafe extern "C-unwind" fn before_commit(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    if matches!(event, XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE) {
        // SAFETY: this frame owns nothing.
        unsafe { guarded(|| check(event == XACT_EVENT_PRE_PREPARE)) }
    }
}

fn check(prepares: bool) -> Result<(), Error> {
    let Some((_, first)) = REQUESTED.get().filter(|(serial, _)| *serial == transaction::serial()) else {
        return Ok(());
    };
    if prepares {
        return Err(Error::new(Code::WrongState, "a transaction that requests approval cannot be prepared")
            .detail("Approvers would not see the request while its time runs.")
            .hint("COMMIT it."));
    }
    if expiry::now() > first.saturating_add(COMMITS_WITHIN) {
        return Err(Error::new(
            Code::WrongState,
            "a transaction that requests approval has to commit within 10 minutes",
        )
        .detail("Approvers did not see the request while its time ran.")
        .hint("Run it again, and request approval last."));
    }
    Ok(())
}
