//! Objects and functions, where PostgreSQL announces them (`object_access_hook`).

use super::{leftovers, subject};
use crate::backend::Local;
use crate::context::settings;
use crate::error::{self, Code, Error};
use pgrx::{FromDatum, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};

static NEXT: Local<Cell<pg_sys::object_access_hook_type>> = Local::new(Cell::new(None));

/// The catalog of constraints, which pgrx's bindings leave out.
const CONSTRAINTS: u32 = 2606;

/// Locks that PostgreSQL keeps until the session ends.
const SESSION_LOCKS: [u32; 8] = [
    pg_sys::F_PG_ADVISORY_LOCK_INT8,
    pg_sys::F_PG_ADVISORY_LOCK_SHARED_INT8,
    pg_sys::F_PG_ADVISORY_LOCK_INT4_INT4,
    pg_sys::F_PG_ADVISORY_LOCK_SHARED_INT4_INT4,
    pg_sys::F_PG_TRY_ADVISORY_LOCK_INT8,
    pg_sys::F_PG_TRY_ADVISORY_LOCK_SHARED_INT8,
    pg_sys::F_PG_TRY_ADVISORY_LOCK_INT4_INT4,
    pg_sys::F_PG_TRY_ADVISORY_LOCK_SHARED_INT4_INT4,
];

pub(super) fn init() {
    // SAFETY: from _PG_init, on the backend's thread.
    unsafe {
        NEXT.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(access);
    }
}

unsafe extern "C-unwind" fn access(
    event: pg_sys::ObjectAccessType::Type,
    catalog: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    use pg_sys::ObjectAccessType::{OAT_FUNCTION_EXECUTE, OAT_POST_CREATE};
    // SAFETY: PostgreSQL calls it in a transaction; this frame owns nothing, so an error may jump over it.
    unsafe {
        match event {
            OAT_FUNCTION_EXECUTE if object.to_u32() == pg_sys::F_SET_CONFIG => leftovers::note_set(),
            OAT_FUNCTION_EXECUTE if SESSION_LOCKS.contains(&object.to_u32()) => error::guarded(check_session_lock),
            OAT_POST_CREATE => error::guarded(|| created(catalog, object)),
            _ => {}
        }
        if let Some(next) = NEXT.get() {
            next(event, catalog, object, part, argument);
        }
    }
}

/// A function is about to be called, or prepared to be. Errors: TN004.
fn check_session_lock() -> Result<(), Error> {
    if !subject::is_borrowed() {
        return Ok(());
    }
    Err(Error::new(Code::PermissionDenied, "an advisory lock of the session cannot be taken here")
        .detail("With amp.context_scope = 'transaction' others borrow this session, and nothing may outlive its transaction.")
        .hint("Use pg_advisory_xact_lock(), which ends with the transaction."))
}

/// Errors: TN008 a trigger on, or a foreign key to, a protected table of another owner; TN004 a temporary object that the next
/// borrower of the session would meet.
fn created(catalog: pg_sys::Oid, object: pg_sys::Oid) -> Result<(), Error> {
    if !subject::is_guarded() {
        return Ok(());
    }
    // SAFETY: a new row of a catalog; each column is of the type that the catalog declares.
    unsafe {
        match catalog {
            pg_sys::TriggerRelationId => {
                let table = column::<pg_sys::Oid>(catalog, object, c"tgrelid");
                let internal = column::<bool>(catalog, object, c"tgisinternal").unwrap_or(false);
                if let Some(table) = table.filter(|_| !internal)
                    && is_strangers(table)
                {
                    return Err(unsafe_change(format!(
                        "a trigger on table \"{}\" is for its owner",
                        subject::name(table)
                    ))
                    .detail("It would run in other tenants' sessions, and see their rows."));
                }
            }
            _ if catalog.to_u32() == CONSTRAINTS => {
                let table = column::<pg_sys::Oid>(catalog, object, c"confrelid");
                if let Some(table) = table.filter(|table| *table != pg_sys::InvalidOid)
                    && is_strangers(table)
                {
                    return Err(unsafe_change(format!(
                        "a foreign key to table \"{}\" is for its owner",
                        subject::name(table)
                    ))
                    .detail("It is checked without row security, and tells which keys exist, of every tenant."));
                }
            }
            _ => {
                if settings::scope() == settings::ContextScope::Transaction
                    && !pg_sys::InSecurityRestrictedOperation()
                    && pg_sys::is_objectclass_supported(catalog)
                    && pg_sys::get_object_attnum_namespace(catalog) > 0
                    && subject::is_ordinary()
                    && schema_of(catalog, object).is_some_and(|schema| pg_sys::isTempNamespace(schema))
                {
                    return Err(Error::new(
                        Code::PermissionDenied,
                        "temporary objects cannot be created in this session",
                    )
                    .detail("With amp.context_scope = 'transaction' others borrow this session, and would meet them under the names of real ones.")
                    .hint("Use a CTE (WITH ... AS), or a protected table with rows of this tenant."));
                }
            }
        }
    }
    Ok(())
}

fn is_strangers(table: pg_sys::Oid) -> bool {
    subject::is_protected(table) && !subject::owns(table)
}

fn unsafe_change(message: String) -> Error {
    Error::new(Code::UnsafeSchemaChange, message).hint("Ask the table's owner to make it.")
}

/// # Safety
/// As [`column`], of a catalog whose objects are in schemas.
unsafe fn schema_of(catalog: pg_sys::Oid, object: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: by the contract above.
    unsafe { read(catalog, object, pg_sys::get_object_attnum_namespace(catalog)) }
}

/// # Safety
/// In a transaction; the catalog has a column of that name and type.
unsafe fn column<T: FromDatum>(catalog: pg_sys::Oid, object: pg_sys::Oid, name: &CStr) -> Option<T> {
    // SAFETY: by the contract above.
    unsafe { read(catalog, object, pg_sys::get_attnum(catalog, name.as_ptr())) }
}

/// A column of a catalog's row that this command has just written, and that its own snapshot does not show yet.
///
/// # Safety
/// In a transaction; the catalog has a column of that number and type, and is one of those with an index by object id.
unsafe fn read<T: FromDatum>(catalog: pg_sys::Oid, object: pg_sys::Oid, number: i16) -> Option<T> {
    // SAFETY: by the contract above; the sequence of every catalog look-up in the server.
    unsafe {
        let mut key: pg_sys::ScanKeyData = Default::default();
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::get_object_attnum_oid(catalog),
            pg_sys::BTEqualStrategyNumber as _,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            object.into(),
        );
        let heap = pg_sys::table_open(catalog, pg_sys::AccessShareLock as _);
        let index = pg_sys::get_object_oid_index(catalog);
        let snapshot = &raw mut pg_sys::SnapshotSelfData;
        let scan = pg_sys::systable_beginscan(heap, index, true, snapshot, 1, &mut key);
        let tuple = pg_sys::systable_getnext(scan);
        let mut null = false;
        let value = if tuple.is_null() {
            None
        } else {
            let datum = pg_sys::heap_getattr(tuple, number.into(), (*heap).rd_att, &mut null);
            T::from_datum(datum, null)
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(heap, pg_sys::AccessShareLock as _);
        value
    }
}
