//! Protected tables are reached through their policies, or not at all.
//!
//! Row security does not apply to superusers and roles with BYPASSRLS. Such a role need not be the session's: a SECURITY DEFINER function, a
//! trigger's function and a view act with the rights of their owner, and PostgreSQL then plans the query without a single policy. So a
//! query of a session that is under row security may not reach a protected table with the rights of a role that is not. Where that is what a
//! function is for (to find a user before his tenant is known, say), a superuser says so: `ALTER FUNCTION ... SET amp.allow_bypass = on`.
//!
//! Nor may it reach a table whose row security is forced and not enabled. PostgreSQL's dumps make a table so: FORCE comes with it, and ENABLE
//! after the rows. Its owner may, who restores.
//!
//! Asked where PostgreSQL checks the privileges of a query's relations, at every execution, COPY included.

use super::subject;
use crate::compat::permission_check;
use crate::context::{catalog, executor, session};
use crate::error::{self, Code, Error};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys::{self, Oid};
use std::ffi::{c_char, c_int, c_void};

unsafe extern "C-unwind" {
    // Not through pgrx's guards, for they are called for every relation of every query.
    fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
    fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
    fn GetUserId() -> Oid;
    // Not in pgrx's bindings.
    fn get_relation_policy_oid(relation: Oid, name: *const c_char, missing_ok: bool) -> Oid;
}

static ALLOW_BYPASS: GucSetting<bool> = GucSetting::<bool>::new(false);

pub(super) fn init() {
    // SAFETY: from _PG_init; the hook and the static stay loaded with the library.
    unsafe {
        GucRegistry::define_bool_guc_with_hooks(
            c"amp.allow_bypass",
            c"Lets a function reach protected tables with the rights of an owner who bypasses row security.",
            c"For a superuser: ALTER FUNCTION ... SET amp.allow_bypass = on. What the function reads and writes is in no tenant then.",
            &ALLOW_BYPASS,
            GucContext::Suset,
            GucFlags::DISALLOW_IN_FILE | GucFlags::DISALLOW_IN_AUTO_FILE,
            Some(check_allow),
            None,
            None,
        );
    }
    permission_check::install(is_suspect, check);
}

/// For a role, a database or a server it would switch the guard off, and be forgotten.
unsafe extern "C-unwind" fn check_allow(
    value: *mut bool,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    use pg_sys::GucSource::{PGC_S_SESSION, PGC_S_TEST};
    // SAFETY: a check hook's arguments; this frame owns nothing.
    unsafe {
        // PGC_S_TEST: ALTER FUNCTION ... SET looks whether it could be set, and so does ALTER ROLE ... SET, which comes to nothing later.
        if !*value || pg_sys::InitializingParallelWorker || matches!(source, PGC_S_TEST | PGC_S_SESSION) {
            return true;
        }
        error::guarded(|| {
            Error::new(Code::WrongState, "amp.allow_bypass is for functions, and for a session")
                .hint("ALTER FUNCTION ... SET amp.allow_bypass = on, by a superuser.")
                .refuse_setting();
            Ok(false)
        })
    }
}

/// What a relation's row of pg_class says of it.
struct Relation {
    owner: Oid,
    enabled: bool,
    forced: bool,
}

/// # Safety
/// A row of pg_class.
#[inline(always)]
unsafe fn read(tuple: pg_sys::HeapTuple) -> Relation {
    // SAFETY: by the contract above.
    let row = unsafe { &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(tuple) };
    Relation { owner: row.relowner, enabled: row.relrowsecurity, forced: row.relforcerowsecurity }
}

/// The role whose rights count: a view's owner, or else the current one.
#[inline(always)]
fn acting(check_as: Oid) -> Oid {
    // SAFETY: reads a variable of the backend.
    if check_as == pg_sys::InvalidOid { unsafe { GetUserId() } } else { check_as }
}

/// Whether [`check`] has to be asked. Nearly never: this is what every query pays.
///
/// # Safety
/// In a transaction, from a frame that owns nothing.
#[inline(always)]
unsafe fn is_suspect(oid: Oid, check_as: Oid) -> bool {
    // SAFETY: a catalog look-up by object id; the tuple of this cache is a row of pg_class.
    unsafe {
        let tuple = SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as c_int, oid.into());
        if tuple.is_null() {
            return false;
        }
        let Relation { enabled, forced, .. } = read(tuple);
        ReleaseSysCache(tuple);
        if enabled { acting(check_as) != session::login_role() } else { forced }
    }
}

/// Errors: TN009, 55000.
///
/// # Safety
/// In a transaction, of a relation that is locked.
unsafe fn check(oid: Oid, check_as: Oid) -> Result<(), Error> {
    let role = acting(check_as);
    // SAFETY: by the contract above; the tuple of this cache is a row of pg_class.
    unsafe {
        if ALLOW_BYPASS.get() || session::current().bypasses || !executor::installed() {
            return Ok(());
        }
        let bypasses = pg_sys::has_bypassrls_privilege(role);
        match catalog::cached(pg_sys::SysCacheIdentifier::RELOID, oid, |tuple| read(tuple)) {
            // A foreign key's own check acts as the table's owner, who may be a superuser.
            Some(Relation { enabled: true, .. }) if bypasses && !pg_sys::InNoForceRLSOperation() => {
                let policy =
                    pg_sys::ffi::pg_guard_ffi_boundary(|| get_relation_policy_oid(oid, c"amp_tenant".as_ptr(), true));
                // Without it, it is another's row security.
                if policy == pg_sys::InvalidOid { Ok(()) } else { Err(past_policies(oid, role, check_as)) }
            }
            Some(Relation { enabled: false, forced: true, owner }) if bypasses || role != owner => Err(unfinished(oid)),
            _ => Ok(()),
        }
    }
}

fn past_policies(relation: Oid, role: Oid, check_as: Oid) -> Error {
    let (table, role) = (subject::name(relation), session::name(role));
    let (what, hint) = if check_as == pg_sys::InvalidOid {
        (
            "A function",
            "ALTER FUNCTION ... OWNER TO a role that is under row security, or SECURITY INVOKER; if it has to reach all tenants' rows, a superuser says so: ALTER FUNCTION ... SET amp.allow_bypass = on.",
        )
    } else {
        ("A view", "ALTER VIEW ... SET (security_invoker = true), or OWNER TO a role that is under row security.")
    };
    Error::new(Code::BypassesRowSecurity, format!("\"{table}\" cannot be reached with the rights of \"{role}\""))
        .detail(format!(
            "{what} of that role reaches it, for whom row security does not apply: the rows of all tenants."
        ))
        .hint(hint)
}

fn unfinished(relation: Oid) -> Error {
    let table = subject::name(relation);
    Error::new(Code::WrongState, format!("row security of \"{table}\" is forced and not enabled"))
        .detail("That is how a table looks while a dump is restored: its rows are there, and its policies are not.")
        .hint(format!("Wait for the restore to end. If nobody restores: ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, or NO FORCE if every role may read it."))
}
