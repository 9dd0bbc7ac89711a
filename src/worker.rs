//! What the background workers have in common.

use pgrx::pg_sys;

/// Sets what a worker relies on: whoever owns the database may have given its sessions other settings, such as a role that may not write.
pub(crate) fn settle() {
    for (name, value) in [
        (c"role", c"none"),
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"row_security", c"on"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"1s"),
        (c"session_replication_role", c"origin"),
        (c"synchronous_commit", c"local"),
    ] {
        // SAFETY: NUL-terminated names and values of settings that every server has.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}
