//! The transaction: its number in this backend, the generation of everything an answer rests on, and the pin.
//!
//! Promise P4: the first use of a tenant pins it until the transaction ends. Rolling back to a savepoint does not unpin:
//! what was read under the first tenant has been read.

use crate::backend::Local;
use crate::id::{Id, MAX_LEN};
use pgrx::pg_sys;
use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;

/// Counts this backend's transactions; a 64-bit number does not come round.
static SERIAL: Local<Cell<u64>> = Local::new(Cell::new(1));

/// Grows whenever something that an answer rests on may have changed.
static GENERATION: Local<Cell<u64>> = Local::new(Cell::new(1));

static PIN: Local<Cell<Option<Pin>>> = Local::new(Cell::new(None));

/// The pinned tenant's id as PostgreSQL's text: a length word, then the bytes. Kept here and not allocated, for it is read in
/// every row. It changes only when another transaction pins, and then every portal and plan state that may hold the datum is
/// gone: they end with their transaction.
static TEXT: Local<UnsafeCell<Text>> = Local::new(UnsafeCell::new(Text { header: 0, bytes: [0; MAX_LEN] }));

#[repr(C)]
struct Text {
    header: u32,
    bytes: [u8; MAX_LEN],
}

/// The tenant of this transaction.
#[derive(Clone, Copy)]
pub(super) struct Pin {
    serial: u64,
    pub(super) tenant: Id,
}

impl Pin {
    /// The tenant's id as a datum, good until the transaction ends.
    pub(super) fn text(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(TEXT.get())
    }
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
    let id = tenant.as_str().as_bytes();
    // SAFETY: the backend's one thread; nothing holds a reference to the text, only datums of transactions that have ended.
    unsafe {
        let text = &mut *TEXT.get();
        text.bytes[..id.len()].copy_from_slice(id);
        pgrx::varlena::set_varsize_4b(TEXT.get().cast(), (size_of::<u32>() + id.len()) as i32);
    }
    let pin = Pin { serial: SERIAL.get(), tenant };
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
