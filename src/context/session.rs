//! Who logged in: operator, service or client, from the login role's group roles.
//!
//! The login role is `session_user`, which no SQL of a non-superuser changes; SET ROLE and SECURITY DEFINER do not matter.
//! Rights count as PostgreSQL counts them (inherited membership), so that a grant with ADMIN alone gives no power here.

use super::transaction;
use crate::backend::Local;
use pgrx::pg_sys;
use std::cell::Cell;

/// What the login role is to amp.
#[derive(Clone, Copy)]
pub(crate) struct Session {
    /// Runs the platform: a superuser, or a member of `amp_operator`.
    pub(crate) operator: bool,
    /// A trusted application: a member of `amp_service`.
    pub(crate) service: bool,
    /// Row security does not apply: a superuser, or BYPASSRLS.
    pub(crate) bypasses: bool,
}

/// The last answer, for the role it was given for.
static KNOWN: Local<Cell<Option<(pg_sys::Oid, Session)>>> = Local::new(Cell::new(None));

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe {
        for cache in [pg_sys::SysCacheIdentifier::AUTHOID, pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM] {
            pg_sys::CacheRegisterSyscacheCallback(cache as _, Some(on_role_change), pg_sys::Datum::null());
        }
    }
}

/// Any role or membership changed. Runs during invalidation: it must not fail, and calls nothing of PostgreSQL.
unsafe extern "C-unwind" fn on_role_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    KNOWN.set(None);
    transaction::advance();
}

unsafe extern "C-unwind" {
    // Not through pgrx's guards, for it is called at every statement and cannot fail.
    fn GetSessionUserId() -> pg_sys::Oid;
}

/// The login role, as an object id.
pub(super) fn login_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { GetSessionUserId() }
}

/// The login role's name, for messages.
pub(super) fn login_name() -> String {
    // SAFETY: returns a palloc'd string, or null for a role that was dropped under us.
    unsafe {
        let name = pg_sys::GetUserNameFromId(login_role(), true);
        if name.is_null() { String::new() } else { std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// What this session is. Needs a transaction.
pub(crate) fn current() -> Session {
    let role = login_role();
    match KNOWN.get() {
        Some((known, session)) if known == role => session,
        _ => {
            // SAFETY: catalog look-ups by object id, in a transaction.
            let session = unsafe {
                let superuser = pg_sys::superuser_arg(role);
                Session {
                    operator: superuser || has_rights_of(role, c"amp_operator"),
                    service: !superuser && has_rights_of(role, c"amp_service"),
                    bypasses: superuser || pg_sys::has_bypassrls_privilege(role),
                }
            };
            KNOWN.set(Some((role, session)));
            session
        }
    }
}

/// True if the role chosen by SET ROLE bypasses row security, though the login role does not.
pub(super) fn chosen_role_bypasses() -> bool {
    // SAFETY: catalog look-ups by object id, in a transaction.
    unsafe { pg_sys::has_bypassrls_privilege(pg_sys::GetOuterUserId()) }
}

/// # Safety
/// In a transaction.
unsafe fn has_rights_of(role: pg_sys::Oid, group: &std::ffi::CStr) -> bool {
    // SAFETY: by the contract above.
    unsafe {
        let group = pg_sys::get_role_oid(group.as_ptr(), true);
        group != pg_sys::InvalidOid && pg_sys::has_privs_of_role(role, group)
    }
}
