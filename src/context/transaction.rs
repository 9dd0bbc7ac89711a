//! The transaction: its number in this backend, the generation of everything an answer rests on, and the pin.
//!
//! Promise P4: the first use of a tenant pins it until the transaction ends. Rolling back to a savepoint does not unpin:
//! what was read under the first tenant has been read.

use crate::backend::Local;
use crate::id::Id;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_void;

/// Counts this backend's transactions; a 64-bit number does not come round.
static SERIAL: Local<Cell<u64>> = Local::new(Cell::new(1));

/// Grows whenever something that an answer rests on may have changed.
static GENERATION: Local<Cell<u64>> = Local::new(Cell::new(1));

static PIN: Local<Cell<Option<Pin>>> = Local::new(Cell::new(None));

/// The tenant of this transaction, with its text as a datum that lives as long as the transaction.
#[derive(Clone, Copy)]
pub(super) struct Pin {
    serial: u64,
    pub(super) tenant: Id,
    pub(super) text: pg_sys::Datum,
}

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe { pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut()) };
}

#[inline(always)]
pub(super) fn serial() -> u64 {
    SERIAL.get()
}

#[inline(always)]
pub(super) fn generation() -> u64 {
    GENERATION.get()
}

/// Makes every answer given so far stale.
pub(super) fn advance() {
    GENERATION.set(GENERATION.get() + 1);
}

/// The pin of the running transaction.
pub(super) fn pinned() -> Option<Pin> {
    PIN.get().filter(|pin| pin.serial == SERIAL.get())
}

/// Pins `tenant` for the rest of this transaction.
pub(super) fn pin(tenant: Id) -> Pin {
    // SAFETY: a function is being executed, so a transaction is running and its memory context exists. The text is freed with
    // it, after every portal and plan that may hold the datum is gone.
    let text = unsafe {
        let caller = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        let text = pg_sys::cstring_to_text_with_len(tenant.as_str().as_ptr().cast(), tenant.as_str().len() as _);
        pg_sys::MemoryContextSwitchTo(caller);
        pg_sys::Datum::from(text)
    };
    let pin = Pin { serial: SERIAL.get(), tenant, text };
    PIN.set(Some(pin));
    pin
}

/// Runs inside commit and abort: it must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    if matches!(
        event,
        XACT_EVENT_COMMIT
            | XACT_EVENT_PARALLEL_COMMIT
            | XACT_EVENT_ABORT
            | XACT_EVENT_PARALLEL_ABORT
            | XACT_EVENT_PREPARE
    ) {
        SERIAL.set(SERIAL.get() + 1);
        advance();
    }
}
