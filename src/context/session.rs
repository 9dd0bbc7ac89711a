//! Who logged in: operator, service or client, from the login role's group roles.
//!
//! The login role is `session_user`, which no SQL of a non-superuser changes; SET ROLE and SECURITY DEFINER do not matter.
//! Rights count as PostgreSQL counts them (inherited membership), so that a grant with ADMIN alone gives no power here.

use super::{resolve, settings, stale_plan};
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
    /// Row security does not apply, to the login role or to the one chosen by SET ROLE: a superuser, or BYPASSRLS.
    pub(crate) bypasses: bool,
}

impl Session {
    /// May name the tenant and user that it acts for.
    pub(crate) fn trusted(&self) -> bool {
        self.service && !settings::require_token()
    }
}

/// The last answer, for the login role and the chosen role that it was given for.
static KNOWN: Local<Cell<Option<Known>>> = Local::new(Cell::new(None));

type Known = ([pg_sys::Oid; 2], Session);

pub(super) fn init() {
    // SAFETY: from _PG_init; the callback is a plain function that stays loaded.
    unsafe {
        for cache in [pg_sys::SysCacheIdentifier::AUTHOID, pg_sys::SysCacheIdentifier::AUTHMEMROLEMEM] {
            pg_sys::CacheRegisterSyscacheCallback(cache as _, Some(on_role_change), pg_sys::Datum::null());
        }
    }
}

/// Any role or membership changed. Runs during invalidation: it must not fail, and calls nothing of PostgreSQL but what marks plans.
unsafe extern "C-unwind" fn on_role_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    KNOWN.set(None);
    // A role's name is what binds it to a user: what was confirmed of it is to be confirmed again.
    resolve::begin_epoch();
    stale_plan::on_role_change();
}

unsafe extern "C-unwind" {
    // Not through pgrx's guards, for they are called at every statement and cannot fail.
    fn GetSessionUserId() -> pg_sys::Oid;
    fn GetOuterUserId() -> pg_sys::Oid;
}

/// The login role, as an object id.
pub(crate) fn login_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { GetSessionUserId() }
}

/// The role chosen by SET ROLE, or the login role.
pub(super) fn chosen_role() -> pg_sys::Oid {
    // SAFETY: reads a variable of the backend.
    unsafe { GetOuterUserId() }
}

/// The login role's name, for messages.
pub(crate) fn login_name() -> String {
    name(login_role())
}

/// The name of the role for which row security does not apply, for messages.
pub(super) fn bypassing_name() -> String {
    // SAFETY: a catalog look-up by object id, in a transaction.
    name(if unsafe { pg_sys::has_bypassrls_privilege(login_role()) } { login_role() } else { chosen_role() })
}

/// A role's name, for messages.
pub(crate) fn name(role: pg_sys::Oid) -> String {
    // SAFETY: returns a palloc'd string, or null for a role that was dropped under us.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, true);
        if name.is_null() { String::new() } else { std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned() }
    }
}

/// What this session is. Needs a transaction.
pub(crate) fn current() -> Session {
    let roles = [login_role(), chosen_role()];
    match KNOWN.get() {
        Some((known, session)) if known == roles => session,
        _ => {
            let epoch = resolve::epoch();
            // SAFETY: catalog look-ups by object id, in a transaction.
            let session = unsafe {
                Session {
                    operator: is_operator(roles[0]),
                    service: !pg_sys::superuser_arg(roles[0]) && has_rights_of(roles[0], c"amp_service"),
                    bypasses: roles.iter().any(|role| pg_sys::has_bypassrls_privilege(*role)),
                }
            };
            if resolve::epoch() == epoch {
                KNOWN.set(Some((roles, session)));
            }
            session
        }
    }
}

/// Whether a role runs the platform.
pub(super) fn is_operator(role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups by object id, in a transaction.
    unsafe { pg_sys::superuser_arg(role) || has_rights_of(role, c"amp_operator") }
}

/// Whether the role whose rights are in force may see what all tenants do: as with the tables that operators may read.
pub(crate) fn sees_statistics() -> bool {
    // SAFETY: catalog look-ups by object id, in a transaction.
    unsafe {
        let role = pg_sys::GetUserId();
        pg_sys::has_privs_of_role(role, pg_sys::ROLE_PG_READ_ALL_STATS.into()) || has_rights_of(role, c"amp_operator")
    }
}

/// True if this session's role was looked at, and nothing has changed since.
pub(super) fn is_known() -> bool {
    KNOWN.get().is_some()
}

/// True if it is known already that row security applies to this session.
pub(super) fn known_to_be_bound() -> bool {
    KNOWN.get().is_some_and(|(known, session)| known == [login_role(), chosen_role()] && !session.bypasses)
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
