//! Version-1 functions: how Rust is called from SQL without a wrapper between.

use crate::error::{Error, guarded};
use pgrx::IntoDatum;
use pgrx::pg_sys::{Datum, FunctionCallInfo};

/// Exports a version-1 function under its own name.
macro_rules! raw_function {
    ($(#[$doc:meta])* $name:ident, $info:ident, |$fcinfo:ident| $body:expr) => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            const V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        $(#[$doc])*
        ///
        /// # Safety
        /// Called by PostgreSQL's function manager.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name($fcinfo: FunctionCallInfo) -> Datum {
            $body
        }
    };
}
pub(crate) use raw_function;

/// Returns a text, or null.
///
/// # Safety
/// As `guarded`; `fcinfo` is the function manager's.
pub(crate) unsafe fn return_text(
    fcinfo: FunctionCallInfo,
    body: impl FnOnce() -> Result<Option<String>, Error>,
) -> Datum {
    // SAFETY: by the contract above; the datum is palloc'd in the caller's context, as results are.
    unsafe {
        let text = guarded(|| Ok(body()?.and_then(IntoDatum::into_datum)));
        (*fcinfo).isnull = text.is_none();
        text.unwrap_or(Datum::null())
    }
}
