//! Version-1 functions: how Rust is called from SQL without a wrapper between.

use crate::error::{Error, guarded};
use pgrx::pg_sys::{self, Datum, FunctionCallInfo, NullableDatum};
use pgrx::{FromDatum, IntoDatum, varlena};

/// The longest text that a function takes a look at, in bytes. An allocation that fails ends the whole server, so that nothing is
/// allocated that is as long as a client wants it.
const MAX_LEN: usize = 64 * 1024;

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

/// A text argument; empty for null, and for one too long to be anything. In a database of another encoding it may be any bytes: what
/// is no UTF-8 is replaced, and so the name of nothing.
///
/// # Safety
/// `argument` is of type text.
pub(crate) unsafe fn text(argument: NullableDatum) -> String {
    // SAFETY: by the contract above; reads its header, and then as bytes, as which it is stored.
    unsafe {
        if argument.isnull || pg_sys::toast_raw_datum_size(argument.value) > MAX_LEN {
            return String::new();
        }
        String::from_utf8_lossy(<&[u8]>::from_datum(argument.value, false).unwrap_or_default()).into_owned()
    }
}

/// A text's bytes where they lie, unless it is null, compressed or stored elsewhere. A constant in a policy never is.
///
/// # Safety
/// `text` is an argument of type text.
#[inline]
pub(crate) unsafe fn plain_text<'a>(text: NullableDatum) -> Option<&'a [u8]> {
    // SAFETY: by the contract above; the header says how long it is.
    unsafe {
        let text = text.value.cast_mut_ptr::<pg_sys::varlena>().as_ref().filter(|_| !text.isnull)?;
        (varlena::varatt_is_4b_u(text) || varlena::varatt_is_1b(text) && !varlena::varatt_is_1b_e(text)).then(|| {
            std::slice::from_raw_parts(varlena::vardata_any(text).cast::<u8>(), varlena::varsize_any_exhdr(text))
        })
    }
}

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
