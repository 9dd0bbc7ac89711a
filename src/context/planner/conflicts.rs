//! `INSERT ... ON CONFLICT DO UPDATE ... WHERE condition`: PostgreSQL asks the condition of the row that is in the way before it looks whether the
//! policies show that row, and raises its error. By a unique key that has not the tenant in it this is another tenant's row, and the condition a
//! function of the client's: it is asked then only of rows that the policies show, and the error comes as before.

use super::cells;
use crate::backend::Local;
use crate::context::executor;
use pgrx::pg_sys::{self, NodeTag};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of the planner has to pass with every field it has.
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
    fn copyObjectImpl(from: *const c_void) -> *mut c_void;
    fn lappend(list: *mut pg_sys::List, datum: *mut c_void) -> *mut pg_sys::List;
    fn make_ands_explicit(conditions: *mut pg_sys::List) -> *mut pg_sys::Expr;
    fn makeBoolConst(value: bool, is_null: bool) -> *mut pg_sys::Node;
    fn palloc0(size: usize) -> *mut c_void;
}

static NEXT: Local<Cell<pg_sys::planner_hook_type>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
    }
}

unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL hands every hook a live query, which is the planner's to change; this frame owns nothing.
    unsafe {
        ask_policies_first(query);
        for written in cells((*query).cteList) {
            let written: *mut pg_sys::Query = (*(*written).cast::<pg_sys::CommonTableExpr>()).ctequery.cast();
            if (*written).type_ == NodeTag::T_Query {
                ask_policies_first(written);
            }
        }
        match NEXT.get() {
            Some(next) => next(query, text, options, parameters),
            None => standard_planner(query, text, options, parameters),
        }
    }
}

/// Makes `condition` CASE WHEN the policies show the row THEN `condition` ELSE true END.
///
/// # Safety
/// A live query that is not planned yet, in a frame that owns nothing.
unsafe fn ask_policies_first(query: *mut pg_sys::Query) {
    // SAFETY: by the contract above; nodes are made where the planner's are.
    unsafe {
        let Some(conflict) = (*query).onConflict.as_mut() else {
            return;
        };
        if conflict.onConflictWhere.is_null() || !(*query).hasRowSecurity || !executor::installed() {
            return;
        }
        let mut shown = std::ptr::null_mut();
        for check in cells((*query).withCheckOptions) {
            let check = &*(*check).cast::<pg_sys::WithCheckOption>();
            if check.kind == pg_sys::WCOKind::WCO_RLS_CONFLICT_CHECK {
                shown = lappend(shown, copyObjectImpl(check.qual.cast()));
            }
        }
        if shown.is_null() {
            return;
        }
        let when = palloc0(size_of::<pg_sys::CaseWhen>()).cast::<pg_sys::CaseWhen>();
        (*when).xpr.type_ = NodeTag::T_CaseWhen;
        (*when).expr = make_ands_explicit(shown);
        (*when).result = conflict.onConflictWhere.cast();
        (*when).location = -1;
        let case = palloc0(size_of::<pg_sys::CaseExpr>()).cast::<pg_sys::CaseExpr>();
        (*case).xpr.type_ = NodeTag::T_CaseExpr;
        (*case).casetype = pg_sys::BOOLOID;
        (*case).args = lappend(std::ptr::null_mut(), when.cast());
        (*case).defresult = makeBoolConst(true, false).cast();
        (*case).location = -1;
        conflict.onConflictWhere = case.cast();
    }
}
