//! Who is guarded, and what. To be asked in a transaction, inside of `error::guarded`: an error of PostgreSQL in a look-up becomes a panic here.

use crate::compat;
use crate::context::{catalog, executor, session, settings};
use pgrx::pg_sys;

/// Whether the role whose rights are in force is guarded: everybody but superusers, where the extension is installed.
pub(super) fn is_guarded() -> bool {
    // SAFETY: catalog look-ups by object id.
    unsafe { !pg_sys::superuser_arg(pg_sys::GetUserId()) && executor::installed() }
}

/// Whether the session is one that others borrow, of which nothing may outlive its transaction: in transaction scope, of everybody but operators and
/// who bypasses row security.
pub(super) fn is_borrowed() -> bool {
    settings::scope() == settings::ContextScope::Transaction && is_guarded() && is_ordinary()
}

/// Whether the login role neither runs the platform nor bypasses row security.
pub(super) fn is_ordinary() -> bool {
    let session = session::current();
    !session.operator && !session.bypasses
}

/// Whether a role may see what all tenants' rows do to plans and statistics.
pub(super) fn sees_statistics(role: pg_sys::Oid) -> bool {
    // SAFETY: catalog look-ups by object id.
    unsafe {
        pg_sys::has_privs_of_role(role, pg_sys::ROLE_PG_READ_ALL_STATS.into()) || pg_sys::has_bypassrls_privilege(role)
    }
}

/// Whether a relation holds rows of more than one tenant: it has row security, or is one of amp's own.
pub(super) fn is_protected(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up; the tuple of this cache is a row of pg_class.
    unsafe {
        let row = catalog::cached(pg_sys::SysCacheIdentifier::RELOID, relation, |tuple| {
            let row = &*pg_sys::heap_tuple_get_struct::<pg_sys::FormData_pg_class>(tuple);
            (row.relrowsecurity, row.relnamespace)
        });
        row.is_some_and(|(row_security, schema)| row_security || catalog::schema().is_ok_and(|amp| amp == schema))
    }
}

/// Whether a plan reads such a relation, through views and inlined functions too: a plan lists every relation of its query.
///
/// # Safety
/// A live plan.
pub(super) unsafe fn reads_protected(plan: *const pg_sys::PlannedStmt) -> Option<pg_sys::Oid> {
    // SAFETY: by the contract above; the list is as long as it says.
    unsafe {
        let entries = (*plan).rtable;
        if entries.is_null() {
            return None;
        }
        (0..(*entries).length as usize).find_map(|position| {
            let entry = &*(*(*entries).elements.add(position)).ptr_value.cast::<pg_sys::RangeTblEntry>();
            let relation = entry.rtekind == pg_sys::RTEKind::RTE_RELATION && is_protected(entry.relid);
            relation.then_some(entry.relid)
        })
    }
}

/// Whether the current role owns a relation.
pub(super) fn owns(relation: pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up by object id.
    unsafe { compat::owns_relation(relation) }
}

/// A relation as messages name it.
pub(super) fn name(relation: pg_sys::Oid) -> String {
    // SAFETY: a palloc'd name, or null for a relation that was dropped under us.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            relation.to_u32().to_string()
        } else {
            std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}
