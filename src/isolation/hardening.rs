//! Whether `amp.harden()` was called in this database: whether it recorded what it changed.

use crate::context::catalog;
use pgrx::pg_sys;

/// Asked by rare statements only, so nothing is kept. In a transaction.
pub(super) fn is_hardened() -> bool {
    let Ok(table) = catalog::schema().and_then(|schema| catalog::relation(schema, c"hardening")) else {
        return false;
    };
    // SAFETY: the sequence of every catalog look-up in the server, with a catalog snapshot; an error is cleaned up by the abort.
    unsafe {
        let heap = pg_sys::table_open(table, pg_sys::AccessShareLock as _);
        let scan =
            pg_sys::systable_beginscan(heap, pg_sys::InvalidOid, false, std::ptr::null_mut(), 0, std::ptr::null_mut());
        let any = !pg_sys::systable_getnext(scan).is_null();
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, pg_sys::AccessShareLock as _);
        any
    }
}
