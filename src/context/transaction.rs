//! The transaction: its number in this backend, the generation of everything an answer rests on, and the pin.
//!
//! Promise P4: the first use of a tenant pins it until the transaction ends. Rolling back to a savepoint does not unpin:
//! what was read under the first tenant has been read.

use crate::backend::Local;
use crate::error;
use crate::id::{Id, MAX_LEN};
use crate::usage::statistics;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts this backend's transactions; a 64-bit number does not come round.
static SERIAL: Local<Cell<u64>> = Local::new(Cell::new(1));

/// Grows whenever something that an answer rests on may have changed.
/// An atomic, for a timer's signal handler adds to it, too.
static GENERATION: AtomicU64 = AtomicU64::new(1);

static PIN: Local<Cell<Option<Pin>>> = Local::new(Cell::new(None));

/// The context that nobody may leave, in the transaction of that number.
static LOCK: Local<Cell<Option<Lock>>> = Local::new(Cell::new(None));

type Lock = (u64, Id, Option<Id>);

/// The pinned tenant in the forms that SQL gets. Kept here and not allocated by PostgreSQL, for they are read in every row.
/// The last one is the pin's. Earlier ones stay while a statement runs on across transactions: a procedure that commits still
/// has its arguments, and one of them may be the tenant of before.
#[expect(clippy::vec_box, reason = "datums point at them: they must not move when the list grows")]
static KEYS: Local<RefCell<Vec<Box<Keys>>>> = Local::new(RefCell::new(Vec::new()));

/// True when a transaction has ended outside of any statement, so that nothing can hold a datum of `KEYS` any more.
static RELEASED: Local<Cell<bool>> = Local::new(Cell::new(false));

#[repr(C)]
struct Keys {
    /// A text datum: PostgreSQL's length word, then the bytes.
    header: u32,
    bytes: [u8; MAX_LEN],
    uuid: Option<[u8; 16]>,
    bigint: Option<i64>,
    tenant: Option<Id>,
}

/// The tenant of this transaction.
#[derive(Clone, Copy)]
pub(super) struct Pin {
    serial: u64,
    pub(super) tenant: Id,
    keys: *const Keys,
}

impl Pin {
    /// The tenant's id as a datum.
    pub(super) fn text(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.keys)
    }

    /// The tenant's id as a uuid datum, if it is the canonical text of one.
    pub(super) fn uuid(&self) -> Option<pg_sys::Datum> {
        // SAFETY: the keys of a pin live in `KEYS` at least as long as its transaction.
        unsafe { (*self.keys).uuid.as_ref().map(|uuid| pg_sys::Datum::from(uuid.as_ptr())) }
    }

    /// The tenant's id as a bigint datum, if it is the canonical text of one.
    pub(super) fn bigint(&self) -> Option<pg_sys::Datum> {
        // SAFETY: as in `uuid`.
        unsafe { (*self.keys).bigint.map(pg_sys::Datum::from) }
    }
}

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe {
        pg_sys::RegisterXactCallback(Some(at_event), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_subtransaction_event), std::ptr::null_mut());
    }
}

#[inline(always)]
pub(crate) fn serial() -> u64 {
    SERIAL.get()
}

#[inline(always)]
pub(super) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Makes every answer given so far stale.
pub(crate) fn advance() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The pin of the running transaction.
pub(super) fn pinned() -> Option<Pin> {
    PIN.get().filter(|pin| pin.serial == SERIAL.get())
}

/// The tenant that the running transaction is pinned to: it was verified, and rows may have been read in its name.
pub(crate) fn tenant() -> Option<Id> {
    pinned().map(|pin| pin.tenant)
}

/// The tenant and user that the running transaction is locked to. As with the pin, a savepoint's rollback does not unlock.
pub(super) fn locked() -> Option<(Id, Option<Id>)> {
    LOCK.get().filter(|(serial, ..)| *serial == SERIAL.get()).map(|(_, tenant, user)| (tenant, user))
}

/// Locks the context for the rest of this transaction.
pub(super) fn lock(tenant: Id, user: Option<Id>) {
    LOCK.set(Some((SERIAL.get(), tenant, user)));
}

/// Pins `tenant` for the rest of this transaction.
pub(super) fn pin(tenant: Id) -> Pin {
    let id = tenant.as_str().as_bytes();
    let mut keys = KEYS.borrow_mut();
    if RELEASED.take() {
        keys.truncate(1);
    } else if keys.last().is_none_or(|last| last.tenant != Some(tenant)) {
        keys.push(Box::new(Keys { header: 0, bytes: [0; MAX_LEN], uuid: None, bigint: None, tenant: None }));
    }
    if keys.is_empty() {
        keys.push(Box::new(Keys { header: 0, bytes: [0; MAX_LEN], uuid: None, bigint: None, tenant: None }));
    }
    let last = keys.len() - 1;
    let own: &mut Keys = &mut keys[last];
    own.tenant = Some(tenant);
    own.bytes[..id.len()].copy_from_slice(id);
    own.uuid = tenant.as_uuid();
    own.bigint = tenant.as_bigint();
    // SAFETY: the header is the first of a live, exclusive value.
    unsafe { pgrx::varlena::set_varsize_4b(std::ptr::from_mut(own).cast(), (size_of::<u32>() + id.len()) as i32) };
    let pin = Pin { serial: SERIAL.get(), tenant, keys: own };
    PIN.set(Some(pin));
    pin
}

/// Runs inside commit and abort: it must not fail, and calls nothing of PostgreSQL but, for a reset of statistics, their lock; before
/// PREPARE TRANSACTION it may refuse.
unsafe extern "C-unwind" fn at_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    if event == XACT_EVENT_PRE_PREPARE {
        // SAFETY: this frame owns nothing.
        unsafe { error::guarded(statistics::check_prepare) };
    }
    if matches!(
        event,
        XACT_EVENT_COMMIT
            | XACT_EVENT_PARALLEL_COMMIT
            | XACT_EVENT_ABORT
            | XACT_EVENT_PARALLEL_ABORT
            | XACT_EVENT_PREPARE
    ) {
        statistics::at_transaction_end(event == XACT_EVENT_COMMIT);
        SERIAL.set(SERIAL.get() + 1);
        advance();
        // SAFETY: reads a variable of the backend: null unless a statement is running, such as a procedure that commits.
        if unsafe { pg_sys::ActivePortal.is_null() } {
            RELEASED.set(true);
        }
    }
}

/// A savepoint was rolled back. An error on the way there may have cost the session its timers (see identity/expiry.rs): the
/// next use decides anew. Must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn at_subtransaction_event(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        statistics::at_subtransaction_abort(own);
        advance();
    }
}
