//! What differs between PostgreSQL 15 and 18: every `cfg(feature = "pgNN")` of the crate is in this file.

use std::ffi::c_void;

/// Memory that a setting's check hook hands over as `extra`, and that PostgreSQL frees: malloc in 15, guc_malloc after.
///
/// # Safety
/// Only inside a check hook. Null when memory has run out.
pub(crate) unsafe fn setting_memory(size: usize) -> *mut c_void {
    #[cfg(feature = "pg15")]
    {
        unsafe extern "C" {
            fn malloc(size: usize) -> *mut c_void;
        }
        // SAFETY: plain malloc; PostgreSQL 15 frees `extra` by free().
        unsafe { malloc(size) }
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: guc_malloc reports at LOG and returns null when memory has run out.
    unsafe {
        pgrx::pg_sys::guc_malloc(pgrx::PgLogLevel::LOG as _, size)
    }
}

/// Whether the current role may execute a function. PostgreSQL 16 made one check of those for all kinds of objects.
///
/// # Safety
/// In a transaction.
pub(crate) unsafe fn may_execute(function: pgrx::pg_sys::Oid) -> bool {
    use pgrx::pg_sys::{ACL_EXECUTE, AclResult::ACLCHECK_OK, GetUserId};
    // SAFETY: a catalog look-up, by the contract above.
    unsafe {
        #[cfg(feature = "pg15")]
        let result = pgrx::pg_sys::pg_proc_aclcheck(function, GetUserId(), ACL_EXECUTE);
        #[cfg(not(feature = "pg15"))]
        let result =
            pgrx::pg_sys::object_aclcheck(pgrx::pg_sys::ProcedureRelationId, function, GetUserId(), ACL_EXECUTE.into());
        result == ACLCHECK_OK
    }
}

/// Whether the current role owns a relation.
///
/// # Safety
/// In a transaction.
pub(crate) unsafe fn owns_relation(relation: pgrx::pg_sys::Oid) -> bool {
    // SAFETY: a catalog look-up, by the contract above.
    unsafe {
        #[cfg(feature = "pg15")]
        let owns = pgrx::pg_sys::pg_class_ownercheck(relation, pgrx::pg_sys::GetUserId());
        #[cfg(not(feature = "pg15"))]
        let owns =
            pgrx::pg_sys::object_ownercheck(pgrx::pg_sys::RelationRelationId, relation, pgrx::pg_sys::GetUserId());
        owns
    }
}

/// Calls `body` with each role other than the current one whose rights count in a plan: the owners of its views. 16 gave them a list of their own.
///
/// # Safety
/// A live plan.
pub(crate) unsafe fn each_checked_role(
    planned: *const pgrx::pg_sys::PlannedStmt,
    mut body: impl FnMut(pgrx::pg_sys::Oid),
) {
    // SAFETY: by the contract above; the list is as long as it says.
    unsafe {
        #[cfg(feature = "pg15")]
        let entries = (*planned).rtable;
        #[cfg(not(feature = "pg15"))]
        let entries = (*planned).permInfos;
        let length = entries.as_ref().map_or(0, |list| list.length as usize);
        for position in 0..length {
            let entry = (*(*entries).elements.add(position)).ptr_value;
            #[cfg(feature = "pg15")]
            let role = (*entry.cast::<pgrx::pg_sys::RangeTblEntry>()).checkAsUser;
            #[cfg(not(feature = "pg15"))]
            let role = (*entry.cast::<pgrx::pg_sys::RTEPermissionInfo>()).checkAsUser;
            if role != pgrx::pg_sys::InvalidOid {
                body(role);
            }
        }
    }
}

/// All settings of the server. PostgreSQL 16 made a table of the array, and copies it.
///
/// # Safety
/// In a transaction.
pub(crate) unsafe fn settings() -> impl Iterator<Item = *mut pgrx::pg_sys::config_generic> {
    // SAFETY: as many pointers as PostgreSQL says.
    unsafe {
        #[cfg(feature = "pg15")]
        let (first, count) = (pgrx::pg_sys::get_guc_variables(), pgrx::pg_sys::GetNumConfigOptions());
        #[cfg(not(feature = "pg15"))]
        let (first, count) = {
            let mut count = 0;
            (pgrx::pg_sys::get_guc_variables(&mut count), count)
        };
        (0..count as usize).map(move |position| *first.add(position))
    }
}

/// The number by which an extension asks for a timer of its own: the one after PostgreSQL's.
#[cfg(any(feature = "pg15", feature = "pg16"))]
pub(crate) const USER_TIMEOUT: std::ffi::c_int = 12;
/// The number by which an extension asks for a timer of its own: 17 added one before it.
#[cfg(not(any(feature = "pg15", feature = "pg16")))]
pub(crate) const USER_TIMEOUT: std::ffi::c_int = 13;

/// The executor's run hook, whose arguments PostgreSQL 18 shortened.
pub(crate) mod executor_run {
    use crate::backend::Local;
    use pgrx::pg_sys;
    use std::cell::Cell;

    /// What runs before a query does.
    pub(crate) type Before = unsafe fn(*mut pg_sys::QueryDesc);
    /// What runs after a query did.
    pub(crate) type After = unsafe fn(*mut pg_sys::QueryDesc);
    /// What measures a query, before it runs: true if `After` is to end that.
    pub(crate) type Measure = unsafe fn(*mut pg_sys::QueryDesc) -> bool;

    unsafe extern "C-unwind" {
        #[cfg(not(feature = "pg18"))]
        fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        #[cfg(feature = "pg18")]
        fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
    }

    static NEXT: Local<Cell<pg_sys::ExecutorRun_hook_type>> = Local::new(Cell::new(None));
    static BEFORE: Local<Cell<Option<Before>>> = Local::new(Cell::new(None));
    static MEASURE: Local<Cell<Option<(Measure, After)>>> = Local::new(Cell::new(None));

    /// Puts `before` in front of every execution of a query, fetches from a cursor included.
    pub(crate) fn install(before: Before) {
        BEFORE.set(Some(before));
        // SAFETY: called once, from _PG_init, on the backend's thread.
        unsafe {
            NEXT.set(pg_sys::ExecutorRun_hook);
            pg_sys::ExecutorRun_hook = Some(run);
        }
    }

    /// Puts `begin` and `end` around every execution of a query; after `install`.
    pub(crate) fn measure(begin: Measure, end: After) {
        MEASURE.set(Some((begin, end)));
    }

    /// # Safety
    /// As the hook: a live query, in a frame that owns nothing.
    #[inline(always)]
    unsafe fn before_next(query: *mut pg_sys::QueryDesc) -> Option<After> {
        // SAFETY: by the contract above.
        unsafe {
            let end = MEASURE.get().and_then(|(begin, end)| begin(query).then_some(end));
            if let Some(before) = BEFORE.get() {
                before(query);
            }
            end
        }
    }

    #[cfg(not(feature = "pg18"))]
    unsafe extern "C-unwind" fn run(
        query: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        once: bool,
    ) {
        // SAFETY: PostgreSQL hands every hook a live query; this frame owns nothing, so an error may jump over it.
        unsafe {
            let end = before_next(query);
            match NEXT.get() {
                Some(next) => next(query, direction, count, once),
                None => standard_ExecutorRun(query, direction, count, once),
            }
            if let Some(end) = end {
                end(query);
            }
        }
    }

    #[cfg(feature = "pg18")]
    unsafe extern "C-unwind" fn run(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64) {
        // SAFETY: PostgreSQL hands every hook a live query; this frame owns nothing, so an error may jump over it.
        unsafe {
            let end = before_next(query);
            match NEXT.get() {
                Some(next) => next(query, direction, count),
                None => standard_ExecutorRun(query, direction, count),
            }
            if let Some(end) = end {
                end(query);
            }
        }
    }
}

/// The hook where PostgreSQL has checked the privileges of a query's relations, which 16 gave a list of their own.
pub(crate) mod permission_check {
    use crate::backend::Local;
    use crate::error::{Error, guarded};
    use pgrx::pg_sys::{self, Oid};
    use std::cell::Cell;

    /// Of a relation, and of the role whose rights count there (a view's owner) or InvalidOid for the current one: whether `Check` is asked.
    pub(crate) type Suspect = unsafe fn(Oid, Oid) -> bool;
    /// Of the same: why the query may not go on.
    pub(crate) type Check = unsafe fn(Oid, Oid) -> Result<(), Error>;

    static NEXT: Local<Cell<pg_sys::ExecutorCheckPerms_hook_type>> = Local::new(Cell::new(None));
    static ASKED: Local<Cell<Option<(Suspect, Check)>>> = Local::new(Cell::new(None));

    /// Asks `suspect`, in a frame that owns nothing, and where it says so `check`, of every relation of every query.
    pub(crate) fn install(suspect: Suspect, check: Check) {
        ASKED.set(Some((suspect, check)));
        // SAFETY: called once, from _PG_init, on the backend's thread.
        unsafe {
            NEXT.set(pg_sys::ExecutorCheckPerms_hook);
            pg_sys::ExecutorCheckPerms_hook = Some(run);
        }
    }

    /// False, or an error, if one of the relations may not be reached.
    ///
    /// # Safety
    /// A live list of what the hook is given, in a frame that owns nothing.
    unsafe fn check(relations: *mut pg_sys::List, report: bool) -> bool {
        // SAFETY: by the contract above; the list is as long as it says.
        unsafe {
            let (false, Some((suspect, check))) = (pg_sys::ParallelWorkerNumber >= 0, ASKED.get()) else {
                return true; // the leader has checked
            };
            let length = relations.as_ref().map_or(0, |list| list.length as usize);
            for position in 0..length {
                let Some((relation, role)) = read((*(*relations).elements.add(position)).ptr_value) else { continue };
                if suspect(relation, role)
                    && !guarded(|| match check(relation, role) {
                        Err(error) if report => Err(error),
                        outcome => Ok(outcome.is_ok()),
                    })
                {
                    return false;
                }
            }
            true
        }
    }

    /// A relation whose privileges are checked, and the role they are checked of.
    ///
    /// # Safety
    /// An entry of the list that the hook is given.
    #[inline(always)]
    unsafe fn read(entry: *mut std::ffi::c_void) -> Option<(Oid, Oid)> {
        // SAFETY: by the contract above.
        unsafe {
            #[cfg(feature = "pg15")]
            {
                let entry = &*entry.cast::<pg_sys::RangeTblEntry>();
                let checked = entry.rtekind == pg_sys::RTEKind::RTE_RELATION && entry.requiredPerms != 0;
                checked.then_some((entry.relid, entry.checkAsUser))
            }
            #[cfg(not(feature = "pg15"))]
            {
                let entry = &*entry.cast::<pg_sys::RTEPermissionInfo>();
                Some((entry.relid, entry.checkAsUser))
            }
        }
    }

    #[cfg(feature = "pg15")]
    unsafe extern "C-unwind" fn run(relations: *mut pg_sys::List, report: bool) -> bool {
        // SAFETY: PostgreSQL hands every hook a live list; this frame owns nothing, so an error may jump over it.
        unsafe { NEXT.get().is_none_or(|next| next(relations, report)) && check(relations, report) }
    }

    #[cfg(not(feature = "pg15"))]
    unsafe extern "C-unwind" fn run(tables: *mut pg_sys::List, relations: *mut pg_sys::List, report: bool) -> bool {
        // SAFETY: as above.
        unsafe { NEXT.get().is_none_or(|next| next(tables, relations, report)) && check(relations, report) }
    }
}
