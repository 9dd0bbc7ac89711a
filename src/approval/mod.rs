//! Approval: what somebody wants published is decided by others, by the tenant's rules.
//!
//! A request's state follows from its row, its decisions, the rules, who is able to decide, and the clock ([`rules`]). Nothing has to
//! run for it to change with time: it is computed where it is read ([`functions`]), and the SQL in sql/approval/ makes permanent
//! what holds, whenever it writes. What it is computed from is read with a catalog snapshot: a REPEATABLE READ transaction does not
//! take a rejected request for one that is still pending.
//!
//! Time counts from the request on, and an approver cannot see it before it commits. So its transaction may not take long, and it
//! cannot be prepared. Nor does who decides wait with his commit until he is gone: he has to be able to decide then, too.

mod functions;
mod rules;

use crate::backend::Local;
use crate::context::{resolve, transaction};
use crate::error::{Code, Error, guarded};
use crate::id::Id;
use crate::identity::expiry;
use crate::tenants::membership;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;

/// What it takes to decide.
const PERMISSION: &str = "content.approve";

/// How long after its first request a transaction may commit, in microseconds.
const COMMITS_WITHIN: i64 = 10 * 60 * 1_000_000;

/// The transaction that made a request, by its serial number, and the time of its first one.
static REQUESTED: Local<Cell<Option<(u64, i64)>>> = Local::new(Cell::new(None));

/// Who has decided, in the transaction of that number.
static DECIDED: Local<RefCell<Decided>> = Local::new(RefCell::new(Decided { serial: 0, people: Vec::new() }));

struct Decided {
    serial: u64,
    /// Tenant and user; one, but for a service that names several.
    people: Vec<(Id, Id)>,
}

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

/// Notes that a user decides in the running transaction. A savepoint's rollback does not take it back.
fn decided(tenant: Id, user: Id) {
    let serial = transaction::serial();
    let mut decided = DECIDED.borrow_mut();
    if decided.serial != serial {
        *decided = Decided { serial, people: Vec::new() };
    }
    if !decided.people.contains(&(tenant, user)) {
        decided.people.push((tenant, user));
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
    check_request(prepares)?;
    check_decisions(prepares)
}

/// Who has lost the permission since, or has left, has decided nothing.
fn check_decisions(prepares: bool) -> Result<(), Error> {
    let Decided { serial, people } = &*DECIDED.borrow();
    if *serial != transaction::serial() {
        return Ok(());
    }
    if prepares {
        return Err(Error::new(
            Code::WrongState,
            "a transaction that decides about an approval request cannot be prepared",
        )
        .detail("Who decides has to be able to when it is committed.")
        .hint("COMMIT it."));
    }
    resolve::listen();
    for (tenant, user) in people {
        if !membership::holds(tenant, user, PERMISSION)? {
            return Err(Error::new(
                Code::PermissionDenied,
                format!("user \"{}\" may not decide about approval requests any more", user.as_str()),
            )
            .detail("He has lost permission \"content.approve\" since he decided in this transaction.")
            .hint("Nothing was changed. Somebody else has to decide."));
        }
    }
    Ok(())
}

fn check_request(prepares: bool) -> Result<(), Error> {
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
