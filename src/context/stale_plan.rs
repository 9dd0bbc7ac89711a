//! Plans that were made for a role that bypasses row security end with its attribute.
//!
//! For a superuser, or a role with BYPASSRLS, a query is planned without a single policy. PostgreSQL before 15.19 and 18.6 goes on using such
//! a plan when the attribute has been taken away (CVE-2026-14666): a prepared statement, a function's statement, a cursor then gives every
//! tenant's rows to a session that acts for one. Two things stand against it:
//!
//! - When a role changes, the backend's cached plans are marked invalid, as PostgreSQL does when a type or an operator changes, and are made
//!   anew when they are used next. Only where one was made for such a role: other sessions pay nothing for others' changes of roles.
//! - A plan may have been chosen already when the change is heard, in a transaction that holds its locks, or be a cursor's. So each such plan
//!   names the roles that it was made for, and they are asked again whenever it starts and goes on.
//!
//! The names are entries of the plan's own list of what it depends on, of a cache that PostgreSQL does not have: it skips them, copies them with
//! the plan, and frees them with it.

use super::executor;
use crate::backend::{self, Local};
use crate::compat;
use crate::error::{Code, Error};
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;
use std::ffi::{c_char, c_int};

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of PostgreSQL has to pass with every field it has.
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    fn has_bypassrls_privilege(role: Oid) -> bool;
    fn GetUserId() -> Oid;
    fn lcons(item: *mut std::ffi::c_void, list: *mut pg_sys::List) -> *mut pg_sys::List;
    fn palloc0(size: usize) -> *mut std::ffi::c_void;
    fn ResetPlanCache();
}

/// The number of no cache.
const BYPASSING_ROLE: c_int = -0x616d70;

static NEXT: Local<Cell<pg_sys::planner_hook_type>> = Local::new(Cell::new(None));

/// True once this backend has made such a plan.
static MADE: Local<Cell<bool>> = Local::new(Cell::new(false));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
        if !backend::is_preloaded() {
            // What the session has prepared before names nobody: it is to be planned again.
            ResetPlanCache();
        }
    }
}

/// Some role has changed. Runs during invalidation: it must not fail.
pub(super) fn on_role_change() {
    if MADE.get() {
        // SAFETY: it sets flags in the backend's list of cached plans, and is what PostgreSQL itself calls from such a callback.
        unsafe { ResetPlanCache() };
    }
}

unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL hands every hook a live query, and takes the plan; this frame owns nothing, so an error may jump over it.
    unsafe {
        // Row security of a table that it reads: whether policies apply was asked for somebody.
        let secured = (*query).hasRowSecurity;
        let planned = match NEXT.get() {
            Some(next) => next(query, text, options, parameters),
            None => standard_planner(query, text, options, parameters),
        };
        // The second is that of a function that was inlined.
        if (secured || (*planned).dependsOnRole) && executor::installed() {
            name(planned, GetUserId());
            compat::each_checked_role(planned, |role| name(planned, role));
        }
        planned
    }
}

/// Notes a role in a plan, if row security does not apply to it.
///
/// # Safety
/// A plan that was just made, from a frame that owns nothing.
unsafe fn name(planned: *mut pg_sys::PlannedStmt, role: Oid) {
    // SAFETY: by the contract above; the entry lives where the plan does.
    unsafe {
        if named(planned).any(|known| known == role) || !has_bypassrls_privilege(role) {
            return;
        }
        let item = palloc0(size_of::<pg_sys::PlanInvalItem>()).cast::<pg_sys::PlanInvalItem>();
        (*item).type_ = pg_sys::NodeTag::T_PlanInvalItem;
        (*item).cacheId = BYPASSING_ROLE;
        (*item).hashValue = role.to_u32();
        (*planned).invalItems = lcons(item.cast(), (*planned).invalItems);
        MADE.set(true);
    }
}

/// The roles that a plan names: they stand first.
///
/// # Safety
/// A live plan.
#[inline(always)]
unsafe fn named(planned: *const pg_sys::PlannedStmt) -> impl Iterator<Item = Oid> {
    // SAFETY: by the contract above; the list is as long as it says.
    unsafe {
        let items = (*planned).invalItems;
        let length = items.as_ref().map_or(0, |list| list.length as usize);
        (0..length)
            .map(move |position| &*(*(*items).elements.add(position)).ptr_value.cast::<pg_sys::PlanInvalItem>())
            .take_while(|item| item.cacheId == BYPASSING_ROLE)
            .map(|item| Oid::from(item.hashValue))
    }
}

/// Whether a plan was made for a role to which row security does not apply.
///
/// # Safety
/// A live plan.
#[inline(always)]
pub(super) unsafe fn bypasses(planned: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by the contract above.
    unsafe { named(planned).next().is_some() }
}

/// Checks that those roles bypass row security still. Errors: 40001.
///
/// # Safety
/// A live plan, in a transaction, from a frame that owns nothing but an error.
pub(super) unsafe fn check(planned: *const pg_sys::PlannedStmt) -> Result<(), Error> {
    // SAFETY: by the contract above.
    if unsafe { named(planned).all(|role| pg_sys::has_bypassrls_privilege(role)) } {
        return Ok(());
    }
    Err(Error::new(Code::Outdated, "this statement was planned for a role that bypassed row security then")
        .detail("It lost SUPERUSER or BYPASSRLS since: now policies apply to what the statement reads.")
        .hint("Try again in another transaction: it will be planned anew."))
}
