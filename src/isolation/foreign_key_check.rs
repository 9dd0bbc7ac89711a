//! Foreign keys on protected tables can be added by their owner.
//!
//! PostgreSQL checks a new foreign key by a query of whoever adds it. On tables of his own with forced row security that query is under the
//! policies, of which the owner, who is in no tenant, gets an error: he could add none at all. When a row is checked later, PostgreSQL itself
//! sets FORCE aside for the table's owner (`SECURITY_NOFORCE_RLS` in ri_triggers.c). Here the same is done for the first check: in an
//! ALTER TABLE that adds or validates foreign keys and does nothing else, so that no expression of the owner's runs that way.

use crate::utility::Call;
use pgrx::pg_sys;
use std::ffi::{c_char, c_int};

unsafe extern "C-unwind" {
    // Not in pgrx's bindings.
    fn get_relation_constraint_oid(table: pg_sys::Oid, name: *const c_char, missing_ok: bool) -> pg_sys::Oid;
}

/// The catalog of constraints, which pgrx's bindings leave out.
const CONSTRAINTS: u32 = 2606;

/// # Safety
/// As a handler of [`crate::utility`].
pub(crate) unsafe fn utility(call: Call) {
    // SAFETY: by the contract above the statement lives; this frame owns nothing, so an error may jump over it: the (sub)transaction's abort gives
    // user and restrictions back.
    unsafe {
        let node = (*call.statement).utilityStmt;
        let is_check = (*node).type_ == pg_sys::NodeTag::T_AlterTableStmt
            && crate::error::guarded(|| Ok(is_foreign_keys_alone(&*node.cast::<pg_sys::AlterTableStmt>())));
        let (mut user, mut restrictions) = (pg_sys::InvalidOid, 0);
        if is_check {
            pg_sys::GetUserIdAndSecContext(&mut user, &mut restrictions);
            pg_sys::SetUserIdAndSecContext(user, restrictions | pg_sys::SECURITY_NOFORCE_RLS as c_int);
        }
        call.proceed();
        if is_check {
            pg_sys::SetUserIdAndSecContext(user, restrictions);
        }
    }
}

/// The nodes of a list of them.
///
/// # Safety
/// Null, or a live list of nodes of that type.
unsafe fn nodes<'a, T: 'a>(list: *mut pg_sys::List) -> impl Iterator<Item = &'a T> {
    // SAFETY: by the contract above; it is as long as it says.
    unsafe {
        let length = list.as_ref().map_or(0, |list| list.length as usize);
        (0..length).map(move |position| &*(*(*list).elements.add(position)).ptr_value.cast::<T>())
    }
}

/// # Safety
/// A live statement, in a transaction.
unsafe fn is_foreign_keys_alone(statement: &pg_sys::AlterTableStmt) -> bool {
    use pg_sys::AlterTableType;
    if statement.objtype != pg_sys::ObjectType::OBJECT_TABLE {
        return false;
    }
    // SAFETY: by the contract above; the subtype says what the definition is.
    unsafe {
        nodes::<pg_sys::AlterTableCmd>(statement.cmds).all(|command| match command.subtype {
            AlterTableType::AT_AddConstraint => {
                (*command.def.cast::<pg_sys::Constraint>()).contype == pg_sys::ConstrType::CONSTR_FOREIGN
            }
            AlterTableType::AT_ValidateConstraint => is_foreign_key(statement.relation, command.name),
            AlterTableType::AT_AddColumn => is_reference(&*command.def.cast::<pg_sys::ColumnDef>()),
            _ => false,
        })
    }
}

/// A new column without a value, a foreign key on it, and nothing to compute: a domain may have a check.
///
/// # Safety
/// A live definition, in a transaction.
unsafe fn is_reference(column: &pg_sys::ColumnDef) -> bool {
    use pg_sys::ConstrType::*;
    // SAFETY: by the contract above.
    unsafe {
        let computes_nothing = nodes::<pg_sys::Constraint>(column.constraints).all(|constraint| {
            matches!(
                constraint.contype,
                CONSTR_FOREIGN
                    | CONSTR_NULL
                    | CONSTR_NOTNULL
                    | CONSTR_ATTR_DEFERRABLE
                    | CONSTR_ATTR_NOT_DEFERRABLE
                    | CONSTR_ATTR_DEFERRED
                    | CONSTR_ATTR_IMMEDIATE
            )
        });
        if !computes_nothing || !column.raw_default.is_null() {
            return false;
        }
        let of = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), column.typeName, true);
        of != pg_sys::InvalidOid && pg_sys::get_typtype(of) as u8 != pg_sys::TYPTYPE_DOMAIN
    }
}

/// # Safety
/// A live name of a table, and of its constraint, in a transaction.
unsafe fn is_foreign_key(table: *mut pg_sys::RangeVar, constraint: *const c_char) -> bool {
    // SAFETY: by the contract above; the tuple of this cache is a row of pg_constraint, whose contype is a "char".
    unsafe {
        let table = pg_sys::RangeVarGetRelidExtended(
            table,
            pg_sys::NoLock as _,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        if table == pg_sys::InvalidOid {
            return false; // PostgreSQL's own error follows
        }
        let constraint = pg_sys::ffi::pg_guard_ffi_boundary(|| get_relation_constraint_oid(table, constraint, true));
        let cache = pg_sys::SysCacheIdentifier::CONSTROID as c_int;
        let row = pg_sys::SearchSysCache1(cache, constraint.into());
        if row.is_null() {
            return false;
        }
        let mut null = false;
        let kind = pg_sys::get_attnum(pg_sys::Oid::from(CONSTRAINTS), c"contype".as_ptr());
        let kind = pg_sys::SysCacheGetAttr(cache, row, kind, &mut null);
        pg_sys::ReleaseSysCache(row);
        kind.value() as u8 == b'f'
    }
}
