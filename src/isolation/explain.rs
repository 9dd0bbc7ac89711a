//! What plans tell.
//!
//! The planner estimates with all tenants' statistics, and EXPLAIN ANALYZE counts the rows that a policy removed: either, asked often
//! enough, reads out hidden values character by character. So a plan over a table with row security, or over one of amp's own, is for
//! roles in `pg_read_all_stats` only, in whichever way it is asked for.
//!
//! EXPLAIN itself is recognised where statements come in, and refused where the executor starts: that is where EXPLAIN EXECUTE, EXPLAIN in a
//! function, and what runs *inside* of a statement under EXPLAIN ANALYZE (whose blocks are counted, too) all pass. (`ExplainOneQuery_hook`
//! sees no EXPLAIN EXECUTE.) That one is under way is kept in a setting of our own: PostgreSQL ends it with the subtransaction or
//! transaction that an error rolls back, and takes it to parallel workers.

use super::subject;
use crate::backend::Local;
use crate::context::private_setting::PrivateSetting;
use crate::context::{executor, session};
use crate::error::{self, Code, Error};
use pgrx::guc::{GucFlags, GucSetting};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of PostgreSQL has to pass with every field it has.
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    fn standard_planner(
        query: *mut pg_sys::Query,
        text: *const c_char,
        options: c_int,
        parameters: pg_sys::ParamListInfo,
    ) -> *mut pg_sys::PlannedStmt;
}

static NEXT_START: Local<Cell<pg_sys::ExecutorStart_hook_type>> = Local::new(Cell::new(None));
static NEXT_PLANNER: Local<Cell<pg_sys::planner_hook_type>> = Local::new(Cell::new(None));
static NEXT_LOG: Local<Cell<pg_sys::emit_log_hook_type>> = Local::new(Cell::new(None));

static EXPLAINING_SETTING: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static SETTING: Local<PrivateSetting> = Local::new(PrivateSetting::new(c"amp.explaining"));

/// True while a statement is explained to a role that may not see statistics.
static EXPLAINING: Local<Cell<bool>> = Local::new(Cell::new(false));

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread; hooks and statics stay loaded with the library.
    unsafe {
        SETTING.define(
            c"Whether a statement is being explained to a role that may not see statistics.",
            &EXPLAINING_SETTING,
            Some(check),
            Some(assign),
            GucFlags::NO_RESET_ALL,
        );
        NEXT_START.set(pg_sys::ExecutorStart_hook);
        pg_sys::ExecutorStart_hook = Some(start);
        NEXT_PLANNER.set(pg_sys::planner_hook);
        pg_sys::planner_hook = Some(plan);
        NEXT_LOG.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(log);
    }
}

unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: a check hook's arguments; the frame owns nothing when it raises.
    unsafe {
        // Under EXPLAIN, to empty it is ours as well: whoever could would be told the rest.
        if SETTING.is_ours() || !EXPLAINING.get() && ((*value).is_null() || **value == 0) {
            return true;
        }
        error::guarded(|| {
            Error::new(Code::ContextPinned, "amp.explaining cannot be set").refuse_setting();
            Ok(false)
        })
    }
}

unsafe extern "C-unwind" fn assign(value: *const c_char, _extra: *mut c_void) {
    // SAFETY: null, or the NUL-terminated value.
    EXPLAINING.set(unsafe { !value.is_null() && *value != 0 });
}

/// Notes that an EXPLAIN begins. True if [`end`] has to follow.
pub(super) fn begin() -> bool {
    // SAFETY: reads a variable of the backend.
    if EXPLAINING.get() || !subject::is_guarded() || subject::sees_statistics(unsafe { pg_sys::GetUserId() }) {
        return false;
    }
    SETTING.write(c"on", pg_sys::GucAction::GUC_ACTION_LOCAL);
    true
}

/// Notes that the EXPLAIN which began has returned.
pub(super) fn end() {
    SETTING.write(c"", pg_sys::GucAction::GUC_ACTION_LOCAL);
}

unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: PostgreSQL hands every hook a live query; this frame owns nothing, so an error may jump over it.
    unsafe {
        if EXPLAINING.get() {
            error::guarded(|| match subject::reads_protected((*query).plannedstmt) {
                Some(table) => Err(refusal(format!("EXPLAIN is not for table \"{}\"", subject::name(table)))),
                None => Ok(()),
            });
        }
        match NEXT_START.get() {
            Some(next) => next(query, flags),
            None => standard_ExecutorStart(query, flags),
        }
    }
}

/// PostgreSQL prints a plan (`debug_print_plan`) as soon as the planner returns it.
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL hands every hook a live query; this frame owns nothing, so an error may jump over it.
    unsafe {
        let plan = match NEXT_PLANNER.get() {
            Some(next) => next(query, text, options, parameters),
            None => standard_planner(query, text, options, parameters),
        };
        // Asked for afterwards: a function that is evaluated while planning may switch it on.
        if pg_sys::Debug_print_plan {
            error::guarded(|| check_print(plan));
        }
        plan
    }
}

/// The login role decides: the plan of a statement in a function with another's rights would be printed to the same client.
///
/// # Safety
/// A live plan.
unsafe fn check_print(plan: *const pg_sys::PlannedStmt) -> Result<(), Error> {
    // SAFETY: by the contract above.
    unsafe {
        if !executor::installed() || subject::sees_statistics(session::login_role()) {
            return Ok(());
        }
        match subject::reads_protected(plan) {
            Some(table) => Err(refusal(format!("debug_print_plan is not for table \"{}\"", subject::name(table)))
                .hint("Run RESET debug_print_plan, or ask for the role pg_read_all_stats.")),
            None => Ok(()),
        }
    }
}

fn refusal(message: String) -> Error {
    Error::new(Code::PermissionDenied, message)
        .detail("Its plans and row counts tell about rows of other tenants.")
        .hint("Ask for the role pg_read_all_stats: GRANT pg_read_all_stats TO ... by a superuser.")
}

/// What auto_explain logs is for the server's log: a client with `client_min_messages = log` would read plans there.
unsafe extern "C-unwind" fn log(report: *mut pg_sys::ErrorData) {
    // SAFETY: the report is PostgreSQL's, and ours to change until it is written; this frame owns nothing.
    unsafe {
        if (*report).output_to_client
            && !(*report).filename.is_null()
            && CStr::from_ptr((*report).filename) == c"auto_explain.c"
            && !(pg_sys::IsTransactionState() && error::guarded(|| Ok(subject::sees_statistics(session::login_role()))))
        {
            (*report).output_to_client = false;
        }
        if let Some(next) = NEXT_LOG.get() {
            next(report);
        }
    }
}
