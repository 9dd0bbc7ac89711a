//! SQL from frames that own nothing. pgrx's SPI catches an error and raises it again, and some of its fields are lost on the way: what a
//! table's trigger says has to reach the client as it was said.

use crate::error::{Code, Error, guarded};
use pgrx::pg_sys::{self, Datum, Oid};
use std::ffi::{c_char, c_int, c_long};

unsafe extern "C-unwind" {
    fn SPI_connect() -> c_int;
    fn SPI_execute_with_args(
        statement: *const c_char,
        count: c_int,
        types: *mut Oid,
        values: *mut Datum,
        nulls: *const c_char,
        read_only: bool,
        limit: c_long,
    ) -> c_int;
    fn SPI_finish() -> c_int;
}

/// What a statement came to.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// One row: its first column as a text, in the caller's memory.
    Selected(Option<Datum>),
    /// How many rows it changed, or selected if that was not one.
    Rows(u64),
}

/// Runs one statement. `read_only`: under the snapshot that is active, or else under a new one.
///
/// # Safety
/// In a transaction, from frames that own nothing, for an error jumps over them; the statement has as many parameters, of these types, none
/// of them null.
pub(crate) unsafe fn execute<const N: usize>(
    statement: *const c_char,
    mut types: [Oid; N],
    mut values: [Datum; N],
    read_only: bool,
) -> Outcome {
    // SAFETY: by the contract above; SPI's memory, with the rows, lives until SPI_finish().
    unsafe {
        SPI_connect();
        let (types, values) = (types.as_mut_ptr(), values.as_mut_ptr());
        let done = SPI_execute_with_args(statement, N as c_int, types, values, std::ptr::null(), read_only, 0);
        let outcome = guarded(|| {
            if done < 0 {
                return Err(Error::new(Code::WrongState, format!("SPI failed with {done}"))
                    .hint("Report this: it cannot happen."));
            }
            if done != pg_sys::SPI_OK_SELECT as c_int || pg_sys::SPI_processed != 1 {
                return Ok(Outcome::Rows(pg_sys::SPI_processed));
            }
            let rows = pg_sys::SPI_tuptable;
            let value = pg_sys::SPI_getvalue(*(*rows).vals, (*rows).tupdesc, 1);
            if value.is_null() {
                return Ok(Outcome::Selected(None));
            }
            Ok(Outcome::Selected(Some(pg_sys::SPI_datumTransfer(pg_sys::cstring_to_text(value).into(), false, -1))))
        });
        SPI_finish();
        outcome
    }
}
