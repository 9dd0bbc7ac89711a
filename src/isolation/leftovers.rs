//! In transaction scope others borrow the session: what a transaction sets and prepares ends with it.
//!
//! `SET` in a transaction is `SET LOCAL` there. So is one outside of a transaction once the session has had a context, but for the settings
//! that poolers keep themselves: a connection may be set up before it is lent, and not by who borrowed it.
//!
//! PostgreSQL keeps for each setting what it was before the transaction, so as to bring it back on ROLLBACK. Just before a commit we tell
//! it to do the same. Statements that SQL prepared are dropped at the end; those that drivers prepare by the protocol stay, which poolers
//! know of, and which name no tenant. lastval() and currval() know of no sequence afterwards.

use super::subject;
use crate::backend::Local;
use crate::compat;
use crate::context::{settings, transaction};
use crate::error;
use crate::identity::proof;
use pgrx::{notice, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char, c_void};

unsafe extern "C-unwind" {
    // Not in pgrx's bindings.
    fn ResetSequenceCaches();
}

/// What a transaction pooler sets itself, to what the client at the other end wants.
const POOLERS: [&CStr; 6] = [
    c"application_name",
    c"client_encoding",
    c"DateStyle",
    c"IntervalStyle",
    c"standard_conforming_strings",
    c"TimeZone",
];

/// The last transaction that called SET or set_config(), by its number.
static SETS: Local<Cell<u64>> = Local::new(Cell::new(0));
/// True once the session has had a context.
static LENT: Local<Cell<bool>> = Local::new(Cell::new(false));
/// What this transaction has prepared by SQL: name and time.
static PREPARED: Local<RefCell<Vec<(CString, pg_sys::TimestampTz)>>> = Local::new(RefCell::new(Vec::new()));

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut()) };
}

/// Notes that this transaction sets something for the session.
#[inline(always)]
pub(super) fn note_set() {
    SETS.set(transaction::serial());
}

/// Notes that SQL has prepared a statement.
///
/// # Safety
/// Its name.
pub(super) unsafe fn prepared(name: *const c_char) {
    // SAFETY: by the contract above; a look-up in a table of the backend.
    unsafe {
        let statement = pg_sys::FetchPreparedStatement(name, false);
        if !statement.is_null() {
            PREPARED.borrow_mut().push((CStr::from_ptr(name).to_owned(), (*statement).prepare_time));
        }
    }
}

/// Drops what SQL has prepared. Runs inside commit and abort: it must not fail.
fn drop_prepared() {
    for (name, time) in PREPARED.take() {
        // SAFETY: look-ups in a table of the backend; to drop a statement asks no catalog.
        unsafe {
            let statement = pg_sys::FetchPreparedStatement(name.as_ptr(), false);
            // A driver may have prepared another one of that name since.
            if !statement.is_null() && (*statement).from_sql && (*statement).prepare_time == time {
                pg_sys::DropPreparedStatement(name.as_ptr(), false);
            }
        }
    }
}

fn has_context() -> bool {
    settings::any() || proof::any() || transaction::tenant().is_some()
}

unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT => {
            let lent = LENT.get() || has_context();
            LENT.set(lent);
            if SETS.get() == transaction::serial() {
                // SAFETY: still in the transaction; this frame owns nothing.
                unsafe {
                    error::guarded(|| {
                        // Begun by BEGIN or by AND CHAIN: PostgreSQL knows until it has committed.
                        let block = pg_sys::IsTransactionBlock();
                        if (lent || block) && subject::is_borrowed() {
                            undo(block);
                        }
                        Ok(())
                    });
                }
            }
        }
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            if settings::scope() == settings::ContextScope::Transaction {
                // SAFETY: frees what the backend knows of sequences, and asks no catalog.
                unsafe { ResetSequenceCaches() };
            }
            if !LENT.get() {
                LENT.set(has_context());
            }
            if !PREPARED.borrow().is_empty() {
                drop_prepared();
            }
        }
        _ => {}
    }
}

/// Makes every SET of the transaction a SET LOCAL.
fn undo(all: bool) {
    use pg_sys::GucStackState::{GUC_LOCAL, GUC_SET, GUC_SET_LOCAL};
    let mut undone = Vec::new();
    // SAFETY: the server's own array of its settings, and the stack of each: what was before the transaction is the one entry of level 1.
    unsafe {
        for setting in compat::settings() {
            let (setting, stack) = (&*setting, (*setting).stack);
            if stack.is_null() || (*stack).nest_level != 1 || !matches!((*stack).state, GUC_SET | GUC_SET_LOCAL) {
                continue;
            }
            let name = CStr::from_ptr(setting.name);
            if name.to_bytes().starts_with(b"amp.") || !all && POOLERS.contains(&name) {
                continue;
            }
            if (*stack).state == GUC_SET {
                (*stack).state = GUC_LOCAL;
            } else {
                // SET and then SET LOCAL: PostgreSQL frees `prior` and brings `masked` back.
                std::mem::swap(&mut (*stack).prior, &mut (*stack).masked);
            }
            undone.push(name.to_string_lossy());
        }
    }
    undone.retain(|name| !name.starts_with("transaction_"));
    if !undone.is_empty() {
        undone.sort();
        notice!(
            "SET ended with this transaction: {}. With amp.context_scope = 'transaction' others borrow this session; use SET LOCAL, or ALTER ROLE ... SET.",
            undone.join(", ")
        );
    }
}
