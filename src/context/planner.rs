//! The policies come before what a statement asks.
//!
//! PostgreSQL evaluates a cheap "leakproof" condition of the statement before the policies, and takes a condition for leakproof
//! as soon as no leaky function *in it* is given a column: `CASE WHEN iban = 'DE99' THEN (SELECT 1/0) ...` raises its error for
//! rows that the policy would have hidden, and so tells that they exist. Here, once the access paths of a table under policies are
//! known (indexes may use such conditions as before), its conditions are no longer taken for leakproof: every filter then asks
//! the policies first.

use super::executor;
use crate::backend::Local;
use pgrx::pg_sys;
use std::cell::Cell;

static NEXT: Local<Cell<pg_sys::set_rel_pathlist_hook_type>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::set_rel_pathlist_hook);
        pg_sys::set_rel_pathlist_hook = Some(order);
    }
}

unsafe extern "C-unwind" fn order(
    root: *mut pg_sys::PlannerInfo,
    table: *mut pg_sys::RelOptInfo,
    index: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: the planner's live nodes; this frame owns nothing, so an error may jump over it.
    unsafe {
        if let Some(next) = NEXT.get() {
            next(root, table, index, entry);
        }
        if (*(*root).parse).hasRowSecurity && executor::installed() {
            distrust((*table).baserestrictinfo);
            distrust((*table).joininfo);
        }
    }
}

/// Takes back, for conditions that stand behind a policy, that they are leakproof.
///
/// # Safety
/// A list of RestrictInfo, or null.
unsafe fn distrust(conditions: *mut pg_sys::List) {
    if conditions.is_null() {
        return;
    }
    // SAFETY: by the contract above; the list is as long as it says.
    unsafe {
        for position in 0..(*conditions).length as usize {
            let condition = (*(*conditions).elements.add(position)).ptr_value.cast::<pg_sys::RestrictInfo>();
            if (*condition).security_level > 0 {
                (*condition).leakproof = false;
            }
        }
    }
}
