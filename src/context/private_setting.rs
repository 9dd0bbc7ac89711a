//! Settings that only this library writes. PostgreSQL ends them with the transaction, savepoint or session, and takes them to
//! parallel workers. Their check hooks refuse every value that does not come from [`PrivateSetting::write`] or, in a worker that is
//! starting, from the leader ([`PrivateSetting::is_ours`]).

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString};

/// A setting, and the door through which it is written.
pub(crate) struct PrivateSetting {
    name: &'static CStr,
    writing: Cell<bool>,
}

impl PrivateSetting {
    pub(crate) const fn new(name: &'static CStr) -> PrivateSetting {
        PrivateSetting { name, writing: Cell::new(false) }
    }

    /// Registers it with its hooks, from `_PG_init`. RESET ALL, which asks no hook, ends it unless `flags` say otherwise.
    ///
    /// # Safety
    /// The hooks stay loaded with the library; `check` asks `is_ours`.
    pub(crate) unsafe fn define(
        &self,
        description: &'static CStr,
        value: &'static GucSetting<Option<CString>>,
        check: pg_sys::GucStringCheckHook,
        assign: pg_sys::GucStringAssignHook,
        flags: GucFlags,
    ) {
        let flags = flags | GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE | GucFlags::DISALLOW_IN_AUTO_FILE;
        // SAFETY: by the contract above.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                self.name,
                description,
                c"Internal: written by the extension alone.",
                value,
                GucContext::Suset,
                flags,
                check,
                assign,
                None,
            );
        }
    }

    /// True while the value that is being checked is this library's.
    pub(crate) fn is_ours(&self) -> bool {
        // SAFETY: reads a variable of the backend.
        self.writing.get() || unsafe { pg_sys::InitializingParallelWorker }
    }

    /// Gives it a value, for the transaction or for the session.
    ///
    /// # Errors
    /// PostgreSQL's own, as a panic of pgrx.
    pub(crate) fn write(&self, value: &CStr, action: pg_sys::GucAction::Type) {
        self.writing.set(true);
        let _closed = Closed(&self.writing);
        set(self.name, value, action);
    }
}

/// Gives a setting of this library a value, as SQL in the session would.
pub(crate) fn set(name: &CStr, value: &CStr, action: pg_sys::GucAction::Type) {
    let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_SESSION);
    // SAFETY: NUL-terminated texts, which PostgreSQL copies.
    unsafe { pg_sys::set_config_option(name.as_ptr(), value.as_ptr(), context, source, action, true, 0, false) };
}

/// Closes the door again, also when an error unwinds through `write`.
struct Closed<'a>(&'a Cell<bool>);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}
