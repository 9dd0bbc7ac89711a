//! PostgreSQL's hook for utility statements, and what of this library stands in it.

use crate::backend::Local;
use crate::isolation::{ddl_guard, foreign_key_check, statements};
use crate::usage::statistics::measure;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_char;

unsafe extern "C-unwind" {
    // Not through pgrx's guards: an error of PostgreSQL has to pass with every field it has.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        text: *const c_char,
        read_only: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// The outermost first: what is refused costs nothing that anybody measures.
const HANDLERS: [unsafe fn(Call); 4] =
    [statements::utility, ddl_guard::utility, foreign_key_check::utility, measure::utility];

static NEXT: Local<Cell<pg_sys::ProcessUtility_hook_type>> = Local::new(Cell::new(None));

pub(crate) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(enter);
    }
}

/// A utility statement that is about to run.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// How many handlers have it already.
    entered: usize,
    pub(crate) statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    /// What it came to, once it has run; null where nobody asks.
    pub(crate) completion: *mut pg_sys::QueryCompletion,
}

impl Call {
    /// Runs it: through the other handlers, the libraries that were loaded before, and PostgreSQL.
    ///
    /// # Safety
    /// From the handler that was given it, once, in a frame that owns nothing: an error jumps over it.
    pub(crate) unsafe fn proceed(self) {
        let Call { entered, statement, text, read_only, context, parameters, environment, destination, completion } =
            self;
        // SAFETY: by the contract above; these are the arguments of PostgreSQL's call, which is still running.
        unsafe {
            if let Some(handler) = HANDLERS.get(entered) {
                return handler(Call { entered: entered + 1, ..self });
            }
            let run = NEXT.get().unwrap_or(standard_ProcessUtility);
            run(statement, text, read_only, context, parameters, environment, destination, completion);
        }
    }
}

unsafe extern "C-unwind" fn enter(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    let call =
        Call { entered: 0, statement, text, read_only, context, parameters, environment, destination, completion };
    // SAFETY: PostgreSQL hands every hook a live statement; this frame owns nothing.
    unsafe { call.proceed() }
}
